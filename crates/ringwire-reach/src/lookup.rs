//! The addresses of a name.
//!
//! `getaddrinfo` cannot be cut short: with DNS servers that do not answer it takes 5 to 30 s. So it
//! runs on a thread of its own, which is left behind when nobody waits any more. The addresses come
//! in its order (RFC 6724, with what the administrator says in gai.conf).

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, TryRecvError};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::target::{Host, Target, canonical};
use crate::words::{own_hint, shown};

/// A host has no address that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    shown: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    NoName,
    NoAddress,
    /// The servers do not answer, or say that they cannot.
    Again,
    NoAnswer(Duration),
    NoInterface(String),
    NotAsked {
        why: String,
        hint: &'static str,
    },
    Other(String),
}

impl Unresolved {
    /// Nobody waits any longer, after `waited`.
    pub fn no_answer(target: &Target, waited: Duration) -> Unresolved {
        Unresolved { shown: target.shown().into(), why: Why::NoAnswer(waited) }
    }

    /// It could not even be asked.
    pub fn not_asked(target: &Target, why: &io::Error) -> Unresolved {
        Unresolved { shown: target.shown().into(), why: Why::of_this_host(why) }
    }

    /// The way out.
    pub fn hint(&self) -> &'static str {
        match self.why {
            Why::NoName | Why::NoAddress | Why::Other(_) => {
                "check the name; an address in numbers needs no resolving"
            }
            Why::Again | Why::NoAnswer(_) => {
                "the name may be right: check that the DNS servers in /etc/resolv.conf can be \
                 reached, and try again; an address in numbers needs no resolving"
            }
            Why::NotAsked { hint, .. } => hint,
            Why::NoInterface(_) => "\"ip link\" lists the interfaces of this host",
        }
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve {}: ", self.shown)?;
        match &self.why {
            Why::NoName => f.write_str("there is no such name"),
            Why::NoAddress => f.write_str("the name has no address"),
            Why::Again => f.write_str("the DNS servers gave no answer"),
            Why::NoAnswer(waited) => write!(f, "no answer within {}", shown(*waited)),
            Why::NoInterface(name) => write!(f, "this host has no interface {name}"),
            Why::NotAsked { why, .. } | Why::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unresolved {}

impl Why {
    /// What is of this host, and says nothing of the name.
    fn of_this_host(why: &io::Error) -> Why {
        let hint = match (own_hint(why), why.kind()) {
            (Some(hint), _) => hint,
            // Of a thread; a socket has said it with its errno.
            (None, io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock) => {
                ringwire_threads::hint(why)
            }
            (None, _) => "a sandbox may forbid it",
        };
        Why::NotAsked { why: why.to_string(), hint }
    }

    /// What a resolver says that had no descriptors: that there is no such name.
    fn of_lookup(error: LookupError, descriptors: io::Result<()>) -> Why {
        match descriptors {
            Err(none) => Why::of_this_host(&none),
            Ok(()) => error.into(),
        }
    }
}

impl From<LookupError> for Why {
    fn from(error: LookupError) -> Why {
        match error.kind() {
            LookupErrorKind::NoName => Why::NoName,
            LookupErrorKind::NoData => Why::NoAddress,
            LookupErrorKind::Again => Why::Again,
            _ => Why::Other(error.to_string()),
        }
    }
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Any,
    V4,
    V6,
}

type Found = Result<Vec<SocketAddr>, Why>;

/// A host whose addresses are being looked for.
#[derive(Debug)]
pub struct Lookup {
    shown: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// An address in numbers.
    Known(Found),
    Asked {
        found: mpsc::Receiver<Found>,
        ended: UnixStream,
    },
}

impl Lookup {
    /// Looks for the addresses of `target`. Of an address in numbers they are there at once.
    ///
    /// # Errors
    /// Those of starting a thread, or of making a pair of sockets to be woken by.
    pub fn start(target: &Target) -> io::Result<Lookup> {
        Lookup::of(target, Family::Any)
    }

    pub(crate) fn of(target: &Target, family: Family) -> io::Result<Lookup> {
        let port = target.port;
        let state = match &target.host {
            Host::Address(ip) => State::Known(Ok(vec![(*ip, port).into()])),
            Host::OnLink(ip, interface) => State::Known(
                interface_index(interface)
                    .map(|index| vec![SocketAddrV6::new(*ip, port, 0, index).into()]),
            ),
            Host::Name(name) => {
                let (name, (find, found)) = (name.clone(), mpsc::channel());
                let (ended, ends) = UnixStream::pair()?;
                ringwire_threads::start("resolve", move || {
                    // Nobody may wait for it any more.
                    let _ = find.send(addresses(&name, port, family));
                    // Closed now, or by a panic, it wakes who waits.
                    drop(ends);
                })
                .map_err(|why| {
                    io::Error::new(why.kind(), format!("cannot start a thread: {why}"))
                })?;
                State::Asked { found, ended }
            }
        };
        Ok(Lookup { shown: target.shown().into(), state })
    }

    /// The addresses, one or more, each once; `None` while they are not known. To be asked no more
    /// once they are.
    pub fn answer(&self) -> Option<Result<Vec<SocketAddr>, Unresolved>> {
        let found = match &self.state {
            State::Known(found) => found.clone(),
            State::Asked { found, .. } => match found.try_recv() {
                Ok(found) => found,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    Err(Why::Other("the resolver's thread ended early".into()))
                }
            },
        };
        Some(found.map_err(|why| Unresolved { shown: self.shown.clone(), why }))
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub(crate) fn never(target: &Target) -> Lookup {
        let (find, found) = mpsc::channel();
        let (ended, ends) = UnixStream::pair().unwrap();
        // Its thread, which does not come to its end.
        std::mem::forget((find, ends));
        Lookup { shown: target.shown().into(), state: State::Asked { found, ended } }
    }

    /// At its end (POLLHUP) when there is an answer; `None` if there is one already.
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Known(_) => None,
            State::Asked { ended, .. } => Some(ended.as_fd()),
        }
    }
}

