//! Must notice that the path of a UDP socket has become another one, both ways: what no longer fits
//! is not cut into fragments, and what fits leaves together again at once.
//!
//! MTUs and routes are really changed, in the test's own namespaces. Whatever a ring has to notice
//! by itself, tests wait for with more datagrams; nothing is timed.

use crate::contract::runs_here;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use bytes::Bytes;

use super::{WAYS, builder};
use crate::support::{Driver, PATIENCE, noise, wait_until};
use ringwire::{Errno, PayloadId, SendOptions, Socket, Stats};
use ringwire_wire::{Family, Side, Veth, set_option, skip};
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

// `linux/in.h`.
const IPPROTO_IP: i32 = 0;
const IP_OPTIONS: i32 = 4;

/// A cable, or a skip.
fn veth(test: &str) -> Option<Veth> {
    Veth::new().map_err(|why| skip(test, why.reason())).ok()
}

/// What one IP packet of this MTU holds of a datagram.
fn most(family: Family, mtu: usize) -> usize {
    mtu - if family == Family::V4 { 28 } else { 48 }
}

/// Runs a command in the near namespace; `false`, and a skip, where it cannot be.
fn run(test: &str, wire: &Veth, side: Side, command: &str) -> bool {
    let mut words = command.split_whitespace();
    let output = wire.command(side, words.next().expect("a program")).args(words).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        skip(test, &format!("{command}: {output:?}"));
    }
    done
}

/// A socket of a ring, and who reads what it sends.
struct Link {
    driver: Driver,
    sock: Socket,
    /// The same socket, to ask the kernel.
    near: UdpSocket,
    far: UdpSocket,
    to: Option<SocketAddr>,
}

impl Link {
    fn new(driver: Driver, (near, far): (UdpSocket, UdpSocket)) -> Link {
        far.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO");
        let _ = socket2::SockRef::from(&far).set_recv_buffer_size(1 << 20);
        let mut driver = driver;
        let sock = driver.ring.attach(near.try_clone().expect("a descriptor")).expect("taken");
        Link { driver, sock, near, far, to: None }
    }

    fn options(&self) -> SendOptions {
        match self.to {
            Some(to) => SendOptions::new().to(to),
            None => SendOptions::new(),
        }
    }

    fn train(&mut self, datagrams: usize, bytes: usize) -> PayloadId {
        let options = self.options().train(bytes as u16);
        self.driver.send_with(self.sock, noise(bytes as u64, datagrams * bytes), options)
    }

    fn singles(&mut self, datagrams: usize, bytes: usize) -> Vec<PayloadId> {
        // One behind the other, so that they share their pages.
        let all = Bytes::from(noise(bytes as u64, datagrams * bytes));
        let one = |at: usize| all.slice(at * bytes..(at + 1) * bytes);
        let options = self.options();
        (0..datagrams).map(|at| self.driver.send_with(self.sock, one(at), options)).collect()
    }

    /// Datagrams of this size arrive, and nothing else does.
    #[track_caller]
    fn expect(&self, datagrams: usize, bytes: usize) {
        let mut buffer = vec![0; 1 << 16];
        for at in 0..datagrams {
            let received = receive(&self.far, &mut buffer)
                .unwrap_or_else(|why| panic!("datagram {at}: {why}"));
            assert_eq!(received, bytes, "datagram {at}");
        }
        self.far.set_nonblocking(true).expect("O_NONBLOCK");
        assert!(self.far.recv(&mut buffer).is_err(), "more than {datagrams} of {bytes} bytes");
        self.far.set_nonblocking(false).expect("O_NONBLOCK");
    }

    /// All are sent, and arrive in this size.
    #[track_caller]
    fn arrive(&mut self, ids: &[PayloadId], datagrams: usize, bytes: usize) {
        let sent = |driver: &Driver| {
            ids.iter()
                .all(|&id| driver.fate(id).sent.or(driver.fate(id).failed.map(|f| f.0)).is_some())
        };
        self.driver.until("sent", sent);
        self.expect(datagrams, bytes);
        self.driver.until_released(ids);
        for &id in ids {
            let fate = self.driver.take(id);
            assert!(fate.sent.is_some(), "{fate:?}");
        }
    }

    /// What it was refused with.
    #[track_caller]
    fn fails(&mut self, id: PayloadId) -> Errno {
        self.driver.until_released(&[id]);
        let (accepted, errno) = self.driver.take(id).failed.expect("failed");
        assert_eq!(accepted, 0);
        errno
    }

