//! The wires carry data, keep acknowledgements when told to, and leave nothing behind. All of it
//! runs as root and as an ordinary user.
#![expect(clippy::unwrap_used, reason = "a test's helpers, which clippy takes for a program")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use ringwire_wire::{
    Family, Perfect, Side, Unavailable, Veth, Wire, loopback, retransmitted_segments, skip,
    unacknowledged_bytes,
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

#[expect(dead_code, reason = "most of it is the perfect wire's")]
mod common;
use common::{PATIENCE, wait_until};

fn veth(test: &str) -> Option<Veth> {
    Veth::new().map_err(|why| skip(test, why.reason())).ok()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends `bytes` from one to the other and compares.
fn carries(mut from: TcpStream, mut to: TcpStream, bytes: usize) {
    let sent = pattern(bytes);
    let mut received = vec![0; bytes];
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).unwrap());
        to.read_exact(&mut received).unwrap();
    });
    assert!(received == sent, "{bytes} bytes came out different");
}

fn carries_datagrams(from: &UdpSocket, to: &UdpSocket) {
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    for bytes in [1, 137, 1400] {
        from.send(&pattern(bytes)).unwrap();
        let mut received = [0; 2048];
        let filled = to.recv(&mut received).unwrap();
        assert!(received[..filled] == pattern(bytes), "a datagram of {bytes} bytes changed");
    }
}

/// IPv6 may be off on the host's loopback; a `Veth` always has it.
fn loopback_has(family: Family, test: &str) -> bool {
    match loopback::udp_pair(family) {
        Err(why) if why.kind() == io::ErrorKind::AddrNotAvailable => {
            skip(test, "IPv6 is off on this host's loopback");
            false
        }
        _ => true,
    }
}

#[test]
fn every_wire_is_used_alike() {
    let test = "every_wire_is_used_alike";
    let skipped = |why: Unavailable| skip(test, why.reason());
    let mut wires = vec![(Wire::Loopback, "loopback", true)];
    wires.extend(Veth::new().map(|wire| (wire.into(), "veth", true)).map_err(skipped));
    let perfect = Perfect::builder().build().map_err(skipped);
    wires.extend(perfect.map(|wire| (wire.into(), "perfect", false)));
    for (wire, kind, copies) in &wires {
        assert_eq!((wire.kind(), wire.copies()), (*kind, *copies));
        assert!(["lo", "veth", "dummy", "ifb"].contains(&wire.device()));
        assert!((1280..=65_536).contains(&wire.mtu().unwrap()), "{kind}");
        for family in Family::BOTH {
            if *kind == "loopback" && !loopback_has(family, test) {
                continue;
            }
            let stream = wire.tcp(family).unwrap();
            assert_eq!(stream.far().is_some(), *copies);
            let bytes = stream.near().write(&pattern(10_000)).unwrap();
            stream.wrote(bytes as u64);
            let left = || unacknowledged_bytes(stream.near()).unwrap();
            wait_until("the bytes are acknowledged", || left() == 0);
            let (near, far) = wire.udp(family).unwrap();
            assert_eq!(far.is_some(), *copies);
            assert_eq!(near.send(&pattern(1000)).unwrap(), 1000);
        }
    }
}

#[test]
fn loopback_carries_tcp_and_udp() {
    for family in Family::BOTH {
        if loopback_has(family, "loopback_carries_tcp_and_udp") {
            let (near, far) = loopback::tcp_pair(family).unwrap();
            assert_eq!(near.peer_addr().unwrap(), far.local_addr().unwrap());
            carries(near, far, 1 << 20);
            let (near, far) = loopback::udp_pair(family).unwrap();
            carries_datagrams(&near, &far);
            carries_datagrams(&far, &near);
        }
    }
}

#[test]
fn veth_carries_tcp_both_ways() {
    let Some(wire) = veth("veth_carries_tcp_both_ways") else { return };
    for family in Family::BOTH {
        let (near, far) = wire.tcp_pair(family).unwrap();
        assert_eq!(near.local_addr().unwrap().ip(), wire.address(Side::Near, family));
        assert_eq!(far.local_addr().unwrap().ip(), wire.address(Side::Far, family));
        carries(near.try_clone().unwrap(), far.try_clone().unwrap(), 8 << 20);
        carries(far, near, 8 << 20);
    }
}

#[test]
fn veth_carries_udp_both_ways() {
    let Some(wire) = veth("veth_carries_udp_both_ways") else { return };
    for family in Family::BOTH {
        let (near, far) = wire.udp_pair(family).unwrap();
        carries_datagrams(&near, &far);
        carries_datagrams(&far, &near);
    }
}

