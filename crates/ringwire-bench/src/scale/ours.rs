//! ringwire through its public API: with events for every payload, and quiet under a notifier.

use std::sync::Arc;
use std::time::Duration;

use ringwire::{
    Arena, Block, EngineChoice, Event, Events, Limits, Notifier, Ring, SendOptions, Socket,
};

use super::lanes::Lane;
use super::sender::{Sender, Share, Slots, Sums};
use crate::error::Error;
use crate::measure::requests;

/// The arena's slack, for what a ring keeps of it.
const SLACK_BYTES: usize = 64 << 10;

/// A ring over some sockets.
pub(super) struct Ours {
    ring: Ring,
    payloads: Vec<Block>,
    share: Share,
    socks: Vec<Socket>,
    events: Events,
    quiet: Option<Quiet>,
    /// The socket that is next.
    next: usize,
    /// The payload that is next.
    number: usize,
    under_way: u64,
    unaccepted_bytes: u64,
    payload_bytes: u64,
    sums: Sums,
}

/// What a sender of quiet payloads keeps: nothing tells it how far they are accepted, so it looks.
struct Quiet {
    notifier: Notifier,
    peers: Vec<Peer>,
    /// Sockets of which something was not seen to be accepted.
    unseen: Vec<u32>,
}

/// What a socket was given, and what of that was seen to be accepted, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    given: u64,
    told: u64,
}

/// A block of an arena for each slot.
pub(super) struct Memory {
    arena: Arena,
    payloads: Vec<Block>,
}

impl Memory {
    pub(super) fn new(slots: Slots) -> Result<Memory, Error> {
        let arena = Arena::builder().capacity_bytes(slots.bytes() + SLACK_BYTES).build()?;
        let refused = |error: ringwire::Error| {
            Error::Unavailable(arena.why().unwrap_or_else(|| error.to_string()))
        };
        let mut block = arena.alloc(slots.bytes()).map_err(refused)?;
        block.spare_mut()[..slots.bytes()].fill(7);
        block.advance(slots.bytes());
        let whole = block.freeze();
        let payloads = (0..Slots::COUNT).map(|number| whole.slice(slots.range(number))).collect();
        Ok(Memory { arena, payloads })
    }
}

impl Ours {
    /// A ring that has no socket yet, for this share of them.
    pub(super) fn new(share: Share, memory: &Memory, is_quiet: bool) -> Result<Ours, Error> {
        // What is in flight is the loop's to limit; half of a ring's limit is kept for sockets that
        // are idle.
        let limits = Limits::new()
            .socket_bytes(u64::MAX / 4)
            .socket_payloads(u32::MAX / 4)
            .ring_bytes(u64::MAX / 2)
            .ring_payloads(u32::MAX / 2);
        let builder = Ring::builder().engine(EngineChoice::Uring).limits(limits);
        let mut ring = builder.arena(&memory.arena).build()?;
        let quiet = match is_quiet {
            true => Some(Quiet {
                notifier: ring.notifier(0)?,
                peers: vec![Peer::default(); share.sockets],
                unseen: Vec::with_capacity(share.sockets),
            }),
            false => None,
        };
        Ok(Ours {
            ring,
            payload_bytes: memory.payloads[0].len() as u64,
            payloads: memory.payloads.clone(),
            share,
            socks: Vec::with_capacity(share.sockets),
            events: Events::with_capacity(4096),
            quiet,
            next: 0,
            number: 0,
            under_way: 0,
            unaccepted_bytes: 0,
            sums: Sums::default(),
        })
    }

    /// Takes its sockets.
    pub(super) fn attach(mut self, lanes: &[Lane]) -> Result<Ours, Error> {
        for lane in &lanes[self.share.first..self.share.first + self.share.sockets] {
            self.socks.push(self.ring.attach_shared(Arc::clone(&lane.shared))?);
        }
        Ok(self)
    }

