//! Datagrams without an address, too long, over the MTU, and to nobody.

use super::*;

#[test]
fn udp_without_an_address() {
    let Some(()) = runs_here("udp_without_an_address") else { return };
    every_way(|driver, what| {
        let (peer, address) = receiver(Family::V4);
        let us = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let addressed = driver.send_to(sock, address, noise(1, 500));
        let lost = driver.send(sock, noise(2, 500));
        let addressed_too = driver.send_to(sock, address, noise(3, 500));
        driver.until_released(&[addressed, lost, addressed_too]);
        assert_eq!(driver.fate(lost).failed, Some((0, Errno::DESTADDRREQ)), "{what}");
        assert_eq!(driver.fate(addressed).sent, Some(500), "{what}");
        assert_eq!(driver.fate(addressed_too).sent, Some(500), "{what}");
        assert_eq!((heard(&peer), heard(&peer)), (noise(1, 500), noise(3, 500)), "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
        assert!(!driver.ring.socket_stats(sock).unwrap().broken, "{what}");
    });
}

#[test]
fn udp_that_is_too_long() {
    let Some(()) = runs_here("udp_that_is_too_long") else { return };
    every_way(|driver, what| {
        // The longest datagram is 65,535 bytes with the headers that the length field counts.
        for (family, longest) in [(Family::V4, 65_507), (Family::V6, 65_527)] {
            for connected in [true, false] {
                let (peer, address) = receiver(family);
                SockRef::from(&peer).set_recv_buffer_size(MIB).unwrap();
                let us = UdpSocket::bind((address.ip(), 0)).unwrap();
                if connected {
                    us.connect(address).unwrap();
                }
                SockRef::from(&us).set_send_buffer_size(MIB).unwrap();
                let sock = driver.ring.attach(us).unwrap();
                for (bytes, fails) in [
                    (longest, false),
                    (longest + 1, true),
                    (65_535, true),
                    (65_536, true),
                    (200_000, true),
                    (1, false),
                ] {
                    let payload = noise(bytes as u64, bytes);
                    let id = match connected {
                        true => driver.send(sock, payload),
                        false => driver.send_to(sock, address, payload),
                    };
                    driver.until_released(&[id]);
                    let fate = driver.take(id);
                    if fails {
                        assert_eq!(fate.failed, Some((0, Errno::MSGSIZE)), "{what}, {bytes}");
                    } else {
                        assert_eq!(fate.sent, Some(bytes as u64), "{what}, {bytes}");
                        assert_same(&heard(&peer), &noise(bytes as u64, bytes));
                    }
                    assert_same(&fate.into_vec(), &noise(bytes as u64, bytes));
                }
            }
        }
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
    });
}

#[test]
fn udp_over_the_mtu_is_copied_or_refused_if_it_may_not_be_split() {
    let test = "udp_over_the_mtu_is_copied_or_refused_if_it_may_not_be_split";
    let Some(()) = runs_here(test) else { return };
    let wire = match Veth::new() {
        Ok(wire) => wire,
        Err(why) => return skip(test, why.reason()),
    };
    zero_copy(|driver| {
        let far = wire.udp(Side::Far, Family::V4).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = far.local_addr().unwrap();
        let near = wire.udp(Side::Near, Family::V4).unwrap();
        near.connect(to).unwrap();
        let sock = driver.ring.attach(near.try_clone().unwrap()).unwrap();
        // 1,500 bytes less 20 of IP and 8 of UDP.
        for bytes in [1_472, 1_473, 9_000] {
            let fate = driver.finish_one(sock, noise(bytes, bytes as usize));
            assert_eq!(fate.sent, Some(bytes));
            assert_same(&heard(&far), &noise(bytes, bytes as usize));
        }
        let stats = driver.ring.stats();
        let copied = ENGINE.copied_for(&stats.copied_bytes, |copied| copied.over_mtu);
        let fits = 1_472 - ENGINE.zero_copied(1_472);
        assert_eq!(copied, fits + 1_473 + 9_000);
        let requests = ENGINE.zero_copied(1);
        assert_eq!((stats.requests, stats.direct_copies), (requests, 3 - requests));

        // Connected, and addressed, where the MTU is not known before the kernel says so.
        let addressed = wire.udp(Side::Near, Family::V4).unwrap();
        for socket in [&near, &addressed] {
            sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO).unwrap();
        }
        let open = driver.ring.attach(addressed).unwrap();
        for (bytes, expected) in [(1_472, None), (1_473, Some((0, Errno::MSGSIZE)))] {
            let ids = [
                driver.send(sock, noise(bytes, bytes as usize)),
                driver.send_to(open, to, noise(bytes, bytes as usize)),
            ];
            driver.until_released(&ids);
            for id in ids {
                assert_eq!(driver.take(id).failed, expected, "{bytes}");
                if expected.is_none() {
                    assert_same(&heard(&far), &noise(bytes, bytes as usize));
                }
            }
        }
    });
}

#[test]
fn udp_to_a_closed_port() {
    let Some(()) = runs_here("udp_to_a_closed_port") else { return };
    every_way(|driver, what| {
        let (peer, address) = receiver(Family::V4);
        drop(peer);
        let us = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        us.connect(address).unwrap();
        let sock = driver.ring.attach(us.try_clone().unwrap()).unwrap();
        let fate = driver.finish_one(sock, noise(1, 100));
        assert_eq!(fate.sent, Some(100), "{what}: it has left before anybody can know");
        await_trouble(&us);
        // The port is open by the time the news are told, and the next datagram arrives.
        let peer = UdpSocket::bind(address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let ids = [driver.send(sock, noise(2, 200)), driver.send(sock, noise(3, 300))];
        driver.until_released(&ids);
        assert_eq!(driver.fate(ids[0]).failed, Some((0, Errno::CONNREFUSED)), "{what}");
        assert_eq!(driver.fate(ids[1]).sent, Some(300), "{what}");
        assert_eq!(heard(&peer), noise(3, 300), "{what}");
        assert_eq!(driver.count(|told| matches!(told, Told::Broken(..))), 0, "{what}");
    });
}