#[test]
fn a_wire_takes_datagrams_in_from_the_first() {
    for _ in 0..10 {
        let Some(wire) = veth("a_wire_takes_datagrams_in_from_the_first") else { return };
        for family in [Family::V6, Family::V4] {
            let (near, far) = wire.udp_pair(family).unwrap();
            carries_datagrams(&near, &far);
            carries_datagrams(&far, &near);
        }
    }
}

#[test]
fn sockets_outlive_their_wire_and_work_on_other_threads() {
    let Some(wire) = veth("sockets_outlive_their_wire_and_work_on_other_threads") else { return };
    let (near, far) = wire.tcp_pair(Family::V6).unwrap();
    drop(wire);
    std::thread::spawn(move || carries(near, far, 1 << 20)).join().unwrap();
}

#[test]
fn wires_are_strangers_to_each_other_and_to_the_host() {
    let test = "wires_are_strangers_to_each_other_and_to_the_host";
    let Some(one) = veth(test) else { return };
    let two = Veth::new().unwrap();
    let listener = one.tcp_listener(Side::Far, Family::V4).unwrap();
    let address = listener.local_addr().unwrap();
    // The other wire's far side has that address too, but nobody listens there.
    let refused = two.tcp_connect(Side::Near, address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    one.tcp_connect(Side::Near, address).unwrap();
    one.tcp_connect(Side::Far, address).unwrap();
}

#[test]
fn withheld_acks_stay_away_until_they_are_let_through() {
    let Some(wire) = veth("withheld_acks_stay_away_until_they_are_let_through") else { return };
    for family in Family::BOTH {
        let (mut near, mut far) = wire.tcp_pair(family).unwrap();
        let (mut idle, _idle_far) = wire.tcp_pair(family).unwrap();
        carries(near.try_clone().unwrap(), far.try_clone().unwrap(), 1 << 20);
        wait_until("the sender idle", || unacknowledged_bytes(&near).unwrap() == 0);

        wire.withhold_acks(true).unwrap();
        wire.withhold_acks(true).unwrap();
        near.write_all(&pattern(10_000)).unwrap();
        idle.write_all(b"a connection without any traffic so far").unwrap();
        let mut received = vec![0; 10_000];
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        far.read_exact(&mut received).unwrap(); // so it has arrived, and was acknowledged in vain
        assert!(received == pattern(10_000));
        far.write_all(b"heard").unwrap();

        // The second time it is sent again shows that the first was answered in vain as well.
        wait_until("it is sent again, twice", || retransmitted_segments(&near).unwrap() >= 2);
        near.set_nonblocking(true).unwrap();
        let silence = near.read(&mut [0; 8]).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
        near.set_nonblocking(false).unwrap();
        assert_eq!(unacknowledged_bytes(&near).unwrap(), 10_000);
        assert_eq!(unacknowledged_bytes(&idle).unwrap(), 39);

        wire.withhold_acks(false).unwrap();
        wire.withhold_acks(false).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 5];
        near.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"heard");
        wait_until("acknowledgements", || unacknowledged_bytes(&near).unwrap() == 0);
        wait_until("acknowledgements", || unacknowledged_bytes(&idle).unwrap() == 0);
        carries(near, far, 1 << 20);
    }
}

#[test]
fn a_namespace_has_the_kernels_default_send_buffer() {
    let Some(wire) = veth("a_namespace_has_the_kernels_default_send_buffer") else { return };
    for side in Side::BOTH {
        assert_eq!(wire.sysctl(side, "net/ipv4/tcp_wmem").unwrap(), "4096 16384 4194304");
    }
}

#[test]
fn sysctls_change_one_side_only() {
    let Some(wire) = veth("sysctls_change_one_side_only") else { return };
    let name = "net/ipv4/tcp_rmem";
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap();
    let far = wire.sysctl(Side::Far, name).unwrap();
    wire.set_sysctl(Side::Near, name, "4096 65536 1048576").unwrap();
    assert_eq!(wire.sysctl(Side::Near, name).unwrap(), "4096 65536 1048576");
    assert_eq!(wire.sysctl(Side::Far, name).unwrap(), far);
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap(), host);

    for refused in ["kernel/pid_max", "net/../kernel/pid_max", "/net/ipv4/tcp_rmem"] {
        let error = wire.sysctl(Side::Near, refused).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{refused}");
    }
    let missing = wire.set_sysctl(Side::Near, "net/ipv4/no_such_setting", "1").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn mtu_bounds_a_datagram_that_may_not_be_fragmented() {
    let Some(wire) = veth("mtu_bounds_a_datagram_that_may_not_be_fragmented") else { return };
    let (near, _far) = wire.udp_pair(Family::V4).unwrap();
    set_ip_mtu_discover(&near, Ipv4PathMtuDiscovery::DO).unwrap();
    let fits = |bytes: usize| near.send(&pattern(bytes)).is_ok();
    assert!(fits(1472) && !fits(1473), "MTU 1500 without 28 bytes of headers");
    wire.set_mtu(9000).unwrap();
    assert!(fits(8972) && !fits(8973));
    wire.set_mtu(1280).unwrap();
    assert!(fits(1252) && !fits(1253));
}

