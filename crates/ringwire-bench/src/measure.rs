//! Measuring around a loop: wall time, CPU time, and samples of release delays.
//!
//! CPU time is that of the whole process, user and system, all its threads; what the perfect wire's
//! acknowledger spun while it waited is taken off, and stated.

use std::fs;
use std::time::{Duration, Instant};

use ringwire::{Copied, Stats};
use rustix::time::ClockId;

use crate::job::Measurement;

/// CPU time that this process has used, all its threads, user and system.
pub fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CPU time that the calling thread has used, user and system.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// How long threads of this process have been ready to run while others had the processors, those
/// that have ended left out. Zero where the kernel does not say.
///
/// # Kernel
/// The second number of /proc/PID/task/TID/schedstat (`CONFIG_SCHED_INFO`), in nanoseconds.
pub fn waited() -> Duration {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let of_task =
        |task: fs::DirEntry| waited_of(&fs::read_to_string(task.path().join("schedstat")).ok()?);
    tasks.flatten().filter_map(of_task).sum()
}

/// How long a thread has waited, of the text of its schedstat.
fn waited_of(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// A measurement in which threads waited for processors for more than this part of the time was
/// disturbed.
const WAITED_PART: f64 = 0.03;

/// Whether threads waited so long that others disturbed the measurement.
pub(crate) fn waited_long(waited_s: f64, seconds: f64) -> bool {
    waited_s > WAITED_PART * seconds
}

/// What a measurement reads: the host's clocks, or such as a test hands it.
pub(crate) trait Clocks {
    fn wall(&self) -> Instant;

    /// See [`process_cpu`].
    fn cpu(&self) -> Duration;

    /// See [`waited`].
    fn waited(&self) -> Duration;
}

/// The host's.
pub(crate) struct HostClocks;

impl Clocks for HostClocks {
    fn wall(&self) -> Instant {
        Instant::now()
    }

    fn cpu(&self) -> Duration {
        process_cpu()
    }

    fn waited(&self) -> Duration {
        waited()
    }
}

/// What a loop has counted. All that it needs not to count is left at 0.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Payloads accepted.
    pub payloads: u64,
    /// Bytes accepted.
    pub bytes: u64,
    /// System calls or ring requests that carried them.
    pub requests: u64,
    /// Notifications that memory is free.
    pub notifications: u64,
    /// Bytes known to have been copied.
    pub copied_bytes: u64,
    /// Bytes known not to have been.
    pub uncopied_bytes: u64,
    /// Payloads that failed.
    pub errors: u64,
    /// Sampled release delays.
    pub delays: Delays,
}

impl Tally {
    /// Counts bytes that a ring let go of, by what it says of them.
    #[inline]
    pub(crate) fn add_released(&mut self, copied: Copied, bytes: u64) {
        match copied {
            Copied::No => self.uncopied_bytes += bytes,
            Copied::Yes => self.copied_bytes += bytes,
            Copied::Unknown => {}
        }
    }

    /// Counts what a ring has asked the kernel for between two looks at it.
    pub(crate) fn add_requests(&mut self, before: &Stats, after: &Stats) {
        self.requests += requests(after) - requests(before);
    }
}

/// What a ring has asked the kernel to send, or has sent by a call itself.
pub(crate) fn requests(stats: &Stats) -> u64 {
    stats.requests + stats.direct_copies
}

/// The one payload, or batch of them, whose release is timed at a time.
pub(crate) struct Timed<K>(Option<(K, Instant)>);

impl<K> Default for Timed<K> {
    fn default() -> Self {
        Timed(None)
    }
}

impl<K: PartialEq> Timed<K> {
    /// Whether nothing is timed.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Times this, sent at `since`, unless something else is being timed.
    #[inline]
    pub(crate) fn sent(&mut self, key: K, since: Instant) {
        self.0.get_or_insert((key, since));
    }

    /// Takes the time of this, if it is what is timed.
    #[inline]
    pub(crate) fn released(&mut self, key: &K, delays: &mut Delays) {
        if let Some((_, since)) = self.0.take_if(|(timed, _)| timed == key) {
            delays.add(since.elapsed());
        }
    }
}

