//! When completions come, and in which order (K2, K4, K9, K10, K20, K21, K22, K25, K26, K31).

use crate::support::needs::{Feature, needs};
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use io_uring::IoUring;
use ringwire_wire::{Family, loopback, skip};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::rig::{
    Done, FILLER, MORE, Memory, NOTIF, Outcome, PAGE, Request, Ring, TOO_MUCH, before, fill, pair,
    ring_fd, shut_pair, tcp_info,
};
use crate::support::{PATIENCE, read_exactly};

const WAITALL: i32 = libc::MSG_WAITALL;

/// Reads so many bytes on a thread of its own.
fn reads(mut far: TcpStream, bytes: usize) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || read_exactly(&mut far, bytes).unwrap())
}

#[test]
fn notifications_come_in_any_order() {
    let Some(()) = needs("notifications_come_in_any_order", Feature::SendZc) else { return };
    let memory = Memory::new(PAGE);
    let (stalled, mut far) = shut_pair();
    let (quick, _far) = loopback::tcp_pair(Family::V4).unwrap();
    let mut ring = Ring::new();
    ring.accepted(Request::send(&stalled, memory.span(0..100)).data(1));
    ring.accepted(Request::send(&quick, memory.span(0..100)).data(2));
    ring.notification_of(2);
    ring.silent_while_held(&stalled);
    read_exactly(&mut far, FILLER + 100).unwrap();
    ring.notification_of(1);
    ring.silent();

    // Within one chain: its head, and then the newest to the oldest.
    if before("notifications_come_in_any_order", 6, 10) {
        return;
    }
    let (near, mut far) = shut_pair();
    for data in 1..=4 {
        let request = Request::send(&near, memory.span(0..100)).flags(libc::MSG_MORE);
        ring.accepted(request.data(data));
    }
    near.shutdown(Shutdown::Write).unwrap();
    read_exactly(&mut far, FILLER + 400).unwrap();
    let order: Vec<u64> = (0..4).map(|_| ring.next().data).collect();
    assert_eq!(order, [1, 4, 3, 2]);
}

#[test]
fn msg_waitall_goes_on_after_short_sends() {
    let Some(()) = needs("msg_waitall_goes_on_after_short_sends", Feature::SendZc) else { return };
    let memory = Memory::new(TOO_MUCH);
    let mut ring = Ring::new();
    let (near, far) = pair();
    let all = Request::send(&near, memory.all());
    ring.push(all.data(1));
    ring.submit();
    let short = ring.result_of(1) as usize;
    assert!((1..TOO_MUCH).contains(&short), "{short}");

    ring.parks(all.flags(WAITALL).data(2));
    let reader = reads(far, short + TOO_MUCH);
    let mut results = Vec::new();
    for _ in 0..3 {
        let done = ring.next();
        results.push((done.data, done.flags, done.result));
    }
    reader.join().unwrap();
    results.sort();
    assert_eq!(results, [(1, NOTIF, 0), (2, MORE, TOO_MUCH as i32), (2, NOTIF, 0)]);
}

#[test]
fn a_cancelled_waitall_says_how_much_was_sent() {
    let Some(()) = needs("a_cancelled_waitall_says_how_much_was_sent", Feature::SendZc) else {
        return;
    };
    let memory = Memory::new(TOO_MUCH);
    let mut ring = Ring::new();
    let (near, far) = pair();
    ring.parks(Request::send(&near, memory.all()).flags(WAITALL).data(1));
    ring.push(Request::cancel(1).data(9));
    ring.submit();
    let mut first_two = [ring.next(), ring.next()];
    first_two.sort_by_key(|done| done.data);
    let sent = first_two[0].result;
    let expected =
        [Done { data: 1, result: sent, flags: MORE }, Done { data: 9, result: 0, flags: 0 }];
    assert_eq!(first_two, expected);
    assert!((1..TOO_MUCH as i32).contains(&sent), "{sent}");
    // What was sent is the kernel's until it is acknowledged.
    ring.silent_while_held(&near);
    reads(far, sent as usize).join().unwrap();
    ring.notification_of(1);
    ring.silent();
}

