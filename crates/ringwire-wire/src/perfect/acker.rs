//! The acknowledger: a thread that acknowledges what the flows of one wire have sent.
//!
//! Every `ack_every` it looks at each flow. It works out what has been sent without the sockets'
//! locks (`sent.rs`), from what the sender says it has written ([`Written`]) and
//! from two ioctls. Where bytes are under way and nothing moves for 50 µs, as can be when a sender
//! waits inside of one large request, TCP_INFO says it, which takes the socket's lock: never while
//! a sender runs.
//!
//! Flows of which everything said is acknowledged, and on which nothing has happened lately, are
//! looked at a few at a time, so a thousand idle ones cost little. If nothing happens on any for
//! 10 ms, the thread sleeps.
//!
//! ```text
//!   sender              socket                 this thread            loopback
//!     write ──────────▶ write, nxt grow
//!     written().add ─────────────────────────▶ looks: sent
//!                       una grows ◀────────────────────────── raw ACK, taken in by this thread,
//!                       pages are released                    or by the socket's owner
//! ```

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;

use super::alarm::Alarm;
use super::connection::Shared;
use super::sent::{Reading, Sent};
use super::sys::{self, CpuClock};
use super::written::Written;

#[cfg(test)]
mod stepped;

/// Without progress for so long, a flow with bytes under way is asked for TCP_INFO.
const STALL: Duration = Duration::from_micros(50);
/// Flows that are looked at in a look though they are quiet.
const QUIET_PER_LOOK: usize = 8;
/// The same while others are active: sixteen flows that rest cost half a processor, which who
/// measures CPU time finds in the figures of the one that does not.
const QUIET_PER_BUSY_LOOK: usize = 1;
/// A flow on which something has happened is looked at every time for so long.
const WARM: Duration = Duration::from_millis(1);
/// After so long without anything to do the thread sleeps …
const SLEEP_AFTER: Duration = Duration::from_millis(10);
/// … for so long at a time, unless it is woken.
const SLEEP: Duration = Duration::from_millis(1);
/// How late a timer may be.
const LATE_MAX: Duration = Duration::from_millis(1);
/// Two readings of the clock further apart than this, in a loop that does nothing else: the thread
/// did not run meanwhile.
const PREEMPTED: Duration = Duration::from_micros(5);

/// What the acknowledger has used and done since the wire was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AckerUse {
    /// Processor time of its thread.
    pub cpu: Duration,
    /// The part of it that went by in waiting for the next look, or in looks that found nothing
    /// when it looks all the time.
    pub spin: Duration,
    /// Looks at the flows.
    pub looks: u64,
    /// Flows that were looked at in them, one by one.
    pub flow_looks: u64,
    /// Acknowledgements sent.
    pub acks: u64,
    /// Looks at a flow that needed TCP_INFO.
    pub fallbacks: u64,
}

impl AckerUse {
    /// Processor time without the waiting.
    pub fn work(&self) -> Duration {
        self.cpu.saturating_sub(self.spin)
    }
}

/// Keeps the calling thread on one processor, numbered as in `/proc/cpuinfo`.
///
/// An acknowledgement wakes the sender that waited for it, and the scheduler likes to put it on
/// the processor of its waker, which is the acknowledger's. So a measurement puts the sender on one
/// processor and the acknowledger on another
/// ([`PerfectBuilder::acker_cpu`](super::PerfectBuilder::acker_cpu)).
///
/// # Errors
/// `InvalidInput` for a processor that the process may not use.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

/// What the wire, its flows and the thread share.
pub(super) struct Acker {
    alarm: Arc<Alarm>,
    ack_every_nanos: AtomicU64,
    stop: AtomicBool,
    /// There are new flows, or closed ones.
    changed: AtomicBool,
    /// Flows that the thread has not taken in yet.
    new_flows: Mutex<Vec<Arc<Shared>>>,
    clock: OnceLock<CpuClock>,
    spin_nanos: AtomicU64,
    looks: AtomicU64,
    flow_looks: AtomicU64,
    acks: AtomicU64,
    fallbacks: AtomicU64,
}

