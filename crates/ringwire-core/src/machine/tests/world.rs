//! A network without a kernel and without waiting: its clock is moved on by whoever waits on it, to
//! the next thing that happens. What it knows of the kernel is what the machine depends on: a path
//! delivers at a rate, a send buffer holds so much, notifications chain until a record ends (K4), a
//! path may copy, a peer may fall silent, and only so much may be pinned (K15).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Inspect};
use crate::words::completion::{Completion, Usage};
use crate::words::deadline::Deadline;
use crate::words::errno::Errno;
use crate::words::error::Error;
use crate::words::route::Route;
use crate::words::socket::PathSample;
use crate::words::submission::{CopyNow, Refused, Request};
use crate::words::table::Key;

/// What lies between a socket and its peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// What it delivers, in bytes a second; 0 if the peer acknowledges nothing.
    pub(super) bytes_per_s: u64,
    /// What the socket takes beyond what is acknowledged.
    pub(super) buffer_bytes: u64,
    /// Whether packets are copied on their way.
    pub(super) copies: bool,
}

impl Line {
    pub(super) const FAST: Line =
        Line { bytes_per_s: 1_000_000_000, buffer_bytes: 4 << 20, copies: false };
}

#[derive(Debug)]
struct Flow {
    line: Line,
    accepted_bytes: u64,
    /// When all that was accepted will be acknowledged.
    acked_by: Instant,
    /// Since when the peer is silent, what it has acknowledged until then.
    silent_from: Option<u64>,
    /// Requests whose notification comes with that of the next one.
    chain: Vec<(Key, bool, u64)>,
    /// Requests that wait for room.
    waiting: Vec<Waiting>,
    busy_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: Key,
    bytes: u64,
    copied: bool,
    ends_record: bool,
    pins: u64,
}

/// The network, and the engine that sends into it.
#[derive(Debug)]
pub(super) struct World {
    now: Instant,
    flows: BTreeMap<u32, Flow>,
    /// What is going to happen, the soonest first.
    agenda: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    numbered: u64,
    due: Vec<Completion>,
    open: u64,
    pinned: u64,
    /// What may be pinned at a time.
    pub(super) pinned_max: u64,
    pub(super) broken: Vec<u32>,
    pub(super) turns: u64,
    /// When each payload's last byte is acknowledged: for requests, by token.
    pub(super) acked: BTreeMap<Key, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The end of what was accepted until then is acknowledged.
    Acked {
        socket: u32,
    },
    Released {
        token: Key,
        copied: bool,
        pins: u64,
    },
}

impl World {
    pub(super) fn new(now: Instant) -> World {
        World {
            now,
            flows: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            numbered: 0,
            due: Vec::new(),
            open: 0,
            pinned: 0,
            pinned_max: u64::MAX,
            broken: Vec::new(),
            turns: 0,
            acked: BTreeMap::new(),
        }
    }

    /// What lies behind the socket at this place, from now on.
    pub(super) fn lay(&mut self, socket: u32, line: Line) {
        let now = self.now;
        let flow = self.flows.entry(socket).or_insert_with(|| Flow {
            line,
            accepted_bytes: 0,
            acked_by: now,
            silent_from: None,
            chain: Vec::new(),
            waiting: Vec::new(),
            busy_us: 0,
        });
        if line.bytes_per_s == 0 && flow.silent_from.is_none() {
            flow.silent_from = Some(flow.accepted_bytes - flow.unacked(now));
        }
        flow.line = line;
    }

    pub(super) fn now_is(&self) -> Instant {
        self.now
    }

    /// Whether something is out, or about to be told.
    pub(super) fn has_work(&self) -> bool {
        self.open > 0 || !self.due.is_empty()
    }

    /// Nobody has anything to do until then.
    pub(super) fn sleep_until(&mut self, until: Instant) {
        self.now = self.now.max(until);
        self.happen();
        self.end_idle_chains();
    }

