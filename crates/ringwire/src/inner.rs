//! What a ring is, whoever may use it: an engine under its machine, and an arena's segments.
//!
//! Checks arguments, asks the machine, has the engine do it; everything else happens in a turn. The
//! sole caller of both. Invariant: what is refused is handed back and has changed nothing.
//! Neighbours: `ring.rs` gives it to one thread, `shared.rs` to many, and what the methods promise
//! is said there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ringwire_core::engine::Engine as _;
use ringwire_core::{
    Budget, Config, Deadline, Driver, EngineChoice, Error, Events, Kind, Limits, OnDeadline,
    Reason, Report, Route, Socket, SocketStats, Stats, TaskRun, Thresholds, Turned,
};
use ringwire_sys::{
    AnyEngine, EngineKind, EngineSetup, MtuProbing, SocketFd, Sockets as _, Waker, facts, memlock,
};

use crate::arena::Arena;
use crate::segments::Segments;
use crate::select::select;

/// Turns of one [`turn_all`], at most: a bound for a kernel that takes nothing.
const TURNS_MAX: usize = 10_000;

/// What a ring is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) arena: Option<Arena>,
    pub(crate) limits: Limits,
    pub(crate) thresholds: Thresholds,
    pub(crate) task_run: TaskRun,
    pub(crate) completion_entries: Option<u32>,
    pub(crate) engine: EngineChoice,
    pub(crate) datagrams_are_vouched_for: bool,
}

/// An engine under its machine.
pub(crate) struct Inner {
    pub(crate) driver: Driver<AnyEngine>,
    /// The arena whose blocks go registered.
    segments: Option<Segments>,
    mtu_probing: MtuProbing,
    /// What was asked for; the engine knows what it got.
    task_run: TaskRun,
    /// How many better engines were not to be had.
    steps_down: u64,
    /// Why it is this engine, a line each, if it is not the best.
    choice: Vec<String>,
}

impl Inner {
    /// # Errors
    /// As `RingBuilder::build`.
    pub(crate) fn new(parts: Parts) -> Result<Inner, Error> {
        if parts.completion_entries.is_some_and(|entries| !entries.is_power_of_two()) {
            return Err(Error::Misuse("completion_entries must be a power of two".into()));
        }
        let setup = EngineSetup {
            task_run: parts.task_run,
            completion_entries: parts.completion_entries,
            sockets: parts.limits.sockets,
            datagrams_are_vouched_for: parts.datagrams_are_vouched_for,
        };
        let selected = select(parts.engine, &setup)?;
        static RINGS: AtomicU32 = AtomicU32::new(1);
        let seed = RINGS.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let config = Config {
            limits: parts.limits,
            thresholds: parts.thresholds,
            features: selected.engine.features(),
            budget: Budget::of_process(now),
            // Whoever may lock any amount of memory is not counted, or learns that from a refusal.
            is_counted: !memlock::is_exempt(),
            seed,
        };
        let driver = Driver::new(selected.engine, config);
        let segments = parts.arena.map(Segments::new);
        let task_run = parts.task_run;
        let steps_down = selected.steps_down.len() as u64;
        let choice = selected.steps_down.into_iter().chain(selected.asked_for).collect();
        let mtu_probing = MtuProbing::here();
        let mut inner = Inner { driver, segments, mtu_probing, task_run, steps_down, choice };
        if let Some(segments) = &mut inner.segments {
            segments.prepare(&mut inner.driver)?;
        }
        Ok(inner)
    }

    /// `fd` is closed if it is refused.
    pub(crate) fn attach(&mut self, fd: SocketFd) -> Result<Socket, Error> {
        let mut facts = facts(fd.as_fd())?;
        facts.copied_for = match facts.kind {
            Kind::Stream => self.copies_tcp().then_some(Reason::MtuProbing),
            Kind::Datagram { .. } => {
                let proves = self.driver.machine().features().proves_datagrams;
                (!proves).then_some(Reason::UnsureNotifications)
            }
        };
        self.driver.attach(&facts, |engine, place| engine.add_socket(place, fd))
    }