/// Samples of release delays.
#[derive(Clone, Debug, Default)]
pub struct Delays(Vec<u32>);

/// Samples of one run at most; more would only cost memory.
const SAMPLES_MAX: usize = 1 << 16;

impl Delays {
    /// Adds a sample.
    #[inline]
    pub fn add(&mut self, delay: Duration) {
        if self.0.len() < SAMPLES_MAX {
            self.0.push(u32::try_from(delay.as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// The delay in microseconds that this part (0 to 1) of the samples did not exceed; `None`
    /// without samples.
    pub fn quantile_us(&mut self, part: f64) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_unstable();
        let rank = (part * self.0.len() as f64).ceil() as usize;
        Some(f64::from(self.0[rank.clamp(1, self.0.len()) - 1]) / 1e3)
    }
}

/// The clock of a run, to be read once a request at most.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    now: Instant,
    time: Duration,
    /// It was asked before.
    began: bool,
}

/// What a sender of small payloads sends between two looks at the clock.
pub const LOOK_BYTES: usize = 64 << 10;

impl Clock {
    /// A clock of a run of `time` that begins now.
    pub fn start(time: Duration) -> Clock {
        let started = Instant::now();
        Clock { started, now: started, time, began: false }
    }

    /// Reads the clock, and says whether the run goes on. The first time it does: a run has
    /// something in it, however late it begins.
    #[inline]
    pub fn runs(&mut self) -> bool {
        self.now = Instant::now();
        let begins = !std::mem::replace(&mut self.began, true);
        begins || self.now - self.started < self.time
    }

    /// When it was read last.
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }
}

/// Runs `work` and says what it took. `spun` is how long the wire's acknowledger has spun so far.
///
/// # Errors
/// Those of `work`.
pub fn around<E>(
    spun: impl Fn() -> Duration,
    work: impl FnOnce() -> Result<Tally, E>,
) -> Result<Measurement, E> {
    around_by(&HostClocks, spun, work)
}

fn around_by<E>(
    clocks: &impl Clocks,
    spun: impl Fn() -> Duration,
    work: impl FnOnce() -> Result<Tally, E>,
) -> Result<Measurement, E> {
    let waited_before = clocks.waited();
    let (spun_before, cpu_before, started) = (spun(), clocks.cpu(), clocks.wall());
    let mut tally = work()?;
    let seconds = (clocks.wall() - started).as_secs_f64();
    let cpu = clocks.cpu().saturating_sub(cpu_before);
    let spin = spun().saturating_sub(spun_before);
    let waited = clocks.waited().saturating_sub(waited_before);
    let known = tally.copied_bytes + tally.uncopied_bytes;
    Ok(Measurement {
        seconds,
        cpu_s: cpu.saturating_sub(spin).as_secs_f64(),
        spin_s: spin.as_secs_f64(),
        waited_s: waited.as_secs_f64(),
        payloads: tally.payloads,
        bytes: tally.bytes,
        requests: tally.requests,
        notifications: tally.notifications,
        copied_share: (known > 0).then(|| tally.copied_bytes as f64 / known as f64),
        release_delay_us_p50: tally.delays.quantile_us(0.5),
        release_delay_us_p99: tally.delays.quantile_us(0.99),
        errors: tally.errors,
        working_set_bytes: 0,
        note: None,
    })
}

/// Clocks that a test moves.
#[cfg(test)]
pub(crate) struct Handed {
    began: Instant,
    /// Wall time, CPU time and waiting since then.
    pub(crate) took: std::cell::Cell<[Duration; 3]>,
}

#[cfg(test)]
impl Handed {
    pub(crate) fn new() -> Handed {
        Handed { began: Instant::now(), took: std::cell::Cell::default() }
    }

    pub(crate) fn add(&self, wall: Duration, cpu: Duration, waited: Duration) {
        let took = self.took.get();
        self.took.set([took[0] + wall, took[1] + cpu, took[2] + waited]);
    }
}

#[cfg(test)]
impl Clocks for Handed {
    fn wall(&self) -> Instant {
        self.began + self.took.get()[0]
    }

