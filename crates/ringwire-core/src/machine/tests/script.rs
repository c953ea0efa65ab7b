//! An engine that a test plays: it records requests and hands back the completions it was given.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Inspect};
use crate::words::chore::Chore;
use crate::words::completion::{Completion, Usage};
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::route::Route;
use crate::words::socket::PathSample;
use crate::words::span::Span;
use crate::words::submission::{CopyNow, Refused, Request, SubmitFlags};
use crate::words::table::Key;

/// What a request looked like when it was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub token: Key,
    /// Its socket's place.
    pub socket: u32,
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

#[derive(Debug)]
pub(crate) struct Script {
    /// The time when it was made; it stands still but for what follows.
    pub start: Instant,
    /// How far a test has moved the clock on.
    pub ahead: Duration,
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
    /// What else it was asked to do, in this order.
    pub chores: Vec<Chore>,
    /// How many turns fail, when what has completed has been told.
    pub fails: usize,
    /// It is used in a child of `fork`.
    pub is_away: bool,
    /// How many requests it does not take, and how many it takes before.
    pub refuses: usize,
    pub takes: usize,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            start: Instant::now(),
            ahead: Duration::ZERO,
            seen: Vec::new(),
            cancelled: Vec::new(),
            copies: VecDeque::new(),
            copied: Vec::new(),
            copies_seen: Vec::new(),
            completions: Vec::new(),
            sample: None,
            open: 0,
            ranges: Vec::new(),
            accepted: Vec::new(),
            deadlines: Vec::new(),
            plays: VecDeque::new(),
            tick: Duration::ZERO,
            passed: Duration::ZERO,
            samples: Cell::new(0),
            mtu: None,
            reports_drops: false,
            mtu_looks: Cell::new(0),
            breaks: VecDeque::new(),
            broken_off: 0,
            chores: Vec::new(),
            fails: 0,
            is_away: false,
            refuses: 0,
            takes: 0,
        }
    }
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
    spans.iter().map(|span| (span.address(), span.len())).collect()
}

impl Inspect for Script {
    fn sample(&self, _: u32) -> Option<PathSample> {
        self.samples.set(self.samples.get() + 1);
        self.sample
    }

    fn mtu(&self, _: u32, _: bool) -> Option<u32> {
        self.mtu_looks.set(self.mtu_looks.get() + 1);
        self.mtu
    }

    fn header_bytes(&self, _: u32, v6: bool) -> u32 {
        if v6 { 48 } else { 28 }
    }

    fn send_buffer_bytes(&self, _: u32) -> u64 {
        0
    }

    fn reports_drops(&self, _: u32) -> bool {
        self.reports_drops
    }
}

impl Engine for Script {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn now(&self) -> Instant {
        self.start + self.ahead + self.passed
    }

    fn is_at_home(&self) -> bool {
        !self.is_away
    }

    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused> {
        if self.takes > 0 {
            self.takes -= 1;
        } else if self.refuses > 0 {
            self.refuses -= 1;
            return Err(request.refuse(Error::io("submit", Errno::AGAIN)));
        }
        self.open += 1;
        self.ranges.push(ranges(request.spans()));
        let SubmitFlags { end_of_record, poll_first, no_wait, segment_bytes, .. } = request.flags();
        self.seen.push(Seen {
            token: request.token(),
            socket: request.socket(),
            route: request.route(),
            bytes: request.bytes(),
            pieces: request.spans().len(),
            end_of_record,
            poll_first,
            no_wait,
            segment_bytes,
        });
        Ok(())
    }

    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        let (offered, ranges) = (copy.bytes(), ranges(copy.spans()));
        self.copied.push(offered);
        let taken = self.copies.pop_front().unwrap_or(Ok(offered)).map(|bytes| bytes.min(offered));
        self.accepted.extend(prefix(&ranges, taken.unwrap_or(0)));
        self.copies_seen.push(CopySeen { ranges, segment_bytes: copy.segment_bytes(), taken });
        taken
    }

    fn cancel(&mut self, token: Key) {
        self.chores.push(Chore::Cancel { token });
        self.cancelled.push(token);
    }

    fn shutdown_write(&mut self, socket: u32) {
        self.chores.push(Chore::ShutdownWrite { socket });
    }

    fn break_off(&mut self, socket: u32) -> Result<(), Errno> {
        self.chores.push(Chore::Break { socket });
        self.broken_off += 1;
        self.breaks.pop_front().unwrap_or(Ok(()))
    }

    fn close(&mut self, socket: u32) {
        self.chores.push(Chore::Close { socket });
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
        if self.fails > 0 {
            self.fails -= 1;
            return Err(Error::io("turn", Errno::BADF));
        }
        Ok(())
    }

    fn pause(&mut self, until: Instant) {
        self.passed += until.saturating_duration_since(self.now());
    }

    fn expects(&self) -> bool {
        self.open > 0 || !self.completions.is_empty()
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }
}
