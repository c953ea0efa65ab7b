//! The sockets of a race: none of them blocks, and there are no threads.
//!
//! Neighbours: `race.rs` says what to start when. The first connection wins, as in RFC 8305: what
//! the peer says on it is not part of the race. The other sockets are closed then, which ends their
//! attempts.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ringwire_core::running::Running;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::race::{Next, Race};
use crate::target::Target;
use crate::words::{own_hint, shown};

/// A wait is cut no finer.
const SLICE_MIN: Duration = Duration::from_millis(1);
/// Longer than this is for ever, and would be more than the clock can be added to.
const PATIENCE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A connection that is being made, to the first of some addresses that takes it.
#[derive(Debug)]
pub struct Connecting {
    race: Race,
    unreached: Unreached,
    /// The attempts that are out, by their place in the race.
    sockets: Vec<(usize, OwnedFd)>,
    wake_at: Instant,
}

/// No address took a connection.
#[derive(Debug)]
pub struct Unreached {
    shown: String,
    patience: Duration,
    /// What each said, in the order in which they were tried; `None`: nothing.
    said: Vec<(SocketAddr, Option<io::Error>)>,
    /// How many were not tried.
    untried: usize,
}

impl Unreached {
    /// What each address said, in one line.
    pub fn why(&self) -> String {
        let silent = format!("no answer within {}", shown(self.patience));
        let say = |said: &Option<io::Error>| match said {
            Some(error) => error.to_string(),
            None => silent.clone(),
        };
        // What is an address already is not said again.
        if let ([(address, said)], 0) = (&self.said[..], self.untried)
            && self.shown == address.to_string()
        {
            return say(said);
        }
        let mut all: Vec<String> =
            self.said.iter().map(|(address, said)| format!("{address}: {}", say(said))).collect();
        match self.untried {
            0 => {}
            1 => all.push("1 more address was not tried".into()),
            more => all.push(format!("{more} more addresses were not tried")),
        }
        all.join("; ")
    }

    /// Whether all that was tried is there, and nobody listens.
    pub fn is_refusal(&self) -> bool {
        let refuses = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        !self.said.is_empty()
            && self.untried == 0
            && self.said.iter().all(|(_, said)| said.as_ref().is_some_and(refuses))
    }

    /// The way out, where this process or its host is what kept it from trying.
    pub fn hint(&self) -> Option<&'static str> {
        self.said.iter().find_map(|(_, said)| said.as_ref().and_then(own_hint))
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.shown, self.why())
    }
}

impl std::error::Error for Unreached {}

impl Connecting {
    /// A connection to one of the `addresses` of `target`, made from `now` until `deadline`; the
    /// first attempt starts with the first [`Connecting::step`]. `patience` is what errors say that
    /// was waited.
    pub fn new(
        target: &Target,
        addresses: &[SocketAddr],
        patience: Duration,
        now: Instant,
        deadline: Instant,
    ) -> Connecting {
        Connecting {
            race: Race::new(addresses, now, deadline),
            unreached: Unreached {
                shown: target.shown().into(),
                patience,
                said: Vec::new(),
                untried: 0,
            },
            sockets: Vec::new(),
            wake_at: now,
        }
    }

    /// More addresses have come.
    pub fn add(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.race.add(addresses, now);
    }

    /// Says whether more addresses may come: it does not give up before.
    pub fn expects(&mut self, more: bool) {
        self.race.expects(more);
    }

    /// Goes on: looks at the attempts that are out, and starts those that are due. `None`: call it
    /// again when one of [`Connecting::sockets`] is writable, or at [`Connecting::wake_at`].
    ///
    /// The stream does not block.
    ///
    /// # Errors
    /// [`Unreached`] when all attempts have failed, or the deadline has come.
    pub fn step(&mut self, now: Instant) -> Option<Result<(TcpStream, SocketAddr), Unreached>> {
        loop {
            if let Some(won) = self.look(now) {
                return Some(Ok(won));
            }
            match self.race.next(now) {
                Next::Wait(until) => {
                    self.wake_at = until;
                    return None;
                }
                Next::Lost => return Some(Err(self.lost())),
                Next::Start(attempt) => {
                    let address = self.race.order()[attempt];
                    let started = start(address);
                    if let Err(errno) = started
                        && own_hint(&errno.into()).is_some()
                        && !self.sockets.is_empty()
                    {
                        self.race.put_off();
                        continue;
                    }
                    self.unreached.said.push((address, None));
                    match started {
                        Ok(socket) => self.sockets.push((attempt, socket)),
                        Err(errno) => self.fail(attempt, errno, now),
                    }
                }
            }
        }
    }

    /// When the next step is due at the latest.
    pub fn wake_at(&self) -> Instant {
        self.wake_at
    }

