//! The destination: its address, a connection to it, and what may be sent on that.
//!
//! Nobody is sent bytes that were not asked for. The connection alone carries none. A `ringwire
//! recv` says who it is before anything is sent, and offers to throw bytes away; to anything else
//! bytes go only when the caller says how many.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringwire_core::running::Patience;
use ringwire_reach::{Target, Unresolved, wait_for_addresses, wait_for_connection};

use super::sender::Sender;
use crate::facts::{Connection, Seen};

const RESOLVE_MAX: Duration = Duration::from_millis(1500);
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// A receiver greets at once, though it may have no place free.
const GREETING_MAX: Duration = Duration::from_millis(700);
const PROBE_MAX: Duration = Duration::from_millis(2000);

/// A destination to ask about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where it is.
    pub target: Target,
    /// Bytes to send to it, whatever it is; `None` sends only to a receiver.
    pub probe_bytes: Option<u64>,
    /// How to know a receiver.
    pub framing: Framing,
}

/// How to know a receiver, and what to answer.
#[derive(Clone, Debug)]
pub struct Framing {
    /// What the bytes that came, at most `greeting_bytes` of them, say; `None`: it is no receiver.
    pub hear: fn(&[u8]) -> Option<Heard>,
    /// How long a receiver's greeting is.
    pub greeting_bytes: usize,
    /// What makes it throw away all that follows.
    pub probe_greets: Vec<u8>,
    /// How much to send to it then.
    pub bytes: u64,
}

/// What a receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// That it is ready.
    Begins,
    /// That it serves others, and that all else comes later, in another greeting.
    Busy,
    /// Nothing yet, as far as it came.
    Nothing,
}

/// What came of an attempt to get to the destination.
pub(super) struct Reached {
    /// The address that was reached, or the first one.
    pub(super) address: SocketAddr,
    /// A TCP connection to it.
    pub(super) connection: Seen<Connection>,
}

/// The destination's addresses: one or more. Resolving a name cannot be cut short, so a thread is
/// left behind if it takes too long.
pub(super) fn resolve(asked: &Asked) -> Result<Vec<SocketAddr>, Unresolved> {
    wait_for_addresses(&asked.target, RESOLVE_MAX)
}

/// Connects, listens for a greeting, and sends what may be sent.
pub(super) fn reach(asked: &Asked, addresses: &[SocketAddr], sender: &mut Seen<Sender>) -> Reached {
    match wait_for_connection(&asked.target, addresses, CONNECT_MAX) {
        Ok((stream, address)) => Reached { address, connection: Ok(talk(asked, stream, sender)) },
        Err(unreached) => {
            let none = || SocketAddr::from(([0; 4], 0));
            let address = addresses.first().copied().unwrap_or_else(none);
            Reached { address, connection: Err(unreached.why()) }
        }
    }
}

fn talk(asked: &Asked, mut stream: TcpStream, sender: &mut Seen<Sender>) -> Connection {
    let heard = greets(&mut stream, &asked.framing).unwrap_or(None);
    let (receiver, busy) = (heard.is_some(), heard == Some(Heard::Busy));
    let sending = match (heard, asked.probe_bytes) {
        (Some(Heard::Begins), bytes) => {
            Some((asked.framing.probe_greets.as_slice(), bytes.unwrap_or(asked.framing.bytes)))
        }
        (None, Some(bytes)) => Some((&[][..], bytes)),
        // A receiver that is busy would take a probe for a sender's greeting, later.
        (Some(_), _) | (None, None) => None,
    };
    let probe = sending.map(|(greeting, bytes)| {
        let sender = sender.as_mut().map_err(|why| why.clone())?;
        sender.send(stream, greeting, bytes, Patience::new(Instant::now(), PROBE_MAX), |_| {})
    });
    Connection { receiver, busy, probe }
}

/// What the peer says, if it is a receiver: that it begins, or that it is busy. Reads no more than
/// its greetings.
fn greets(stream: &mut TcpStream, framing: &Framing) -> io::Result<Option<Heard>> {
    let mut patience = Patience::new(Instant::now(), GREETING_MAX);
    let mut came = vec![0; framing.greeting_bytes];
    let (mut filled, mut heard) = (0, None);
    while filled < came.len() {
        // What it said until now holds.
        let Some(slice) = patience.slice(Instant::now()) else { return Ok(heard) };
        stream.set_read_timeout(Some(slice))?;
        match stream.read(&mut came[filled..]) {
            Ok(0) => return Ok(heard),
            Ok(bytes) => filled += bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                continue;
            }
            Err(_) if heard.is_some() => return Ok(heard),
            Err(error) => return Err(error),
        }
        match (framing.hear)(&came[..filled]) {
            Some(Heard::Nothing) => {}
            // Its turn may come soon.
            Some(Heard::Busy) if heard.is_none() => (filled, heard) = (0, Some(Heard::Busy)),
            // Another protocol is known by its first wrong byte.
            other => return Ok(other),
        }
    }
    Ok(heard)
}
