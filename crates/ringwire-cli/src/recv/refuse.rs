//! Connections that cannot be served, because the process has no thread, memory or descriptor for
//! one more: each is told so, and the receiver goes on.
//!
//! Neighbours: `mod.rs` brings them, and drives [`Refused::read`]. Nothing here waits, or needs
//! what has run out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::link::LINGER;
use crate::poll::poll_until;
use crate::protocol::{FromReceiver, GREETING_BYTES};

/// Refused connections that are kept open at a time, and a [`share`] of the descriptors at most;
/// beyond that the oldest is closed early.
const KEPT_MAX: usize = 64;

/// How many of `most` connections may wait outside of the sessions: a quarter of the descriptors
/// that the process may have now (RLIMIT_NOFILE), and half of what so many sessions leave.
pub(super) fn share(most: usize, sessions: usize) -> usize {
    share_of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), most, sessions)
}

fn share_of(limit: u64, most: usize, sessions: usize) -> usize {
    /// The process's own: three standard ones, two for signals, two to wake and to spare, the
    /// directory, and listeners.
    const OWN: u64 = 10;
    // A session has its connection and its file.
    let left = limit.saturating_sub(OWN).saturating_sub((sessions as u64).saturating_mul(2));
    usize::try_from((limit / 4).min(left / 2)).unwrap_or(most).clamp(1, most)
}

/// Tells a sender that it is not served, and why, before it is closed at once.
pub(super) fn dismiss(stream: &TcpStream, greeting: &[u8], why: &str) {
    // To a sender that is gone it cannot be said; nothing depends on it.
    let _ = say(stream, greeting, why);
    // What was not read would make a reset of the end.
    may_send_more(stream);
}

/// Connections that were refused, until their senders have read why.
pub(super) struct Refused {
    greeting: [u8; GREETING_BYTES],
    /// How many are served at most.
    sessions: usize,
    /// In the order in which their time is over.
    kept: VecDeque<(TcpStream, Instant)>,
}

impl Refused {
    /// Nobody, so far. Whoever is refused is greeted first.
    pub(super) fn new(greeting: [u8; GREETING_BYTES], sessions: usize) -> Refused {
        Refused { greeting, sessions, kept: VecDeque::new() }
    }

    /// Tells a sender that it is not served, and why.
    pub(super) fn refuse(&mut self, stream: TcpStream, why: &str, now: Instant) {
        // To a sender that is gone it cannot be said; nothing depends on it.
        if say(&stream, &self.greeting, why).is_err() {
            return;
        }
        self.kept.push_back((stream, now + LINGER));
        while self.kept.len() > share(KEPT_MAX, self.sessions) {
            // What was not read would make a reset of the end.
            self.kept.pop_front().map(|(oldest, _)| may_send_more(&oldest));
        }
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.kept.iter().map(|(stream, _)| PollFd::new(stream, PollFlags::IN))
    }

    /// Until when at most.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kept.front().map(|(_, deadline)| *deadline)
    }

    /// Throws away what has come, and ends what is read to its end or has had its time.
    pub(super) fn read(&mut self, now: Instant) {
        self.kept.retain(|(stream, deadline)| *deadline > now && may_send_more(stream));
    }

    /// Waits until all have been read to their end, or have had their time.
    pub(super) fn wait(&mut self) {
        while let Some(deadline) = self.deadline() {
            if poll_until(&mut self.fds().collect::<Vec<_>>(), deadline).is_err() {
                return;
            }
            self.read(Instant::now());
        }
    }

    /// Closes all of them, for their descriptors. Whether there were any.
    pub(super) fn clear(&mut self) -> bool {
        let any = !self.kept.is_empty();
        for (stream, _) in self.kept.drain(..) {
            // What was not read would make a reset of the end.
            may_send_more(&stream);
        }
        any
    }
}

fn say(mut stream: &TcpStream, greeting: &[u8], why: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let closing = FromReceiver::Closing { why: why.into() };
    // Fits into the buffer of any socket, which is empty.
    stream.write_all(&[greeting, &closing.encode()].concat())?;
    stream.shutdown(Shutdown::Write)
}

/// Reads what there is. Whether there can be more.
fn may_send_more(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    // Bounded, or a sender of zeros would keep us.
    for _ in 0..64 {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => {
                let later =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                return later;
            }
        }
    }
    true
}

/// A descriptor that is given up to take a connection when there is no other, so that it can be
/// told why it is not served.
pub(crate) struct Spare(Option<OwnedFd>);

impl Spare {
    /// Takes one. The sooner in a process, the lower its number, which has to be below the limit.
    pub(crate) fn take() -> Spare {
        Spare(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok())
    }

    /// Takes it again if it was given up.
    pub(super) fn renew(&mut self) {
        if self.0.is_none() {
            *self = Spare::take();
        }
    }

    /// Refuses the next connection, of whose `accept` there was `error`. Whether it could.
    pub(super) fn refuse_next(
        &mut self,
        listener: &TcpListener,
        refused: &mut Refused,
        error: &io::Error,
        now: Instant,
    ) -> bool {
        if !no_descriptor(error) {
            return false;
        }
        self.0 = None;
        refused.clear();
        let accepted = listener.accept();
        let could = accepted.is_ok();
        if let Ok((stream, _)) = accepted {
            refused.refuse(stream, &format!("no room for another connection: {error}"), now);
        }
        // If that one has the last, this one is had again when that is closed.
        self.renew();
        could
    }
}

/// What is said here of a connection that could not be taken.
pub(super) fn without_descriptor(error: &io::Error) -> String {
    match no_descriptor(error) {
        true => format!("a sender is not served: {error}\n\nhint: raise \"ulimit -n\""),
        false => format!("cannot take a connection: {error}"),
    }
}

/// Whether descriptors have run out, the process's or all of the host's.
fn no_descriptor(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::share_of;

    #[test]
    fn those_outside_leave_a_connection_and_a_file_to_every_session() {
        assert_eq!(share_of(u64::MAX, 64, 1), 64);
        assert_eq!(share_of(1024, 64, 1), 64);
        assert_eq!(share_of(128, 64, 1), 32);
        assert_eq!(share_of(1024, 64, 490), 17);
        assert_eq!(share_of(1024, 64, usize::MAX), 1);
        assert_eq!(share_of(0, 64, 1), 1);
    }
}
