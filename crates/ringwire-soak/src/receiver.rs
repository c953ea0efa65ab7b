//! The receiving side, in the first process: peers of every pace, each byte compared with the only
//! one that can stand at its place, each stream's end with what was expected of it.
//!
//! ```text
//! receiver.rs               sockets, the poll, whose bytes are whose
//!   receiver/peer.rs          one connection
//!   receiver/expectations.rs  how streams are to end
//! ```
//!
//! `supervisor.rs` is above and turns it. A TCP connection's engine is that of its process, which
//! its id has; each engine has UDP sockets of its own. What is wrong is said in `violations`, which
//! only grow.

mod expectations;
mod peer;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Type};

use crate::control::{DatagramHead, Line};
use crate::engine::Rotation;
use crate::pattern;
use crate::tally::Tally;
use crate::task::{Ports, Task};
use expectations::{Expectations, Verdict};
use peer::Peer;

/// A buffer that stays in the second-level cache.
const BUFFER_BYTES: usize = 256 << 10;
/// The longest wait for something to happen.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// The sockets of one family.
struct Family {
    listener: TcpListener,
    /// One for each engine, in the rotation's order.
    datagrams: Vec<UdpSocket>,
}

impl Family {
    fn bind(address: SocketAddr, engines: usize) -> io::Result<Family> {
        let listener =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        listener.bind(&address.into())?;
        listener.listen(256)?;
        listener.set_nonblocking(true)?;
        let mut datagrams = Vec::new();
        for _ in 0..engines {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            datagrams.push(socket);
        }
        Ok(Family { listener: listener.into(), datagrams })
    }

    /// The ports for streams, and for the datagrams of one engine.
    fn ports(&self, place: usize) -> io::Result<(u16, u16)> {
        let datagrams = self.datagrams[place].local_addr()?.port();
        Ok((self.listener.local_addr()?.port(), datagrams))
    }
}

pub(crate) struct Receiver {
    rotation: Rotation,
    v4: Family,
    v6: Option<Family>,
    peers: Vec<Peer>,
    expectations: Expectations,
    buffer: Vec<u8>,
    /// Of each engine, in the rotation's order.
    pub(crate) tallies: Vec<Tally>,
    /// Promises that were broken.
    pub(crate) violations: Vec<String>,
    /// When the newest byte came.
    pub(crate) progress: Instant,
}

impl Receiver {
    /// # Errors
    /// If there are no sockets on loopback; there need be none over IPv6.
    pub(crate) fn new(rotation: Rotation) -> io::Result<Receiver> {
        let engines = rotation.engines().len();
        Ok(Receiver {
            rotation,
            v4: Family::bind((Ipv4Addr::LOCALHOST, 0).into(), engines)?,
            v6: Family::bind((Ipv6Addr::LOCALHOST, 0).into(), engines).ok(),
            peers: Vec::new(),
            expectations: Expectations::default(),
            buffer: vec![0; BUFFER_BYTES],
            tallies: vec![Tally::default(); engines],
            violations: Vec::new(),
            progress: Instant::now(),
        })
    }

    /// Where process number `process` sends to.
    pub(crate) fn ports(&self, process: u64) -> io::Result<Ports> {
        let place = self.rotation.place(process);
        let (streams_v4, datagrams_v4) = self.v4.ports(place)?;
        let v6 = self.v6.as_ref().map(|family| family.ports(place)).transpose()?;
        let (streams_v6, datagrams_v6) = v6.unzip();
        Ok(Ports { streams_v4, streams_v6, datagrams_v4, datagrams_v6 })
    }

