//! From an address as somebody typed it to a TCP connection.
//!
//! ```text
//! target.rs     HOST, HOST:PORT, [IPV6%INTERFACE]:PORT: what is taken, what is not, why (pure)
//! lookup.rs     a name's addresses, by getaddrinfo on a thread that can be left behind
//! resolving.rs  which of them are there to begin with: RFC 8305
//! race.rs       which address is tried when: RFC 8305 (pure)
//! connect.rs    the sockets of a race
//! ```
//! Every place of the program that takes an address takes it from here, so that all take the same
//! forms and say the same of what they cannot use. Nothing here waits unless its name says so: who
//! waits for several things at once polls descriptors, and has times to wake up at.
#![forbid(unsafe_code)]

mod connect;
mod lookup;
mod race;
mod resolving;
mod target;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;

pub use connect::{Connecting, Unreached, wait_for_connection};
pub use lookup::{Lookup, Unresolved, wait_for_addresses};
pub use resolving::Resolving;
pub use target::{Malformed, Target};

/// The address as IPv4 if it is one in IPv6's clothes (`::ffff:10.0.0.7`): it is reached over IPv4,
/// and where IPv6 is off that is the only way to say it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// The way out where an error is of this process or its host, and nobody else's: descriptors or
/// memory have run out.
pub fn own_hint(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => Some("raise \"ulimit -n\", or close what else is open"),
        Some(Errno::NFILE) => Some("the whole host has no descriptor left: raise fs.file-max"),
        Some(Errno::NOMEM | Errno::NOBUFS) => Some("end what else has the memory"),
        _ => None,
    }
}

/// A time in words, for errors: `10 s`, `1500 ms`.
fn shown(time: Duration) -> String {
    match time.as_millis() {
        ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}
