//! What can be attached, and what is said of stale handles and of what a socket cannot do.

use super::*;
use crate::support::AT_ONCE;
use ringwire::SendOptions;

#[test]
fn only_tcp_and_udp_can_be_attached() {
    let Some(()) = runs_here("only_tcp_and_udp_can_be_attached") else { return };
    const NEEDS: &str = "is not available: ringwire sends on TCP and UDP sockets over IPv4 and \
                         IPv6; the kernel has zero-copy send for no other kind that ringwire \
                         serves";
    let mut ring = build(builder());
    let mut refusal = |fd: OwnedFd| text(ring.attach(fd));

    let (unix, _peer) = UnixStream::pair().unwrap();
    assert_eq!(refusal(unix.into()), format!("a unix socket {NEEDS}"));
    let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert_eq!(refusal(datagrams.into()), format!("a unix socket {NEEDS}"));

    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(refusal(writer.into()), format!("a descriptor that is no socket {NEEDS}"));
    drop(reader);
    let file = std::fs::File::open("/proc/self/status").unwrap();
    assert_eq!(refusal(file.into()), format!("a descriptor that is no socket {NEEDS}"));

    let netlink = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).unwrap();
    assert_eq!(refusal(netlink), format!("a socket of address family 16 {NEEDS}"));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(refusal(listener.into()), "misuse: a listening socket cannot send");

    assert_eq!(ring.stats().sockets, 0, "nothing of them is kept");
}

#[test]
fn udp_lite_cannot_be_attached() {
    let test = "udp_lite_cannot_be_attached";
    let Some(()) = runs_here(test) else { return };
    const UDP_LITE: i32 = 136;
    let protocol = Some(socket2::Protocol::from(UDP_LITE));
    match socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, protocol) {
        Ok(socket) => {
            let refusal = text(build(builder()).attach(socket));
            assert!(refusal.starts_with("a socket of IP protocol 136 is not available: "));
        }
        // Linux 7 has none any more.
        Err(why) if why.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
        Err(why) => skip(test, &why.to_string()),
    }
}

#[test]
fn raw_sockets_cannot_be_attached() {
    let test = "raw_sockets_cannot_be_attached";
    let Some(()) = runs_here(test) else { return };
    let icmp = Some(socket2::Protocol::ICMPV4);
    match socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, icmp) {
        Ok(socket) => {
            let refusal = text(build(builder()).attach(socket));
            assert!(refusal.starts_with("a raw socket is not available: ringwire sends"));
        }
        Err(why) => skip(test, &format!("needs root: a raw socket: {why}")),
    }
}

#[test]
fn a_ring_says_what_it_cannot_be() {
    let Some(()) = runs_here("a_ring_says_what_it_cannot_be") else { return };
    let odd = builder().completion_entries(3).build().map(|_| ());
    assert_eq!(text(odd), "misuse: completion_entries must be a power of two");
    let ring = build(builder());
    let name = ENGINE.name;
    assert_eq!(ring.engine().name(), name);
    assert_eq!(format!("{ring:?}"), format!("Ring {{ engine: {name:?}, .. }}"));
    // To be interrupted was asked for: that is nothing to explain.
    let deferred = ring.why();
    let said = deferred.as_deref().unwrap_or_default();
    let asked_for = format!("the engine {name} was asked for");
    assert_eq!(said.starts_with(&asked_for), name != "uring", "{said}");
    assert_eq!(ring.stats().engine_steps_down, 0);
    assert_eq!(build(builder().task_run(TaskRun::Interrupt)).why(), deferred);
}

#[test]
fn a_stale_socket_is_a_misuse_of_every_call() {
    let Some(()) = runs_here("a_stale_socket_is_a_misuse_of_every_call") else { return };
    const STALE: &str = "misuse: this socket's handle is stale, or of another ring";
    every_way(|driver, what| {
        let mut stale = Vec::new();
        let (closed, far_of_closed) = attach_tcp(driver);
        driver.ring.close(closed).unwrap();
        stale.push(closed);
        let (aborted, _far) = attach_tcp(driver);
        driver.ring.abort(aborted).unwrap();
        stale.push(aborted);
        let (detached, _far) = attach_tcp(driver);
        let _fd = driver.ring.detach(detached).unwrap();
        stale.push(detached);
        // One that still has something in flight.
        let (closing, far_of_closing, stuck) = attach_stuck(driver);
        driver.ring.close(closing).unwrap();
        stale.push(closing);
        // Of another ring, at a place that this one uses.
        let mut other = Driver::build(builder());
        stale.push(attach_tcp(&mut other).0);
        // New sockets take the places of those that are gone.
        let _ = driver.turn(AT_ONCE);
        let fresh: Vec<Socket> = (0..4).map(|_| attach_tcp(driver).0).collect();

        let notifier = driver.ring.notifier(1).unwrap();
        let to = "127.0.0.1:9".parse().unwrap();
        for sock in stale {
            let ring = &mut driver.ring;
            assert_eq!(send_text(ring.send(sock, noise(1, 10))), STALE, "{what}");
            assert_eq!(
                send_text(ring.send_with(sock, noise(1, 10), SendOptions::new().on(notifier))),
                STALE
            );
            assert_eq!(
                send_text(ring.send_with(
                    sock,
                    noise(1, 10),
                    SendOptions::new().on(notifier).quiet()
                )),
                STALE
            );
            assert_eq!(send_text(ring.send_to(sock, to, noise(1, 10))), STALE);
            assert_eq!(text(ring.finish(sock)), STALE);
            assert_eq!(text(ring.close(sock)), STALE);
            assert_eq!(text(ring.abort(sock)), STALE);
            assert_eq!(text(ring.detach(sock)), STALE);
            assert_eq!(text(ring.socket_stats(sock)), STALE);
        }
        for sock in fresh {
            assert_eq!(driver.ring.socket_stats(sock).unwrap().accepted_bytes, 0);
        }
        let heard = hear(far_of_closing);
        driver.until_released(&[stuck]);
        driver.until("closed", |driver| driver.ring.stats().sockets == 4);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
        assert_eq!(hear(far_of_closed).join().unwrap().error, None);
    });
}

