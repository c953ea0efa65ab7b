//! The machine on an engine: one asks, the other does, and is told what came of it.
//!
//! This is the only place where both meet. It keeps the promise that engines are made with: an
//! engine is handed requests of one machine only, and that machine all completions which the engine
//! yields, and no others. Neighbours: `ringwire` puts an engine of `ringwire-sys` here; tests and
//! models their own. Must not know: descriptors, threads.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::ledger::events::Events;
use crate::machine::state::{Config, Machine};
use crate::payload::{Payload, SendError};
use crate::running::Patience;
use crate::words::chore::Chore;
use crate::words::completion::Completion;
use crate::words::deadline::Deadline;
use crate::words::error::Error;
use crate::words::ids::{PayloadId, Socket};
use crate::words::options::SendOptions;
use crate::words::socket::SocketFacts;
use crate::words::submission::Submission;

/// How long a shutdown waits, after breaking connections, for the kernel to say that it has let go.
const ABORT_TIME: Duration = Duration::from_secs(2);

/// Completions that one turn takes without growing its buffer: a completion ring of default length.
const COMPLETIONS_ROOM: usize = 4096;

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Payloads are ready to leave, which the next turn will let go: do not sleep on the ring's
    /// descriptor before that.
    pub backlog: bool,
    /// When to turn again at the latest, though nothing has happened: to notice in time that a peer
    /// acknowledges nothing ([`Event::Stalled`](crate::Event::Stalled)), or that what somebody else
    /// has written beside is free, or to break a connection that could not be broken at once. For
    /// who sleeps on the ring's descriptor; a turn that waits sees to it by itself, but none waits
    /// where nothing is out. `None` if there is nothing of the kind.
    pub turn_by: Option<Instant>,
    /// The waker has ended the turn, or would have.
    pub woken: bool,
}

/// What a shutdown does with what is not released by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeadline {
    /// Breaks the connections, so that the memory comes back. Peers get a reset.
    Abort,
    /// Leaves accepted data to the kernel, which goes on delivering it; the memory is lost to the
    /// process.
    Leave,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Payloads released meanwhile.
    pub released_payloads: u64,
    /// Payloads that failed meanwhile.
    pub failed_payloads: u64,
    /// Connections broken to get memory back.
    pub aborted_sockets: u64,
    /// Payloads that the kernel may still read; their memory is never used again.
    pub leaked_payloads: u64,
    /// Bytes of those.
    pub leaked_bytes: u64,
    /// Payloads that the kernel had not accepted wholly and may not read, dropped.
    pub unsent_payloads: u64,
}

/// A machine and its engine. Dropping it never waits, and frees nothing that the kernel may read.
#[derive(Debug)]
pub struct Driver<E: Engine> {
    // Dropped first: what the kernel may still read it keeps for ever (K3, K7).
    pub(crate) machine: Machine,
    pub(crate) engine: E,
    pub(crate) completions: Vec<Completion>,
}

impl<E: Engine> Driver<E> {
    /// A machine on this engine, from its time on.
    pub fn new(engine: E, config: Config) -> Driver<E> {
        let machine = Machine::new(config, engine.now());
        Driver { machine, engine, completions: Vec::with_capacity(COMPLETIONS_ROOM) }
    }

    /// The machine, to look at.
    #[inline]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine, for what concerns it alone: what callers ask for, and segments.
    #[inline]
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The engine, to look at.
    #[inline]
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// The engine, for what concerns it alone: descriptors and registrations.
    #[inline]
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Queues a payload. See [`Machine::send`].
    ///
    /// # Errors
    /// Those of [`Machine::send`].
    #[inline(always)]
    pub fn send(
        &mut self,
        sock: Socket,
        payload: Payload,
        options: SendOptions,
    ) -> Result<PayloadId, SendError> {
        // Leaked if the clock panics: so the compiler need not keep it where it can be dropped.
        let payload = ManuallyDrop::new(payload);
        if self.machine.is_idle() {
            // Nobody may have turned for long, and this payload's age counts from now.
            self.update_now();
        }
        self.machine.send(sock, ManuallyDrop::into_inner(payload), options)
    }

    #[inline(never)]
    fn update_now(&mut self) {
        self.machine.update_now(self.engine.now());
    }

    /// Makes sure that nothing is done here that would be done to another process's engine. What
    /// would reach the kernel asks this; what only notes something down does not, and nothing comes
    /// of it.
    ///
    /// # Errors
    /// `Misuse` in a child of `fork`.
    #[inline]
    pub fn check_at_home(&self) -> Result<(), Error> {
        if self.engine.is_at_home() { Ok(()) } else { Err(away()) }
    }

    /// Takes a socket in, which `give` gives the engine at its place.
    ///
    /// # Errors
    /// Those of [`Machine::attach`] and [`Driver::check_at_home`], and then it was not given.
    pub fn attach(
        &mut self,
        facts: &SocketFacts,
        give: impl FnOnce(&mut E, u32),
    ) -> Result<Socket, Error> {
        self.check_at_home()?;
        self.update_now();
        let sock = self.machine.attach(facts)?;
        give(&mut self.engine, sock.place());
        Ok(sock)
    }

