//! What a request's completions say (K1, K23).

use crate::support::needs::{Feature, needs};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringwire_wire::{Family, loopback, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use socket2::{Domain, SockRef, Socket, Type};

use crate::rig::{
    BUFFER_SELECT, CQE_SKIP, FIXED_BUF, LINK, MORE, Memory, NOTIF, PAGE, POLL_FIRST, REPORT_USAGE,
    Request, Ring, fill, shut_pair,
};
use crate::support::PATIENCE;

/// What the first completion says of a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    Follows,
    Never,
    /// Kernels differ, and so their flag does.
    Either,
}
use Second::{Either, Follows, Never};

/// A stream that its peer has reset.
fn reset_stream() -> TcpStream {
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let fds = &mut [PollFd::new(&near, PollFlags::empty())];
    assert_eq!(poll(fds, Some(&patience)).unwrap(), 1, "no reset");
    near
}

fn f_more_decides_on(ring: &mut Ring, test: &str) {
    let memory = Memory::new(17 * PAGE);
    let small = memory.span(0..100);
    ring.sparse_buffers(2);
    let registered = ring.register(test, 0, memory);

    let (tcp, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let (udp, _heard) = loopback::udp_pair(Family::V4).unwrap();
    let addressless = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let (ended, _end) = loopback::tcp_pair(Family::V4).unwrap();
    ended.shutdown(Shutdown::Write).unwrap();
    let reset = reset_stream();
    let (full, _stalled) = shut_pair();
    fill(&full);
    let (unix, _other) = UnixStream::pair().unwrap();
    let file = rustix::fs::memfd_create("no-socket", MemfdFlags::CLOEXEC).unwrap();

    let send = |span| Request::send(&tcp, span);
    let plain = send(small);
    let rows = [
        ("accepted", plain, 100, Follows),
        ("nothing, on a stream", send(memory.span(0..0)), 0, Follows),
        ("nothing, as a datagram", Request::send(&udp, memory.span(0..0)), 0, Follows),
        ("a bad pointer", send((1, 100)), -libc::EFAULT, Follows),
        ("no message header", Request::no_message(&tcp), -libc::EFAULT, Follows),
        ("a bad address", Request::send(&udp, small).to_nowhere(), -libc::EFAULT, Follows),
        ("an unknown bit", plain.how(1 << 15), -libc::EINVAL, Either),
        ("a bundle", plain.how(1 << 4), -libc::EINVAL, Either),
        ("no completion wanted", plain.entry_flags(CQE_SKIP), -libc::EINVAL, Never),
        ("a provided buffer", plain.entry_flags(BUFFER_SELECT), -libc::EOPNOTSUPP, Never),
        ("an empty table entry", plain.fixed(1), -libc::EFAULT, Follows),
        ("no table entry", plain.fixed(9), -libc::EFAULT, Follows),
        ("outside the entry", send((small.0 - 1, 100)).fixed(0), -libc::EFAULT, Follows),
        ("no descriptor", Request::send_by_number(-1, small), -libc::EBADF, Follows),
        ("no socket", Request::send(&file, small), -libc::ENOTSOCK, Follows),
        ("a unix socket", Request::send(&unix, small), -libc::EOPNOTSUPP, Follows),
        ("TCP, not connected", Request::send(&unconnected, small), -libc::EPIPE, Follows),
        ("TCP, after its end", Request::send(&ended, small), -libc::EPIPE, Follows),
        ("TCP, reset", Request::send(&reset, small), -libc::ECONNRESET, Follows),
        ("TCP, reset, again", Request::send(&reset, small), -libc::EPIPE, Follows),
        ("TCP, full", Request::send(&full, small).flags(DONTWAIT), -libc::EAGAIN, Follows),
        ("UDP, to nobody", Request::send(&addressless, small), -libc::EDESTADDRREQ, Follows),
        ("UDP, too long", Request::send(&udp, memory.span(0..65_508)), -libc::EMSGSIZE, Follows),
    ];
    for (data, (what, request, result, second)) in rows.into_iter().enumerate() {
        if what == "outside the entry" && !registered {
            continue;
        }
        // `run` fails unless the second completion comes if and only if it was promised; one that
        // comes late fails the next row, by its data.
        let outcome = ring.run(request.data(data as u64));
        assert_eq!(outcome.result, result, "{what}");
        match second {
            Follows => assert_eq!(outcome.notification, Some(0), "{what}"),
            Never => assert_eq!(outcome.notification, None, "{what}"),
            Either => {}
        }
    }
    ring.silent();
}

const DONTWAIT: i32 = libc::MSG_DONTWAIT;

#[test]
fn f_more_and_nothing_else_says_whether_a_notification_follows() {
    let test = "f_more_and_nothing_else_says_whether_a_notification_follows";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    f_more_decides_on(&mut Ring::new(), test);
    if let Some(mut ring) = Ring::deferred(test) {
        f_more_decides_on(&mut ring, test);
    }
}

/// Older kernels refuse the field, and no notification follows. ringwire leaves it 0.
#[test]
fn a_notification_can_have_data_of_its_own() {
    let test = "a_notification_can_have_data_of_its_own";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let memory = Memory::new(PAGE);
    let mut ring = Ring::new();
    let (tcp, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let done = ring.first(Request::send(&tcp, memory.span(0..100)).addr3(77).data(1));
    if (done.result, done.flags) == (-libc::EINVAL, 0) {
        return ring.silent();
    }
    assert_eq!((done.data, done.result, done.flags), (1, 100, MORE));
    assert_eq!(ring.notification_of(77), 0);
    ring.silent();
}

/// The exception to the rule, and a reason why ringwire links no sends: a request that is cancelled
/// because one before it in its chain failed, has a notification that it does not promise.
#[test]
fn a_request_cancelled_by_a_broken_link_has_a_notification_that_it_does_not_promise() {
    let Some(()) = needs(
        "a_request_cancelled_by_a_broken_link_has_a_notification_that_it_does_not_promise",
        Feature::SendZc,
    ) else {
        return;
    };
    let memory = Memory::new(PAGE);
    let (tcp, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let good = Request::send(&tcp, memory.span(0..100));
    let refused = good.how(1 << 15);
    let failing = Request::send(&tcp, (1, 100));
    let (cancelled, wrong) = (-libc::ECANCELED, -libc::EINVAL);
    // Refused when the chain is taken (then its first request is the one that fails), and failed
    // when issued.
    let chains = [
        ([refused, good, good], [wrong, cancelled, cancelled]),
        ([good, refused, good], [cancelled, wrong, cancelled]),
        ([good, good, refused], [cancelled, cancelled, wrong]),
        ([failing, good, good], [-libc::EFAULT, cancelled, cancelled]),
    ];
    for (chain, results) in chains {
        let mut ring = Ring::new();
        for (data, request) in chain.into_iter().enumerate() {
            let request = request.data(data as u64);
            ring.push(if data < 2 { request.entry_flags(LINK) } else { request });
        }
        ring.submit();
        let all = ring.all_by_now();
        for (data, result) in results.into_iter().enumerate() {
            let of = all.iter().filter(|done| done.data == data as u64);
            let seen: Vec<_> = of.map(|done| (done.result, done.flags)).collect();
            let promise = if data == 0 { MORE } else { 0 };
            // An unknown bit is refused before there is a notification, by older kernels.
            let never_had_one = result == wrong && seen == [(wrong, 0)];
            let as_expected = seen == [(result, promise), (0, NOTIF)];
            assert!(as_expected || never_had_one, "request {data}: {all:?}");
        }
    }
}

/// The order in which a send is judged: first its flags, then its descriptor. So trying a flag on
/// no descriptor tells whether the kernel knows it.
#[test]
fn a_flag_is_known_if_no_descriptor_is_what_is_wrong() {
    let test = "a_flag_is_known_if_no_descriptor_is_what_is_wrong";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    let nothing = Request::send_by_number(-1, (0, 0));
    for known in [0, POLL_FIRST] {
        assert_eq!(ring.run(nothing.how(known)).result, -libc::EBADF, "flags {known:#x}");
    }
    // Older kernels look for the buffer first.
    let fixed = ring.run(nothing.how(FIXED_BUF)).result;
    assert!([-libc::EBADF, -libc::EFAULT].contains(&fixed), "{fixed}");
    assert_eq!(ring.run(nothing.how(1 << 15)).result, -libc::EINVAL);
    let usage = ring.run(nothing.how(REPORT_USAGE)).result;
    ring.silent();
    if usage == -libc::EINVAL {
        return skip(test, "the kernel has no usage report");
    }
    assert_eq!(usage, -libc::EBADF);
}