    pub(crate) fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        self.take_segments_over();
        self.driver.turn(deadline(timeout), events)
    }

    /// Turns without waiting. Quiet payloads that are released are kept for who takes them.
    pub(crate) fn turn_keeping_quiet(&mut self, events: &mut Events) -> Result<Turned, Error> {
        self.take_segments_over();
        self.driver.turn_keeping_quiet(Deadline::Now, events)
    }

    #[inline]
    fn take_segments_over(&mut self) {
        if let Some(segments) = &mut self.segments {
            segments.take_over(&mut self.driver);
        }
    }

    /// Whether something is out of which a turn may tell, or a waker may be called.
    pub(crate) fn expects(&self) -> bool {
        self.driver.engine().expects()
    }

    pub(crate) fn detach(&mut self, sock: Socket) -> Result<OwnedFd, Error> {
        self.driver.check_at_home()?;
        self.driver.machine_mut().prepare_detach(sock)?;
        self.driver.do_chores();
        let place = sock.place();
        let fd = self.driver.engine().duplicate(place)?;
        self.driver.engine_mut().give_up(place);
        self.driver.machine_mut().detach(sock);
        self.driver.do_chores();
        if self.driver.machine().knows(sock) {
            // By then its new owner may have closed his.
            self.driver.engine_mut().linger_aside(place);
        }
        Ok(fd)
    }

    pub(crate) fn socket_why(&self, sock: Socket) -> Result<Option<String>, Error> {
        let SocketStats { route, reason, .. } = self.driver.machine().socket_stats(sock)?;
        let says = |reason: &Reason| match reason {
            Reason::Best | Reason::Small => false,
            Reason::Forced => route == Some(Route::Copy),
            _ => true,
        };
        Ok(reason.filter(says).map(|reason| reason.to_string()))
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.driver.machine().stats();
        stats.engine_steps_down = self.steps_down;
        stats.completion_overflows = self.driver.engine().overflows();
        stats.foreign_entries = self.driver.engine().foreign_entries();
        stats
    }

    pub(crate) fn engine(&self) -> EngineKind {
        self.driver.engine().kind()
    }

    pub(crate) fn why(&self) -> Option<String> {
        let mut why = self.choice.clone();
        let features = self.driver.machine().features();
        why.extend(features.lacks().into_iter().map(str::to_owned));
        why.extend(self.segments.as_ref().into_iter().flat_map(|s| s.why(features.registers)));
        why.extend(self.driver.machine().known_pinned_bytes().map(refused_to_pin));
        if self.task_run == TaskRun::Deferred && !self.driver.engine().is_deferred() {
            why.push(
                "completions interrupt the thread: the kernel has no deferred task run".into(),
            );
        }
        if self.copies_tcp() {
            why.push(format!("TCP is copied: {}", Reason::MtuProbing));
        }
        (!why.is_empty()).then(|| why.join("\n"))
    }

    pub(crate) fn shutdown(self, timeout: Option<Duration>, on_deadline: OnDeadline) -> Report {
        self.driver.shutdown(deadline(timeout), on_deadline)
    }

    pub(crate) fn waker(&mut self) -> Result<Waker, Error> {
        self.driver.check_at_home()?;
        self.driver.engine_mut().waker()
    }

    /// Whether TCP is copied that would go without: it may probe for a larger MTU.
    fn copies_tcp(&self) -> bool {
        !self.driver.machine().features().copies_only && self.mtu_probing.is_possible()
    }

    /// What to poll: readable when a turn would find completions, and maybe once more.
    pub(crate) fn pollable(&self) -> BorrowedFd<'_> {
        self.driver.engine().pollable()
    }
}

/// Turns by `turn`, first for `timeout` and then without waiting, until there is no backlog.
pub(crate) fn turn_all(
    timeout: Option<Duration>,
    mut turn: impl FnMut(Option<Duration>) -> Result<Turned, Error>,
) -> Result<Turned, Error> {
    let mut turned = turn(timeout)?;
    for _ in 1..TURNS_MAX {
        if !turned.backlog {
            break;
        }
        let woken = turned.woken;
        turned = turn(Some(Duration::ZERO))?;
        turned.woken |= woken;
    }
    Ok(turned)
}

/// When a wait of so long ends; never, if it has no end.
fn deadline(timeout: Option<Duration>) -> Deadline {
    timeout.map_or(Deadline::Never, |timeout| Deadline::after(Instant::now(), timeout))
}

/// What the kernel has refused to pin, in words.
fn refused_to_pin(known_bytes: u64) -> String {
    let most = match known_bytes >> 10 {
        0 => "any of it".to_owned(),
        kib => format!("more than about {kib} KiB of it at a time"),
    };
    format!(
        "unregistered memory goes in parts, or is copied: the kernel has refused to pin {most} for \
         this user ({}); it is asked again all the time",
        memlock::describe(memlock::limit_bytes())
    )
}