    /// Breaks a connection, and gives up its handle.
    ///
    /// # Errors
    /// `Misuse` for a stale handle, and in a child of `fork`; `Io` if the kernel refuses.
    pub fn abort(&mut self, sock: Socket) -> Result<(), Error> {
        self.check_at_home()?;
        self.machine.abort(sock)?;
        self.do_all_chores(Some(sock))
    }

    /// Breaks a connection of which the handle may have been closed.
    ///
    /// # Errors
    /// As [`Driver::abort`].
    pub fn reclaim(&mut self, sock: Socket) -> Result<(), Error> {
        self.check_at_home()?;
        self.machine.reclaim(sock)?;
        self.do_all_chores(Some(sock))
    }

    /// Takes a payload back. See [`Machine::cancel`].
    ///
    /// # Errors
    /// Those of [`Machine::cancel`].
    pub fn cancel(&mut self, id: PayloadId) -> Result<(), Error> {
        self.machine.cancel(id)?;
        self.do_chores();
        Ok(())
    }

    /// Does what is to be done beside sending. A connection that cannot be broken is warned of.
    #[inline]
    pub fn do_chores(&mut self) {
        if self.machine.has_chores() {
            let _ = self.do_all_chores(None);
        }
    }

    /// Does the same. What is returned came of the socket that somebody asked to have broken; of
    /// others he knows nothing.
    #[inline(never)]
    fn do_all_chores(&mut self, asked: Option<Socket>) -> Result<(), Error> {
        let mut done = Ok(());
        if !self.engine.is_at_home() {
            return done;
        }
        while let Some(chore) = self.machine.poll_chore() {
            match chore {
                Chore::Cancel { token } => self.engine.cancel(token),
                Chore::ShutdownWrite { socket } => self.engine.shutdown_write(socket),
                Chore::Close { socket } => self.engine.close(socket),
                Chore::Break { socket } => {
                    let outcome = self.engine.break_off(socket);
                    match self.machine.on_broken(socket, outcome) {
                        broken if asked.is_some_and(|asked| asked.place() == socket) => {
                            done = broken;
                        }
                        Err(error) => tracing::warn!(socket, %error, "cannot break a connection"),
                        Ok(()) => {}
                    }
                }
            }
        }
        done
    }

    /// Lets queued payloads leave, waits until `deadline` for the first event unless `events` holds
    /// some already, and appends to these what has happened.
    ///
    /// # Errors
    /// `Io` or `Bug` if the engine fails. What is in flight stays lent. `Misuse` in a child of
    /// `fork`.
    pub fn turn(&mut self, deadline: Deadline, events: &mut Events) -> Result<Turned, Error> {
        let turned = self.turn_keeping_quiet(deadline, events);
        self.machine.drop_quiet();
        turned
    }

    /// The same, but for dropping the quiet payloads that were released, which may run foreign
    /// code: [`Machine::take_quiet`] has them.
    ///
    /// # Errors
    /// As [`Driver::turn`].
    pub fn turn_keeping_quiet(
        &mut self,
        deadline: Deadline,
        events: &mut Events,
    ) -> Result<Turned, Error> {
        self.check_at_home()?;
        let turned = self.turn_until(deadline, events.is_empty(), |_| false);
        self.machine.take_events(events);
        turned
    }

    /// Turns until something has happened, the deadline has come, or `is_enough`.
    fn turn_until(
        &mut self,
        deadline: Deadline,
        may_wait: bool,
        is_enough: impl Fn(&Machine) -> bool,
    ) -> Result<Turned, Error> {
        self.update_now();
        let mut woken = false;
        loop {
            self.submit()?;
            let is_quiet = may_wait && !self.machine.has_events();
            let idle = is_quiet && !self.machine.has_backlog();
            let wait = match (idle, self.machine.next_deadline()) {
                (false, _) => Deadline::Now,
                (true, Some(at)) => deadline.no_later_than(at),
                (true, None) => deadline,
            };
            if !self.engine.expects() && idle {
                self.engine.rest();
                break;
            }
            if let Err(error) = self.engine.turn(wait, &mut self.completions) {
                // What had come before it failed has come.
                self.take_completions();
                return Err(error);
            }
            if wait != Deadline::Now {
                // What has come is learned from at the time it came, not when the wait began.
                self.update_now();
            }
            woken |= self.take_completions();
            self.machine.look_for_stalls(self.engine.inspect());
            self.do_chores();
            let has_events = !may_wait || self.machine.has_events();
            if woken || has_events || deadline == Deadline::Now || is_enough(&self.machine) {
                break;
            }
            if wait == Deadline::Now {
                self.update_now();
            }
            if matches!(deadline, Deadline::At(at) if self.machine.now() >= at) {
                break;
            }
        }
        let backlog = self.machine.has_backlog() || self.engine.has_unsubmitted();
        let now = self.machine.now();
        let soon = self.engine.look_within().and_then(|time| now.checked_add(time));
        let turn_by = self.machine.next_deadline().into_iter().chain(soon).min();
        Ok(Turned { backlog, turn_by, woken })
    }

