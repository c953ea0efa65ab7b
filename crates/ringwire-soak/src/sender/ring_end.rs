//! The ends of rings: drained, shut down, dropped, forgotten, or with their process.
//!
//! Above `live_ring.rs` and `conn_end.rs`, below `session.rs`. Whatever the end, nothing that the
//! kernel may still read is overwritten, and all other memory is.

use std::mem;
use std::time::{Duration, Instant};

use ringwire::OnDeadline;

use super::failure::Failure;
use super::live_ring::LiveRing;
use super::plan::{ConnEnding, RingEnding};
use crate::control::StreamEnd;
use crate::counters::Counter;

/// How long the last releases may take once all peers read.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait of a turn in which there is nothing to send.
const TURN_WAIT: Duration = Duration::from_millis(2);

/// What a ring leaves to do for its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRing {
    /// The next one.
    GoOn,
    Exit,
    /// Overwrite memory until the signal comes.
    AwaitSignal,
}

impl LiveRing<'_> {
    /// Ends the ring as it is planned.
    pub(super) fn end(mut self) -> Result<AfterRing, Failure> {
        if self.plan.ending == RingEnding::Drained {
            for conn in &mut self.conns {
                conn.plan.ending = ConnEnding::Close;
                conn.budget = conn.queued;
            }
            self.end_conns()?;
        }
        // Connections that have had their events are seen to their ends: a ring that goes takes the
        // queues of closed sockets with it.
        let datagrams = u64::from(self.datagrams.is_some());
        self.turn_until("closed sockets gone", |live| {
            let finished = live.conns.iter().filter(|conn| conn.finished).count() as u64;
            finished == 0 && live.ring.stats().sockets <= live.conns.len() as u64 + datagrams
        })?;
        let mut in_flight = 0;
        for conn in &self.conns {
            in_flight += conn.unacknowledged()?;
        }
        let in_flight = in_flight > 0;
        match self.plan.ending {
            RingEnding::Drained => self.drain(),
            RingEnding::ShutDown(on_deadline) => {
                self.state.count_ring_event(Counter::RingsShutDown, in_flight);
                self.shut_down(on_deadline)
            }
            RingEnding::Dropped => {
                self.state.count_ring_event(Counter::RingsDropped, in_flight);
                self.drop_ring()
            }
            RingEnding::Forgotten => {
                self.state.count_ring_event(Counter::RingsForgotten, in_flight);
                self.forget()
            }
            RingEnding::Exit => {
                self.state.count_ring_event(Counter::Exits, in_flight);
                self.leave_to_the_process(AfterRing::Exit)
            }
            RingEnding::Kill => {
                self.state.count_ring_event(Counter::Kills, in_flight);
                self.leave_to_the_process(AfterRing::AwaitSignal)
            }
        }
    }

    /// Turns the ring until it is so.
    fn turn_until(
        &mut self,
        what: &str,
        holds: impl Fn(&LiveRing<'_>) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() > deadline {
                let stats = self.ring.stats();
                let open = self.tracker.open_payloads();
                return Err(Failure::Violation(format!(
                    "not within {PATIENCE:?}: {what}; {open} payloads open, {stats:?}"
                )));
            }
            self.state.flush()?;
            self.turn(TURN_WAIT)?;
            self.end_finished_conns()?;
        }
        Ok(())
    }

    /// Everything has been released, said so, and gone home.
    fn drain(mut self) -> Result<AfterRing, Failure> {
        self.notifiers.flush_all(&mut self.ring)?;
        self.turn_until("all released and notified", |live| {
            live.ring.stats().in_flight_payloads == 0
                && live.tracker.open_payloads() == 0
                && live.notifiers.all_notified()
        })?;
        let stats = self.ring.stats();
        if stats.unknown_completions > 0 || stats.open_requests > 0 {
            return Err(Failure::Violation(format!("drained, and yet: {stats:?}")));
        }
        self.state.count(Counter::RingsDrained, 1);
        drop(self.ring);
        self.state.wait_for_dropper();
        let held = self.buffers.arena.map_or(0, |arena| arena.stats().allocated_blocks);
        if held > 0 {
            return Err(Failure::Violation(format!("{held} blocks did not come home")));
        }
        Ok(AfterRing::GoOn)
    }

    fn shut_down(mut self, on_deadline: OnDeadline) -> Result<AfterRing, Failure> {
        let abort = on_deadline == OnDeadline::Abort;
        self.conns_go_with_the_ring(if abort { StreamEnd::Any } else { StreamEnd::Eof })?;
        let in_flight = self.ring.stats().in_flight_payloads;
        let wait = Duration::from_millis(self.state.rng.below(5));
        let arena_bytes = self.arena_bytes();
        let report = self.ring.shutdown(Some(wait), on_deadline);
        self.buffers.overwrite_free();
        let accounted = report.released_payloads + report.leaked_payloads + report.unsent_payloads;
        let lost = report.leaked_payloads + report.unsent_payloads;
        if accounted != in_flight || (abort && lost > 0) {
            return Err(Failure::Violation(format!(
                "shut down with {in_flight} payloads in flight: {report:?}"
            )));
        }
        if report.leaked_payloads > 0 {
            self.state.lost_bytes += arena_bytes + report.leaked_bytes;
        }
        Ok(AfterRing::GoOn)
    }

    fn drop_ring(mut self) -> Result<AfterRing, Failure> {
        self.conns_go_with_the_ring(StreamEnd::Eof)?;
        self.state.lost_bytes += self.arena_bytes() + self.ring.stats().in_flight_bytes;
        let LiveRing { ring, buffers, conns, .. } = self;
        drop((ring, conns));
        buffers.overwrite_free();
        Ok(AfterRing::GoOn)
    }

    fn forget(mut self) -> Result<AfterRing, Failure> {
        self.conns_go_with_the_ring(StreamEnd::Eof)?;
        let bytes = self.ring.stats().in_flight_bytes;
        self.state.lost_bytes += self.arena_bytes() + bytes;
        self.state.forgotten_bytes += bytes;
        let LiveRing { ring, buffers, conns, tracker, events, .. } = self;
        mem::forget((ring, conns, tracker, events));
        buffers.overwrite_free();
        Ok(AfterRing::GoOn)
    }

    /// It is still there when the process goes.
    fn leave_to_the_process(mut self, then: AfterRing) -> Result<AfterRing, Failure> {
        self.conns_go_with_the_ring(StreamEnd::Eof)?;
        self.buffers.overwrite_free();
        mem::forget((self.ring, self.conns, self.buffers));
        Ok(then)
    }

    /// Says what the peers of connections will have seen that end with their ring.
    fn conns_go_with_the_ring(&mut self, end: StreamEnd) -> Result<(), Failure> {
        for conn in &self.conns {
            let accepted = self.accepted_bytes(conn)?;
            let least = if end == StreamEnd::Any { 0 } else { accepted };
            self.state.say_expected(conn.id, least, conn.queued, end)?;
            self.state.say_read_on(conn.id)?;
        }
        Ok(())
    }
}