#[test]
fn a_stale_notifier_is_a_misuse_of_every_call() {
    let Some(()) = runs_here("a_stale_notifier_is_a_misuse_of_every_call") else { return };
    const STALE: &str = "misuse: this notifier's handle is stale, or of another ring";
    every_way(|driver, what| {
        let (sock, _far) = attach_tcp(driver);
        let removed = driver.ring.notifier(1).unwrap();
        driver.ring.remove(removed).unwrap();
        let strange = Driver::build(builder()).ring.notifier(2).unwrap();
        let _in_its_place = driver.ring.notifier(3).unwrap();
        for notifier in [removed, strange] {
            let ring = &mut driver.ring;
            assert_eq!(text(ring.flush(notifier)), STALE, "{what}");
            assert_eq!(text(ring.remove(notifier)), STALE);
            let refused =
                ring.send_with(sock, noise(1, 10), SendOptions::new().on(notifier)).unwrap_err();
            assert_eq!(refused.why.to_string(), STALE);
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(1, 10));
            assert_eq!(
                send_text(ring.send_with(
                    sock,
                    noise(1, 10),
                    SendOptions::new().on(notifier).quiet()
                )),
                STALE
            );
        }
        assert_eq!(driver.ring.stats().payloads, 0);
    });
}

#[test]
fn a_payload_that_has_begun_to_leave_cannot_be_cancelled() {
    let Some(()) = runs_here("a_payload_that_has_begun_to_leave_cannot_be_cancelled") else {
        return;
    };
    const BEGUN: &str = "misuse: the payload has begun to leave, or is released";
    every_way(|driver, what| {
        let (sock, far, stuck) = attach_stuck(driver);
        assert_eq!(text(driver.ring.cancel(stuck)), BEGUN, "{what}");
        let (other_sock, mut other_far) = attach_tcp(driver);
        let id = driver.send(other_sock, noise(1, 100));
        driver.until_released(&[id]);
        assert_eq!(text(driver.ring.cancel(id)), BEGUN, "{what}");
        // Another payload in its place is not meant.
        let next = driver.send(other_sock, noise(2, 100));
        assert_eq!(text(driver.ring.cancel(id)), BEGUN, "{what}");
        let mut other = Driver::build(builder());
        assert_eq!(text(other.ring.cancel(next)), BEGUN, "{what}");
        driver.until_released(&[next]);
        assert_eq!(read_exactly(&mut other_far, 200).unwrap()[100..], noise(2, 100));
        let heard = hear(far);
        driver.until_released(&[stuck]);
        driver.ring.close(sock).unwrap();
        driver.until("closed", |driver| driver.ring.stats().sockets == 1);
        assert_same(&heard.join().unwrap().bytes, &noise(0, TOO_MUCH));
    });
}

#[test]
fn what_a_kind_of_socket_cannot_do_is_said() {
    let Some(()) = runs_here("what_a_kind_of_socket_cannot_do_is_said") else { return };
    every_way(|driver, what| {
        let (stream, _far) = attach_tcp(driver);
        let v4 = driver.ring.attach(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let v6 = driver.ring.attach(UdpSocket::bind("[::1]:0").unwrap()).unwrap();
        let (to_v4, to_v6) = ("127.0.0.1:9".parse().unwrap(), "[::1]:9".parse().unwrap());
        let ring = &mut driver.ring;
        for (sock, to, why) in [
            (stream, to_v4, "misuse: an address was given, but a stream has one peer"),
            (v4, to_v6, "misuse: an IPv6 address on an IPv4 socket"),
            (
                v6,
                to_v4,
                "misuse: an IPv4 address on an IPv6 socket: give it as an IPv4-mapped IPv6 address",
            ),
        ] {
            let refused = ring.send_to(sock, to, noise(1, 10)).unwrap_err();
            assert_eq!(refused.why.to_string(), why, "{what}");
            assert_eq!(refused.to_string(), why);
            assert_eq!(refused.payload.into_piece().unwrap().into_vec().unwrap(), noise(1, 10));
        }
        assert_eq!(text(ring.finish(v4)), "misuse: a UDP socket has no end to send");
        ring.finish(stream).unwrap();
        assert_eq!(
            send_text(ring.send(stream, noise(1, 10))),
            "misuse: the socket was finished: nothing more can be sent"
        );
        driver.until("the end", |driver| driver.told.contains(&Told::Finished(stream)));
    });
}