    /// Sends datagrams of 100 bytes until the ring has seen so many changes of the path.
    #[track_caller]
    fn until_seen(&mut self, changes: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.stats().path_changes < changes {
            assert!(Instant::now() < deadline, "not seen: {:#?}", self.stats());
            let ids = self.singles(1, 100);
            self.arrive(&ids, 1, 100);
        }
    }

    /// What the kernel says.
    fn mtu(&self, family: Family) -> u32 {
        match family {
            Family::V4 => ip_mtu(&self.near).expect("connected"),
            Family::V6 => ipv6_mtu(&self.near).expect("connected"),
        }
    }

    fn stats(&self) -> Stats {
        self.driver.ring.stats()
    }

    /// Sends 60 datagrams as a train, which are two trains if their path takes any.
    #[track_caller]
    fn sends_in_two(&mut self, bytes: usize) {
        let before = self.stats();
        let id = self.train(60, bytes);
        self.arrive(&[id], 60, bytes);
        let after = self.stats();
        assert_eq!(after.trains - before.trains, 2, "{after:#?}");
        assert_eq!(after.train_datagrams - before.train_datagrams, 60);
        let sends = |stats: &Stats| stats.requests + stats.direct_copies;
        assert_eq!(sends(&after) - sends(&before), 2, "{after:#?}");
    }
}

/// On both families, without a copy and with one, of a path that begins with this MTU.
fn every_link(wire: &Veth, mtu: u32, test: impl Fn(Link, Family)) {
    for family in Family::BOTH {
        for (thresholds, _) in WAYS {
            wire.set_mtu(mtu).unwrap();
            let driver = Driver::build(builder().thresholds(thresholds));
            test(Link::new(driver, wire.udp_pair(family).expect("a pair")), family);
        }
    }
}

#[test]
fn a_train_that_no_longer_fits_fails_and_those_that_fit_go_on() {
    let test = "a_train_that_no_longer_fits_fails_and_those_that_fit_go_on";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    every_link(&wire, 9_000, |mut link, family| {
        let (large, small) = (most(family, 9_000), most(family, 1_500));
        let id = link.train(7, large);
        link.arrive(&[id], 7, large);
        wire.set_mtu(1_500).unwrap();
        let id = link.train(7, large);
        let errno = link.fails(id);
        assert!([Errno::MSGSIZE, Errno::INVAL].contains(&errno), "{errno}");
        link.expect(0, 0);
        link.sends_in_two(small);
        let stats = link.stats();
        assert_eq!((stats.path_changes, stats.trains_refused), (1, 0));
        // What nobody asked to be a train goes as it would have by itself: in fragments.
        let ids = link.singles(3, large);
        link.arrive(&ids, 3, large);
        link.sends_in_two(small);
        link.driver.assert_at_rest();
    });
}

#[test]
fn payloads_that_no_longer_fit_are_not_joined_any_more_and_none_is_lost() {
    let test = "payloads_that_no_longer_fit_are_not_joined_any_more_and_none_is_lost";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    every_link(&wire, 9_000, |mut link, family| {
        let (large, small) = (most(family, 9_000), most(family, 1_500));
        let ids = link.singles(5, large);
        link.arrive(&ids, 5, large);
        assert_eq!(link.stats().trains, 1);
        wire.set_mtu(1_500).unwrap();
        let ids = link.singles(5, large);
        link.arrive(&ids, 5, large);
        assert_eq!(link.stats().trains, 1);
        let ids = link.singles(44, small);
        link.arrive(&ids, 44, small);
        assert_eq!((link.stats().trains, link.stats().train_datagrams), (2, 49));
        link.driver.assert_at_rest();
    });
}

#[test]
fn what_fits_a_larger_mtu_leaves_together_again() {
    let test = "what_fits_a_larger_mtu_leaves_together_again";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    every_link(&wire, 1_500, |mut link, family| {
        let large = most(family, 9_000);
        let id = link.train(7, large);
        assert!([Errno::MSGSIZE, Errno::INVAL].contains(&link.fails(id)));
        let ids = link.singles(5, large);
        link.arrive(&ids, 5, large);
        assert_eq!(link.stats().trains, 0);
        wire.set_mtu(9_000).unwrap();
        link.until_seen(1);
        let over_mtu = |stats: Stats| stats.copied_bytes.over_mtu;
        let before = over_mtu(link.stats());
        let ids = link.singles(5, large);
        link.arrive(&ids, 5, large);
        let id = link.train(7, large);
        link.arrive(&[id], 7, large);
        let stats = link.stats();
        assert_eq!((stats.trains, stats.train_datagrams), (2, 12), "{stats:#?}");
        assert_eq!(over_mtu(stats) - before, 0);
        link.driver.assert_at_rest();
    });
}

