//! What RLIMIT_MEMLOCK counts, for whom, and what comes of it (K15, K59).
//!
//! The limit is a process's and the count is a user's, so these tests play with processes: children
//! that do as they are told, a line at a time, as a user whom nobody else is, where that may be.

use crate::support::needs::{Feature, needs};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use io_uring::IoUring;
use ringwire_wire::{Family, loopback, set_zerocopy, skip};
use rustix::net::send;
use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::rig::{MORE, Memory, Request, Ring};
use crate::support::{
    PATIENCE, give_up_ipc_lock, is_child, let_the_kernel_free, narrow_pair, zero_copy,
};

const CHILD: &str = "limits::a_child_that_does_as_it_is_told";
const KIB: usize = 1 << 10;

/// Waits for words on standard input and answers each on standard output. Does nothing when it is
/// run as a test.
#[test]
fn a_child_that_does_as_it_is_told() {
    if !is_child(CHILD) {
        return;
    }
    let (mut ring, mut out) = (None, Vec::new());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (word, number) = line.split_once(' ').unwrap();
        let number: usize = number.parse().unwrap();
        let outcome = obey(word, number, &mut ring, &mut out);
        // A line of its own, whatever the test harness has written before.
        println!("\nanswer {}", outcome.err().unwrap_or(0));
    }
}

/// Obeys one word; an errno if that does not work.
fn obey(
    word: &str,
    number: usize,
    ring: &mut Option<Ring>,
    out: &mut Vec<(TcpStream, TcpStream)>,
) -> Result<(), i32> {
    let ours = || ring.as_ref().expect("a ring");
    match word {
        // From now on a user of no rights whom nobody else is, if this may be.
        "user" if number > 0 => {
            let uid = rustix::process::Uid::from_raw(number as u32);
            rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|why| why.raw_os_error())?;
        }
        "user" => give_up_ipc_lock(),
        // The hard one with it, where it is lower.
        "limit" => {
            let current = Some(number as u64);
            let maximum = getrlimit(Resource::Memlock).maximum.map(|most| most.max(number as u64));
            setrlimit(Resource::Memlock, Rlimit { current, maximum })
                .map_err(|why| why.raw_os_error())?;
        }
        "ring" => match IoUring::new(8) {
            Ok(made) => {
                made.submitter().register_buffers_sparse(2).unwrap();
                *ring = Some(Ring(made));
            }
            Err(why) => return Err(why.raw_os_error().unwrap()),
        },
        "register" => ours().try_register(0, Memory::new(number).all())?,
        "unregister" => ours().try_register(0, (0, 0))?,
        "send" | "send-registered" => {
            let (near, _far) = loopback::tcp_pair(Family::V4).unwrap();
            let memory = Memory::new(number);
            let mut request = Request::send(&near, memory.all());
            let ring = ring.as_mut().expect("a ring");
            if word == "send-registered" {
                ring.try_register(1, memory.all())?;
                request = request.fixed(1);
            }
            ring.push(request);
            ring.submit();
            let done = ring.next();
            assert_eq!(done.flags, MORE, "a notification follows, if it fails too");
            if done.result >= 0 {
                rustix::net::connect_unspec(&near).unwrap();
            }
            ring.notification_of(0);
            return if done.result < 0 { Err(-done.result) } else { Ok(()) };
        }
        // By `MSG_ZEROCOPY`, on a connection that takes far less, and keeps what it has taken.
        "ask" => {
            let (near, far) = narrow_pair(Family::V4);
            set_zerocopy(&near).unwrap();
            let taken = send(&near, &vec![0; number], zero_copy());
            assert!(taken.map_err(|why| why.raw_os_error())? < number / 2);
            out.push((near, far));
        }
        "let-go" => out.clear(),
        _ => panic!("{word}?"),
    }
    Ok(())
}

