//! `ringwire recv`: takes files from senders, one connection after the other or a few at a time.
//!
//! ```text
//! mod.rs        accepts within --connections and --count, ends on a signal
//! listen.rs     where it listens
//! waiting.rs    the senders that wait for their turn
//! refuse.rs     those for whom there is no thread, memory or descriptor
//! session.rs    one connection, greeting to goodbye
//! link.rs       its bytes: deadlines, signals
//! intake.rs     its order (pure)
//! store.rs      its files
//! abilities.rs  what the file system can do, found out before the first
//! leftovers.rs  unfinished files of receivers that are gone
//! ```
//! Needs no ring: std's blocking I/O and poll(2). Memory: 1 MiB a connection. What the process
//! cannot have costs a connection or a file, and never the receiver.

mod abilities;
mod intake;
mod leftovers;
mod link;
mod listen;
mod refuse;
mod session;
mod store;
mod waiting;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use ringwire_reach::canonical;
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use self::link::Link;
use self::refuse::Refused;
pub(crate) use self::refuse::Spare;
use self::session::Outcome;
use self::store::Store;
use self::waiting::Waiting;
use crate::args::Recv;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::poll::{FOREVER, poll_until};
use crate::protocol::{self, ReceiverId, Role};
use crate::signals::Signals;
use crate::threads;

/// How long to wait with the next `accept` when the last one found no descriptor or memory.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Runs the receiver to its end.
pub(crate) fn run(
    args: &Recv,
    signals: &Signals,
    spare: Spare,
    output: &Output,
) -> Result<Exit, Failure> {
    // Before anybody is listened to: what it is read from may be out of reach later.
    leftovers::host();
    let (store, notes) = Store::open(&args.dir, args.force)?;
    notes.iter().for_each(|note| output.note(note));
    let listening = listen::listen(&args.listen, signals, output)?;
    // Whoever hears that it listens need not fear that it still lacks anything.
    let ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Failure::new(format!("cannot make an eventfd: {errno}")))?;
    let mut listeners = Vec::new();
    for (listener, address) in listening {
        if !address.ip().is_loopback() {
            output.warning(format_args!(
                "whoever can reach {address} can store files in {}; the transfer is not encrypted",
                args.dir.display()
            ));
        }
        output.result(format_args!("listening on {address}"));
        listeners.push(listener);
    }
    let receiver = Receiver {
        args,
        signals,
        output,
        store,
        listeners,
        id: id(),
        ended,
        tally: Mutex::new(Tally { serving: 0, transfers: 0, broken: 0, interrupted: 0 }),
    };
    receiver.serve(spare)
}

/// A number that no other receiver has, but by a chance of 1 to 10^11.
fn id() -> ReceiverId {
    let mut id = ReceiverId::default();
    // Randomly keyed, and so random.
    let random = RandomState::new().build_hasher().finish().to_le_bytes();
    id.0.copy_from_slice(&random[..5]);
    // Zero would say nothing.
    id.0[0] |= 1;
    id
}

struct Receiver<'a> {
    args: &'a Recv,
    signals: &'a Signals,
    output: &'a Output,
    store: Store,
    /// One or more.
    listeners: Vec<TcpListener>,
    id: ReceiverId,
    /// Written when a session ends, so that the accepting thread looks again.
    ended: OwnedFd,
    tally: Mutex<Tally>,
}

/// What waits outside of the sessions.
struct Door {
    /// When to look for connections again.
    accept_at: Instant,
    /// The listener to look at first.
    turn: usize,
    waiting: Waiting,
    refused: Refused,
    spare: Spare,
    /// That no connection can be taken has not been said since the last one was.
    unsaid: bool,
}

fn peer(stream: &TcpStream) -> String {
    match stream.peer_addr() {
        Ok(address) => canonical(address).to_string(),
        Err(_) => "a sender that is gone".into(),
    }
}