/// The route's device and source address are others, and its MTU.
#[test]
fn a_route_by_another_device_is_noticed_both_ways() {
    let test = "a_route_by_another_device_is_noticed_both_ways";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    // It drops what it is given, as the perfect wire's device does.
    let device = "ip link add other type ifb";
    let up = ["ip link set other mtu 1500 up", "ip address add 10.78.0.1/24 dev other"];
    if ![device, up[0], up[1]].iter().all(|command| run(test, &wire, Side::Near, command)) {
        return;
    }
    every_link(&wire, 9_000, |mut link, family| {
        let IpAddr::V4(far) = wire.address(Side::Far, family) else { return };
        let (large, small) = (8_972, 1_472);
        let id = link.train(7, large);
        link.arrive(&[id], 7, large);
        let route = format!("{far}/32 dev other src 10.78.0.1");
        assert!(run(test, &wire, Side::Near, &format!("ip route add {route}")));
        let refused = link.train(7, large);
        let errno = link.fails(refused);
        assert!([Errno::MSGSIZE, Errno::INVAL].contains(&errno), "{errno}");
        let before = link.stats();
        let id = link.train(60, small);
        link.driver.until_released(&[id]);
        assert!(link.driver.take(id).sent.is_some());
        assert_eq!(link.stats().trains - before.trains, 2);
        link.expect(0, 0);
        assert!(run(test, &wire, Side::Near, &format!("ip route del {route}")));
        link.until_seen(2);
        let id = link.train(7, large);
        link.arrive(&[id], 7, large);
        assert_eq!((link.stats().trains_refused, link.stats().copied_bytes.over_mtu), (0, 0));
        link.driver.assert_at_rest();
    });
}

/// The kernel tells the next send of it, whatever its size; and that is nobody's fault.
#[test]
fn a_router_that_takes_less_fails_nothing_that_it_takes() {
    let test = "a_router_that_takes_less_fails_nothing_that_it_takes";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    wire.set_sysctl(Side::Far, "net/ipv4/conf/all/forwarding", "1").unwrap();
    wire.set_sysctl(Side::Far, "net/ipv6/conf/all/forwarding", "1").unwrap();
    let beyond = [
        "ip link add beyond type ifb",
        "ip link set beyond mtu 1400 up",
        "ip address add 10.79.0.1/24 dev beyond",
        "ip address add fd00:79::1/64 dev beyond nodad",
    ];
    let routes =
        ["ip route add 10.79.0.0/24 via 10.77.0.2", "ip route add fd00:79::/64 via fd00:77::2"];
    if !beyond.iter().all(|command| run(test, &wire, Side::Far, command))
        || !routes.iter().all(|command| run(test, &wire, Side::Near, command))
    {
        return;
    }
    for family in Family::BOTH {
        for (at, (thresholds, way)) in WAYS.into_iter().enumerate() {
            for alone in [false, true] {
                let what = format!("{family:?}, {way}, alone: {alone}");
                // What is learned of a destination holds for all sockets.
                let host = 10 + 2 * at as u8 + u8::from(alone);
                let to: IpAddr = match family {
                    Family::V4 => [10, 79, 0, host].into(),
                    Family::V6 => [0xfd00, 0x79, 0, 0, 0, 0, 0, host.into()].into(),
                };
                let near = wire.udp(Side::Near, family).unwrap();
                near.connect((to, 9)).unwrap();
                let far = wire.udp(Side::Far, family).unwrap();
                let mut link =
                    Link::new(Driver::build(builder().thresholds(thresholds)), (near, far));
                assert_eq!(link.mtu(family), 1_500, "{what}");
                // It leaves, and a router far away will not have it. (A train's datagrams it would
                // cut, on IPv4.)
                let lost = link.singles(1, most(family, 1_500))[0];
                link.driver.until_released(&[lost]);
                assert!(link.driver.take(lost).sent.is_some(), "{what}");
                wait_until("the router says so", || link.mtu(family) == 1_400);
                let before = link.stats();
                let (datagrams, bytes) = if alone { (1, 100) } else { (60, most(family, 1_400)) };
                let id = link.train(datagrams, bytes);
                link.driver.until_released(&[id]);
                let fate = link.driver.take(id);
                assert_eq!(fate.sent, Some((datagrams * bytes) as u64), "{what}: {fate:?}");
                let id = link.train(60, most(family, 1_400));
                link.driver.until_released(&[id]);
                assert!(link.driver.take(id).sent.is_some(), "{what}");
                let after = link.stats();
                let trains = if alone { 2 } else { 4 };
                assert_eq!(after.trains - before.trains, trains, "{what}: {after:#?}");
                assert_eq!((after.path_changes, after.failed_payloads), (1, 0), "{what}");
                link.driver.assert_at_rest();
            }
        }
    }
}

