//! Between steps 5 and 2 of a send: what requests tell about their sockets, handed to the policy.
//!
//! Neighbours: `streams.rs` and `datagrams.rs` call when a request is handed over, has its result,
//! or is closed; `policy/` decides what is to be made of it, and asks nothing of this file.
//! Invariant: what a request pins is counted exactly from when it is handed over until it is
//! closed. Must not know how a decision is made.

use std::time::Duration;

use crate::engine::Inspect;
use crate::ledger::request::RequestEntry;
use crate::machine::sockets::SocketEntry;
use crate::machine::state::Machine;
use crate::policy::path::{Change, Report};
use crate::policy::{decide, pinned};
use crate::queue::gathered::Gathered;
use crate::queue::pace::GatherLimits;
use crate::words::completion::Copied;
use crate::words::errno::Errno;
use crate::words::route::{Reason, Route};

/// What is copied at a time of several payloads, where everything is copied: two of 256 KiB, with
/// their headers. On veth, four of those a copy reach 0.81 of the throughput of one by one; on
/// loopback, payloads of 1 MiB cut to 256 KiB reach 0.88 of that of whole ones, and what a copy
/// costs beside its bytes shows where it has less than 512 KiB (CPU time 1.03 at 256 KiB, 0.98 at
/// 512). Larger payloads go one by one, whole, as they would without ringwire.
const JOINED_COPY_BYTES_MAX: u64 = 576 << 10;
/// What is copied at a time for want of pinned memory: little, so that what is released meanwhile
/// is soon made use of. Of a window of 12 MiB with 8 MiB of memlock, 200 µs away, 28 % are copied
/// so, and 70 % were when copies were as large as other requests.
const COPY_BYTES_MAX: u64 = 256 << 10;

/// How often a path that copies is looked at, at most, for whether it is still the same one.
const LOOK_TIME: Duration = Duration::from_millis(10);

impl Machine {
    /// Whether to look at the path of a stream that is copied to: while it is, nothing else could
    /// tell of another one soon. Not for what would be copied whatever the path is.
    pub(super) fn asks_for_another_path(&self, socket: &SocketEntry) -> bool {
        let worth_bytes = self.thresholds.registered_bytes.min(self.thresholds.normal_bytes);
        socket.queue.waiting_bytes() >= worth_bytes
            && socket.route.path.copies()
            && socket.queue.pace.is_unseen_for(LOOK_TIME, self.clock.now())
            && decide::learns(self.thresholds)
            && !self.features.copies_only
    }

    /// Looks at a stream's path.
    pub(super) fn look_at_path(&mut self, slot: u32, inspect: &dyn Inspect) {
        let Some(socket) = self.sockets.at_mut(slot) else { return };
        let Some(sample) = inspect.sample(slot) else { return };
        let before = socket.queue.pace.mtu();
        socket.queue.pace.on_sample(self.clock.now(), sample);
        if before.is_some_and(|mtu| mtu != sample.mtu) {
            socket.route.path.on_change();
            self.stats.path_changes += 1;
            tracing::debug!(socket = slot, mtu = sample.mtu, "the path has changed");
        }
    }

    /// Whether what a socket sends is copied, whatever it is, but for probes.
    pub(super) fn is_copied(&self, slot: u32) -> bool {
        let copies = |socket: &SocketEntry| decide::copies(&socket.route, self.thresholds);
        self.features.copies_only || self.sockets.at(slot).is_some_and(copies)
    }

    /// What of a stream goes to the kernel at once.
    pub(super) fn most_at_once(&self, slot: u32) -> GatherLimits {
        let copies = self.is_copied(slot);
        if !copies && !self.copies_head(slot) {
            return GatherLimits::ANY;
        }
        let bytes = if copies { self.probe_bytes(slot) } else { None }.unwrap_or(u64::MAX);
        GatherLimits { joined_bytes: JOINED_COPY_BYTES_MAX, bytes }
    }

    /// How much of what a stream sends next is to be a probe, if one is due.
    fn probe_bytes(&self, slot: u32) -> Option<u64> {
        let socket = self.sockets.at(slot)?;
        let features = self.features;
        if features.copies_only || !features.reports {
            return None;
        }
        let worth_bytes = self.thresholds.registered_bytes.max(self.thresholds.normal_bytes);
        let bytes =
            decide::probe_bytes(&socket.route, worth_bytes, socket.copied_bytes, self.clock.now());
        // What the program wants copied will be no probe.
        let head = socket.queue.head().slot;
        bytes.filter(|_| self.force(head).is_none() && !self.copies_memory(head))
    }

    /// How much of a request to go on with, if not all of it may be pinned now: what still fits; or
    /// little enough to be copied that what is released meanwhile is soon made use of.
    pub(super) fn part_for_now(&self, gathered: &Gathered) -> Option<GatherLimits> {
        let fits = pinned::fits_into(self.pins.room(true, self.clock.now()));
        let part = match fits >= pinned::PART_BYTES_MIN.max(self.thresholds.normal_bytes) {
            true => fits,
            false => COPY_BYTES_MAX,
        };
        (part < gathered.bytes).then_some(GatherLimits { bytes: part, ..GatherLimits::ANY })
    }

