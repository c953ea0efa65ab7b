//! The ways to hand one block to many connections.

use ringwire::SendOptions;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ringwire::{Arena, Block, EngineChoice, Event, Events, Limits, Notifier, Ring, Socket};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::set::{BLOCK_BYTES, FLOWS, Set};
use crate::error::{Error, STUCK_AFTER};
use crate::job::Backing;
use crate::measure::requests;
use crate::memory::Region;
use crate::net::Flow;
use crate::raw::{Completion, How, RawRing};

/// A way to hand one block to many connections.
pub(super) trait Spread {
    fn name(&self) -> &'static str;

    /// The pages it can make something of.
    fn backings(&self) -> &'static [Backing];

    /// Hands the block, on such pages, to all flows, and returns when their kernels have all of it.
    /// Counts its own system calls.
    fn hand_out(&mut self, set: &Set, backing: Backing) -> Result<u64, Error>;

    /// Waits until the block may be used again; counts the events that said so.
    fn wait_until_free(&mut self, set: &Set) -> Result<u64, Error>;

    /// Requests and notifications so far, where they are counted elsewhere.
    fn counted(&self, _set: &Set) -> (u64, u64) {
        (0, 0)
    }
}

/// Makes a way over these sets of flows.
type Make = fn(&[Set]) -> Result<Box<dyn Spread>, Error>;

/// All ways, by name, in the order in which they are measured.
pub(super) const MAKERS: [(&str, Make); 3] = [
    ("write", |sets| Ok(Box::new(Plain::new(sets)?))),
    ("minimal", |sets| Ok(Box::new(Minimal::new(sets)?))),
    ("ringwire", |sets| Ok(Box::new(Ringwire::new(sets)?))),
];

/// A loop of writes that do not wait, and epoll for those sockets that did not take all: one copy
/// a flow.
struct Plain {
    regions: [Region; 2],
    /// One for each set of flows.
    epolls: Vec<OwnedFd>,
    /// What each flow's kernel has.
    offsets: Vec<usize>,
    events: Vec<epoll::Event>,
}

impl Plain {
    fn new(sets: &[Set]) -> Result<Plain, Error> {
        let region = |backing| Region::new(BLOCK_BYTES, backing);
        let failed = |errno: Errno| Error::io("epoll", errno);
        let mut epolls = Vec::new();
        for set in sets {
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
            for (index, flow) in set.flows.iter().enumerate() {
                let data = epoll::EventData::new_u64(index as u64);
                let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&poll, flow, data, flags).map_err(failed)?;
            }
            epolls.push(poll);
        }
        Ok(Plain {
            regions: [region(Backing::Small)?, region(Backing::Huge)?],
            epolls,
            offsets: Vec::new(),
            events: Vec::with_capacity(FLOWS),
        })
    }
}

/// Writes as much as the flow takes; whether that is all of it now.
fn push(flow: &Flow, block: &[u8], offset: &mut usize, calls: &mut u64) -> Result<bool, Error> {
    while *offset < block.len() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        *calls += 1;
        match rustix::net::send(flow, &block[*offset..], flags) {
            Ok(taken) => {
                *offset += taken;
                flow.accepted(taken as u64);
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("send", errno)),
        }
    }
    Ok(true)
}

impl Spread for Plain {
    fn name(&self) -> &'static str {
        "write"
    }

    fn backings(&self) -> &'static [Backing] {
        &[Backing::Small, Backing::Huge]
    }

    fn hand_out(&mut self, set: &Set, backing: Backing) -> Result<u64, Error> {
        let block = self.regions[usize::from(backing == Backing::Huge)].bytes();
        let mut calls = 0;
        self.offsets.clear();
        self.offsets.resize(set.flows.len(), 0);
        let mut left = 0;
        for (flow, offset) in set.flows.iter().zip(&mut self.offsets) {
            left += usize::from(!push(flow, block, offset, &mut calls)?);
        }
        let patience = Timespec::try_from(STUCK_AFTER).ok();
        while left > 0 {
            self.events.clear();
            calls += 1;
            let events = spare_capacity(&mut self.events);
            match epoll::wait(&self.epolls[set.index], events, patience.as_ref()) {
                Ok(0) => return Err(Error::Stuck(format!("{left} flows take nothing more"))),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("epoll_wait", errno)),
            }
            for event in &self.events {
                let index = event.data.u64() as usize;
                let offset = &mut self.offsets[index];
                if *offset < block.len() && push(&set.flows[index], block, offset, &mut calls)? {
                    left -= 1;
                }
            }
        }
        Ok(calls)
    }

    fn wait_until_free(&mut self, set: &Set) -> Result<u64, Error> {
        set.flows.iter().try_for_each(Flow::drain).map(|()| 0)
    }
}