#[test]
fn a_cancel_reaches_what_has_no_result_and_nothing_else() {
    let Some(()) = needs("a_cancel_reaches_what_has_no_result_and_nothing_else", Feature::SendZc)
    else {
        return;
    };
    let memory = Memory::new(PAGE);
    let mut ring = Ring::new();
    let (near, _far) = shut_pair();
    ring.accepted(Request::send(&near, memory.span(0..100)).data(1));
    let none = Outcome { result: -libc::ENOENT, notification: None };
    assert_eq!(ring.run(Request::cancel(1).data(9)), none, "it has a result");
    assert_eq!(ring.run(Request::cancel(77).data(9)), none, "there is no such request");
    ring.silent_while_held(&near);

    fill(&near);
    ring.parks(Request::send(&near, memory.span(0..100)).data(2));
    ring.push(Request::cancel(2).data(9));
    ring.submit();
    let mut all = [ring.next(), ring.next(), ring.next()];
    all.sort_by_key(|done| (done.data, done.flags));
    let expected = [
        Done { data: 2, result: -libc::ECANCELED, flags: MORE },
        Done { data: 2, result: 0, flags: NOTIF },
        Done { data: 9, result: 0, flags: 0 },
    ];
    assert_eq!(all, expected);
    rustix::net::connect_unspec(&near).unwrap();
    ring.notification_of(1);
    ring.silent();
}

#[test]
fn completions_that_do_not_fit_are_kept() {
    let Some(()) = needs("completions_that_do_not_fit_are_kept", Feature::SendZc) else { return };
    let memory = Memory::new(PAGE);
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ring = Ring::with(IoUring::builder().setup_cqsize(4), 4);
    for data in 0..10 {
        ring.push(Request::send(&near, memory.span(0..100 + data)).data(data as u64));
        ring.submit();
    }
    assert_eq!(ring.0.completion().len(), 4, "the ring is full");
    assert!(ring.0.submission().cq_overflow(), "and that is said");
    let mut seen: Vec<_> = (0..20).map(|_| ring.next()).collect();
    ring.silent();
    assert!(!ring.0.submission().cq_overflow());
    assert_eq!(ring.0.completion().overflow(), 0, "none was lost");
    seen.sort_by_key(|done| (done.data, done.flags));
    for (data, both) in seen.chunks(2).enumerate() {
        let of = |result, flags| Done { data: data as u64, result, flags };
        assert_eq!(both, [of(100 + data as i32, MORE), of(0, NOTIF)]);
    }
    let mut buffer = [0; 200];
    for data in 0..10 {
        assert_eq!(far.recv(&mut buffer).unwrap(), 100 + data);
    }
}

#[test]
fn deferred_completions_appear_only_inside_enter() {
    let test = "deferred_completions_appear_only_inside_enter";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let memory = Memory::new(PAGE);
    let Some(mut ring) = Ring::deferred(test) else { return };
    let (near, far) = loopback::udp_pair(Family::V4).unwrap();
    ring.push(Request::send(&near, memory.span(0..100)).data(1));
    ring.submit();
    assert_eq!(far.recv(&mut [0; 200]).unwrap(), 100);
    assert_eq!(ring.visible(), Some(Done { data: 1, result: 100, flags: MORE }));
    // The datagram was read, so its memory is free. The ring's descriptor says that there is
    // something to do, its flag says what, and nothing is to be seen.
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&ring_fd(&ring), PollFlags::IN)], Some(&patience));
    assert_eq!(ready.unwrap(), 1, "the ring is not readable");
    assert!(ring.0.submission().taskrun(), "IORING_SQ_TASKRUN");
    assert_eq!(ring.visible(), None);
    ring.submit();
    assert_eq!(ring.visible(), None, "a submission is not enough");
    ring.notification_of(1);
    assert!(!ring.0.submission().taskrun());
    ring.silent();

    let alone = IoUring::builder().setup_defer_taskrun().build(8).map(|_: IoUring| ());
    let refused = alone.expect_err("without SINGLE_ISSUER").raw_os_error();
    assert_eq!(refused, Some(libc::EINVAL));
}