fn addresses(name: &str, port: u16, family: Family) -> Found {
    let address = match family {
        Family::Any => AddressFamily::UNSPEC,
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let hints = AddrInfoHints {
        socktype: SockType::Stream.into(),
        address: i32::from(address.as_raw()),
        ..AddrInfoHints::default()
    };
    let mut all: Vec<SocketAddr> = Vec::new();
    // A family that this program does not know is an error in the middle, and left out.
    let found = dns_lookup::getaddrinfo(Some(name), None, Some(hints))
        .map_err(|error| Why::of_lookup(error, descriptors()))?;
    for found in found.flatten() {
        let mut address = canonical(found.sockaddr);
        address.set_port(port);
        if !all.contains(&address) {
            all.push(address);
        }
    }
    if all.is_empty() { Err(Why::NoAddress) } else { Ok(all) }
}

/// Whether there are the descriptors that a resolver has open at once: a file of its settings, and
/// a socket for each of two servers.
fn descriptors() -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..3 {
        match rustix::event::eventfd(0, EventfdFlags::CLOEXEC) {
            Ok(descriptor) => held.push(descriptor),
            Err(none @ (Errno::MFILE | Errno::NFILE)) => return Err(none.into()),
            // A sandbox, say: that is no reason why a name is not found.
            Err(_) => break,
        }
    }
    Ok(())
}

/// The number of an interface, by its name or as it is.
fn interface_index(interface: &str) -> Result<u32, Why> {
    let none = || Why::NoInterface(interface.into());
    let any = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let any = any.map_err(|errno| Why::of_this_host(&errno.into()))?;
    if let Ok(index) = interface.parse::<u32>() {
        // One that is there: the kernel would say that the argument is invalid.
        return match rustix::net::netdevice::index_to_name_inlined(&any, index) {
            Ok(_) => Ok(index),
            Err(_) => Err(none()),
        };
    }
    rustix::net::netdevice::name_to_index(&any, interface).map_err(|_| none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resolver_cannot_is_told_from_what_is_not() {
        let said = |error: i32| {
            let why = Why::from(LookupError::new(error));
            Unresolved { shown: "h:9".into(), why }.to_string()
        };
        // EAI_NONAME, EAI_NODATA, EAI_AGAIN of netdb.h.
        assert_eq!(said(-2), "cannot resolve h:9: there is no such name");
        assert_eq!(said(-5), "cannot resolve h:9: the name has no address");
        assert_eq!(said(-3), "cannot resolve h:9: the DNS servers gave no answer");
        let no_descriptors =
            Why::of_lookup(LookupError::new(-2), Err(io::Error::from_raw_os_error(24)));
        let Why::NotAsked { why, .. } = no_descriptors else { panic!("{no_descriptors:?}") };
        assert_eq!(why, "Too many open files (os error 24)");
        let target = Target::to_connect("h:9", 1).unwrap();
        let none = Unresolved::no_answer(&target, Duration::from_millis(1500));
        assert_eq!(none.to_string(), "cannot resolve h:9: no answer within 1500 ms");
    }

    #[test]
    fn what_keeps_it_from_asking_is_told_with_the_way_out() {
        let target = Target::to_connect("h:9", 1).unwrap();
        let no_thread = |kind| io::Error::new(kind, "cannot start a thread: none");
        for (error, why, hint) in [
            (no_thread(io::ErrorKind::WouldBlock), "cannot start a thread: none", "ulimit -u"),
            (no_thread(io::ErrorKind::OutOfMemory), "cannot start a thread: none", "ulimit -v"),
            (Errno::MFILE.into(), "Too many open files (os error 24)", "ulimit -n"),
            (Errno::NFILE.into(), "Too many open files in system (os error 23)", "fs.file-max"),
            (Errno::NOMEM.into(), "Cannot allocate memory (os error 12)", "the memory"),
            (Errno::PERM.into(), "Operation not permitted (os error 1)", "sandbox"),
        ] {
            let none = Unresolved::not_asked(&target, &error);
            assert_eq!(none.to_string(), format!("cannot resolve h:9: {why}"));
            assert!(none.hint().contains(hint), "{}", none.hint());
        }
    }
}