/// The requests that ringwire makes, without its books: one registered SEND_ZC a flow. The program
/// gets a notification for each of them, and has to count.
struct Minimal {
    /// One for each set of flows.
    rings: Vec<RawRing>,
    block: Region,
    /// What each flow's kernel has.
    offsets: Vec<usize>,
    /// Requests without a result.
    awaiting: usize,
    /// Requests with a result, whose memory the kernel still holds.
    held: usize,
    requests: u64,
    notifications: u64,
    /// Those of them that came in earlier rounds.
    notifications_before: u64,
}

impl Minimal {
    fn new(sets: &[Set]) -> Result<Minimal, Error> {
        let block = Region::new(BLOCK_BYTES, Backing::Small)?;
        let mut rings = Vec::new();
        for set in sets {
            let sockets: Vec<_> = set.flows.iter().map(AsFd::as_fd).collect();
            let ring = RawRing::over(&sockets)?;
            ring.register(0, block.bytes())?;
            rings.push(ring);
        }
        Ok(Minimal {
            rings,
            block,
            offsets: Vec::new(),
            awaiting: 0,
            held: 0,
            requests: 0,
            notifications: 0,
            notifications_before: 0,
        })
    }

    /// Submits, waits for `wait` completions, and takes in all there are.
    fn turn(&mut self, set: &Set, wait: usize) -> Result<(), Error> {
        let ring = &mut self.rings[set.index];
        ring.enter(wait)?;
        let mut failed = None;
        ring.reap(|completion| match completion {
            Completion::Result { number, res, more } => {
                self.awaiting -= 1;
                self.held += usize::from(more);
                let index = number as usize;
                match usize::try_from(res) {
                    Ok(taken) => {
                        self.offsets[index] += taken;
                        set.flows[index].accepted(taken as u64);
                    }
                    Err(_) => failed = Some(res),
                }
            }
            Completion::Notification { .. } => {
                self.held -= 1;
                self.notifications += 1;
            }
        });
        match failed {
            None => Ok(()),
            Some(res) => Err(Error::io("SEND_ZC", std::io::Error::from_raw_os_error(-res))),
        }
    }
}

impl Spread for Minimal {
    fn name(&self) -> &'static str {
        "minimal"
    }

    fn backings(&self) -> &'static [Backing] {
        &[Backing::Small]
    }

    fn hand_out(&mut self, set: &Set, _backing: Backing) -> Result<u64, Error> {
        self.offsets.clear();
        self.offsets.resize(set.flows.len(), 0);
        for index in 0..set.flows.len() {
            // With MSG_WAITALL the kernel goes on by itself where a flow takes a part.
            let how = How {
                socket: index as u32,
                buffer: Some(0),
                flags: libc::MSG_WAITALL,
                number: index as u64,
                ..How::default()
            };
            self.rings[set.index].push_one(self.block.bytes(), how)?;
            self.awaiting += 1;
            self.requests += 1;
            if (index + 1) % A_TURN == 0 {
                self.turn(set, 0)?;
            }
        }
        self.turn(set, 0)?;
        while self.awaiting > 0 {
            self.turn(set, 1)?;
        }
        match self.offsets.iter().all(|offset| *offset == BLOCK_BYTES) {
            true => Ok(0),
            false => Err(Error::Stuck("some flows took a part of the block only".into())),
        }
    }

    fn wait_until_free(&mut self, set: &Set) -> Result<u64, Error> {
        while self.held > 0 {
            self.turn(set, 1)?;
        }
        let before = std::mem::replace(&mut self.notifications_before, self.notifications);
        Ok(self.notifications - before)
    }

    fn counted(&self, _set: &Set) -> (u64, u64) {
        (self.requests, self.notifications)
    }
}

/// One block, quiet clones of it under one notifier, one flush.
struct Ringwire {
    ring: Ring,
    /// For each set of flows.
    socks: Vec<Vec<Socket>>,
    block: Block,
    notifier: Notifier,
    events: Events,
    /// What each flow's kernel had accepted when it was last reported to the wire.
    told: Vec<Vec<u64>>,
    /// What of the present round no kernel has accepted.
    left_bytes: u64,
    /// `Notified` events of the present round.
    notified: u64,
}

/// Flows that get the block between two turns.
const A_TURN: usize = 64;
/// How long a turn waits before it reports to the wire what was accepted: the wire acknowledges
/// reported bytes sooner than those that it has to find out about.
const A_LOOK: Duration = Duration::from_micros(100);