/// Whether something on `ring` that happens on another thread is told to who sleeps on the ring's
/// descriptor, and whether it is seen by who looks at it afterwards.
fn is_told_and_seen(ring: &mut Ring) -> (bool, bool) {
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    ring.push(Request::poll(&counter, false).data(1));
    ring.submit();
    // An epoll has what its files told it since they were added, and nothing else. That is what a
    // sleeper is woken by: it waits in the same queue of the ring.
    let sleeper = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let readable = EventFlags::IN | EventFlags::ET;
    epoll::add(&sleeper, ring_fd(ring), EventData::new_u64(1), readable).unwrap();
    assert!(!is_woken(&sleeper), "nothing has happened");
    let happens = || rustix::io::write(&counter, &1_u64.to_ne_bytes());
    assert_eq!(thread::scope(|scope| scope.spawn(happens).join()).unwrap(), Ok(8));
    // What the kernel has put off for this thread, it does on the way out of any call.
    thread::yield_now();
    let told = is_woken(&sleeper);
    let looked = poll(&mut [PollFd::new(&ring_fd(ring), PollFlags::IN)], Some(&NOW));
    let done = ring.next();
    assert_eq!((done.data, done.flags), (1, 0), "it was there to be taken");
    (told, looked == Ok(1))
}

/// Without waiting.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn is_woken(sleeper: &OwnedFd) -> bool {
    let mut events = Vec::with_capacity(1);
    epoll::wait(sleeper, rustix::buffer::spare_capacity(&mut events), Some(&NOW)).unwrap() == 1
}

/// Some kernels wake him, always or at times. As long as others do not, the engine has a bell.
#[test]
fn who_sleeps_on_a_deferred_rings_descriptor_is_not_woken() {
    let test = "who_sleeps_on_a_deferred_rings_descriptor_is_not_woken";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = Ring::deferred(test) else { return };
    let (told, seen) = is_told_and_seen(&mut ring);
    assert!(seen, "who looks, sees it");
    assert_eq!(is_told_and_seen(&mut Ring::new()), (true, true), "a plain ring wakes");
    println!("woken: {told}");
}

/// Three sockets that become readable, one after the other, and the counter of a deferred ring that
/// polls them. Before the third it is registered anew.
#[test]
fn a_signal_that_is_put_off_comes_when_the_counter_is_registered_anew() {
    let test = "a_signal_that_is_put_off_comes_when_the_counter_is_registered_anew";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let Some(mut ring) = Ring::deferred(test) else { return };
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let register = |ring: &Ring| ring.0.submitter().register_eventfd(counter.as_raw_fd()).unwrap();
    register(&ring);
    let is_told = || rustix::io::read(&counter, &mut [0; 8]).is_ok();
    let mut at_once = [false; 3];
    for (round, told) in at_once.iter_mut().enumerate() {
        if round == 2 {
            ring.0.submitter().unregister_eventfd().unwrap();
            register(&ring);
            // One that was put off may have come.
            is_told();
        }
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.push(Request::poll(&far, false).data(1));
        ring.submit();
        near.write_all(&[0]).unwrap();
        *told = is_told();
        if !*told && round != 1 {
            let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let came = poll(&mut [PollFd::new(&counter, PollFlags::IN)], Some(&patience));
            assert_eq!((came, is_told()), (Ok(1), true), "round {round}");
        }
        assert_eq!(ring.next().data, 1);
        is_told();
    }
    println!("told at once: {at_once:?}");
    assert_eq!(at_once[0], at_once[1], "it is put off or not");
}

#[test]
fn a_full_socket_that_must_not_block_parks_the_request() {
    let Some(()) = needs("a_full_socket_that_must_not_block_parks_the_request", Feature::SendZc)
    else {
        return;
    };
    let memory = Memory::new(PAGE);
    let mut ring = Ring::new();
    let (near, far) = shut_pair();
    let filled = FILLER + fill(&near);
    near.set_nonblocking(true).unwrap();
    let request = Request::send(&near, memory.span(0..100));
    let again = ring.run(request.flags(libc::MSG_DONTWAIT));
    assert_eq!(again, Outcome { result: -libc::EAGAIN, notification: Some(0) });
    ring.parks(request.data(1));
    let reader = reads(far, filled + 100);
    assert_eq!(ring.result_of(1), 100);
    ring.notification_of(1);
    reader.join().unwrap();
}