    fn plan(&mut self, at: Instant, due: Due) {
        self.numbered += 1;
        self.agenda.push(Reverse((at, self.numbered, due)));
    }

    /// Takes in what has happened until now.
    fn happen(&mut self) {
        while let Some(Reverse((at, _, due))) = self.agenda.peek().copied()
            && at <= self.now
        {
            self.agenda.pop();
            match due {
                Due::Released { token, copied, pins } => {
                    self.pinned -= pins;
                    self.open -= 1;
                    let usage = if copied { Usage::Copied } else { Usage::ZeroCopy };
                    self.due.push(Completion::Notification { token, usage });
                }
                Due::Acked { socket } => self.admit(socket),
            }
        }
    }

    /// Takes what waits for room, as far as there is some.
    fn admit(&mut self, socket: u32) {
        let now = self.now;
        while let Some(flow) = self.flows.get_mut(&socket)
            && let Some(waiting) = flow.waiting.first().copied()
            && flow.unacked(now) < flow.line.buffer_bytes
        {
            flow.waiting.remove(0);
            self.accept(socket, waiting);
        }
    }

    fn accept(&mut self, socket: u32, request: Waiting) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(&socket) else { return };
        let Waiting { token, bytes, copied, ends_record, pins } = request;
        if flow.unacked(now) == 0 {
            // Nothing is left that it could join.
            flow.chain.clear();
        }
        flow.take(bytes, now);
        let (acked_by, copies) = (flow.acked_by, flow.line.copies);
        let silent = flow.silent_from.is_some();
        let follows = !copied;
        self.due.push(Completion::Result {
            token,
            outcome: Ok(bytes as u32),
            notification_follows: follows,
        });
        self.acked.insert(token, acked_by);
        let mut freed = Vec::new();
        if !follows {
            self.open -= 1;
        } else if copies {
            // The copy is the packet's own.
            freed.push((token, true, pins, now));
        } else {
            flow.chain.push((token, false, pins));
            if ends_record {
                let chain = std::mem::take(&mut flow.chain);
                freed.extend(chain.into_iter().map(|(token, c, pins)| (token, c, pins, acked_by)));
            }
        }
        for (token, copied, pins, at) in freed {
            if !silent {
                self.plan(at, Due::Released { token, copied, pins });
            }
        }
        if !silent {
            self.plan(acked_by, Due::Acked { socket });
        }
    }

    /// What chains have left over that no record ends is let go of with its last byte.
    fn end_idle_chains(&mut self) {
        let now = self.now;
        let mut ended = Vec::new();
        for flow in self.flows.values_mut() {
            if !flow.chain.is_empty() && flow.silent_from.is_none() && flow.unacked(now) == 0 {
                ended.append(&mut flow.chain);
            }
        }
        for (token, copied, pins) in ended {
            self.plan(now, Due::Released { token, copied, pins });
        }
    }
}

impl Flow {
    /// What is accepted and not acknowledged.
    fn unacked(&self, now: Instant) -> u64 {
        match self.silent_from {
            Some(acked) => self.accepted_bytes - acked,
            None => {
                let left = self.acked_by.saturating_duration_since(now);
                let bytes = left.as_nanos() * u128::from(self.line.bytes_per_s) / 1_000_000_000;
                u64::try_from(bytes).unwrap_or(u64::MAX).min(self.accepted_bytes)
            }
        }
    }

    fn take(&mut self, bytes: u64, now: Instant) {
        self.accepted_bytes += bytes;
        if self.silent_from.is_some() {
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.line.bytes_per_s);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.acked_by = self.acked_by.max(now) + time;
        self.busy_us += time.as_micros() as u64;
    }
}

impl Inspect for World {
    fn sample(&self, socket: u32) -> Option<PathSample> {
        let flow = self.flows.get(&socket)?;
        let unacked = flow.unacked(self.now);
        let ahead = flow.acked_by.saturating_duration_since(self.now).as_micros() as u64;
        Some(PathSample {
            delivery_rate: flow.line.bytes_per_s,
            acked_bytes: flow.accepted_bytes - unacked,
            busy: unacked > 0,
            send_buffer_bytes: flow.line.buffer_bytes,
            window_limited_us: 0,
            busy_us: (flow.busy_us + 1).saturating_sub(ahead).max(1),
            mtu: 1_500,
        })
    }

