//! The receiving process: peers of every pace, which check each byte, and judge how streams end.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Type};

use crate::control::{End, Greeting, Line, Reader, Totals};
use crate::pattern;
use crate::sender::Ports;

/// A buffer that stays in the second-level cache.
const BUFFER_BYTES: usize = 256 << 10;
/// How much of one connection is read before others get their turn.
const READS_A_TURN: usize = 4;
/// The receive buffer of a peer that will stop reading, so that what is in flight then is not all
/// with the peer: a window of 64 KiB. (With much less, the window may stay below the packets that
/// the sender makes, which then sends one a timer's tick, 200 ms.)
const STOPPED_BUFFER_BYTES: usize = 64 << 10;
/// The same once it reads on.
const READ_ON_BUFFER_BYTES: usize = 1 << 20;
/// The pause of a slow reader.
const PAUSE: Duration = Duration::from_millis(2);

/// What a stream is to have had when it ends.
#[derive(Clone, Copy, Debug)]
struct Expected {
    least: u64,
    most: u64,
    end: End,
}

struct Peer {
    stream: TcpStream,
    greeting: Vec<u8>,
    known: Option<Greeting>,
    bytes: u64,
    /// A slow reader rests until then.
    rests: Option<Instant>,
    /// A stopped reader has begun to read on.
    reads_on: bool,
    ended: Option<End>,
}

/// What a sending process has said about itself.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) kill: bool,
    pub(crate) leaked_bytes: u64,
}