    /// Of all engines together.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.tallies.iter().for_each(|tally| total.merge(tally));
        total
    }

    /// The tally of the engine of process number `process`.
    pub(crate) fn tally(&mut self, process: u64) -> &mut Tally {
        &mut self.tallies[self.rotation.place(process)]
    }

    /// Connections that have not ended as they should, or not at all.
    pub(crate) fn open_connections(&self) -> usize {
        self.peers.len()
    }

    /// Says of each of those how far it is, for a report.
    pub(crate) fn describe_open(&self) -> String {
        let each = self.peers.iter().map(|peer| {
            let expected = peer.id().and_then(|id| self.expectations.expected(id));
            let reads_on = peer.id().is_some_and(|id| self.expectations.reads_on(id));
            let Peer { greeting, bytes, ended, .. } = peer;
            format!("{greeting:?}: {bytes} bytes, reads on {reads_on}, {ended:?}, {expected:?}")
        });
        each.collect::<Vec<_>>().join("\n")
    }

    /// Takes in what process number `process` said about connections, and what it has counted.
    pub(crate) fn on_line(&mut self, process: u64, line: Line) {
        match line {
            Line::ReadOn { id } => self.expectations.read_on(id),
            Line::Expect { id, expected } => self.expectations.expect(id, expected),
            Line::Counted(counters) => self.tally(process).counters.merge(&counters),
            Line::Violation(what) => self.violations.push(what),
            // What concerns the process alone.
            Line::Leaked(_) | Line::Kill => {}
        }
    }

    /// A sending process is gone: what is open of it is read to its end.
    pub(crate) fn on_process_gone(&mut self, process: u64) {
        let ids = self.peers.iter().filter_map(Peer::id);
        for id in ids.filter(|id| Task::process_of(*id) == process) {
            self.expectations.read_on(id);
        }
    }

    /// Waits for something to happen, and lets it. Returns which of `pipes` have something to read.
    pub(crate) fn turn(&mut self, pipes: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        let now = Instant::now();
        let mut wait = WAIT_MAX;
        let mut watched = Vec::new();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if let Some(until) = peer.rests_until {
                if until > now {
                    wait = wait.min(until - now);
                    continue;
                }
                peer.rests_until = None;
            }
            if peer.ended.is_none() && !peer.is_stopped(|id| self.expectations.reads_on(id)) {
                watched.push(at);
            }
        }
        let mut fds = Vec::new();
        fds.extend(watched.iter().map(|&at| PollFd::new(&self.peers[at].stream, PollFlags::IN)));
        for family in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            fds.push(PollFd::new(&family.listener, PollFlags::IN));
            fds.extend(family.datagrams.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        }
        fds.extend(pipes.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let timeout = Timespec::try_from(wait).unwrap_or_default();
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(vec![false; pipes.len()]),
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let (ready, pipes_ready) = ready.split_at(ready.len() - pipes.len());
        for (&at, _) in watched.iter().zip(ready).filter(|(_, ready)| **ready) {
            self.read(at)?;
        }
        self.judge();
        self.accept()?;
        self.receive_datagrams()?;
        Ok(pipes_ready.to_vec())
    }

    fn accept(&mut self) -> io::Result<()> {
        for family in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            loop {
                match family.listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true)?;
                        self.peers.push(Peer::new(stream));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, at: usize) -> io::Result<()> {
        let Receiver { rotation, peers, expectations, buffer, tallies, violations, .. } = self;
        let progress = &mut self.progress;
        peers[at].read(
            buffer,
            |id| expectations.reads_on(id),
            |greeting, from, seen| {
                let tally = &mut tallies[rotation.place(Task::process_of(greeting.id))];
                let (bytes, wrong) = (seen.len(), pattern::wrong_bytes(seen, greeting.seed, from));
                if wrong > 0 {
                    tally.wrong_bytes += wrong;
                    violations.push(format!(
                        "{wrong} of {bytes} bytes are wrong from byte {from} of {greeting:?}"
                    ));
                }
                tally.stream_bytes += bytes as u64;
                *progress = Instant::now();
            },
        )
    }

    /// Lets go of streams that have ended and of which it is known how they had to.
    fn judge(&mut self) {
        let (expectations, violations) = (&mut self.expectations, &mut self.violations);
        self.peers.retain(|peer| {
            let Some(ended) = peer.ended else { return true };
            // Ended before it said what it was: an abort may overtake everything.
            let Some(greeting) = peer.greeting else { return false };
            match expectations.judge(greeting.id, peer.bytes, ended) {
                Verdict::Wait => return true,
                Verdict::Right => {}
                Verdict::Wrong(expected) => violations.push(format!(
                    "{} bytes and then {ended:?}, instead of {expected:?}: {greeting:?}",
                    peer.bytes
                )),
            }
            false
        });
    }

    /// A datagram says itself what it is: seed, position, and then what stands there.
    fn receive_datagrams(&mut self) -> io::Result<()> {
        for family in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            for (socket, tally) in family.datagrams.iter().zip(&mut self.tallies) {
                loop {
                    let bytes = match socket.recv(&mut self.buffer) {
                        Ok(bytes) => bytes,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    let (head, body) = DatagramHead::split(&self.buffer[..bytes]);
                    let wrong = pattern::wrong_bytes(body, head.seed, head.at);
                    if wrong > 0 || body.is_empty() {
                        tally.wrong_bytes += wrong;
                        self.violations
                            .push(format!("{wrong} of {bytes} bytes of a datagram are wrong"));
                    }
                    tally.datagrams += 1;
                    tally.datagram_bytes += body.len() as u64;
                    self.progress = Instant::now();
                }
            }
        }
        Ok(())
    }
}