#[test]
fn commands_run_inside() {
    let Some(wire) = veth("commands_run_inside") else { return };
    for (side, own, other) in [(Side::Near, "near:", "far:"), (Side::Far, "far:", "near:")] {
        let output = wire.command(side, "cat").arg("/proc/net/dev").output();
        let output = match output {
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return skip("commands_run_inside", "there is no nsenter (util-linux)");
            }
            output => output.unwrap(),
        };
        assert!(output.status.success(), "{output:?}");
        let devices = String::from_utf8(output.stdout).unwrap();
        assert!(devices.contains(own) && !devices.contains(other), "{devices}");
    }
}

#[test]
fn a_wire_holds_no_descriptor_of_its_process() {
    let (mut near, far) = loopback::tcp_pair(Family::V4).unwrap();
    let wire = veth("a_wire_holds_no_descriptor_of_its_process");
    // The helper was forked while `far` was open; were it to keep it, no end would be seen.
    drop(far);
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(near.read(&mut [0; 1]).unwrap(), 0);
    drop(wire);
}

/// The other half of [`a_killed_process_leaves_nothing`]: does nothing unless it is told to.
#[test]
fn helper_process_that_gets_killed() {
    if std::env::var_os("RINGWIRE_WIRE_TEST_VICTIM").is_none() {
        return;
    }
    let wire = Veth::new().unwrap();
    let (mut near, _far) = wire.tcp_pair(Family::V4).unwrap();
    wire.withhold_acks(true).unwrap();
    near.write_all(&pattern(10_000)).unwrap();
    writeln!(io::stderr(), "STANDS {}", namespace_of(&wire)).unwrap();
    // Until the kill; nobody closes stdin before that.
    let _ = io::stdin().read(&mut [0; 1]);
}

#[test]
fn a_killed_process_leaves_nothing() {
    let test = "a_killed_process_leaves_nothing";
    if veth(test).is_none() {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_process_that_gets_killed", "--nocapture"])
        .env("RINGWIRE_WIRE_TEST_VICTIM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(victim.stderr.take().unwrap());
    let stands = stderr.lines().map(Result::unwrap).find(|line| line.starts_with("STANDS "));
    let near_ns = stands.expect("the victim made a wire")["STANDS ".len()..].to_owned();
    let helpers = helpers_of(victim.id());
    assert_eq!(helpers.len(), 1, "one helper a wire");
    victim.kill().unwrap(); // SIGKILL
    assert_eq!(victim.wait().unwrap().signal(), Some(9));
    wait_until("the helper's end", || !is_alive(helpers[0]));
    // No process stands in the namespace any more, and nothing gave it a name, so it is gone.
    assert!(!namespaces_in_use().contains(&near_ns));
}

#[test]
fn a_dropped_wire_reaps_its_helper() {
    let Some(wire) = veth("a_dropped_wire_reaps_its_helper") else { return };
    let near_ns = namespace_of(&wire);
    wire.udp(Side::Near, Family::V4).unwrap(); // the helper stands there now
    let stands_near = |pid: &u32| namespace_link(*pid) == Some(near_ns.clone());
    let helper = helpers_of(std::process::id()).into_iter().find(stands_near);
    let helper = helper.expect("a helper stands in the near namespace");
    let (near, far) = wire.tcp_pair(Family::V4).unwrap();
    drop(wire);
    assert!(!std::fs::exists(format!("/proc/{helper}")).unwrap(), "not even a zombie is left");
    carries(near, far, 1000);
}

/// The near namespace as the kernel names it: `net:[4026532177]`.
fn namespace_of(wire: &Veth) -> String {
    let link = wire.command(Side::Near, "readlink").arg("/proc/self/ns/net").output();
    String::from_utf8(link.unwrap().stdout).unwrap().trim().to_owned()
}

/// The processes named `ringwire-wire` that `parent` started.
fn helpers_of(parent: u32) -> Vec<u32> {
    processes()
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(ringwire-wire)")
                && stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&parent.to_string())
        })
        .collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // An orphan may wait for its new parent as a zombie, which holds nothing.
    stat.contains("(ringwire-wire)") && !stat.contains(") Z ")
}

fn namespaces_in_use() -> Vec<String> {
    processes().filter_map(namespace_link).collect()
}

fn namespace_link(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.to_str().map(str::to_owned)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