pub(crate) struct Receiver {
    streams: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    ports: Ports,
    peers: Vec<Peer>,
    expected: HashMap<u64, Expected>,
    /// Connections that are to be read to their end.
    go: HashSet<u64>,
    /// Connections that we have reset.
    reset: HashSet<u64>,
    buffer: Vec<u8>,
    pub(crate) totals: Totals,
    pub(crate) stream_bytes: u64,
    pub(crate) datagram_bytes: u64,
    pub(crate) datagrams_seen: u64,
    pub(crate) wrong_bytes: u64,
    /// Promises that were broken.
    pub(crate) broken: Vec<String>,
    pub(crate) progress: Instant,
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    listener.bind(&address.into())?;
    listener.listen(256)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

impl Receiver {
    pub(crate) fn new() -> io::Result<Receiver> {
        let (v4, v6): (SocketAddr, SocketAddr) =
            ((Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into());
        let mut streams = vec![listen(v4)?];
        let mut datagrams = vec![UdpSocket::bind(v4)?];
        if let (Ok(listener), Ok(socket)) = (listen(v6), UdpSocket::bind(v6)) {
            streams.push(listener);
            datagrams.push(socket);
        }
        for socket in &datagrams {
            socket.set_nonblocking(true)?;
        }
        let ports = Ports {
            streams_v4: streams[0].local_addr()?.port(),
            streams_v6: streams.get(1).map(TcpListener::local_addr).transpose()?.map(|a| a.port()),
            datagrams_v4: datagrams[0].local_addr()?.port(),
            datagrams_v6: datagrams
                .get(1)
                .map(UdpSocket::local_addr)
                .transpose()?
                .map(|a| a.port()),
        };
        Ok(Receiver {
            streams,
            datagrams,
            ports,
            peers: Vec::new(),
            expected: HashMap::new(),
            go: HashSet::new(),
            reset: HashSet::new(),
            buffer: vec![0; BUFFER_BYTES],
            totals: Totals::default(),
            stream_bytes: 0,
            datagram_bytes: 0,
            datagrams_seen: 0,
            wrong_bytes: 0,
            broken: Vec::new(),
            progress: Instant::now(),
        })
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    pub(crate) fn verified_bytes(&self) -> u64 {
        self.stream_bytes + self.datagram_bytes - self.wrong_bytes
    }

    /// Connections that have not ended as they should, or not at all.
    pub(crate) fn open_connections(&self) -> usize {
        self.peers.len()
    }

    /// Says of each of those how far it is, for a report.
    pub(crate) fn describe_open(&self) -> String {
        let each = self.peers.iter().map(|peer| {
            let id = peer.known.map(|greeting| greeting.id);
            let expected = id.and_then(|id| self.expected.get(&id));
            let go = id.is_some_and(|id| self.go.contains(&id));
            let Peer { known, bytes, ended, .. } = peer;
            format!("{known:?}: {bytes} bytes, go {go}, {ended:?}, {expected:?}")
        });
        each.collect::<Vec<_>>().join("\n")
    }

    /// Takes in what a sending process said.
    pub(crate) fn on_line(&mut self, line: &str, said: &mut Said) {
        match Line::read(line) {
            Some(Line::Go { id }) => _ = self.go.insert(id),
            Some(Line::End { id, least, most, end }) => {
                if !self.reset.remove(&id) {
                    self.expected.insert(id, Expected { least, most, end });
                }
            }
            Some(Line::Totals(totals)) => self.totals.merge(&totals),
            Some(Line::Leaked(bytes)) => said.leaked_bytes = bytes,
            Some(Line::Kill) => said.kill = true,
            Some(Line::Broken(what)) => self.broken.push(what),
            None => self.broken.push(format!("the sender said: {line}")),
        }
    }

    /// A sending process is gone: what is open of it is read to its end.
    pub(crate) fn sender_gone(&mut self, process: u64) {
        let ids = self.peers.iter().filter_map(|peer| peer.known.map(|greeting| greeting.id));
        self.go.extend(ids.filter(|id| id >> 32 == process));
    }

    /// Waits for something to happen, and lets it. Returns which of `pipes` have something to read.
    pub(crate) fn turn(&mut self, pipes: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        let now = Instant::now();
        let mut wait = Duration::from_millis(100);
        let mut watched = Vec::new();
        let mut fds = Vec::new();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if let Some(until) = peer.rests {
                if until > now {
                    wait = wait.min(until - now);
                    continue;
                }
                peer.rests = None;
            }
            if peer.ended.is_none() && !is_stopped(peer, &self.go) {
                watched.push(at);
            }
        }
        for &at in &watched {
            fds.push(PollFd::new(&self.peers[at].stream, PollFlags::IN));
        }
        for listener in &self.streams {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for socket in &self.datagrams {
            fds.push(PollFd::new(socket, PollFlags::IN));
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
        for listener in &self.streams {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true)?;
                        self.peers.push(Peer {
                            stream,
                            greeting: Vec::with_capacity(Greeting::BYTES),
                            known: None,
                            bytes: 0,
                            rests: None,
                            reads_on: false,
                            ended: None,
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, at: usize) -> io::Result<()> {
        let peer = &mut self.peers[at];
        for _ in 0..READS_A_TURN {
            let Some(greeting) = peer.known else {
                if !read_greeting(peer)? {
                    return Ok(());
                }
                if let Some(Greeting { reader: Reader::Stops { .. }, .. }) = peer.known {
                    let socket = socket2::SockRef::from(&peer.stream);
                    socket.set_recv_buffer_size(STOPPED_BUFFER_BYTES)?;
                }
                continue;
            };
            let reads_on = self.go.contains(&greeting.id);
            if reads_on && !std::mem::replace(&mut peer.reads_on, true) {
                socket2::SockRef::from(&peer.stream).set_recv_buffer_size(READ_ON_BUFFER_BYTES)?;
            }
            let most = match greeting.reader {
                Reader::Slow { bytes } => bytes,
                Reader::Stops { at } if !reads_on => at.saturating_sub(peer.bytes),
                Reader::Resets { at } => at.saturating_sub(peer.bytes),
                _ => u64::MAX,
            };
            let most = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            if most == 0 {
                return Ok(());
            }
            match peer.stream.read(&mut self.buffer[..most]) {
                Ok(0) => peer.ended = Some(End::Eof),
                Ok(bytes) => {
                    let seen = &self.buffer[..bytes];
                    let wrong = pattern::wrong_bytes(seen, greeting.seed, peer.bytes);
                    if wrong > 0 {
                        self.wrong_bytes += wrong;
                        let from = peer.bytes;
                        self.broken.push(format!(
                            "{wrong} of {bytes} bytes are wrong from byte {from} of {greeting:?}"
                        ));
                    }
                    peer.bytes += bytes as u64;
                    self.stream_bytes += bytes as u64;
                    self.progress = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    peer.ended = Some(End::Reset);
                }
                Err(error) => return Err(error),
            }
            match greeting.reader {
                _ if peer.ended.is_some() => return Ok(()),
                Reader::Slow { .. } => {
                    peer.rests = Some(Instant::now() + PAUSE);
                    return Ok(());
                }
                Reader::Resets { at } if peer.bytes == at => {
                    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO))?;
                    peer.ended = Some(End::Any);
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets go of streams that have ended and of which it is known how they had to.
    fn judge(&mut self) {
        let (expected, go, reset) = (&mut self.expected, &mut self.go, &mut self.reset);
        let broken = &mut self.broken;
        self.peers.retain(|peer| {
            let Some(ended) = peer.ended else { return true };
            // Ended before it said what it was: an abort may overtake everything.
            let Some(Greeting { id, .. }) = peer.known else { return false };
            if ended == End::Any {
                // Reset by ourselves.
                if expected.remove(&id).is_none() {
                    reset.insert(id);
                }
                go.remove(&id);
                return false;
            }
            let Some(Expected { least, most, end }) = expected.remove(&id) else { return true };
            go.remove(&id);
            if peer.bytes < least || peer.bytes > most || !(end == End::Any || end == ended) {
                broken.push(format!(
                    "{} bytes and then {ended:?}, instead of {least} to {most} and {end:?}: {:?}",
                    peer.bytes, peer.known
                ));
            }
            false
        });
    }

    /// A datagram says itself what it is: seed, position, and then what stands there.
    fn receive_datagrams(&mut self) -> io::Result<()> {
        for socket in &self.datagrams {
            loop {
                let bytes = match socket.recv(&mut self.buffer) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let (head, body) = self.buffer[..bytes].split_at(bytes.min(16));
                let mut numbers = head
                    .chunks_exact(8)
                    .map(|number| <[u8; 8]>::try_from(number).map_or(0, u64::from_le_bytes));
                let (seed, at) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                let wrong = pattern::wrong_bytes(body, seed, at);
                if wrong > 0 || bytes <= 16 {
                    self.wrong_bytes += wrong;
                    self.broken.push(format!("{wrong} of {bytes} bytes of a datagram are wrong"));
                }
                self.datagrams_seen += 1;
                self.datagram_bytes += body.len() as u64;
                self.progress = Instant::now();
            }
        }
        Ok(())
    }
}

fn is_stopped(peer: &Peer, go: &HashSet<u64>) -> bool {
    peer.known.is_some_and(|Greeting { id, reader, .. }| match reader {
        Reader::Stops { at } => peer.bytes >= at && !go.contains(&id),
        _ => false,
    })
}

/// Whether the greeting is there.
fn read_greeting(peer: &mut Peer) -> io::Result<bool> {
    let mut rest = [0; Greeting::BYTES];
    let missing = Greeting::BYTES - peer.greeting.len();
    match peer.stream.read(&mut rest[..missing]) {
        Ok(0) => peer.ended = Some(End::Eof),
        Ok(bytes) => peer.greeting.extend_from_slice(&rest[..bytes]),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => peer.ended = Some(End::Reset),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(error) => return Err(error),
    }
    let whole = <&[u8; Greeting::BYTES]>::try_from(&peer.greeting[..]).ok();
    peer.known = whole.and_then(Greeting::from_bytes);
    if whole.is_some() && peer.known.is_none() {
        return Err(io::Error::other("a connection that does not greet"));
    }
    Ok(peer.known.is_some())
}
