//! Who takes turns in `bench wires`: `write`, ringwire, and zero copy without a policy.
//!
//! Each sends the same load from where it was. Over the perfect wire each says what its kernel has
//! accepted, as programs on that wire do. Must not know what is made of their turns.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use ringwire::{Block, EngineChoice, Event, Events, IntoPayload as _, Payload, Ring, Socket};
use rustix::io::{Errno, IoSlice};

use super::load::Load;
use crate::alternate::Side;
use crate::error::{Error, STUCK_AFTER};
use crate::net::Flow;
use crate::raw::{Completion, How, RawRing, iovec};

/// A connection, and the flow to which accepted bytes are reported, if there is one.
#[derive(Clone)]
pub(super) struct Line {
    pub stream: Rc<TcpStream>,
    /// On the perfect wire only.
    pub flow: Option<Rc<Flow>>,
}

impl Line {
    fn accepted(&self, bytes: u64) {
        if let Some(flow) = &self.flow {
            flow.accepted(bytes);
        }
    }
}

/// The blocks from one place on, round and round.
struct Cycle {
    load: Rc<Load>,
    at: usize,
}

impl Cycle {
    fn new(load: &Rc<Load>) -> Self {
        Cycle { load: load.clone(), at: 0 }
    }

    fn next(&mut self) -> &Block {
        let now = self.at;
        self.at = if now + 1 == self.load.blocks.len() { 0 } else { now + 1 };
        &self.load.blocks[now]
    }
}

/// One `write` a payload, or one `writev` of its two pieces.
pub(super) struct Writes {
    line: Line,
    cycle: Cycle,
}

impl Writes {
    pub(super) fn new(line: &Line, load: &Rc<Load>) -> Self {
        Writes { line: line.clone(), cycle: Cycle::new(load) }
    }

    fn write(line: &Line, mut header: &[u8], mut body: &[u8]) -> Result<(), Error> {
        while !body.is_empty() {
            let taken = if header.is_empty() {
                rustix::io::write(&*line.stream, body)
            } else {
                rustix::io::writev(&*line.stream, &[IoSlice::new(header), IoSlice::new(body)])
            };
            match taken {
                Ok(taken) => {
                    line.accepted(taken as u64);
                    let of_header = taken.min(header.len());
                    header = &header[of_header..];
                    body = &body[taken - of_header..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("write", errno)),
            }
        }
        Ok(())
    }
}

impl Side for Writes {
    fn name(&self) -> &'static str {
        "write"
    }

    fn send(&mut self, units: usize) -> Result<(), Error> {
        let header = self.cycle.load.header;
        for _ in 0..units * self.cycle.load.unit {
            Self::write(&self.line, header, self.cycle.next())?;
        }
        Ok(())
    }
}

/// One `Ring::send` a payload, as a program would that has always more to send: a turn as soon as
/// there is something for the kernel to do, and a wait when much is under way.
pub(super) struct Ringwire {
    ring: Ring,
    sock: Socket,
    line: Line,
    events: Events,
    cycle: Cycle,
    under_way: Amount,
}

/// Payloads, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Amount {
    payloads: usize,
    bytes: usize,
}

impl Amount {
    /// Whether one payload more would be too much; the first never is.
    fn is_full(self, most: Amount, bytes: usize) -> bool {
        self.payloads > 0 && (self.payloads >= most.payloads || self.bytes + bytes > most.bytes)
    }

    fn add(&mut self, bytes: usize) {
        self.payloads += 1;
        self.bytes += bytes;
    }
}

/// What is queued between two turns, at most.
const A_TURN: Amount = Amount { payloads: 64, bytes: 1 << 20 };
/// What is not yet released, at most.
const WINDOW: Amount = Amount { payloads: 1024, bytes: 8 << 20 };

impl Ringwire {
    pub(super) fn new(line: &Line, load: &Rc<Load>) -> Result<Ringwire, Error> {
        let mut ring = Ring::builder().engine(EngineChoice::Uring).arena(&load.arena).build()?;
        let stream = line.stream.try_clone().map_err(|e| Error::io("duplicating a socket", e))?;
        let sock = ring.attach(stream)?;
        let events = Events::with_capacity(4 * WINDOW.payloads);
        let (line, under_way) = (line.clone(), Amount::default());
        Ok(Ringwire { ring, sock, line, events, cycle: Cycle::new(load), under_way })
    }