impl Acker {
    /// What is shared, before there is a thread.
    pub(super) fn new(ack_every: Duration) -> Arc<Acker> {
        let acker = Acker {
            alarm: Arc::new(Alarm::new()),
            ack_every_nanos: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            new_flows: Mutex::default(),
            clock: OnceLock::new(),
            spin_nanos: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            flow_looks: AtomicU64::new(0),
            acks: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
        };
        acker.set_ack_every(ack_every);
        Arc::new(acker)
    }

    /// Starts the thread, on one processor if that is given.
    pub(super) fn start(self: &Arc<Acker>, cpu: Option<usize>) -> io::Result<JoinHandle<()>> {
        let (of_thread, (pinned, is_pinned)) = (Arc::clone(self), mpsc::channel());
        let handle = ringwire_threads::start("wire-acker", move || {
            let result = cpu.map_or(Ok(()), pin_to_cpu);
            let goes_on = result.is_ok();
            // It is waited for.
            let _ = pinned.send(result);
            if goes_on {
                Looker::new(of_thread, Host).run();
            }
        })?;
        is_pinned.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        self.alarm.is_for(handle.thread());
        Ok(handle)
    }

    pub(super) fn set_ack_every(&self, ack_every: Duration) {
        let nanos = u64::try_from(ack_every.as_nanos()).unwrap_or(u64::MAX);
        self.ack_every_nanos.store(nanos, Ordering::Relaxed);
        self.alarm.unpark();
    }

    /// What its thread is woken by.
    pub(super) fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    pub(super) fn ack_every(&self) -> Duration {
        Duration::from_nanos(self.ack_every_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, flow: Arc<Shared>) {
        self.new_flows().push(flow);
        self.changed.store(true, Ordering::Release);
    }

    /// Says that a flow is closed.
    pub(super) fn forget_closed(&self) {
        self.changed.store(true, Ordering::Release);
        self.alarm.unpark();
    }

    /// Has the thread abort the flows that are left, and end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.alarm.unpark();
    }

    pub(super) fn used(&self) -> AckerUse {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Before the clock, so that waiting is never more than all.
        let spin = Duration::from_nanos(get(&self.spin_nanos));
        AckerUse {
            cpu: self.clock.get().and_then(|clock| clock.now()).unwrap_or_default(),
            spin,
            looks: get(&self.looks),
            flow_looks: get(&self.flow_looks),
            acks: get(&self.acks),
            fallbacks: get(&self.fallbacks),
        }
    }

