//! From an address as somebody typed it to a TCP connection.
//!
//! ```text
//! target.rs     HOST, HOST:PORT, [IPV6%INTERFACE]:PORT: what is taken, what is not, why (pure)
//! lookup.rs     a name's addresses, by getaddrinfo on a thread that can be left behind
//! resolving.rs  which of them are there to begin with: RFC 8305
//! waiting.rs    waits for that, and for nothing else
//! race.rs       which address is tried when: RFC 8305 (pure)
//! connect.rs    the sockets of a race
//! words.rs      errors of this host, and times (pure)
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
mod waiting;
mod words;

pub use connect::{Connecting, Unreached, wait_for_connection};
pub use lookup::{Lookup, Unresolved};
pub use resolving::Resolving;
pub use target::{Malformed, Target, canonical};
pub use waiting::wait_for_addresses;
pub use words::own_hint;
