//! Must keep the API's promises: what is refused and in which words, limits, handles, the ends of
//! a socket and of a ring, notifiers, fairness, waking and polling.
//!
//! How a program is woken and how a ring ends is held on both kinds of ring. Peers that do not read
//! are narrow connections, so that what must wait, waits, whatever the host's buffers are.

mod attach;
mod ends;
mod limits;
mod lingering;
mod notifiers;
mod sockets;
mod telling;
mod turns;
mod waking;

use crate::contract::runs_here;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{WAYS, builder, every_way, every_way_of};
use crate::ENGINE;
use crate::support::{
    BOTH_TASK_RUNS, Driver, PATIENCE, Told, ZERO_COPY, assert_same, build, hear, is_child,
    narrow_pair, noise, read_exactly, run_child, sleeps,
};
use ringwire::{
    Copied, Errno, Error, Events, IntoPayload, Limits, OnDeadline, PayloadId, Piece, Report, Ring,
    SendError, Socket, TaskRun, Waker,
};
use ringwire_wire::{Family, loopback, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

const MIB: usize = 1 << 20;

/// The defaults, but for some.
fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn attach_tcp(driver: &mut Driver) -> (Socket, TcpStream) {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    (driver.ring.attach(near).unwrap(), far)
}

fn attach_narrow(driver: &mut Driver) -> (Socket, TcpStream) {
    let (near, far) = narrow_pair(Family::V4);
    (driver.ring.attach(near).unwrap(), far)
}

/// Several times what a narrow connection takes, and little enough for RLIMIT_MEMLOCK.
const TOO_MUCH: usize = MIB;

/// A socket on which a payload has begun to leave and cannot get on, because its peer does not read
/// and has shut its window. From now on nothing happens on it.
fn attach_stuck(driver: &mut Driver) -> (Socket, TcpStream, PayloadId) {
    let (sock, far) = attach_narrow(driver);
    let stuck = driver.send(sock, noise(0, TOO_MUCH));
    let near = far.peer_addr().unwrap().port();
    let mut before = None;
    driver.until("it leaves, as far as it can", |driver| {
        let stats = driver.ring.socket_stats(sock).unwrap();
        // A turn that begins when the window is shut finds what came before that.
        let shut = stats.queued_bytes == 0 && probes_a_shut_window(near);
        let known = before.replace((shut, stats.accepted_bytes));
        shut && known == before
    });
    assert!(driver.fate(stuck).sent.is_none(), "it does not fit");
    (sock, far, stuck)
}

/// Whether the IPv4 connection with this local port has sent what it may, knows that all of that
/// came, and asks now and then whether its peer takes more (proc_pid_net(5), `tr` is 04).
fn probes_a_shut_window(port: u16) -> bool {
    let text = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let local = format!(":{port:04X}");
    lines.any(|words| words[1].ends_with(&local) && words[3] == "01" && words[5].starts_with("04:"))
}

fn text<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(why) => why.to_string(),
    }
}

fn send_text(result: Result<PayloadId, SendError>) -> String {
    result.map_or_else(|refused| refused.to_string(), |_| "taken".into())
}
