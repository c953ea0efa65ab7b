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
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::target::{Host, Target};
use crate::{canonical, shown};

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
    Other(String),
}

impl Unresolved {
    /// Nobody waits any longer, after `waited`.
    pub fn no_answer(target: &Target, waited: Duration) -> Unresolved {
        Unresolved { shown: target.shown().into(), why: Why::NoAnswer(waited) }
    }

    /// It could not even be asked.
    pub fn not_asked(target: &Target, why: &io::Error) -> Unresolved {
        Unresolved { shown: target.shown().into(), why: Why::Other(why.to_string()) }
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
            Why::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unresolved {}

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
                std::thread::Builder::new().name("resolve".into()).spawn(move || {
                    // Nobody may wait for it any more.
                    let _ = find.send(addresses(&name, port));
                    // Closed now, or by a panic, it wakes who waits.
                    drop(ends);
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

    /// At its end (POLLHUP) when there is an answer; `None` if there is one already.
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Known(_) => None,
            State::Asked { ended, .. } => Some(ended.as_fd()),
        }
    }
}

/// Waits for a host's addresses until `deadline`, and leaves the looking behind then.
///
/// # Errors
/// [`Unresolved`], with the reason.
pub fn wait_for_addresses(
    target: &Target,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let started = Instant::now();
    let lookup = Lookup::start(target).map_err(|why| Unresolved::not_asked(target, &why))?;
    loop {
        if let Some(answer) = lookup.answer() {
            return answer;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unresolved::no_answer(target, deadline - started));
        }
        let mut fds: Vec<_> = lookup
            .ended()
            .map(|ended| PollFd::from_borrowed_fd(ended, PollFlags::empty()))
            .into_iter()
            .collect();
        let left = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Unresolved::not_asked(target, &errno.into())),
        }
    }
}

fn addresses(name: &str, port: u16) -> Found {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let mut all: Vec<SocketAddr> = Vec::new();
    // A family that this program does not know is an error in the middle, and left out.
    for found in dns_lookup::getaddrinfo(Some(name), None, Some(hints))?.flatten() {
        let mut address = canonical(found.sockaddr);
        address.set_port(port);
        if !all.contains(&address) {
            all.push(address);
        }
    }
    if all.is_empty() { Err(Why::NoAddress) } else { Ok(all) }
}

/// The number of an interface, by its name or as it is.
fn interface_index(interface: &str) -> Result<u32, Why> {
    let none = || Why::NoInterface(interface.into());
    let other = |errno: rustix::io::Errno| Why::Other(errno.to_string());
    let any = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let any = any.map_err(other)?;
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

    fn resolved(text: &str) -> Result<Vec<String>, String> {
        let target = Target::to_connect(text, 27_474).unwrap();
        let deadline = Instant::now() + Duration::from_secs(180);
        let found = wait_for_addresses(&target, deadline);
        found
            .map(|all| all.iter().map(SocketAddr::to_string).collect())
            .map_err(|why| format!("{why}; {}", why.hint()))
    }

    #[test]
    fn an_address_is_its_own_and_an_interface_is_found_by_name_and_number() {
        let one = |address: &str| Ok(vec![address.to_owned()]);
        assert_eq!(resolved("10.0.0.7"), one("10.0.0.7:27474"));
        assert_eq!(resolved("[::ffff:10.0.0.7]:9"), one("10.0.0.7:9"));
        // The loopback's number is 1 everywhere.
        assert_eq!(resolved("[fe80::7%lo]:9"), one("[fe80::7%1]:9"));
        assert_eq!(resolved("fe80::7%1"), one("[fe80::7%1]:27474"));
        for none in ["fe80::7%none-such", "fe80::7%4000000000", "fe80::7%a-name-that-is-too-long"] {
            let interface = none.split_once('%').unwrap().1;
            assert_eq!(
                resolved(none).unwrap_err(),
                format!(
                    "cannot resolve {none}: this host has no interface {interface}; \"ip link\" \
                     lists the interfaces of this host"
                )
            );
        }
    }

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
        let target = Target::to_connect("h:9", 1).unwrap();
        let none = Unresolved::no_answer(&target, Duration::from_millis(1500));
        assert_eq!(none.to_string(), "cannot resolve h:9: no answer within 1500 ms");
    }

    #[test]
    fn who_waits_no_more_leaves_the_looking_behind() {
        let target = Target::to_connect("localhost:9", 1).unwrap();
        let none = wait_for_addresses(&target, Instant::now());
        // Unless it was quicker.
        assert!(none.is_ok() || none.unwrap_err().to_string().ends_with("no answer within 0 s"));
    }
}