    fn turn(&mut self, wait: Duration) -> Result<(), Error> {
        self.ring.turn(Some(wait), &mut self.events)?;
        if self.events.is_empty() && !wait.is_zero() {
            let payloads = self.under_way.payloads;
            return Err(Error::Stuck(format!("{payloads} payloads were never released")));
        }
        let mut accepted = 0;
        for event in self.events.drain() {
            match event {
                Event::Sent { bytes, .. } => accepted += bytes,
                Event::Released { payload, .. } => {
                    self.under_way.payloads -= 1;
                    self.under_way.bytes -= payload.len();
                }
                Event::Failed { error, .. } => {
                    return Err(Error::Stuck(format!("a payload failed: {error}")));
                }
                _ => {}
            }
        }
        self.line.accepted(accepted);
        Ok(())
    }
}

fn payload(header: &'static [u8], block: Block) -> Payload {
    match header {
        [] => block.into_payload(),
        header => [header.into(), block.into()].into_payload(),
    }
}

impl Side for Ringwire {
    fn name(&self) -> &'static str {
        "ringwire"
    }

    fn send(&mut self, units: usize) -> Result<(), Error> {
        let header = self.cycle.load.header;
        let mut queued = Amount::default();
        for _ in 0..units * self.cycle.load.unit {
            let block = self.cycle.next().clone();
            let bytes = header.len() + block.len();
            while queued.is_full(A_TURN, bytes) || self.under_way.is_full(WINDOW, bytes) {
                let full = self.under_way.is_full(WINDOW, bytes);
                self.turn(if full { STUCK_AFTER } else { Duration::ZERO })?;
                queued = Amount::default();
            }
            let sent = match header {
                [] => self.ring.send(self.sock, block),
                header => self.ring.send(self.sock, payload(header, block)),
            };
            sent.map_err(|refused| refused.why)?;
            queued.add(bytes);
            self.under_way.add(bytes);
        }
        while self.under_way.payloads > 0 {
            self.turn(STUCK_AFTER)?;
        }
        Ok(())
    }
}

/// One SEND_ZC a payload, each waited for: what a program does whose author was told to use zero
/// copy.
pub(super) struct SendZc {
    ring: RawRing,
    line: Line,
    cycle: Cycle,
    /// Requests that the kernel has not let go of.
    held: usize,
}

impl SendZc {
    pub(super) fn new(line: &Line, load: &Rc<Load>) -> Result<SendZc, Error> {
        let ring = RawRing::new(line.stream.as_fd())?;
        Ok(SendZc { ring, line: line.clone(), cycle: Cycle::new(load), held: 0 })
    }

    /// Submits what was pushed, waits for a completion, and returns the result if it came.
    fn enter(&mut self) -> Result<Option<i32>, Error> {
        self.ring.enter(1)?;
        let (mut result, held) = (None, &mut self.held);
        self.ring.reap(|completion| match completion {
            Completion::Result { res, more, .. } => {
                result = Some(res);
                *held += usize::from(more);
            }
            Completion::Notification { .. } => *held -= 1,
        });
        Ok(result)
    }
}

/// Why a send was refused, and who can change that.
fn refused(errno: i32) -> Error {
    match errno {
        libc::ENOMEM => Error::Unavailable(
            "RLIMIT_MEMLOCK has no room to pin what SEND_ZC is to send; raise it with ulimit -l"
                .into(),
        ),
        errno => Error::io("SEND_ZC", std::io::Error::from_raw_os_error(errno)),
    }
}

impl Side for SendZc {
    fn name(&self) -> &'static str {
        "send-zc"
    }

    fn send(&mut self, units: usize) -> Result<(), Error> {
        let how = How { flags: libc::MSG_WAITALL, ..How::default() };
        let header = self.cycle.load.header;
        for _ in 0..units * self.cycle.load.unit {
            let body: &[u8] = self.cycle.next();
            let bytes = header.len() + body.len();
            match header {
                [] => self.ring.push_one(body, how)?,
                header => self.ring.push_many(&[iovec(header), iovec(body)], how)?,
            }
            let result = loop {
                if let Some(result) = self.enter()? {
                    break result;
                }
            };
            match usize::try_from(result) {
                Ok(taken) if taken == bytes => self.line.accepted(taken as u64),
                Ok(taken) => return Err(Error::Stuck(format!("SEND_ZC took {taken} of {bytes}"))),
                Err(_) => return Err(refused(-result)),
            }
        }
        while self.held > 0 {
            self.enter()?;
        }
        Ok(())
    }
}