    /// Hands over one payload.
    #[inline]
    fn send(&mut self) -> Result<(), Error> {
        let (at, payload) = (self.next, self.payloads[self.number].clone());
        let options = match &mut self.quiet {
            None => SendOptions::new().tag(at as u64),
            Some(quiet) => {
                let peer = &mut quiet.peers[at];
                if peer.given == peer.told {
                    quiet.unseen.push(at as u32);
                }
                peer.given += self.payload_bytes;
                SendOptions::new().on(quiet.notifier).quiet()
            }
        };
        self.ring.send_with(self.socks[at], payload, options).map_err(|refused| refused.why)?;
        self.under_way += 1;
        self.unaccepted_bytes += self.payload_bytes;
        self.next = if at + 1 == self.share.sockets { 0 } else { at + 1 };
        self.number = if self.number + 1 == Slots::COUNT { 0 } else { self.number + 1 };
        Ok(())
    }

    /// Takes in all events, and tells the wire what was accepted.
    fn take(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        let lanes = &lanes[self.share.first..];
        // Many in a row are of one socket, and are told at once.
        let (mut socket, mut accepted) = (0, 0);
        let mut failed = None;
        for event in self.events.drain() {
            match event {
                Event::Sent { tag, bytes, .. } => {
                    if tag as usize != socket {
                        if accepted > 0 {
                            lanes[socket].flow.accepted(accepted);
                        }
                        (socket, accepted) = (tag as usize, 0);
                    }
                    accepted += bytes;
                    self.unaccepted_bytes -= bytes;
                }
                Event::Released { .. } => {
                    self.under_way -= 1;
                    self.sums.payloads += 1;
                }
                Event::Notified { payloads, failed: some, .. } => {
                    self.under_way -= payloads;
                    self.sums.payloads += payloads;
                    self.sums.errors += some;
                }
                Event::Failed { error, .. } => {
                    self.sums.errors += 1;
                    failed = Some(format!("a payload failed: {error}"));
                }
                Event::Broken { error, .. } => failed = Some(format!("a socket broke: {error}")),
                _ => {}
            }
        }
        if accepted > 0 {
            lanes[socket].flow.accepted(accepted);
        }
        failed.map_or(Ok(()), |why| Err(Error::Stuck(why)))
    }

    /// Tells the wire what was accepted of quiet payloads.
    fn look(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        let Some(quiet) = &mut self.quiet else { return Ok(()) };
        let mut at = 0;
        while let Some(socket) = quiet.unseen.get(at).map(|socket| *socket as usize) {
            let accepted = self.ring.socket_stats(self.socks[socket])?.accepted_bytes;
            let peer = &mut quiet.peers[socket];
            let more = accepted - peer.told;
            if more > 0 {
                lanes[self.share.first + socket].flow.accepted(more);
                self.unaccepted_bytes -= more;
                peer.told = accepted;
            }
            match accepted == peer.given {
                true => drop(quiet.unseen.swap_remove(at)),
                false => at += 1,
            }
        }
        Ok(())
    }
}

impl Sender for Ours {
    fn fill(&mut self) -> Result<(), Error> {
        if self.under_way > 0 {
            return Ok(());
        }
        for _ in 0..self.share.window {
            self.send()?;
        }
        if let Some(quiet) = &self.quiet {
            self.ring.flush(quiet.notifier)?;
        }
        Ok(())
    }

    fn turn(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        self.ring.turn(Some(Duration::ZERO), &mut self.events)?;
        self.take(lanes)?;
        self.look(lanes)
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }

    fn unaccepted(&self) -> u64 {
        self.unaccepted_bytes
    }

    fn released(&self) -> u64 {
        self.sums.payloads
    }

    fn sums(&self) -> Sums {
        let stats = self.ring.stats();
        let requests = requests(&stats);
        let other_requests = requests - stats.registered_requests;
        Sums { requests, other_requests, ..self.sums }
    }
}
