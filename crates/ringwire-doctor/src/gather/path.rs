//! The destination: its address, a connection to it, and what may be sent on that.
//!
//! Nobody is sent bytes that were not asked for. The connection alone carries none. A `ringwire
//! recv` says who it is before anything is sent, and offers to throw bytes away; to anything else
//! bytes go only when the caller says how many.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::sender::Sender;
use crate::facts::{Connection, Seen};

const RESOLVE_MAX: Duration = Duration::from_millis(1500);
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// A receiver that has a place free greets at once.
const GREETING_MAX: Duration = Duration::from_millis(700);
const PROBE_MAX: Duration = Duration::from_millis(2000);

/// A destination to ask about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As it was typed.
    pub shown: String,
    /// Bytes to send to it, whatever it is; `None` sends only to a receiver.
    pub probe_bytes: Option<u64>,
    /// How to know a receiver.
    pub framing: Framing,
}

/// How to know a receiver, and what to answer.
#[derive(Clone, Debug)]
pub struct Framing {
    /// What it says first.
    pub receiver_greets: Vec<u8>,
    /// What makes it throw away all that follows.
    pub probe_greets: Vec<u8>,
    /// How much to send to it then.
    pub bytes: u64,
}

/// The destination's name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAddress {
    /// What was asked for.
    pub shown: String,
    /// What the resolver says.
    pub why: String,
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve {}: {}", self.shown, self.why)
    }
}

impl std::error::Error for NoAddress {}

/// What came of an attempt to get to the destination.
pub(super) struct Reached {
    /// The address that was reached, or the first one.
    pub(super) address: SocketAddr,
    /// A TCP connection to it.
    pub(super) connection: Seen<Connection>,
}

/// The destination's addresses: one or more. Resolving a name cannot be cut short, so a thread is
/// left behind if it takes too long.
pub(super) fn resolve(asked: &Asked) -> Result<Vec<SocketAddr>, NoAddress> {
    if let Ok(address) = asked.host.parse::<IpAddr>() {
        return Ok(vec![(address, asked.port).into()]);
    }
    let no = |why: String| NoAddress { shown: asked.shown.clone(), why };
    let target = (asked.host.clone(), asked.port);
    let (found, finds) = mpsc::channel();
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let _ = found.send(target.to_socket_addrs().map(Vec::from_iter));
        })
        .map_err(|error| no(error.to_string()))?;
    match finds.recv_timeout(RESOLVE_MAX) {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(no("the name has no address".into())),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(no(error.to_string())),
        Err(_) => Err(no(format!("no answer within {RESOLVE_MAX:?}"))),
    }
}

/// Connects, listens for a greeting, and sends what may be sent.
pub(super) fn reach(asked: &Asked, addresses: &[SocketAddr], sender: &mut Seen<Sender>) -> Reached {
    let (address, stream) = connect(addresses);
    let connection = stream.map(|stream| talk(asked, stream, sender));
    Reached { address, connection: connection.map_err(|error| error.to_string()) }
}

/// To the first address that takes a connection, as any client would; if none does, what the first
/// one says.
fn connect(addresses: &[SocketAddr]) -> (SocketAddr, io::Result<TcpStream>) {
    let deadline = Instant::now() + CONNECT_MAX;
    let mut first = None;
    for (at, address) in addresses.iter().enumerate() {
        // Evenly, so that a first address that is silent leaves time for the others.
        let share = (addresses.len() - at) as u32;
        let left = deadline.saturating_duration_since(Instant::now()) / share;
        let stream = TcpStream::connect_timeout(address, left.max(Duration::from_millis(1)));
        if stream.is_ok() {
            return (*address, stream);
        }
        first = first.or(Some((*address, stream)));
    }
    let none = || (SocketAddr::from(([0; 4], 0)), Err(io::ErrorKind::AddrNotAvailable.into()));
    first.unwrap_or_else(none)
}

fn talk(asked: &Asked, mut stream: TcpStream, sender: &mut Seen<Sender>) -> Connection {
    let receiver = greets(&mut stream, &asked.framing.receiver_greets).unwrap_or(false);
    let sending = match (receiver, asked.probe_bytes) {
        (true, bytes) => {
            Some((asked.framing.probe_greets.as_slice(), bytes.unwrap_or(asked.framing.bytes)))
        }
        (false, Some(bytes)) => Some((&[][..], bytes)),
        (false, None) => None,
    };
    let probe = sending.map(|(greeting, bytes)| {
        let sender = sender.as_mut().map_err(|why| why.clone())?;
        sender.send(stream, greeting, bytes, Instant::now() + PROBE_MAX, |_| {})
    });
    Connection { receiver, probe }
}

/// Whether the peer's first bytes are these. Reads no more than that.
fn greets(stream: &mut TcpStream, expected: &[u8]) -> io::Result<bool> {
    let deadline = Instant::now() + GREETING_MAX;
    let mut came = vec![0; expected.len()];
    let mut filled = 0;
    while filled < expected.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut came[filled..]) {
            Ok(0) => return Ok(false),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Another protocol is known by its first wrong byte.
        if came[..filled] != expected[..filled] {
            return Ok(false);
        }
    }
    Ok(true)
}