/// Two requests of two colours, parked on one stream while its peer reads.
///
/// When there is room, the one that was parked last is tried first (K38), and the other has not
/// sent all of its bytes. So ringwire keeps one request outstanding a stream.
#[test]
fn two_requests_on_one_stream_may_interleave() {
    let Some(()) = needs("two_requests_on_one_stream_may_interleave", Feature::SendZc) else {
        return;
    };
    const BYTES: usize = TOO_MUCH / 2;
    let colours = [1, 2].map(|colour| {
        let memory = Memory::new(BYTES);
        memory.fill(0..BYTES, colour);
        memory
    });
    let mut ring = Ring::new();
    let (near, far) = shut_pair();
    for memory in colours {
        ring.parks(Request::send(&near, memory.all()).flags(WAITALL).data(1));
    }
    let reader = reads(far, FILLER + 2 * BYTES);
    for _ in 0..4 {
        let done = ring.next();
        assert!([BYTES as i32, 0].contains(&done.result), "{done:?}");
    }
    let seen = reader.join().unwrap().split_off(FILLER);
    for colour in [1, 2] {
        assert_eq!(seen.iter().filter(|&&byte| byte == colour).count(), BYTES);
    }
    let changes: Vec<_> = (1..seen.len()).filter(|&at| seen[at - 1] != seen[at]).collect();
    if changes == [BYTES] && seen[0] == 1 {
        let test = "two_requests_on_one_stream_may_interleave";
        return skip(test, "the kernel tries those that wait in the order in which they came");
    }
    assert!(changes.len() > 1, "one behind the other, the second from byte {changes:?}");
}

#[test]
fn a_lasting_poll_completes_with_every_call_and_says_that_it_goes_on() {
    let Some(()) =
        needs("a_lasting_poll_completes_with_every_call_and_says_that_it_goes_on", Feature::SendZc)
    else {
        return;
    };
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let mut ring = Ring::new();
    ring.push(Request::poll(&counter, true).data(1));
    ring.submit();
    for _ in 0..3 {
        ring.silent();
        rustix::io::write(&counter, &1_u64.to_ne_bytes()).unwrap();
        let done = ring.next();
        assert_eq!((done.data, done.flags), (1, MORE));
        assert_eq!(done.result & i32::from(libc::POLLIN), i32::from(libc::POLLIN));
        rustix::io::read(&counter, &mut [0; 8]).unwrap();
    }
    ring.push(Request::cancel(1).data(9));
    ring.submit();
    let mut both = [ring.next(), ring.next()];
    both.sort_by_key(|done| done.data);
    let ended = Done { data: 1, result: -libc::ECANCELED, flags: 0 };
    assert_eq!(both, [ended, Done { data: 9, result: 0, flags: 0 }]);
}

/// What the queue's pace is made of.
#[test]
fn tcp_says_for_how_long_its_peer_has_kept_the_window_shut() {
    let (open, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    (&open).write_all(&[0; 1000]).unwrap();
    read_exactly(&mut far, 1000).unwrap();
    let (shut, _far) = shut_pair();
    let deadline = Instant::now() + PATIENCE;
    while tcp_info(&shut).tcpi_rwnd_limited == 0 {
        assert!(Instant::now() < deadline, "a shut window is not said to be one");
        thread::yield_now();
    }
    // With its SYN.
    while tcp_info(&open).tcpi_bytes_acked < 1001 {
        assert!(Instant::now() < deadline, "what was read is not acknowledged");
        thread::yield_now();
    }
    let info = tcp_info(&open);
    assert_eq!((info.tcpi_rwnd_limited, info.tcpi_notsent_bytes), (0, 0));
    assert!(info.tcpi_delivery_rate > 0);
    // Time in which nothing is to be sent is not counted, and any other is.
    let busy = [&open, &shut].map(|stream| tcp_info(stream).tcpi_busy_time);
    while tcp_info(&shut).tcpi_busy_time == busy[1] {
        assert!(Instant::now() < deadline, "a connection with bytes to send is not busy");
        thread::yield_now();
    }
    assert_eq!(tcp_info(&open).tcpi_busy_time, busy[0]);
    let info = tcp_info(&shut);
    assert!(info.tcpi_busy_time >= info.tcpi_rwnd_limited);
    assert!(info.tcpi_notsent_bytes > 0);
    assert!(info.tcpi_bytes_acked < FILLER as u64, "{}", info.tcpi_bytes_acked);
}
