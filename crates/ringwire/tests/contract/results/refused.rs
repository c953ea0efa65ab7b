//! Zero copy refused by the socket or by locked memory, and completions that do not fit.

use super::*;

/// MPTCP sockets, and what an MPTCP listener accepts from a plain TCP client: the kernel refuses
/// zero copy by io_uring on both, for good; by `MSG_ZEROCOPY` on the first.
#[test]
fn a_socket_that_refuses_zero_copy_is_copied() {
    let test = "a_socket_that_refuses_zero_copy_is_copied";
    let Some(()) = runs_here(test) else { return };
    if let Err(why) = RawSocket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
        return skip(test, &format!("the kernel has no MPTCP: {why}"));
    }
    for plain_client in [false, true] {
        let refuses = !plain_client || ENGINE.heirs_of_mptcp_refuse;
        zero_copy(|driver| {
            let socket = |protocol| RawSocket::new(Domain::IPV4, Type::STREAM, Some(protocol));
            let listener = socket(Protocol::MPTCP).unwrap();
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            listener.listen(1).unwrap();
            let protocol = if plain_client { Protocol::TCP } else { Protocol::MPTCP };
            let client = socket(protocol).unwrap();
            client.connect(&listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let heard = hear(client.into());
            let sock = driver.ring.attach(accepted).unwrap();
            let ids = [driver.send(sock, noise(1, MIB)), driver.send(sock, noise(2, 1000))];
            driver.until_released(&ids);
            for (id, bytes) in ids.into_iter().zip([MIB as u64, 1000]) {
                let fate = driver.take(id);
                assert_eq!((fate.sent, fate.failed), (Some(bytes), None));
                let copied = fate.released.expect("released").1;
                assert!(copied == Copied::Yes || !refuses && ENGINE.says_copied(copied));
            }
            let (stats, socket) = (driver.ring.stats(), driver.ring.socket_stats(sock).unwrap());
            let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.socket_refuses);
            if refuses || !ENGINE.zero_copy {
                assert_eq!(copied, MIB as u64 + 1000);
                assert_eq!(socket.copied_bytes, MIB as u64 + 1000);
                let asked = ENGINE.zero_copied(1);
                assert_eq!(stats.retries, asked, "asked once, and never again");
                let reasons = [Some(Reason::SocketRefuses), Some(Reason::EngineCopies)];
                assert!(reasons.contains(&socket.reason), "{socket:?}");
                assert_eq!(socket.route, Some(Route::Copy));
                assert!(driver.ring.socket_why(sock).unwrap().is_some());
            } else {
                assert_eq!((copied, socket.copied_bytes), (0, 0));
            }
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            let mut expected = noise(1, MIB);
            expected.extend(noise(2, 1000));
            assert_same(&heard.join().unwrap().bytes, &expected);
        });
    }
}

/// Linux gives memory back that such a probe still reads (K52).
#[test]
fn a_connection_that_may_probe_for_a_larger_mtu_is_copied() {
    let test = "a_connection_that_may_probe_for_a_larger_mtu_is_copied";
    let Some(()) = runs_here(test) else { return };
    if !is_child(test) {
        // The setting is one of the namespace's.
        let wire = match Veth::new() {
            Ok(wire) => wire,
            Err(why) => return skip(test, why.reason()),
        };
        let inside = wire.command(Side::Near, "env");
        let words = std::iter::once(inside.get_program()).chain(inside.get_args());
        let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
        run_child(module_path!(), test, &words);
        return;
    }
    const BYTES: usize = 64 * KIB;
    zero_copy(|driver| {
        // Asked for each, whatever it was when the ring was built.
        for probing in ["0", "1", "0", "2"] {
            std::fs::write("/proc/sys/net/ipv4/tcp_mtu_probing", probing).unwrap();
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            let heard = hear(far);
            let sock = driver.ring.attach(near).unwrap();
            let fate = driver.finish_one(sock, noise(1, BYTES));
            assert_eq!((fate.sent, fate.failed), (Some(BYTES as u64), None));
            let (route, reason) = match (ENGINE.zero_copy, probing) {
                (false, _) => (Route::Copy, Reason::EngineCopies),
                (true, "0") => (Route::ZeroCopy, Reason::Best),
                (true, _) => (Route::Copy, Reason::MtuProbing),
            };
            let socket = driver.ring.socket_stats(sock).unwrap();
            assert_eq!((socket.route, socket.reason), (Some(route), Some(reason)), "{probing}");
            let why = driver.ring.why().unwrap_or_default();
            assert_eq!(why.contains("TCP is copied: "), reason == Reason::MtuProbing, "{why}");
            driver.ring.close(sock).unwrap();
            driver.until("closed", |driver| driver.ring.stats().sockets == 0);
            assert_same(&heard.join().unwrap().bytes, &noise(1, BYTES));
        }
        let stats = driver.ring.stats();
        let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.mtu_probing);
        let times = if ENGINE.zero_copy { 2 } else { 4 };
        assert_eq!((copied, stats.retries), (times * BYTES as u64, 0));
    });
}

