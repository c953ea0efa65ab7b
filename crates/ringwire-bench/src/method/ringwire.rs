//! ringwire through its public API: one `send` a payload, nothing gathered by the caller; the same
//! by the engine `msg-zerocopy`; and one payload as a train (a GSO batch) of datagrams that lie in
//! one piece.
//!
//! On 4 KiB pages payloads are parts of registered blocks, on huge ones `Bytes` of plain memory. A
//! socket of trains has an option set beforehand that says how they are cut (`UDP_SEGMENT`), so
//! that no request has to say it.

use ringwire::SendOptions;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{EngineChoice, Event, Events, IntoPayload, PayloadId, Ring, Socket};

use super::recipe::{ANY_PAGES, Loop, Recipe};
use crate::error::{Error, STUCK_AFTER};
use crate::job::{Backing, Job, Protocol};
use crate::measure::{Tally, Timed};
use crate::net::Flow;
use crate::stage::Stage;
use crate::sys;
use crate::walk::Layout;

/// One `Ring::send` of shared memory a payload.
pub(super) const RINGWIRE: Recipe = Recipe {
    name: "ringwire",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Ringwire::new(stage, flow, EngineChoice::Uring, false)?)),
};

/// The same where there is no io_uring: by the engine that a ring takes then.
pub(super) const RINGWIRE_MSG_ZEROCOPY: Recipe = Recipe {
    name: "ringwire-msg-zerocopy",
    make: |stage, flow| Ok(Box::new(Ringwire::new(stage, flow, EngineChoice::MsgZerocopy, false)?)),
    ..RINGWIRE
};

/// The same of datagrams.
pub(super) const RINGWIRE_UDP: Recipe = Recipe { protocol: Protocol::Udp, ..RINGWIRE };

/// One payload, sent as a train, for as many datagrams as lie in one piece.
pub(super) const RINGWIRE_TRAIN: Recipe = Recipe {
    name: "ringwire-train",
    make: |stage, flow| Ok(Box::new(Ringwire::new(stage, flow, EngineChoice::Uring, true)?)),
    ..RINGWIRE_UDP
};

/// Payloads that a good user keeps under way: enough that a request can be gathered while another
/// is sent and others wait for their acknowledgement.
const WINDOW_PAYLOADS: u64 = 1024;
/// The same in bytes.
const WINDOW_BYTES: u64 = 12 << 20;
/// The same of trains, each of which is a request of its own: the kernel's packets stay in cache.
const TRAINS_BYTES: u64 = 1 << 20;

/// How many payloads of so many bytes are under way at once, of memory of this kind.
pub(super) fn window(payload_bytes: u64, stage: &Stage, backing: Backing) -> u64 {
    // Plain memory counts as locked while it is lent.
    let lent_max = stage.lent_max().filter(|_| backing == Backing::Huge);
    let lent_max = lent_max.map_or(u64::MAX, |bytes| bytes as u64 / payload_bytes);
    (WINDOW_BYTES / payload_bytes).clamp(4, WINDOW_PAYLOADS).min(lent_max).max(1)
}

struct Ringwire {
    stage: Rc<Stage>,
    ring: Ring,
    sock: Socket,
    flow: Flow,
    /// Whether a payload is a train of datagrams.
    trains: bool,
    /// The size into which the socket cuts them, as far as it was told.
    segment: Option<u64>,
    events: Events,
    at: usize,
}

impl Ringwire {
    fn new(
        stage: &Rc<Stage>,
        flow: Flow,
        engine: EngineChoice,
        trains: bool,
    ) -> Result<Ringwire, Error> {
        let mut ring = Ring::builder().engine(engine).arena(stage.arena()?).build()?;
        let sock = ring.attach(flow.duplicate()?)?;
        let events = Events::with_capacity(16 << 10);
        let segment = None;
        Ok(Ringwire { stage: stage.clone(), ring, sock, flow, trains, segment, events, at: 0 })
    }
}

/// What a run has under way, and what came of the rest.
#[derive(Default)]
struct Run {
    under_way: u64,
    tally: Tally,
    timed: Timed<PayloadId>,
}