/// A child, and its two ends of the conversation. It ends with it.
struct Puppet {
    child: Child,
    tells: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Puppet {
    /// One that RLIMIT_MEMLOCK binds, with a ring.
    fn new(uid: u32) -> Puppet {
        let mut puppet = Puppet::privileged();
        assert_eq!(puppet.told("user", uid as usize), 0);
        puppet
    }

    /// One with the rights of this process.
    fn privileged() -> Puppet {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
            .env("RINGWIRE_TEST_CHILD", CHILD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Puppet { tells: child.stdin.take(), answers, child }
    }

    /// Has it do something; the errno, or 0.
    #[track_caller]
    fn told(&mut self, word: &str, number: usize) -> i32 {
        writeln!(self.tells.as_mut().unwrap(), "{word} {number}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "{word} ended it");
            if let Some(errno) = line.trim().strip_prefix("answer ") {
                return errno.parse().unwrap();
            }
        }
    }

    /// The same, until it works: what others gave back a moment ago may still be counted.
    #[track_caller]
    fn told_until_done(&mut self, word: &str, number: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.told(word, number) {
                0 => return,
                errno => {
                    assert!([libc::ENOMEM, libc::ENOBUFS].contains(&errno), "{word}: {errno}");
                    assert!(Instant::now() < deadline, "{word} {number}: there is no room for it");
                    let_the_kernel_free();
                }
            }
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.tells = None;
        let _ = self.child.wait();
    }
}

/// A user whom nobody else is; 0 where we cannot be another one.
fn nobody_else() -> u32 {
    let may = capabilities(None).unwrap().effective.contains(CapabilitySet::SETUID);
    if may && getuid().is_root() { 1_000_000_000 + std::process::id() } else { 0 }
}

#[test]
fn memlock_counts_per_user_by_the_limit_at_the_time() {
    let Some(()) = needs("memlock_counts_per_user_by_the_limit_at_the_time", Feature::SendZc)
    else {
        return;
    };
    let uid = nobody_else();
    let (mut one, mut other) = (Puppet::new(uid), Puppet::new(uid));
    for puppet in [&mut one, &mut other] {
        assert_eq!(puppet.told("limit", 1024 * KIB), 0);
        puppet.told_until_done("ring", 0);
    }
    one.told_until_done("register", 768 * KIB);
    assert_eq!(other.told("register", 512 * KIB), libc::ENOMEM, "with another process's 768 KiB");
    assert_eq!(other.told("send", 512 * KIB), libc::ENOMEM, "and unregistered sends with them");
    other.told_until_done("send", 64 * KIB);
    // The same memory twice is counted twice, and a higher limit is a process's own.
    assert_eq!(other.told("limit", 1536 * KIB), 0);
    other.told_until_done("register", 512 * KIB);
    assert_eq!(one.told("register", 512 * KIB), libc::ENOMEM, "more than its limit is taken");
    assert_eq!(one.told("unregister", 0), 0);
    assert_eq!(other.told("limit", 1024 * KIB), 0);
    assert_eq!(other.told("register", 768 * KIB), libc::ENOMEM, "before the old one is given back");
    assert_eq!(other.told("unregister", 0), 0);
    other.told_until_done("register", 768 * KIB);
    drop(other);
    // With the process goes its share.
    one.told_until_done("register", 768 * KIB);
}

#[test]
fn a_registered_send_is_not_counted_and_one_over_the_limit_fails_with_a_notification() {
    let Some(()) = needs(
        "a_registered_send_is_not_counted_and_one_over_the_limit_fails_with_a_notification",
        Feature::SendZc,
    ) else {
        return;
    };
    let mut puppet = Puppet::new(nobody_else());
    puppet.told_until_done("ring", 0);
    puppet.told_until_done("register", 256 * KIB);
    let more_than_it_may = 64 * KIB;
    puppet.told_until_done("send", more_than_it_may);
    // (`send-registered` registers as well, under the limit that stands.)
    puppet.told_until_done("send-registered", more_than_it_may);
    assert_eq!(puppet.told("limit", 4096), 0);
    assert_eq!(puppet.told("send", 1), libc::ENOMEM);
}

#[test]
fn a_send_by_msg_zerocopy_is_counted_with_all_that_it_asks_for() {
    let mut puppet = Puppet::privileged();
    if puppet.told("limit", 2048 * KIB) != 0 {
        let test = "a_send_by_msg_zerocopy_is_counted_with_all_that_it_asks_for";
        return skip(test, "needs root: RLIMIT_MEMLOCK is lower than 2 MiB, and that is final");
    }
    assert_eq!(puppet.told("user", nobody_else() as usize), 0);
    puppet.told_until_done("ask", 1536 * KIB);
    assert_eq!(puppet.told("ask", 1024 * KIB), libc::ENOBUFS, "with less than 1 MiB pinned");
    assert_eq!(puppet.told("let-go", 0), 0);
    puppet.told_until_done("ask", 1024 * KIB);
}

#[test]
fn a_ring_itself_is_counted() {
    let test = "a_ring_itself_is_counted";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut puppet = Puppet::new(nobody_else());
    assert_eq!(puppet.told("limit", 0), 0);
    match puppet.told("ring", 0) {
        0 => skip(test, "the kernel does not count rings"),
        errno => assert_eq!(errno, libc::ENOMEM),
    }
}

#[test]
fn a_ring_made_with_cap_ipc_lock_is_exempt_for_good() {
    let test = "a_ring_made_with_cap_ipc_lock_is_exempt_for_good";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    if !capabilities(None).unwrap().effective.contains(CapabilitySet::IPC_LOCK) {
        return skip(test, "needs CAP_IPC_LOCK");
    }
    let uid = nobody_else();
    let mut puppet = Puppet::privileged();
    assert_eq!(puppet.told("limit", 4096), 0);
    assert_eq!(puppet.told("ring", 0), 0);
    assert_eq!(puppet.told("user", uid as usize), 0);
    assert_eq!(puppet.told("register", 256 * KIB), 0);
    assert_eq!(puppet.told("send", 256 * KIB), 0);
    // One that it makes now, is not.
    assert_eq!(puppet.told("limit", 256 * KIB), 0);
    puppet.told_until_done("ring", 0);
    assert_eq!(puppet.told("register", 512 * KIB), libc::ENOMEM);
}
