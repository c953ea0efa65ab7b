//! Beside the steps of a send: one look at all sockets for peers that acknowledge nothing
//! (`stalls.rs` has the rules), and what becomes of those that are found.

use crate::engine::Inspect;
use crate::ledger::events::Stall;
use crate::machine::sockets::SocketEntry;
use crate::machine::stalls::Progress;
use crate::machine::state::Machine;
use crate::words::config::OnStall;
use crate::words::errno::Errno;

impl Machine {
    /// Looks for silent peers if it is time: after all completions were taken in.
    #[inline]
    pub fn look_for_stalls(&mut self, inspect: &dyn Inspect) {
        self.end_grant();
        let in_flight = self.admission.payloads() > 0;
        if self.stalls.is_due(in_flight, self.clock.now()) {
            self.look_at_sockets(inspect);
        }
    }

    #[cold]
    fn look_at_sockets(&mut self, inspect: &dyn Inspect) {
        let stall_after = self.admission.limits().stall_after;
        let look = self.stalls.look(self.clock.now());
        let mut found = self.stalls.take_found();
        for (slot, socket) in self.sockets.iter_mut() {
            let (bytes, payloads) = (socket.held.bytes(), socket.held.payloads());
            let progress = Progress { look, holds: payloads > 0, let_go_bytes: socket.let_go() };
            let acknowledged = || inspect.sample(slot).map(|sample| sample.acked_bytes);
            if let Some(silent) = socket.stall.look(progress, stall_after, acknowledged) {
                let silent_ms = u32::try_from(silent.as_millis()).unwrap_or(u32::MAX);
                found.push((slot, Stall { bytes, payloads, silent_ms, oldest_ms: 0 }));
            }
        }
        if !found.is_empty() {
            self.tell_stalls(&mut found);
        }
        self.stalls.put_found(found);
    }

    /// Tells of the sockets that were found, and has them broken if that is wanted.
    fn tell_stalls(&mut self, found: &mut [(u32, Stall)]) {
        for (slot, age_ms) in self.ledger.payloads.ages_ms(self.clock.now_ms()) {
            if let Ok(at) = found.binary_search_by_key(&slot, |&(slot, _)| slot) {
                let oldest_ms = &mut found[at].1.oldest_ms;
                *oldest_ms = age_ms.max(*oldest_ms);
            }
        }
        for &mut (slot, stall) in found {
            let sock = self.sockets.handle(slot);
            tracing::debug!(?sock, ?stall, "a peer acknowledges nothing");
            self.stats.stalls += 1;
            self.events.stalled(sock, stall);
            let may_break = |socket: &SocketEntry| socket.is_stream() && !socket.detached;
            if self.admission.limits().on_stall == OnStall::Abort
                && self.sockets.at(slot).is_some_and(may_break)
            {
                self.break_stalled(slot);
            }
        }
    }

    /// Has a stream broken as TCP itself does when it gives a peer up. An open handle stays valid.
    fn break_stalled(&mut self, slot: u32) {
        let sock = self.sockets.handle(slot);
        if self.sockets.at(slot).is_some_and(|socket| socket.broken.is_none()) {
            self.events.broken(sock, Errno::TIMEDOUT);
        }
        self.ask_to_break(slot, Errno::TIMEDOUT);
    }
}
