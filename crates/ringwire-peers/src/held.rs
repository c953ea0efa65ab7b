//! Calls whose result is known, and whose memory the kernel may still read.
//!
//! A sender goes on while calls are held, and takes the oldest back when it holds as much as it
//! wants: `calls <= calls_max`, and `lent_bytes <= lent_bytes_max` but for a single call that is
//! larger. One call at a time is timed, by a task that the runtime wakes when the release arrives,
//! so that the delay is that of the release and not of the moment somebody asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use compio::runtime::{JoinHandle, spawn};
use ringwire_bench::Error;
use ringwire_bench::measure::Tally;

/// Held calls, oldest first. `F` is compio's future of a call's release, which gives `T` back.
pub(crate) struct Held<T, F> {
    calls: VecDeque<(Call<T, F>, usize)>,
    calls_max: usize,
    lent_bytes: usize,
    lent_bytes_max: usize,
    timing: bool,
}

enum Call<T, F> {
    Plain(F),
    Timed(JoinHandle<(T, Duration)>),
}

impl<T: 'static, F: Future<Output = T> + 'static> Held<T, F> {
    /// Nothing yet; at most so many calls and bytes. Bytes are bounded where the kernel counts them
    /// against a limit.
    pub(crate) fn new(calls_max: usize, lent_bytes_max: Option<usize>) -> Self {
        Held {
            calls: VecDeque::with_capacity(calls_max),
            calls_max,
            lent_bytes: 0,
            lent_bytes_max: lent_bytes_max.unwrap_or(usize::MAX),
            timing: false,
        }
    }

    /// Whether a call must come back before one of `bytes` is made.
    #[inline]
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        let too_many = self.lent_bytes.saturating_add(bytes) > self.lent_bytes_max;
        !self.calls.is_empty() && (too_many || self.calls.len() == self.calls_max)
    }

    /// Now, if the next call is to be timed from here on.
    #[inline]
    pub(crate) fn since(&self) -> Option<Instant> {
        (!self.timing).then(Instant::now)
    }

    /// Holds a call that was to send `bytes`, taken or not; its time began at `since` if it is
    /// timed.
    #[inline]
    pub(crate) fn push(&mut self, released: F, bytes: usize, since: Option<Instant>) {
        let call = match since {
            None => Call::Plain(released),
            Some(since) => {
                self.timing = true;
                Call::Timed(spawn(async move { (released.await, since.elapsed()) }))
            }
        };
        self.calls.push_back((call, bytes));
        self.lent_bytes += bytes;
    }

    /// Waits until the kernel has let go of the oldest call's memory, and gives that back; `None`
    /// if nothing is held.
    #[inline]
    pub(crate) async fn take_oldest(&mut self, tally: &mut Tally) -> Result<Option<T>, Error> {
        let Some((call, bytes)) = self.calls.pop_front() else { return Ok(None) };
        let memory = match call {
            Call::Plain(released) => released.await,
            Call::Timed(task) => {
                self.timing = false;
                let timed = task.await;
                let (memory, delay) =
                    timed.map_err(|error| Error::Stuck(format!("a release: {error}")))?;
                tally.delays.add(delay);
                memory
            }
        };
        self.lent_bytes -= bytes;
        tally.notifications += 1;
        Ok(Some(memory))
    }
}