    fn cpu(&self) -> Duration {
        self.took.get()[1]
    }

    fn waited(&self) -> Duration {
        self.took.get()[2]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn quantiles_are_samples() {
        let mut delays = Delays::default();
        assert_eq!(delays.quantile_us(0.5), None);
        for us in (1..=100).rev() {
            delays.add(Duration::from_micros(us));
        }
        assert_eq!(delays.quantile_us(0.5), Some(50.0));
        assert_eq!(delays.quantile_us(0.99), Some(99.0));
        assert_eq!(delays.quantile_us(1.0), Some(100.0));
    }

    #[test]
    fn a_run_has_something_in_it_and_ends() {
        let mut clock = Clock::start(Duration::ZERO);
        assert!(clock.runs() && !clock.runs());
        let mut clock = Clock::start(Duration::from_secs(1 << 32));
        assert!(clock.runs() && clock.runs());
        assert!(clock.now() >= clock.started);
    }

    #[test]
    fn waiting_is_read_from_the_kernels_account_of_a_thread() {
        assert_eq!(waited_of("1234567 89000 12\n"), Some(Duration::from_micros(89)));
        assert_eq!(waited_of("12"), None);
        assert_eq!(waited_of(""), None);
    }

    #[test]
    fn more_than_three_percent_without_a_processor_is_long() {
        assert!(waited_long(0.0031, 0.1) && !waited_long(0.0029, 0.1));
        assert!(!waited_long(0.0, 0.0));
    }

    /// Until this thread and another have waited for each other: which they must, where both want
    /// the one processor that they have.
    #[test]
    fn two_threads_on_one_processor_wait_for_each_other() {
        const LONG: Duration = Duration::from_secs(180);
        let spins = Arc::new(AtomicBool::new(true));
        let spun = Arc::clone(&spins);
        let waits = std::thread::spawn(move || {
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            let cpu = (0..).find(|cpu| all.is_set(*cpu)).unwrap();
            ringwire_wire::pin_to_cpu(cpu).unwrap();
            // It begins where this one is.
            let other = std::thread::spawn(move || while spun.load(Ordering::Relaxed) {});
            let (before, started) = (waited(), Instant::now());
            // Threads of other tests come and go, and these two wait more and more.
            let waits = loop {
                match waited() >= before + MS {
                    false if started.elapsed() < LONG => {}
                    waits => break waits,
                }
            };
            spins.store(false, Ordering::Relaxed);
            other.join().unwrap();
            waits
        });
        assert!(waits.join().unwrap(), "no thread waited for 1 ms within {LONG:?}");
    }

    #[test]
    fn what_a_loop_took_is_the_difference_of_clocks() {
        let clocks = Handed::new();
        clocks.add(7 * MS, 7 * MS, 7 * MS);
        let spun = std::cell::Cell::new(3 * MS);
        let work = || {
            clocks.add(40 * MS, 20 * MS, 5 * MS);
            spun.set(18 * MS);
            Ok::<_, ()>(Tally { copied_bytes: 1, uncopied_bytes: 3, ..Tally::default() })
        };
        let measured = around_by(&clocks, || spun.get(), work).unwrap();
        // What the wire's acknowledger spun is no work.
        assert_eq!((measured.seconds, measured.cpu_s, measured.spin_s), (0.040, 0.005, 0.015));
        assert_eq!((measured.waited_s, measured.copied_share), (0.005, Some(0.25)));
    }

    #[test]
    fn more_waiting_than_work_is_no_work() {
        let clocks = Handed::new();
        let spun = std::cell::Cell::new(Duration::ZERO);
        let work = || {
            clocks.add(MS, MS, Duration::ZERO);
            spun.set(2 * MS);
            Ok::<_, ()>(Tally::default())
        };
        let measured = around_by(&clocks, || spun.get(), work).unwrap();
        assert_eq!((measured.cpu_s, measured.copied_share), (0.0, None));
    }
}