/// Which of `all` is the first that `is`, from number `turn` on and then from the beginning.
fn first_from<T>(turn: usize, all: &[T], is: impl Fn(&T) -> bool) -> Option<usize> {
    let turn = if turn < all.len() { turn } else { 0 };
    (turn..all.len()).chain(0..turn).find(|&at| is(&all[at]))
}

#[derive(Clone, Copy)]
struct Tally {
    serving: usize,
    /// Ended, without those that were none.
    transfers: u64,
    broken: u64,
    interrupted: u64,
}

impl Receiver<'_> {
    fn serve(&self, spare: Spare) -> Result<Exit, Failure> {
        std::thread::scope(|scope| {
            let mut door = Door {
                accept_at: Instant::now(),
                turn: 0,
                waiting: Waiting::new(
                    protocol::greeting_of(Role::Busy, self.id),
                    protocol::greeting_of(Role::Receiver, self.id),
                    self.args.connections.get(),
                ),
                refused: self.refused(),
                spare,
                unsaid: true,
            };
            loop {
                let tally = self.tally();
                let count_reached =
                    self.args.count.is_some_and(|count| tally.transfers >= count.get());
                if count_reached || self.signals.seen().is_some() {
                    break;
                }
                // Each session that is served may be one of the transfers that are left.
                let wanted =
                    self.args.count.map_or(u64::MAX, |count| count.get() - tally.transfers);
                let room =
                    tally.serving < self.args.connections.get() && (tally.serving as u64) < wanted;
                door.waiting.look();
                let next = if room { door.waiting.next() } else { None };
                let stream = match next {
                    Some(stream) => Some(stream),
                    None => self.accept(&mut door)?,
                };
                match stream {
                    Some(stream) if room => {
                        // Handed over once there is a thread, so that it is still ours if there
                        // is none.
                        let (hand, handed) = mpsc::sync_channel(1);
                        let session = move || handed.iter().for_each(|stream| self.session(stream));
                        self.lock().serving += 1;
                        match threads::scoped(scope, "session", session) {
                            // It waits for that.
                            Ok(_) => drop(hand.send(stream)),
                            Err(error) => {
                                self.lock().serving -= 1;
                                self.cannot_serve(stream, &error, &mut door.refused);
                            }
                        }
                    }
                    Some(stream) => door.waiting.take(stream),
                    None => {}
                }
            }
            Ok::<(), Failure>(())
        })?;
        // The scope has waited for every session; each has cleaned up.
        let tally = self.tally();
        if let Some(signal) = self.signals.seen() {
            if tally.interrupted > 0 {
                return Err(Failure::new(format!(
                    "told to exit by {signal} during a transfer; nothing of its unfinished file is \
                     kept"
                )));
            }
            self.output.note(format_args!("told to exit by {signal}"));
        }
        Ok(if tally.broken == 0 { Exit::Yes } else { Exit::No })
    }

    /// Waits for what can change: a new connection, one that waits and is given up, the end of a
    /// session, a signal.
    fn accept(&self, door: &mut Door) -> Result<Option<TcpStream>, Failure> {
        let now = Instant::now();
        let takes = door.waiting.takes();
        let listening = takes && door.accept_at <= now;
        let deadline = if takes && !listening { door.accept_at } else { now + FOREVER };
        let deadline = door.refused.deadline().map_or(deadline, |end| end.min(deadline));
        let mut fds =
            vec![PollFd::new(self.signals, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        fds.extend(door.waiting.fds());
        let first = fds.len();
        if listening {
            fds.extend(self.listeners.iter().map(|one| PollFd::new(one, PollFlags::IN)));
        }
        let last = fds.len();
        fds.extend(door.refused.fds());
        let polled = poll_until(&mut fds, deadline);
        // Asked without one to be had, accept says that descriptors lack, and not that there is
        // none.
        let ready = first_from(door.turn, &fds[first..last], |fd| !fd.revents().is_empty());
        drop(fds);
        if let Err(error) = polled {
            // Too many at once for a limit that has been lowered, or for the kernel's memory.
            if !door.refused.clear() && !door.waiting.drop_newest() {
                return Err(Failure::new(format!("cannot wait for connections: {error}")));
            }
            return Ok(None);
        }
        door.refused.read(Instant::now());
        door.spare.renew();
        // Reset; it only says that the tally has changed, which the caller looks at.
        let _ = rustix::io::read(&self.ended, &mut [0; 8]);
        let Some(at) = ready else { return Ok(None) };
        let listener = &self.listeners[at];
        door.turn = at + 1;
        match listener.accept() {
            Ok((stream, _)) => {
                door.unsaid = true;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => {
                let now = Instant::now();
                let refused = door.spare.refuse_next(listener, &mut door.refused, &error, now);
                if refused || door.unsaid {
                    self.output.warning(refuse::without_descriptor(&error));
                }
                if !refused {
                    // Nor memory: what is being served may give some back.
                    door.accept_at = now + ACCEPT_AGAIN;
                    door.unsaid = false;
                }
                Ok(None)
            }
        }
    }

    /// Nobody, so far.
    fn refused(&self) -> Refused {
        let greeting = protocol::greeting_of(Role::Receiver, self.id);
        Refused::new(greeting, self.args.connections.get())
    }

    /// Tells a sender that there is no thread or memory to serve it.
    fn cannot_serve(&self, stream: TcpStream, error: &io::Error, refused: &mut Refused) {
        let (peer, hint) = (peer(&stream), threads::hint(error));
        self.output.warning(format_args!("{peer} is not served: {error}\n\nhint: {hint}"));
        let why = format!("the receiver cannot serve another connection: {error}");
        refused.refuse(stream, &why, Instant::now());
    }

    fn serve_one(&self, stream: TcpStream, peer: &str) -> Outcome {
        let buffer = match link::buffer() {
            Ok(buffer) => buffer,
            Err(error) => {
                let mut refused = self.refused();
                self.cannot_serve(stream, &error, &mut refused);
                refused.wait();
                return Outcome::NoTransfer;
            }
        };
        match Link::new(stream, buffer, self.signals, self.args.idle) {
            Ok(link) => {
                session::serve(link, peer, self.id, &self.store, self.args.max_bytes, self.output)
            }
            Err(error) => {
                self.output.warning(format_args!("{peer} is not served: {error}"));
                Outcome::NoTransfer
            }
        }
    }

    fn session(&self, stream: TcpStream) {
        let peer = peer(&stream);
        // A bug that ends a session must not be taken for one that goes on for ever.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.serve_one(stream, &peer)));
        let outcome = outcome.unwrap_or_else(|_| {
            self.output.warning(format_args!("from {peer}: a bug of ringwire ended the transfer"));
            Outcome::Broken
        });
        let mut tally = self.lock();
        tally.serving -= 1;
        tally.transfers += u64::from(outcome != Outcome::NoTransfer);
        tally.broken += u64::from(outcome == Outcome::Broken);
        tally.interrupted += u64::from(outcome == Outcome::Interrupted);
        drop(tally);
        // Cannot fail: the counter is far from full.
        let _ = rustix::io::write(self.ended.as_fd(), &1u64.to_ne_bytes());
    }

    fn tally(&self) -> Tally {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Nothing that holds it can panic half-way.
        self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_several_that_are_ready_each_has_its_turn() {
        let is = |ready: &bool| *ready;
        let from = |turn, all: &[bool]| super::first_from(turn, all, is);
        assert_eq!(from(0, &[true, true, true]), Some(0));
        assert_eq!(from(1, &[true, true, true]), Some(1));
        assert_eq!(from(1, &[true, false, false]), Some(0));
        assert_eq!(from(3, &[true, true, true]), Some(0));
        assert_eq!(from(2, &[false, false]), None);
        assert_eq!(from(2, &[]), None);
    }
}
