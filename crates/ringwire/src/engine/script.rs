//! An engine that a test plays: it records requests and hands back the completions it was given.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::time::Duration;

use crate::arena::Arena;
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target, Usage};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::policy::Route;
use crate::queue::PathSample;

/// What a request looked like when it was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub token: Key,
    /// Its socket's.
    pub fd: RawFd,
    pub route: Route,
    pub bytes: usize,
    pub pieces: usize,
    pub end_of_record: bool,
    pub poll_first: bool,
    pub no_wait: bool,
    pub segment_bytes: Option<u16>,
}

/// What a direct copy looked like, and how it went.
#[derive(Clone, Debug)]
pub(crate) struct CopySeen {
    /// Its memory, as (address, bytes).
    pub ranges: Vec<(usize, usize)>,
    pub segment_bytes: Option<u16>,
    pub taken: Result<usize, Errno>,
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    pub seen: Vec<Seen>,
    pub cancelled: Vec<Key>,
    /// What `copy_now` answers, in turn; when empty, everything is taken.
    pub copies: VecDeque<Result<usize, Errno>>,
    /// How many bytes each copy was offered.
    pub copied: Vec<usize>,
    /// The same copies, in all that is known of them.
    pub copies_seen: Vec<CopySeen>,
    pub completions: Vec<Completion>,
    pub sample: Option<PathSample>,
    pub features: Option<Features>,
    pub open: usize,
    /// The memory of each request, as (address, bytes).
    pub ranges: Vec<Vec<(usize, usize)>>,
    /// What the kernel of this play has accepted, in order.
    pub accepted: Vec<(usize, usize)>,
    /// Until when each turn was to wait.
    pub deadlines: Vec<Deadline>,
    /// How long the next turns take, and what has completed then; later ones take `tick`.
    pub plays: VecDeque<(Duration, Vec<Completion>)>,
    pub tick: Duration,
    /// How long all turns took so far.
    pub passed: Duration,
    /// How often it was asked how a path does.
    pub samples: Cell<usize>,
    /// The MTU of UDP sockets' paths.
    pub mtu: Option<u32>,
    /// Whether UDP sockets have drops reported.
    pub reports_drops: bool,
    /// How often it was asked for.
    pub mtu_looks: Cell<usize>,
    /// What breaking a connection is answered with, in turn; when empty, they break.
    pub breaks: VecDeque<Result<(), Errno>>,
    /// How often that was asked for.
    pub broken_off: usize,
}

impl Script {
    /// A result for the newest request.
    pub(crate) fn result(&mut self, outcome: Result<u32, Errno>, notification_follows: bool) {
        let token = self.seen.last().expect("a request").token;
        self.completions.push(Completion::Result { token, outcome, notification_follows });
    }

    /// A notification for the `index`th request.
    pub(crate) fn notify(&mut self, index: usize, usage: Usage) {
        let token = self.seen[index].token;
        self.completions.push(Completion::Notification { token, usage });
    }
}

/// The first `bytes` bytes of some ranges.
fn prefix(ranges: &[(usize, usize)], bytes: usize) -> Vec<(usize, usize)> {
    let mut left = bytes;
    let mut taken = Vec::new();
    for &(address, bytes) in ranges {
        let part = bytes.min(left);
        left -= part;
        if part > 0 {
            taken.push((address, part));
        }
    }
    taken
}

fn ranges(spans: &[Span]) -> Vec<(usize, usize)> {
    spans.iter().map(|span| (span.ptr as usize, span.bytes)).collect()
}

impl Engine for Script {
    fn features(&self) -> Features {
        self.features.unwrap_or(Features::ALL)
    }

    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        self.open += 1;
        self.ranges.push(ranges(send.spans));
        self.seen.push(Seen {
            token: send.token,
            fd: send.target.fd.as_raw_fd(),
            route: send.route,
            bytes: send.spans.iter().map(|span| span.bytes).sum(),
            pieces: send.spans.len(),
            end_of_record: send.end_of_record,
            poll_first: send.poll_first,
            no_wait: send.no_wait,
            segment_bytes: send.segment_bytes,
        });
        Ok(())
    }

    fn cancel(&mut self, token: Key) {
        self.cancelled.push(token);
    }

    fn prepare_segments(&mut self, _: &Arena) -> Result<(), Error> {
        Ok(())
    }

    fn adopt_segment(&mut self, _: &Arena, _: u16) -> Result<(), Errno> {
        Ok(())
    }

    fn add_file(&mut self, _: u32, _: BorrowedFd<'_>) -> Option<u32> {
        None
    }

    fn remove_file(&mut self, _: u32) {}

    fn copy_now(
        &mut self,
        _: Target<'_>,
        spans: &[Span],
        _: Option<&SocketAddr>,
        segment_bytes: Option<u16>,
    ) -> Result<usize, Errno> {
        let offered = spans.iter().map(|span| span.bytes).sum();
        self.copied.push(offered);
        let taken = self.copies.pop_front().unwrap_or(Ok(offered)).map(|bytes| bytes.min(offered));
        self.accepted.extend(prefix(&ranges(spans), taken.unwrap_or(0)));
        self.copies_seen.push(CopySeen { ranges: ranges(spans), segment_bytes, taken });
        taken
    }

    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        self.deadlines.push(deadline);
        let (took, came) = self.plays.pop_front().unwrap_or((self.tick, Vec::new()));
        self.passed += took;
        self.completions.extend(came);
        for completion in self.completions.drain(..) {
            let last = !matches!(completion, Completion::Result { notification_follows: true, .. });
            self.open -= usize::from(last).min(self.open);
            if let Completion::Result { token, outcome: Ok(bytes), .. } = completion
                && let Some(index) = self.seen.iter().position(|seen| seen.token == token)
            {
                self.accepted.extend(prefix(&self.ranges[index], bytes as usize));
            }
            completions.push(completion);
        }
        Ok(())
    }

    fn expects(&self) -> bool {
        self.open > 0 || !self.completions.is_empty()
    }

    fn passed(&self) -> Duration {
        self.passed
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }

    fn break_off(&mut self, _: Target<'_>) -> Result<(), Errno> {
        self.broken_off += 1;
        self.breaks.pop_front().unwrap_or(Ok(()))
    }

    fn reports_drops(&self, _: Target<'_>) -> bool {
        self.reports_drops
    }

    fn mtu(&self, _: Target<'_>, _: bool) -> Option<u32> {
        self.mtu_looks.set(self.mtu_looks.get() + 1);
        self.mtu
    }

    fn header_bytes(&self, _: Target<'_>, v6: bool) -> u32 {
        if v6 { 48 } else { 28 }
    }

    fn sample(&self, _: Target<'_>) -> Option<PathSample> {
        self.samples.set(self.samples.get() + 1);
        self.sample
    }
}