    fn new_flows(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shared>>> {
        self.new_flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow, as the thread knows it.
struct Watched {
    shared: Arc<Shared>,
    /// The shared part's; kept here because every look reads it.
    written: Written,
    sent: Sent,
    /// The last reading that found something under way, and since when it has been the same.
    stalled: Option<(Reading, Instant)>,
    /// Until when it is looked at whether or not its sender says anything.
    warm_until: Instant,
    /// The connection has ended.
    ended: bool,
}

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    UnderWay,
    Progress,
}

#[derive(Default)]
struct Count {
    looks: u64,
    flow_looks: u64,
    acks: u64,
    fallbacks: u64,
}

/// The time that the thread goes by: the host's, or one that a test hands it.
trait Time {
    fn now(&self) -> Instant;

    /// Sleeps for so long, or until somebody wakes the thread.
    fn park(&self, at_most: Duration);
}

/// The host's.
struct Host;

impl Time for Host {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn park(&self, at_most: Duration) {
        std::thread::park_timeout(at_most);
    }
}

struct Looker<T> {
    acker: Arc<Acker>,
    time: T,
    watched: Vec<Watched>,
    /// The quiet flow that was looked at last.
    quiet_at: usize,
    /// When a look last found something.
    busy_at: Instant,
    spin: Duration,
    count: Count,
}

impl<T: Time> Looker<T> {
    fn new(acker: Arc<Acker>, time: T) -> Looker<T> {
        let (watched, count, busy_at) = (Vec::new(), Count::default(), time.now());
        Looker { acker, time, watched, quiet_at: 0, busy_at, spin: Duration::ZERO, count }
    }

    fn run(mut self) {
        if let Some(clock) = CpuClock::of_this_thread() {
            let _ = self.acker.clock.set(clock);
        }
        let mut now = self.busy_at;
        while !self.acker.stop.load(Ordering::Acquire) {
            now = self.step(now);
            self.publish();
        }
        // From now on nobody acknowledges them.
        self.refresh(now);
        self.watched.iter().for_each(|flow| flow.shared.abort());
    }

    /// A look at `now`, and the wait for the next one. Returns when that is.
    fn step(&mut self, now: Instant) -> Instant {
        self.refresh(now);
        let looked_at = now;
        let found = self.look(now);
        let now = self.time.now();
        if found != Found::Nothing {
            self.busy_at = now;
        }
        if now - self.busy_at > SLEEP_AFTER {
            self.sleep();
            return self.time.now();
        }
        if !self.acker.ack_every().is_zero() {
            return self.wait(now, looked_at);
        }
        if found != Found::Progress && now - looked_at < PREEMPTED {
            self.spin += now - looked_at;
        }
        now
    }

    /// Takes in new flows and lets go of closed ones.
    fn refresh(&mut self, now: Instant) {
        let changed = &self.acker.changed;
        if !(changed.load(Ordering::Relaxed) && changed.swap(false, Ordering::AcqRel)) {
            return;
        }
        let new = std::mem::take(&mut *self.acker.new_flows());
        self.watched.extend(new.into_iter().map(|shared| Watched {
            written: shared.written().clone(),
            shared,
            sent: Sent::default(),
            stalled: None,
            warm_until: now + WARM,
            ended: false,
        }));
        self.watched.retain(|watched| !watched.shared.is_closed());
    }

    fn look(&mut self, now: Instant) -> Found {
        self.count.looks += 1;
        let mut found = Found::Nothing;
        let mut quiet_per_look = QUIET_PER_LOOK;
        for flow in &mut self.watched {
            if flow.is_active(now) {
                self.count.flow_looks += 1;
                found = found.max(flow.look(now, &mut self.count));
                quiet_per_look = QUIET_PER_BUSY_LOOK;
            }
        }
        for _ in 0..self.watched.len().min(quiet_per_look) {
            self.quiet_at = (self.quiet_at + 1) % self.watched.len();
            let flow = &mut self.watched[self.quiet_at];
            if flow.is_active(now) {
                continue;
            }
            self.count.flow_looks += 1;
            if flow.may_have_sent() {
                found = found.max(flow.look(now, &mut self.count));
            }
        }
        found
    }

    /// Waits for the next look. On the processor, because a timer is late by more than the cadence;
    /// only the most of a long wait goes by asleep.
    fn wait(&mut self, mut now: Instant, looked_at: Instant) -> Instant {
        while !self.acker.stop.load(Ordering::Relaxed) {
            let left = (looked_at + self.acker.ack_every()).saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            if left > LATE_MAX * 2 {
                self.time.park(left - LATE_MAX);
            } else {
                std::hint::spin_loop();
            }
            self.refresh(now);
            let next = self.time.now();
            if next - now < PREEMPTED {
                self.spin += next - now;
            }
            now = next;
        }
        now
    }

    fn sleep(&self) {
        self.acker.alarm.set_sleeps(true);
        self.time.park(SLEEP);
        self.acker.alarm.set_sleeps(false);
    }

    fn publish(&self) {
        let spin = u64::try_from(self.spin.as_nanos()).unwrap_or(u64::MAX);
        self.acker.spin_nanos.store(spin, Ordering::Relaxed);
        self.acker.looks.store(self.count.looks, Ordering::Relaxed);
        self.acker.flow_looks.store(self.count.flow_looks, Ordering::Relaxed);
        self.acker.acks.store(self.count.acks, Ordering::Relaxed);
        self.acker.fallbacks.store(self.count.fallbacks, Ordering::Relaxed);
    }
}

impl Watched {
    /// Whether this flow is to be looked at every time.
    fn is_active(&mut self, now: Instant) -> bool {
        if self.written.take_warmed() {
            self.warm_until = now + WARM;
        }
        let said = self.written.bytes() > self.sent.acknowledged();
        !self.ended && !self.shared.is_held() && (said || now < self.warm_until)
    }

    /// Whether a flow that says nothing is worth a look.
    fn may_have_sent(&self) -> bool {
        !self.ended
            && !self.shared.is_held()
            && sys::unacknowledged(self.shared.stream().as_fd()) != Ok(0)
    }

    fn look(&mut self, now: Instant, count: &mut Count) -> Found {
        let shared = Arc::clone(&self.shared);
        shared.unless_held(|| self.look_closely(now, count)).unwrap_or(Found::Nothing)
    }

    fn look_closely(&mut self, now: Instant, count: &mut Count) -> Found {
        // In this order: see `sent.rs`.
        let written = self.written.bytes();
        let Ok(unsent) = self.unsent() else { return self.end() };
        let sent = self.sent.sent_by_word(written, unsent);
        if sent > self.sent.acknowledged() {
            // The usual case, and the rest of this costs as much again.
            return self.acknowledge(sent, now, count);
        }
        let Ok(reading) = self.read(unsent) else { return self.end() };
        let sent = self.sent.sent_by_socket(reading);
        if sent > self.sent.acknowledged() {
            let found = self.acknowledge(sent, now, count);
            // It is known best right now.
            let read = self.unsent().and_then(|unsent| self.read(unsent));
            let Ok(reading) = read else { return self.end() };
            self.sent.learn(reading);
            return found;
        }
        if !reading.is_under_way() {
            self.stalled = None;
            return Found::Nothing;
        }
        self.warm_until = now + WARM;
        match self.stalled {
            Some((before, since)) if before == reading => {
                if now - since < STALL {
                    return Found::UnderWay;
                }
                self.stalled = None;
                self.ask(now, count)
            }
            _ => {
                self.stalled = Some((reading, now));
                Found::UnderWay
            }
        }
    }

    fn unsent(&self) -> rustix::io::Result<i64> {
        sys::unsent(self.shared.stream().as_fd())
    }

    fn read(&self, unsent_before: i64) -> rustix::io::Result<Reading> {
        let unacknowledged = sys::unacknowledged(self.shared.stream().as_fd())?;
        Ok(Reading { unsent_before, unacknowledged, unsent_after: self.unsent()? })
    }

    /// Asks the socket itself.
    fn ask(&mut self, now: Instant, count: &mut Count) -> Found {
        count.fallbacks += 1;
        let Ok(info) = sys::tcp_info(self.shared.stream().as_fd()) else { return self.end() };
        if !can_send(info.tcpi_state) {
            return self.end();
        }
        self.sent.learn_exactly(info.tcpi_bytes_acked);
        let sent = info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans);
        let fin = u64::from(has_fin(info.tcpi_state) && info.tcpi_notsent_bytes == 0);
        let (sent, known) = (sent + fin, self.sent.acknowledged());
        if sent > known || info.tcpi_bytes_acked < known {
            // More was sent, or the last acknowledgement did not arrive.
            return self.acknowledge(sent.max(known), now, count);
        }
        Found::UnderWay
    }

    fn acknowledge(&mut self, bytes: u64, now: Instant, count: &mut Count) -> Found {
        self.sent.acknowledge(bytes);
        self.shared.acknowledge(bytes);
        count.acks += 1;
        self.stalled = None;
        self.warm_until = now + WARM;
        Found::Progress
    }

    fn end(&mut self) -> Found {
        self.ended = true;
        Found::Nothing
    }
}

/// Whether a connection in this state (`tcpi_state`, linux/tcp_states.h) has bytes or a FIN that
/// can be acknowledged.
fn can_send(state: u8) -> bool {
    // ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING.
    matches!(state, 1 | 4 | 8 | 9 | 11)
}

/// Whether its FIN is sent, or waits to be, and is not acknowledged.
fn has_fin(state: u8) -> bool {
    // FIN_WAIT1, LAST_ACK, CLOSING.
    matches!(state, 4 | 9 | 11)
}
