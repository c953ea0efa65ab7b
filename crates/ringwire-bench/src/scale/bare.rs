//! The kernel's own cost: ringwire's requests over the same sockets, without owners of memory,
//! limits and events.
//!
//! What waits for one socket is gathered into one request, 256 pieces at most; one request a socket
//! is without a result at a time; a chain of notifications is cut every 64 KiB. What is beyond the
//! one request that a socket is at waits as a number and nothing else.

use std::os::fd::AsFd;

use super::lanes::Lane;
use super::sender::{Sender, Share, Slots, Sums};
use crate::error::Error;
use crate::job::Backing;
use crate::memory::Region;
use crate::raw::{Completion, How, RawRing, iovec};

/// Pieces of one request.
const PIECES_MAX: u32 = 256;
/// Requests that are made before they are submitted.
const REQUESTS_MAX: usize = 256;
const CHAIN_BYTES: u32 = 64 << 10;

/// What is known of a socket.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Payloads that no request covers.
    waiting: u32,
    /// A request of it is without a result.
    is_busy: bool,
    /// Bytes since its chain of notifications began.
    chain_bytes: u32,
}

/// A raw ring over some sockets.
pub(super) struct Bare {
    ring: RawRing,
    slots: Slots,
    memory: Region,
    share: Share,
    peers: Vec<Peer>,
    /// Sockets for which something waits, and that are not busy.
    ready: Vec<u32>,
    /// Of requests that are not submitted; never grows, so nothing moves.
    pieces: Vec<libc::iovec>,
    /// The socket that is next.
    next: usize,
    /// The payload that is next.
    number: usize,
    under_way: u64,
    /// Payloads without a result.
    unaccepted: u64,
    sums: Sums,
}

impl Bare {
    /// Over this share of `lanes`.
    pub(super) fn new(lanes: &[Lane], share: Share, slots: Slots) -> Result<Bare, Error> {
        let lanes = &lanes[share.first..share.first + share.sockets];
        let sockets: Vec<_> = lanes.iter().map(|lane| lane.flow.as_fd()).collect();
        let ring = RawRing::over(&sockets)?;
        let memory = Region::new(slots.bytes(), Backing::Small)?;
        ring.register(0, memory.bytes())?;
        Ok(Bare {
            ring,
            slots,
            memory,
            share,
            peers: vec![Peer::default(); share.sockets],
            ready: Vec::with_capacity(share.sockets),
            pieces: Vec::with_capacity(REQUESTS_MAX * PIECES_MAX as usize),
            next: 0,
            number: 0,
            under_way: 0,
            unaccepted: 0,
            sums: Sums::default(),
        })
    }

    /// Makes requests of what waits, as many as a submission takes.
    fn make(&mut self) -> Result<(), Error> {
        let mut made = 0;
        while made < self.ready.len().min(REQUESTS_MAX)
            && self.pieces.capacity() - self.pieces.len() >= PIECES_MAX as usize
        {
            let socket = self.ready[made];
            made += 1;
            let peer = &mut self.peers[socket as usize];
            let count = peer.waiting.min(PIECES_MAX);
            peer.waiting -= count;
            peer.is_busy = true;
            peer.chain_bytes += count * self.slots.payload_bytes as u32;
            let cut = peer.chain_bytes >= CHAIN_BYTES;
            if cut {
                peer.chain_bytes = 0;
            }
            let how = How {
                socket,
                buffer: Some(0),
                flags: libc::MSG_WAITALL | if cut { libc::MSG_EOR } else { 0 },
                number: u64::from(socket) << 32 | u64::from(count),
                ..How::default()
            };
            let from = self.pieces.len();
            for _ in 0..count {
                let range = self.slots.range(self.number);
                self.number += 1;
                self.pieces.push(iovec(&self.memory.bytes()[range]));
            }
            match count {
                1 => {
                    let range = self.slots.range(self.number - 1);
                    self.ring.push_one(&self.memory.bytes()[range], how)?;
                }
                _ => self.ring.push_many(&self.pieces[from..], how)?,
            }
        }
        self.ready.drain(..made);
        self.sums.requests += made as u64;
        Ok(())
    }

    /// One system call, and all that has completed.
    fn enter(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        self.ring.enter(0)?;
        if self.ring.is_submitted() {
            self.pieces.clear();
        }
        let (peers, ready, share) = (&mut self.peers, &mut self.ready, self.share);
        let bytes = self.slots.payload_bytes as u64;
        let (mut released, mut failed, mut accepted) = (0, 0, 0);
        self.ring.reap(|completion| match completion {
            Completion::Result { number, res, more } => {
                let (socket, count) = ((number >> 32) as u32, number & 0xffff_ffff);
                accepted += count;
                let peer = &mut peers[socket as usize];
                peer.is_busy = false;
                if peer.waiting > 0 {
                    ready.push(socket);
                }
                let taken = u64::try_from(res).unwrap_or(0);
                lanes[share.first + socket as usize].flow.accepted(taken);
                if taken < count * bytes {
                    failed += count - taken / bytes;
                }
                if !more {
                    released += count;
                }
            }
            Completion::Notification { number, .. } => released += number & 0xffff_ffff,
        });
        self.unaccepted -= accepted;
        self.under_way -= released;
        self.sums.payloads += released;
        self.sums.errors += failed;
        match failed {
            0 => Ok(()),
            _ => Err(Error::Stuck(format!("{failed} payloads of the bare loop failed"))),
        }
    }
}

impl Sender for Bare {
    fn fill(&mut self) -> Result<(), Error> {
        if self.under_way > 0 {
            return Ok(());
        }
        for _ in 0..self.share.window {
            let peer = &mut self.peers[self.next];
            peer.waiting += 1;
            if peer.waiting == 1 && !peer.is_busy {
                self.ready.push(self.next as u32);
            }
            self.next = if self.next + 1 == self.share.sockets { 0 } else { self.next + 1 };
        }
        self.under_way = self.share.window;
        self.unaccepted = self.share.window;
        Ok(())
    }

    fn turn(&mut self, lanes: &[Lane]) -> Result<(), Error> {
        loop {
            self.make()?;
            let all_made = self.ready.is_empty();
            self.enter(lanes)?;
            if all_made {
                return Ok(());
            }
        }
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }

    fn unaccepted(&self) -> u64 {
        self.unaccepted
    }

    fn released(&self) -> u64 {
        self.sums.payloads
    }

    fn sums(&self) -> Sums {
        self.sums
    }
}