/// That is the payload's own failure, and says nothing of trains.
#[test]
fn a_device_that_is_down_for_a_while_fails_what_is_sent_meanwhile() {
    let test = "a_device_that_is_down_for_a_while_fails_what_is_sent_meanwhile";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    for (thresholds, way) in WAYS {
        let driver = Driver::build(builder().thresholds(thresholds));
        let mut link = Link::new(driver, wire.udp_pair(Family::V4).expect("a pair"));
        link.sends_in_two(1_472);
        if !run(test, &wire, Side::Near, "ip link set near down") {
            return;
        }
        let train = link.train(60, 1_472);
        let errno = link.fails(train);
        assert!([Errno::NETUNREACH, Errno::NETDOWN].contains(&errno), "{way}: {errno}");
        let ids = link.singles(3, 1_472);
        ids.into_iter().for_each(|id| assert_eq!(link.fails(id), errno, "{way}"));
        assert!(run(test, &wire, Side::Near, "ip link set near up"));
        // Until the cable is up nothing arrives, and until its neighbour is known again.
        wait_until("it carries", || link.near.send(&[0; 3]).is_ok());
        receive(&link.far, &mut [0; 3]).unwrap();
        drain(&link.far);
        link.sends_in_two(1_472);
        assert_eq!(link.stats().trains_refused, 0, "{way}");
        link.driver.assert_at_rest();
    }
}

/// Of the path to an address that is not the socket's own peer's nobody knows.
#[test]
fn what_has_an_address_of_its_own_is_not_judged_by_the_path_of_the_peer() {
    let test = "what_has_an_address_of_its_own_is_not_judged_by_the_path_of_the_peer";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    for family in Family::BOTH {
        for (thresholds, way) in WAYS {
            let what = format!("{family:?}, {way}");
            // Its peer is on its own host, where much more fits.
            let near = wire.udp(Side::Near, family).unwrap();
            let home = wire.udp(Side::Near, family).unwrap();
            near.connect(home.local_addr().unwrap()).unwrap();
            let far = wire.udp(Side::Far, family).unwrap();
            let to = far.local_addr().unwrap();
            let driver = Driver::build(builder().thresholds(thresholds));
            let mut link = Link::new(driver, (near, far));
            link.to = Some(to);
            let id = link.train(3, 3_000);
            let errno = link.fails(id);
            assert!([Errno::MSGSIZE, Errno::INVAL].contains(&errno), "{what}: {errno}");
            link.expect(0, 0);
            link.sends_in_two(1_400);
            // And the other way round.
            link.near.connect(to).unwrap();
            let (mut link, home) = (Link { far: home, ..link }, link.to);
            link.to = Some(link.far.local_addr().unwrap());
            assert!(home.is_some());
            let before = link.stats();
            let id = link.train(7, 8_000);
            link.arrive(&[id], 7, 8_000);
            let after = link.stats();
            assert_eq!(after.trains - before.trains, 1, "{what}");
            assert_eq!(after.copied_bytes.over_mtu, 0, "{what}");
            link.driver.assert_at_rest();
        }
    }
}

/// Headers with options leave less for the datagram.
#[test]
fn options_of_ip_count_against_the_mtu() {
    let test = "options_of_ip_count_against_the_mtu";
    let Some(()) = runs_here(test) else { return };
    let Some(wire) = veth(test) else { return };
    for (thresholds, way) in WAYS {
        let (near, far) = wire.udp_pair(Family::V4).unwrap();
        // Four bytes of them that say nothing (`IPOPT_NOOP`).
        set_option(&near, IPPROTO_IP, IP_OPTIONS, i32::from_ne_bytes([1; 4])).unwrap();
        let mut link = Link::new(Driver::build(builder().thresholds(thresholds)), (near, far));
        let id = link.train(3, 1_472);
        let errno = link.fails(id);
        assert!([Errno::MSGSIZE, Errno::INVAL].contains(&errno), "{way}: {errno}");
        link.expect(0, 0);
        link.sends_in_two(1_468);
        link.driver.assert_at_rest();
    }
}

/// The next datagram. Signals interrupt who waits for it.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

fn drain(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    while socket.recv(&mut [0; 8]).is_ok() {}
    socket.set_nonblocking(false).expect("O_NONBLOCK");
}