    /// Bytes were copied by choice.
    pub(super) fn count_copied(&mut self, bytes: u64, reason: Reason) {
        let copied = &mut self.stats.copied_bytes;
        *match reason {
            Reason::Best | Reason::Small | Reason::Probe => &mut copied.small,
            Reason::Forced => &mut copied.forced,
            Reason::PathCopies => &mut copied.path_copies,
            Reason::SocketRefuses => &mut copied.socket_refuses,
            Reason::MemlockShort => &mut copied.memlock_short,
            Reason::Unpinnable => &mut copied.unpinnable,
            Reason::OverMtu => &mut copied.over_mtu,
            Reason::ManyPieces => &mut copied.many_pieces,
            Reason::KernelLacks => &mut copied.kernel_lacks,
            Reason::EngineCopies => &mut copied.engine_copies,
            Reason::UnsureNotifications => &mut copied.unsure_notifications,
            Reason::MtuProbing => &mut copied.mtu_probing,
            Reason::TrainRefused => &mut copied.train_refused,
        } += bytes;
    }

    /// A request was handed to the engine.
    #[inline]
    pub(super) fn learn_request(&mut self, request: &RequestSummary) {
        let RequestSummary { socket: slot, route, reason, bytes, counted, believed } = *request;
        if route == Route::Copy {
            return;
        }
        if route == Route::ZeroCopy && counted {
            self.pins.add(bytes, self.clock.now());
        }
        let probe = reason == Reason::Probe;
        self.stats.probes += u64::from(probe);
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.route.path.on_request(bytes, believed, probe);
        }
    }

    /// The request that was handed over last was not taken: nothing is learned of it.
    pub(super) fn unlearn_request(&mut self, request: &RequestEntry) {
        if request.route == Route::Copy {
            return;
        }
        if request.route == Route::ZeroCopy && request.counted {
            self.pins.take_back(request.bytes);
        }
        let probe = request.reason == Reason::Probe;
        self.stats.probes -= u64::from(probe);
        if let Some(socket) = self.sockets.at_mut(request.socket) {
            socket.route.path.take_request_back(probe);
        }
    }

    /// A zero-copy request was taken by the kernel, at least in part.
    #[inline]
    pub(super) fn learn_taken(&mut self, slot: u32, route: Route) {
        if let Some(socket) = self.sockets.at_mut(slot) {
            socket.route.on_success(route);
        }
        if route == Route::ZeroCopy {
            self.pins.on_taken();
        }
    }

    /// A zero-copy request failed. True if another route may carry it.
    pub(super) fn learn_failure(&mut self, request: &RequestSummary, errno: Errno) -> bool {
        let RequestSummary { socket: slot, route, reason, bytes, counted, .. } = *request;
        if route == Route::Copy {
            return false;
        }
        if route == Route::ZeroCopy && errno == Errno::NOMEM {
            self.pins.on_refused(bytes, counted, self.clock.now());
        }
        let now = self.clock.now();
        let Some(socket) = self.sockets.at_mut(slot) else { return false };
        let may = socket.route.on_error(route, errno, now);
        if let Some(why) = decide::steps_down(&socket.route, route, now) {
            tracing::debug!(socket = slot, %errno, %why, "a socket copies: zero copy was refused");
        }
        may && reason != Reason::Forced
    }

    /// A request has been closed; `copied` is what the kernel said, as far as it can be believed.
    #[inline]
    pub(super) fn learn_closed(&mut self, request: &RequestEntry, copied: Copied) {
        if request.route == Route::Copy {
            return;
        }
        if request.route == Route::ZeroCopy && request.counted {
            self.pins.subtract(request.bytes);
        }
        if !decide::learns(self.thresholds) {
            return;
        }
        let Some(socket) = self.sockets.at_mut(request.socket) else { return };
        let probe = request.reason == Reason::Probe;
        let report = Report { copied, bytes: request.accepted, probe };
        match socket.route.path.on_report(report, socket.copied_bytes, self.clock.now()) {
            Some(Change::FoundCopying) => {
                self.stats.paths_found_copying += 1;
                tracing::debug!(socket = request.socket, "the path copies: so do we");
            }
            Some(Change::FoundClear) => {
                self.stats.paths_found_clear += 1;
                tracing::debug!(socket = request.socket, "the path copies no more");
            }
            None => {}
        }
    }
}

/// What is to be learned from when a request is handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestSummary {
    socket: u32,
    route: Route,
    reason: Reason,
    bytes: u64,
    counted: bool,
    believed: bool,
}

impl RequestSummary {
    pub(super) fn of(request: &RequestEntry) -> Self {
        let RequestEntry { socket, route, reason, bytes, counted, believed, .. } = *request;
        RequestSummary { socket, route, reason, bytes, counted, believed }
    }
}