impl Ringwire {
    fn new(sets: &[Set]) -> Result<Ringwire, Error> {
        // The block, and room for a ring's headers.
        let arena = Arena::builder().capacity_bytes(2 * BLOCK_BYTES).build()?;
        // A block for every flow counts as often, and half of a ring's limit is kept for flows that
        // are idle, too.
        let flows: usize = sets.iter().map(|set| set.flows.len()).sum();
        let mut limits = Limits::default();
        limits.ring_bytes = limits.ring_bytes.max(2 * (flows * BLOCK_BYTES) as u64);
        let builder = Ring::builder().engine(EngineChoice::Uring).limits(limits);
        let mut ring = builder.arena(&arena).build()?;
        let mut socks = Vec::new();
        for set in sets {
            let attach =
                |flow: &Flow| -> Result<Socket, Error> { Ok(ring.attach(flow.duplicate()?)?) };
            socks.push(set.flows.iter().map(attach).collect::<Result<Vec<_>, _>>()?);
        }
        let mut block = arena.alloc(BLOCK_BYTES)?;
        block.spare_mut()[..BLOCK_BYTES].fill(7);
        block.advance(BLOCK_BYTES);
        let notifier = ring.notifier(1)?;
        Ok(Ringwire {
            ring,
            told: sets.iter().map(|set| vec![0; set.flows.len()]).collect(),
            socks,
            block: block.freeze(),
            notifier,
            events: Events::with_capacity(64),
            left_bytes: 0,
            notified: 0,
        })
    }

    /// One turn, which waits for at most `wait`; then reports to the wire what these flows
    /// accepted.
    fn turn(&mut self, set: &Set, flows: Range<usize>, wait: Duration) -> Result<(), Error> {
        self.ring.turn(Some(wait), &mut self.events)?;
        for event in self.events.drain() {
            match event {
                Event::Notified { failed: 0, .. } => self.notified += 1,
                Event::Notified { failed, .. } => {
                    return Err(Error::Stuck(format!("{failed} flows did not get the block")));
                }
                Event::Broken { error, .. } => {
                    return Err(Error::Stuck(format!("a flow broke: {error}")));
                }
                _ => {}
            }
        }
        for index in flows {
            let sock = self.socks[set.index][index];
            let accepted = self.ring.socket_stats(sock)?.accepted_bytes;
            let told = &mut self.told[set.index][index];
            if accepted > *told {
                set.flows[index].accepted(accepted - *told);
                self.left_bytes -= accepted - *told;
                *told = accepted;
            }
        }
        Ok(())
    }
}

impl Spread for Ringwire {
    fn name(&self) -> &'static str {
        "ringwire"
    }

    fn backings(&self) -> &'static [Backing] {
        &[Backing::Small]
    }

    fn hand_out(&mut self, set: &Set, _backing: Backing) -> Result<u64, Error> {
        let flows = set.flows.len();
        self.left_bytes = (flows * BLOCK_BYTES) as u64;
        for from in (0..flows).step_by(A_TURN) {
            let some = from..flows.min(from + A_TURN);
            for sock in &self.socks[set.index][some.clone()] {
                let sent = self.ring.send_with(
                    *sock,
                    self.block.clone(),
                    SendOptions::new().on(self.notifier).quiet(),
                );
                sent.map_err(|refused| refused.why)?;
            }
            self.turn(set, some, Duration::ZERO)?;
        }
        self.ring.flush(self.notifier)?;
        let mut waits = ringwire_core::running::Patience::new(Instant::now(), STUCK_AFTER);
        while self.left_bytes > 0 {
            self.turn(set, 0..flows, A_LOOK)?;
            if waits.slice(Instant::now()).is_none() {
                return Err(Error::Stuck(format!("{} bytes find no room", self.left_bytes)));
            }
        }
        Ok(0)
    }

    fn wait_until_free(&mut self, set: &Set) -> Result<u64, Error> {
        let mut waits = ringwire_core::running::Patience::new(Instant::now(), STUCK_AFTER);
        while self.notified == 0 {
            let Some(slice) = waits.slice(Instant::now()) else {
                return Err(Error::Stuck("the block was never free again".into()));
            };
            self.turn(set, 0..0, slice)?;
        }
        Ok(std::mem::take(&mut self.notified))
    }

    fn counted(&self, _set: &Set) -> (u64, u64) {
        let stats = self.ring.stats();
        (requests(&stats), stats.notifications)
    }
}