/// The soft limit, for this whole process.
fn set_memlock(bytes: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    let current = Some(maximum.map_or(bytes, |most| bytes.min(most)));
    setrlimit(Resource::Memlock, Rlimit { current, maximum }).unwrap();
}

#[test]
fn more_than_memlock_allows_is_copied() {
    let test = "more_than_memlock_allows_is_copied";
    let Some(()) = runs_here(test) else { return };
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    give_up_ipc_lock();
    let before = getrlimit(Resource::Memlock).current.unwrap_or(8 << 20);
    let mut driver = Driver::build(builder().thresholds(ZERO_COPY));
    // The ring itself is counted: there is nothing left for sends.
    set_memlock(4096);
    let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
    let heard_all = hear(far);
    let sock = driver.ring.attach(near).unwrap();
    let ids: Vec<PayloadId> =
        (0..4).map(|at| driver.send(sock, noise(at, MIB + at as usize))).collect();
    driver.until_released(&ids);
    for id in ids {
        let fate = driver.take(id);
        assert_eq!(fate.failed, None);
        assert_eq!(fate.released.expect("released").1, Copied::Yes);
    }
    let stats = driver.ring.stats();
    assert!(stats.retries >= ENGINE.zero_copied(1), "{stats:#?}");
    let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.memlock_short);
    assert_eq!(copied, 4 * MIB as u64 + 6);

    let (udp, peer) = loopback::udp_pair(Family::V4).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let datagrams = driver.ring.attach(udp).unwrap();
    let ids: Vec<PayloadId> =
        (0..8).map(|at| driver.send(datagrams, noise(at, 8000 + at as usize))).collect();
    driver.until_released(&ids);
    let arrived: Vec<Vec<u8>> = (0..8).map(|_| heard(&peer)).collect();
    for (at, datagram) in arrived.iter().enumerate() {
        assert_same(datagram, &noise(at as u64, 8000 + at));
    }
    for id in ids {
        assert_eq!(driver.take(id).failed, None);
    }

    // When there is room again, the socket notices by itself. For so much there is, also where the
    // limit is 64 KiB, as it is by default before 5.16.
    const AGAIN: usize = 32 * KIB;
    set_memlock(before);
    let mut sent = 4 * MIB + 6;
    let deadline = Instant::now() + PATIENCE;
    let uncopied = |driver: &Driver| {
        let stats = driver.ring.stats();
        stats.kernel_copied_bytes + stats.kernel_zero_copy_bytes + stats.kernel_unknown_bytes
    };
    let before = uncopied(&driver);
    while ENGINE.zero_copy && uncopied(&driver) == before {
        assert!(Instant::now() < deadline, "never again zero copy: {:?}", driver.ring.stats());
        driver.finish_one(sock, noise(9, AGAIN));
        sent += AGAIN;
    }
    driver.ring.close(sock).unwrap();
    driver.until("closed", |driver| driver.ring.stats().sockets == 1);
    let heard = heard_all.join().unwrap();
    let mut expected: Vec<u8> = (0..4).flat_map(|at| noise(at, MIB + at as usize)).collect();
    while expected.len() < sent {
        expected.extend(noise(9, AGAIN));
    }
    assert_same(&heard.bytes, &expected);
    driver.assert_at_rest();
}