    /// Gives every socket that has something to do its chance, and does what comes of that.
    fn submit(&mut self) -> Result<(), Error> {
        let submitted = self.submit_round();
        self.do_chores();
        submitted
    }

    #[inline(always)]
    fn submit_round(&mut self) -> Result<(), Error> {
        let Driver { machine, engine, .. } = self;
        machine.begin_round();
        while let Some(submission) = machine.poll_submission(engine.inspect()) {
            match submission {
                Submission::Request(request) => {
                    if let Err(refused) = engine.submit(request) {
                        return Err(machine.take_back(refused));
                    }
                }
                Submission::Copy(copy) => {
                    let outcome = engine.copy_now(&copy);
                    machine.on_copied(outcome, engine.inspect());
                }
            }
        }
        Ok(())
    }

    /// Hands all collected completions in. Returns whether the waker was called.
    pub(crate) fn take_completions(&mut self) -> bool {
        let mut woken = false;
        for at in 0..self.completions.len() {
            woken |= self.machine.handle(self.completions[at], self.engine.inspect());
        }
        self.completions.clear();
        self.do_chores();
        woken
    }

    /// Waits until everything is released, at most until `deadline`, and for as much longer as this
    /// process is stopped meanwhile; then does what `on_deadline` says, and drops the rest. With
    /// [`Deadline::Now`] it waits for nothing.
    pub fn shutdown(mut self, deadline: Deadline, on_deadline: OnDeadline) -> Report {
        let mut report = Report::default();
        if !self.engine.is_at_home() {
            return report;
        }
        let before = self.machine.stats();
        self.drain_until(deadline, Machine::is_idle);
        let is_all_over = |machine: &Machine| machine.is_idle() && !machine.has_pending_aborts();
        if on_deadline == OnDeadline::Abort && !is_all_over(&self.machine) {
            report.aborted_sockets = self.machine.abort_all();
            self.do_chores();
            let deadline = Deadline::after(self.engine.now(), ABORT_TIME);
            self.drain_until(deadline, is_all_over);
        }
        self.stop();
        let after = self.machine.stats();
        report.released_payloads = after.released_payloads - before.released_payloads;
        report.failed_payloads = after.failed_payloads - before.failed_payloads;
        for (bytes, is_lent) in self.machine.unreleased() {
            if is_lent {
                report.leaked_payloads += 1;
                report.leaked_bytes += bytes;
            } else {
                report.unsent_payloads += 1;
            }
        }
        report
    }

    /// Takes what has completed, and starts nothing.
    fn stop(&mut self) {
        self.machine.retry_all_aborts();
        self.do_chores();
        self.engine.stop();
        if self.engine.turn(Deadline::Now, &mut self.completions).is_ok() {
            self.take_completions();
        }
    }

    /// Turns until `is_enough`, or until the deadline. Peers are given the time until then as time
    /// in which we run.
    fn drain_until(&mut self, deadline: Deadline, is_enough: impl Fn(&Machine) -> bool + Copy) {
        let mut events = Events::new();
        self.update_now();
        let mut patience = match deadline {
            Deadline::At(at) => {
                let now = self.machine.now();
                Some(Patience::new(now, at.saturating_duration_since(now)))
            }
            Deadline::Now | Deadline::Never => None,
        };
        while !is_enough(&self.machine) {
            let now = self.machine.now();
            let slice = patience.as_mut().map(|patience| patience.slice(now));
            let wait = match slice {
                None => deadline,
                Some(None) => Deadline::Now,
                Some(Some(slice)) => now.checked_add(slice).map_or(deadline, Deadline::At),
            };
            let turned = self.turn_until(wait, true, is_enough);
            if let Err(error) = turned {
                tracing::warn!(%error, "the ring failed while it was drained");
                break;
            }
            self.machine.take_events(&mut events);
            events.clear();
            if self.machine.is_idle()
                && !is_enough(&self.machine)
                && let Some(due) = self.machine.next_abort()
            {
                // No turn waits for that alone. This is 128 ms at most, and of 2 s in all.
                self.engine.pause(due);
            }
            self.update_now();
            let at_end = deadline == Deadline::Now && !self.machine.has_backlog();
            if slice == Some(None) || at_end {
                break;
            }
        }
        // FINs and the last descriptors.
        let _ = self.turn(Deadline::Now, &mut events);
    }
}

/// The error of who uses a driver in a child of `fork`.
#[cold]
fn away() -> Error {
    Error::Misuse(
        "this ring is that of the process which was forked to make this one\n\nhint: build rings \
         after fork(2) or daemon(3); here it can only be dropped"
            .into(),
    )
}

impl<E: Engine> Drop for Driver<E> {
    fn drop(&mut self) {
        // What is then still with the kernel, the payload table and the header pages keep for ever
        // (K3, K7). In a child of `fork` that is everything, and nothing is to be done about it.
        if self.engine.is_at_home() {
            self.stop();
        }
    }
}
