//! The destination: its address, a connection to it, and what may be sent on that.
//!
//! Nobody is sent bytes that were not asked for. The connection alone carries none. A `ringwire
//! recv` says who it is before anything is sent, and offers to throw bytes away; to anything else
//! bytes go only when the caller says how many.

use std::fmt;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::sender::{self, Sender};
use crate::facts::{Connection, Sample, Seen};

const RESOLVE_MAX: Duration = Duration::from_millis(1500);
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// A receiver that has a place free greets at once.
const GREETING_MAX: Duration = Duration::from_millis(500);
/// Enough to find out if it is copied, and little to lock.
const ARENA_BYTES: usize = 4 << 20;
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

/// The destination's first address. Resolving cannot be cut short, so a thread is left behind if it
/// takes too long.
pub(super) fn resolve(asked: &Asked) -> Result<SocketAddr, NoAddress> {
    let no = |why: String| NoAddress { shown: asked.shown.clone(), why };
    let target = (asked.host.clone(), asked.port);
    let (found, finds) = mpsc::channel();
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let _ = found.send(target.to_socket_addrs().map(|mut all| all.next()));
        })
        .map_err(|error| no(error.to_string()))?;
    match finds.recv_timeout(RESOLVE_MAX) {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(no("the name has no address".into())),
        Ok(Err(error)) => Err(no(error.to_string())),
        Err(_) => Err(no(format!("no answer within {RESOLVE_MAX:?}"))),
    }
}

/// Connects, listens for a greeting, and sends what may be sent.
pub(super) fn connect(asked: &Asked, address: SocketAddr) -> Seen<Connection> {
    let mut stream =
        TcpStream::connect_timeout(&address, CONNECT_MAX).map_err(|error| error.to_string())?;
    let receiver = greets(&mut stream, &asked.framing.receiver_greets).unwrap_or(false);
    let sending = match (receiver, asked.probe_bytes) {
        (true, bytes) => {
            Some((asked.framing.probe_greets.as_slice(), bytes.unwrap_or(asked.framing.bytes)))
        }
        (false, Some(bytes)) => Some((&[][..], bytes)),
        (false, None) => None,
    };
    let probe = sending.map(|(greeting, bytes)| probe(stream, greeting, bytes));
    Ok(Connection { receiver, probe })
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

fn probe(stream: TcpStream, greeting: &[u8], bytes: u64) -> Seen<Sample> {
    let (arena, _) = sender::arena(ARENA_BYTES)?;
    let mut sender = Sender::new(&arena)?;
    let deadline = Instant::now() + PROBE_MAX;
    let sample = sender.send(stream, greeting, bytes, deadline, |_| {});
    sender.end();
    sample
}