    /// The attempts that are out: writable when there is news of them.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|(_, socket)| socket.as_fd())
    }

    /// Takes the news: the connection, if one has been made.
    fn look(&mut self, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        let mut fds: Vec<_> =
            self.sockets.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT)).collect();
        // Asks without waiting. What fails now is asked again.
        rustix::event::poll(&mut fds, Some(&Timespec::default())).ok()?;
        let news: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let sockets = std::mem::take(&mut self.sockets);
        let mut won = None;
        for ((attempt, socket), news) in sockets.into_iter().zip(news) {
            if !news {
                self.sockets.push((attempt, socket));
                continue;
            }
            match sockopt::socket_error(&socket).unwrap_or_else(Err) {
                Err(errno) => self.fail(attempt, errno, now),
                // The earlier one, if there are two.
                Ok(()) if won.is_none() => {
                    won = Some((TcpStream::from(socket), self.race.order()[attempt]));
                }
                Ok(()) => {}
            }
        }
        won
    }

    fn fail(&mut self, attempt: usize, errno: Errno, now: Instant) {
        // Attempts are started, and put down, in order.
        self.unreached.said[attempt].1 = Some(errno.into());
        self.race.on_failed(attempt, now);
    }

    fn lost(&mut self) -> Unreached {
        self.sockets.clear();
        Unreached {
            shown: self.unreached.shown.clone(),
            patience: self.unreached.patience,
            said: std::mem::take(&mut self.unreached.said),
            untried: self.race.untried(),
        }
    }
}

/// Begins to connect. What a connection over loopback has to say is there at once.
fn start(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        // A signal does not stop it (connect(2)).
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Waits until one of the `addresses` of `target` takes a connection, for at most `patience` of the
/// time in which this process runs. The stream blocks.
///
/// # Errors
/// [`Unreached`], with what each of them said.
pub fn wait_for_connection(
    target: &Target,
    addresses: &[SocketAddr],
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), Unreached> {
    wait_by(Instant::now, target, addresses, patience)
}

fn wait_by(
    mut clock: impl FnMut() -> Instant,
    target: &Target,
    addresses: &[SocketAddr],
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), Unreached> {
    let (started, patience) = (clock(), patience.min(PATIENCE_MAX));
    let mut running = Running::new(started, patience);
    let mut connecting = Connecting::new(target, addresses, patience, started, started + patience);
    loop {
        running.look(clock());
        let now = started + running.ran_towards(patience);
        match connecting.step(now) {
            Some(Ok((stream, address))) => {
                // Cannot fail on a socket that is open.
                let _ = stream.set_nonblocking(false);
                return Ok((stream, address));
            }
            Some(Err(unreached)) => return Err(unreached),
            None => {
                let left = match running.judges() {
                    true => connecting.wake_at().saturating_duration_since(now),
                    false => patience,
                };
                let left = left.min(Running::interval(patience)).max(SLICE_MIN);
                let mut fds: Vec<_> = connecting
                    .sockets()
                    .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::OUT))
                    .collect();
                // A signal, or no memory: the step looks itself.
                let left = Timespec::try_from(left).ok();
                let _ = rustix::event::poll(&mut fds, left.as_ref());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(180);

    fn target(text: &str) -> Target {
        Target::to_connect(text, 1).unwrap()
    }

    /// An address at which nobody listens, for as long as the socket is held.
    fn closed_port() -> (OwnedFd, SocketAddr) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        (socket, address.try_into().unwrap())
    }

    #[test]
    fn those_that_cannot_be_reached_do_not_keep_it_from_the_one_that_can() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        // Refused; without a way (a link that is not said, or no IPv6); no host's (a broadcast).
        let (link, all) = ("[fe80::1]:9", "255.255.255.255:9");
        let (_held, refuses) = closed_port();
        let all = [refuses, link.parse().unwrap(), all.parse().unwrap(), there];
        let (mut stream, address) = wait_for_connection(&target("h:9"), &all, LONG).unwrap();
        assert_eq!(address, there);
        let (mut accepted, _) = listener.accept().unwrap();
        // It blocks, as others expect.
        io::Write::write_all(&mut accepted, b"x").unwrap();
        io::Read::read_exact(&mut stream, &mut [0]).unwrap();
    }

    #[test]
    fn when_none_works_each_is_named_with_what_it_said() {
        let ((_held, one), (_too, other)) = (closed_port(), closed_port());
        let all = "255.255.255.255:9".parse().unwrap();
        let refused = "Connection refused (os error 111)";
        let none = wait_for_connection(&target("h:9"), &[one, all, other], LONG).unwrap_err();
        assert_eq!(
            none.to_string(),
            format!(
                "cannot connect to h:9: {one}: {refused}; 255.255.255.255:9: Network is \
                 unreachable (os error 101); {other}: {refused}"
            )
        );
        assert!(!none.is_refusal());
        let none = wait_for_connection(&target("h:9"), &[one], LONG).unwrap_err();
        assert_eq!(none.to_string(), format!("cannot connect to h:9: {one}: {refused}"));
        assert!(none.is_refusal());
        let itself = target(&one.to_string());
        let none = wait_for_connection(&itself, &[one], LONG).unwrap_err();
        assert_eq!(none.to_string(), format!("cannot connect to {one}: {refused}"));
    }

    #[test]
    fn what_was_not_tried_is_counted() {
        let all = [SocketAddr::from(([127, 0, 0, 1], 9)), "255.255.255.255:9".parse().unwrap()];
        let none = wait_for_connection(&target("h:9"), &all, Duration::ZERO).unwrap_err();
        assert!(!none.is_refusal());
        assert_eq!(none.why(), "2 more addresses were not tried");
    }

    #[test]
    fn a_pause_of_our_own_is_nobodys_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        // Stopped for a day before the first attempt.
        let (mut looks, began) = (0_u32, Instant::now());
        let clock = || {
            looks += 1;
            began + if looks == 1 { Duration::ZERO } else { Duration::from_secs(24 * 3600) }
        };
        let (_stream, address) = wait_by(clock, &target("h:9"), &[there], LONG).unwrap();
        assert_eq!(address, there);
    }
}
