//! Where a receiver listens: at an address, or at all addresses of a name.
//!
//! A name that has two addresses (`localhost`: ::1 and 127.0.0.1) is listened at on both, or whom a
//! sender meets would depend on which it tries first.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use ringwire_reach::{Lookup, Target, Unresolved};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::exit::Failure;
use crate::output::Output;
use crate::poll::{FOREVER, poll_until};
use crate::signals::Signals;

/// After what time it is said what is being waited for.
const NOTED_AFTER: Duration = Duration::from_secs(1);

/// The senders that the kernel keeps until they are taken, at most (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// How often a free port is looked for that is free on all addresses.
const PORT_TRIES: u32 = 16;

/// Listens: one listener for each address, one or more. None of them blocks.
pub(super) fn listen(
    target: &Target,
    signals: &Signals,
    output: &Output,
) -> Result<Vec<(TcpListener, SocketAddr)>, Failure> {
    let addresses = addresses(target, signals, output)?;
    let mut tries = 0;
    loop {
        match listen_on(&addresses) {
            Err((_, error))
                if error.kind() == io::ErrorKind::AddrInUse
                    && target.port() == 0
                    && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            Err((address, error)) => return Err(cannot_listen(target, address, &error)),
            Ok((listening, left_out)) => {
                for (address, error) in left_out {
                    output.warning(format_args!("not listening on {address}: {error}"));
                }
                return Ok(listening);
            }
        }
    }
}

type At<T> = (T, SocketAddr);
type Error = (SocketAddr, io::Error);

/// Listens on all addresses, with one port, but on those that this host does not have: a name may
/// have addresses of several hosts, and of IPv6 where that is off.
fn listen_on(addresses: &[SocketAddr]) -> Result<(Vec<At<TcpListener>>, Vec<Error>), Error> {
    let (mut listening, mut left_out) = (Vec::<At<TcpListener>>::new(), Vec::new());
    for &address in addresses {
        let mut wanted = address;
        if let Some((_, first)) = listening.first() {
            wanted.set_port(first.port());
        }
        match bind(wanted).and_then(|one| one.local_addr().map(|address| (one, address))) {
            Ok(one) => listening.push(one),
            Err(error) if addresses.len() > 1 && is_not_here(&error) => {
                left_out.push((wanted, error));
            }
            Err(error) => return Err((wanted, error)),
        }
    }
    match left_out.pop() {
        Some(last) if listening.is_empty() => Err(last),
        last => {
            left_out.extend(last);
            Ok((listening, left_out))
        }
    }
}

fn is_not_here(error: &io::Error) -> bool {
    let afnosupport = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(afnosupport)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A receiver can be started again at once.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        // All addresses, IPv4's too, whatever net.ipv6.bindv6only is.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn cannot_listen(target: &Target, address: SocketAddr, error: &io::Error) -> Failure {
    let shown = target.shown();
    let failure = Failure::new(match target.is_name() {
        true => format!("cannot listen on {shown}: {address}: {error}"),
        false => format!("cannot listen on {shown}: {error}"),
    });
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            failure.hint("another program has it; --listen with port 0 takes a free one")
        }
        io::ErrorKind::AddrNotAvailable => failure.hint("--listen takes an address of this host"),
        _ if is_not_here(error) => failure.hint("IPv6 is off here; 0.0.0.0 is all of IPv4"),
        _ => failure,
    }
}

/// The addresses of where to listen. Waits for a resolver as long as that takes, or until a signal.
fn addresses(
    target: &Target,
    signals: &Signals,
    output: &Output,
) -> Result<Vec<SocketAddr>, Failure> {
    let lookup = Lookup::start(target).map_err(|why| Unresolved::not_asked(target, &why))?;
    let mut wait = NOTED_AFTER;
    loop {
        if let Some(answer) = lookup.answer() {
            return Ok(answer?);
        }
        if let Some(signal) = signals.seen() {
            return Err(Failure::new(format!("told to exit by {signal} before it listened")));
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(lookup.ended().map(|ended| PollFd::from_borrowed_fd(ended, PollFlags::empty())));
        let came = poll_until(&mut fds, Instant::now() + wait)
            .map_err(|error| Failure::new(format!("cannot wait for a resolver: {error}")))?;
        if !came {
            output.note(format_args!("still looking for the address of {}", target.shown()));
            wait = FOREVER;
        }
    }
}