#[test]
fn no_memlock_at_all() {
    let test = "no_memlock_at_all";
    let Some(()) = runs_here(test) else { return };
    if !is_child(test) {
        run_child(module_path!(), test, &[]);
        return;
    }
    give_up_ipc_lock();
    set_memlock(0);
    if io_uring::IoUring::new(4).is_ok() {
        return skip(test, "the kernel does not count rings against RLIMIT_MEMLOCK");
    }
    match builder().build() {
        Ok(ring) if !ENGINE.completion_ring => assert_eq!(ring.engine().name(), ENGINE.name),
        Ok(ring) => panic!("there is room for a ring: {ring:?}"),
        Err(Error::Unsupported { feature, needs }) if ENGINE.completion_ring => {
            assert_eq!(feature, "io_uring");
            assert_eq!(
                needs,
                "RLIMIT_MEMLOCK has no room for the rings\n\nhint: raise it with \"ulimit -l\""
            );
        }
        Err(other) => panic!("{other}"),
    }
    let arena = Arena::builder().capacity_bytes(MIB).build().unwrap();
    assert_eq!(arena.registered_bytes(), 0);
    assert_eq!(
        arena.why().unwrap(),
        "1 MiB of 1 MiB are not registered: io_uring_setup was refused (ENOMEM): RLIMIT_MEMLOCK \
         is 0 bytes, and it counts for all processes of the user together\n\nhint: raise it with \
         \"ulimit -l 17408\", or make the arena smaller"
    );
    let mut block = arena.alloc(MIB).unwrap();
    assert_eq!(block.put(&[7; MIB]), MIB, "it works all the same");
    let required = Arena::builder().capacity_bytes(MIB).registration(Registration::Require).build();
    let error = required.map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a registered arena of 1 MiB is not available: io_uring_setup was refused (ENOMEM): \
         RLIMIT_MEMLOCK is 0 bytes, and it counts for all processes of the user together\n\n\
         hint: raise it with \"ulimit -l 17408\", or make the arena smaller"
    );
}

#[test]
fn completions_that_do_not_fit_are_not_lost() {
    let Some(()) = runs_here("completions_that_do_not_fit_are_not_lost") else { return };
    for (task_run, entries) in BOTH_TASK_RUNS.into_iter().flat_map(|run| [(run, 1), (run, 4)]) {
        let builder = builder().task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder.completion_entries(entries));
        let (us, peer) = loopback::udp_pair(Family::V4).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let ids: Vec<PayloadId> =
            (0..64).map(|at| driver.send(sock, noise(at, 100 + at as usize))).collect();
        driver.until_released(&ids);
        let stats = driver.ring.stats();
        let requests = ENGINE.zero_copied(64);
        assert_eq!((stats.requests, stats.notifications), (requests, requests));
        assert_eq!(stats.completion_overflows > 0, ENGINE.completion_ring);
        for (at, id) in ids.into_iter().enumerate() {
            let fate = driver.take(id);
            assert_eq!(fate.sent, Some(100 + at as u64));
            assert_same(&fate.into_vec(), &noise(at as u64, 100 + at));
            assert_same(&heard(&peer), &noise(at as u64, 100 + at));
        }
        driver.assert_at_rest();

        // Streams too, a request each.
        let mut pairs = Vec::new();
        for _ in 0..16 {
            let (near, far) = loopback::tcp_pair(Family::V4).unwrap();
            pairs.push((driver.ring.attach(near).unwrap(), far));
        }
        let ids: Vec<PayloadId> =
            pairs.iter().map(|(sock, _)| driver.send(*sock, noise(5, 10_000))).collect();
        driver.until_released(&ids);
        for (_, far) in &mut pairs {
            assert_same(&read_exactly(far, 10_000).unwrap(), &noise(5, 10_000));
        }
        driver.assert_at_rest();
    }
}