    fn mtu(&self, _: u32, _: bool) -> Option<u32> {
        Some(1_500)
    }

    fn header_bytes(&self, _: u32, v6: bool) -> u32 {
        if v6 { 48 } else { 28 }
    }

    fn send_buffer_bytes(&self, socket: u32) -> u64 {
        self.flows.get(&socket).map_or(0, |flow| flow.line.buffer_bytes)
    }

    fn reports_drops(&self, _: u32) -> bool {
        false
    }
}

impl Engine for World {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn submit(&mut self, request: Request<'_>) -> Result<(), Refused> {
        let (token, bytes) = (request.token(), request.bytes() as u64);
        let copied = request.route() == Route::Copy;
        let pins = if request.route() == Route::ZeroCopy { bytes } else { 0 };
        self.open += 1;
        if self.pinned + pins > self.pinned_max {
            self.open -= 1;
            let (outcome, notification_follows) = (Err(Errno::NOMEM), false);
            self.due.push(Completion::Result { token, outcome, notification_follows });
            return Ok(());
        }
        self.pinned += pins;
        let ends_record = request.flags().end_of_record;
        let request_of = Waiting { token, bytes, copied, ends_record, pins };
        if let Some(flow) = self.flows.get_mut(&request.socket()) {
            flow.waiting.push(request_of);
        }
        self.admit(request.socket());
        Ok(())
    }

    fn copy_now(&mut self, copy: &CopyNow<'_>) -> Result<usize, Errno> {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(&copy.socket()) else { return Err(Errno::BADF) };
        let room = flow.line.buffer_bytes.saturating_sub(flow.unacked(now));
        let bytes = (copy.bytes() as u64).min(room);
        if bytes == 0 {
            return Err(Errno::AGAIN);
        }
        flow.take(bytes, now);
        Ok(bytes as usize)
    }

    fn cancel(&mut self, token: Key) {
        for flow in self.flows.values_mut() {
            let before = flow.waiting.len();
            flow.waiting.retain(|waiting| waiting.token != token);
            if flow.waiting.len() < before {
                self.open -= 1;
                let (outcome, notification_follows) = (Err(Errno::CANCELED), false);
                self.due.push(Completion::Result { token, outcome, notification_follows });
            }
        }
    }

    fn shutdown_write(&mut self, _: u32) {}

    fn break_off(&mut self, socket: u32) -> Result<(), Errno> {
        self.broken.push(socket);
        let Some(flow) = self.flows.get_mut(&socket) else { return Ok(()) };
        for (token, copied, pins) in std::mem::take(&mut flow.chain) {
            self.plan(self.now, Due::Released { token, copied, pins });
        }
        self.happen();
        Ok(())
    }

    fn close(&mut self, socket: u32) {
        self.flows.remove(&socket);
    }

    fn turn(&mut self, deadline: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        self.turns += 1;
        self.happen();
        if self.due.is_empty() && deadline != Deadline::Now {
            let soonest = self.agenda.peek().map(|Reverse((at, ..))| *at);
            let until = match deadline {
                Deadline::At(at) => Some(soonest.map_or(at, |soonest| soonest.min(at))),
                _ => soonest,
            };
            self.now = self.now.max(until.expect("something will happen"));
            self.happen();
        }
        self.end_idle_chains();
        self.happen();
        completions.append(&mut self.due);
        Ok(())
    }

    fn pause(&mut self, until: Instant) {
        self.now = self.now.max(until);
    }

    fn expects(&self) -> bool {
        self.open > 0 || !self.due.is_empty()
    }

    fn has_unsubmitted(&mut self) -> bool {
        false
    }
}