impl Run {
    fn take(&mut self, events: &mut Events, flow: &Flow) {
        let mut accepted = 0;
        for event in events.drain() {
            match event {
                Event::Sent { bytes, .. } => {
                    accepted += bytes;
                    self.tally.payloads += 1;
                }
                Event::Released { id, payload, copied, .. } => {
                    self.under_way -= 1;
                    self.tally.add_released(copied, payload.len() as u64);
                    self.timed.released(&id, &mut self.tally.delays);
                }
                Event::Failed { accepted: part, .. } => {
                    accepted += part;
                    self.tally.errors += 1;
                }
                _ => {}
            }
        }
        self.tally.bytes += accepted;
        flow.accepted(accepted);
    }
}

impl Loop for Ringwire {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let layout = if self.trains { Layout::of_trains(job) } else { Layout::of(job) };
        if self.trains && self.segment != Some(job.payload_bytes) {
            // A ring looks at a socket's options when it takes it.
            let socket = self.ring.detach(self.sock)?;
            sys::set_segment(&socket, job.payload_bytes)
                .map_err(|error| Error::io("UDP_SEGMENT", error))?;
            self.sock = self.ring.attach(socket)?;
            self.segment = Some(job.payload_bytes);
        }
        let mut tally = match job.settings.backing {
            Backing::Small => {
                let blocks = self.stage.blocks(layout, job.order)?;
                self.run_over(&blocks, layout, job, time)
            }
            Backing::Huge => {
                let bytes = self.stage.bytes(layout, job.order, Backing::Huge)?;
                self.run_over(&bytes, layout, job, time)
            }
        }?;
        if self.trains {
            tally.payloads = tally.bytes / job.payload_bytes;
        }
        Ok(tally)
    }

    fn working_set(&self, backing: Backing) -> Option<(usize, String)> {
        if backing == Backing::Small { self.stage.limited() } else { None }
    }
}

impl Ringwire {
    fn run_over<T: IntoPayload + Clone>(
        &mut self,
        payloads: &[T],
        layout: Layout,
        job: &Job,
        time: Duration,
    ) -> Result<Tally, Error> {
        let payload_bytes = layout.payload_bytes as u64;
        let mut window = window(payload_bytes, &self.stage, job.settings.backing);
        if self.trains {
            window = window.min((TRAINS_BYTES / payload_bytes).max(1));
        }
        let segment = self.trains.then_some(job.payload_bytes as u16);
        let before = self.ring.stats();
        let mut run = Run::default();
        let started = Instant::now();
        let mut now = started;
        let mut at = self.at % payloads.len();
        while now - started < time {
            if run.timed.is_free() && run.under_way < window {
                let id = self.send(payloads[at].clone(), segment)?;
                run.timed.sent(id, now);
                at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                run.under_way += 1;
            }
            while run.under_way < window {
                self.send(payloads[at].clone(), segment)?;
                at = if at + 1 == payloads.len() { 0 } else { at + 1 };
                run.under_way += 1;
            }
            self.turn(&mut run)?;
            now = Instant::now();
        }
        self.at = at;
        while run.under_way > 0 {
            self.turn(&mut run)?;
        }
        let after = self.ring.stats();
        run.tally.add_requests(&before, &after);
        run.tally.notifications = after.notifications - before.notifications;
        self.flow.drain()?;
        Ok(run.tally)
    }

    /// As a program has it that calls `Ring::send` where it makes its payload: a handle that was
    /// just made is not passed on through memory.
    #[inline(always)]
    fn send<T: IntoPayload>(
        &mut self,
        payload: T,
        segment: Option<u16>,
    ) -> Result<PayloadId, Error> {
        let sent = match segment {
            None => self.ring.send(self.sock, payload),
            Some(bytes) => self.ring.send_with(self.sock, payload, SendOptions::new().train(bytes)),
        };
        sent.map_err(|error| error.why.into())
    }

    fn turn(&mut self, run: &mut Run) -> Result<(), Error> {
        self.ring.turn(Some(STUCK_AFTER), &mut self.events)?;
        if self.events.is_empty() {
            return Err(Error::Stuck(format!("{} payloads were never released", run.under_way)));
        }
        run.take(&mut self.events, &self.flow);
        Ok(())
    }
}
