//! `ringwire doctor`, really run, in the situations that its users are in.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use ringwire_wire::{Family, Side, Veth, skip};
use rustix::net::{AddressFamily, Protocol, SocketType};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::*;
use crate::confine::{Shared, behind_seccomp};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Its first checks and their order, whatever the host is like.
const FIRST: [&str; 11] = [
    "kernel",
    "kernel-bugs",
    "io_uring",
    "io_uring-features",
    "msg-zerocopy",
    "engine",
    "memlock",
    "optmem",
    "huge-pages",
    "send-buffers",
    "mtu-probing",
];
/// What follows after the interfaces.
const THEN: [&str; 5] = ["packet-sockets", "ipsec", "iommu", "tls", "live-probe"];
/// And with `--to`.
const OF_A_PATH: [&str; 4] = ["route", "path", "connection", "path-probe"];

/// The lines of some checks with their hints, and the recommendation, without what differs from
/// host to host.
fn shown(end: &End, names: &[&str]) -> String {
    let (checks, recommendation) = end.stdout.split_once("\n\n").expect("a recommendation");
    let mut kept = vec![format!("exit {}", end.status.code().unwrap())];
    let mut keeps = false;
    for line in checks.lines() {
        if !line.starts_with("     ") {
            let name = line.get(5..).unwrap().split(": ").next().unwrap();
            keeps = names.contains(&name);
        }
        if keeps {
            kept.push(line.to_owned());
        }
    }
    kept.push(String::new());
    kept.push(recommendation.trim_end().to_owned());
    kept.join("\n") + "\n"
}

/// Runs it again while it says itself that the machine is too busy to tell, or that somebody may
/// look on.
fn settled(mut run: impl FnMut() -> End) -> End {
    until("nobody looks on", || {
        Some(unhurried(&mut run)).filter(|end| !end.stdout.contains(TAPPED))
    })
}

/// The same, whoever looks on.
fn unhurried(mut run: impl FnMut() -> End) -> End {
    let busy =
        ["did not come to an end in time", "sent in time", "nothing was acknowledged in time"];
    let is_busy = |end: &End| busy.iter().any(|word| end.stdout.contains(word));
    until("a machine less busy", || Some(run()).filter(|end| !is_busy(end)))
}

/// And while other tests have what the user may lock.
fn with_memory(mut run: impl FnMut() -> End) -> End {
    let short = "RLIMIT_MEMLOCK was short";
    let run = || Some(settled(&mut run)).filter(|end| !end.stdout.contains(short));
    until("locked memory", run)
}

fn json(end: &End) -> Value {
    serde_json::from_str(&end.stdout).unwrap_or_else(|error| panic!("{error}: {}", end.shown()))
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn names(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().map(|check| check["name"].as_str().unwrap()).collect()
}

#[test]
fn the_json_has_the_promised_keys_in_the_promised_order() {
    let end = run(["doctor", "--json"]);
    let report = json(&end);
    assert_eq!(report["schema"], 1);
    // Order is lost by parsing: the text has it.
    let mut keys = end.stdout.lines().filter_map(|line| {
        let (key, _) = line.trim_start().strip_prefix('"')?.split_once("\":")?;
        Some((line.len() - line.trim_start().len(), key))
    });
    assert_eq!(keys.next(), Some((2, "schema")));
    assert_eq!(keys.next(), Some((2, "checks")));
    let mut of_checks: Vec<_> = keys.collect();
    assert_eq!(of_checks.pop(), Some((2, "recommendation")));
    let promised = ["name", "status", "found", "needed", "hint"].map(|key| (6, key));
    assert!(of_checks.chunks(5).all(|keys| keys == promised), "{}", end.stdout);

    let names = names(&report);
    let (first, rest) = names.split_at(FIRST.len());
    let (interfaces, then) = rest.split_at(rest.len() - THEN.len());
    assert_eq!((first, then), (&FIRST[..], &THEN[..]));
    assert!(interfaces.iter().all(|name| name.starts_with("interface")), "{interfaces:?}");
    let mut failed = false;
    for check in report["checks"].as_array().unwrap() {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "FAIL"].contains(&status), "{check}");
        assert_eq!(status == "ok", check["hint"].is_null(), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        assert!(!check["needed"].as_str().unwrap().is_empty(), "{check}");
        failed |= status == "FAIL";
    }
    assert_eq!(end.status.code(), Some(i32::from(failed)), "{}", end.shown());
    assert!(!report["recommendation"].as_str().unwrap().is_empty());
    assert_eq!(end.stderr, "");
}

#[test]
fn the_json_is_the_same_each_time() {
    // What the user may lock is not, while other tests lock it.
    let shared = Shared::new();
    let json = || {
        let end = settled(|| Program::start(shared.as_user(8192, &["doctor", "--json"])).end());
        Some(end.stdout).filter(|_| end.status.code() == Some(0))
    };
    let same = || json().filter(|one| json().is_some_and(|other| other == *one));
    if !rustix::process::geteuid().is_root() {
        until("the same report twice", same);
        return;
    }
    let (one, other) = (json(), json());
    assert_eq!(one, other);
    assert!(one.is_some(), "8 MiB are enough");
}

#[test]
fn on_a_terminal_long_lines_are_continued_below() {
    let (mut ours, theirs) = terminal(72);
    let mut command = ringwire(["doctor"]);
    command.env("TERM", "xterm-256color").stdin(Stdio::null()).stdout(theirs);
    let mut doctor = command.spawn().unwrap();
    drop(command);
    let mut drawn = Vec::new();
    // The terminal's end is an error.
    let _ = ours.read_to_end(&mut drawn);
    doctor.wait().unwrap();
    let drawn = String::from_utf8(drawn).unwrap().replace('\r', "");
    assert!(!drawn.contains('\x1b'), "{drawn}");
    let (checks, recommendation) = drawn.split_once("\n\n").unwrap();
    assert!(recommendation.lines().count() > 1, "{recommendation}");
    // Only a word that is longer itself may go beyond.
    for line in drawn.lines().filter(|line| line.trim_start().contains(' ')) {
        assert!(line.chars().count() <= 72, "{line}");
    }
    // Put together again they are what a pipe gets.
    let starts = |line: &str| {
        ["ok   ", "warn ", "FAIL ", "     hint: "].iter().any(|start| line.starts_with(start))
    };
    let mut whole: Vec<String> = Vec::new();
    for line in checks.lines() {
        match whole.last_mut() {
            Some(last) if !starts(line) => *last = format!("{last} {}", line.trim_start()),
            _ => whole.push(line.to_owned()),
        }
    }
    let piped = run(["doctor"]).stdout;
    let name = |line: &str| line.split(':').next().unwrap().to_owned();
    let names = |lines: Vec<&str>| -> Vec<String> {
        lines.into_iter().filter(|line| !line.starts_with(' ')).map(name).collect()
    };
    let of_pipe = piped.split_once("\n\n").unwrap().0.lines().collect();
    assert_eq!(names(whole.iter().map(String::as_str).collect()), names(of_pipe));
    assert!(whole[0].contains("; needed: 6.0 for io_uring's zero-copy send, 6.15 for all of it,"));
}

/// Starts it for a server that takes a connection and not one byte of a probe, for which it waits
/// long, and tells it to exit. Its end, and the helpers that it had.
fn told_to_exit(signal: Signal) -> (End, Vec<String>) {
    let listener = small_listener();
    listener.set_nonblocking(true).unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let args = ["doctor", "--to", &to, "--probe-bytes", "1GiB"];
    let mut program = Program::start(ringwire(args));
    let _stalled = until("its connection, or its end", || {
        let connection = listener.accept().ok();
        (connection.is_some() || program.has_ended()).then_some(connection)
    });
    program.signal(signal);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", program.pid()));
    let children = children.iter().flat_map(|all| all.split_whitespace()).map(str::to_owned);
    let children = children.collect();
    (program.end(), children)
}

#[test]
fn a_signal_ends_it_with_exit_code_2_and_leaves_nobody() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        // Where the machine is busy it may have waited long enough before it is told.
        let (end, children) = until("one that was told in time", || {
            Some(told_to_exit(signal)).filter(|(end, _)| end.status.code() == Some(2))
        });
        assert_eq!(end.stderr, format!("error: told to exit by {name} before all was seen\n"));
        assert_eq!(end.stdout, "");
        // Its helper, if it still had one, goes with it.
        for child in children {
            let comm = format!("/proc/{child}/comm");
            until("the helper's end", || (!std::fs::exists(&comm).unwrap()).then_some(()));
        }
    }
}

#[test]
fn the_text_has_a_line_for_each_check_and_a_hint_where_it_is_not_ok() {
    let end = run(["doctor"]);
    let (checks, recommendation) = end.stdout.split_once("\n\n").unwrap();
    assert_eq!(recommendation.lines().count(), 1, "{recommendation}");
    let mut lines = checks.lines().peekable();
    while let Some(line) = lines.next() {
        let (status, rest) = line.split_at(5);
        assert!(["ok   ", "warn ", "FAIL "].contains(&status), "{line}");
        assert!(rest.contains(": ") && rest.contains("; needed: "), "{line}");
        let hint = lines.next_if(|next| next.starts_with("     hint: "));
        assert_eq!(hint.is_none(), status == "ok   ", "{line}");
    }
}

#[test]
fn on_the_perfect_wire_nothing_is_copied() {
    let end = with_memory(|| run(["doctor", "--json"]));
    let report = json(&end);
    let (engine, live) = (check(&report, "engine"), check(&report, "live-probe"));
    let found = live["found"].as_str().unwrap();
    if engine["status"] == "FAIL" || found.starts_with("not tried") {
        return skip("on_the_perfect_wire_nothing_is_copied", found);
    }
    let device = found.strip_prefix("64 MiB sent into the perfect wire (");
    let said = device.and_then(|rest| rest.split_once("), ")).map(|(_, said)| said);
    assert_eq!(said, Some("nothing copied, as far as the kernel says"), "{live}");
    assert_eq!(live["status"], "ok");
}

const ENGINES: [&str; 5] = ["io_uring", "io_uring-features", "msg-zerocopy", "engine", "memlock"];

#[test]
fn a_user_who_may_lock_little_or_nothing_is_told_what_to_raise() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let test = "a_user_who_may_lock_little_or_nothing_is_told_what_to_raise";
    if version < (6, 15) {
        return skip(test, "Linux 6.15 or newer has all that is told");
    }
    let shared = Shared::new();
    let of_user = |kib| settled(|| Program::start(shared.as_user(kib, &["doctor"])).end());
    let has_rings = |end: &End| end.stdout.contains("ok   io_uring-features: ");
    if has_rings(&of_user(0)) {
        return skip(test, "the kernel does not count rings");
    }
    for (memlock_kib, room_for_rings) in [(0, false), (64, true)] {
        let end = until("the memory that others of this user have locked", || {
            let end = of_user(memlock_kib);
            let has_rings = has_rings(&end);
            (has_rings == room_for_rings).then_some(end)
        });
        assert_shown(&format!("doctor_memlock_{memlock_kib}"), shown(&end, &ENGINES).as_str());
        assert_eq!(end.status.code(), Some(1), "with so little zero copy cannot be used");
    }
}

#[test]
fn a_seccomp_filter_is_told_apart_from_a_kernel_without_io_uring() {
    for (errno, name) in [(EPERM, "doctor_eperm"), (ENOSYS, "doctor_enosys")] {
        // With the rest of it, should it not be so.
        let end = settled(|| behind_seccomp(errno, ringwire(["doctor"]))).expect(0);
        assert_shown(name, shown(&end, &ENGINES[..4]));
    }
}

/// Whether a packet socket has what other network namespaces send copied, too: before Linux 6.16.
fn taps_reach_everywhere() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (6, 16)
}

fn veth(test: &str) -> Option<Veth> {
    Veth::new().map_err(|why| skip(test, why.reason())).ok()
}

/// `ringwire doctor` in the namespace of the near side.
fn in_namespace(shared: &Shared, veth: &Veth, args: &[&str]) -> End {
    let mut command = veth.command(Side::Near, shared.path());
    command.arg("doctor").args(args).env("LC_ALL", "C");
    Program::start(command).end()
}

/// Takes one connection and reads it to its end.
fn sink(veth: &Veth) -> (SocketAddr, std::thread::JoinHandle<Vec<u8>>) {
    let socket = veth.socket(Side::Far, AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(veth.address(Side::Far, Family::V4), 0)).unwrap();
    rustix::net::listen(&socket, 4).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    (address, swallow(listener))
}

fn swallow(listener: TcpListener) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let mut came = Vec::new();
        // A probe that took too long is broken off; what came until then is there.
        let _ = stream.read_to_end(&mut came);
        came
    })
}

#[test]
fn a_namespace_of_its_own_is_seen_as_it_is() {
    let test = "a_namespace_of_its_own_is_seen_as_it_is";
    let Some(veth) = veth(test) else { return };
    if !sets_optmem(&veth, "131072") {
        return skip(test, "net.core.optmem_max is the host's alone here");
    }
    let shared = Shared::new();
    let (mut to, mut came) = (String::new(), Vec::new());
    let path = [&["interface:near", "packet-sockets", "optmem"], &OF_A_PATH[..]].concat();
    // What to change first may lie in the user's limits.
    let told = |end: &End, to: &str| {
        let text = shown(end, &path).replace(to, "[FAR]");
        text.split(" First: ").next().unwrap().trim_end().to_owned() + "\n"
    };

    // As it was made: a cable, whose other end reads.
    let end = with_memory(|| {
        let (address, sink) = sink(&veth);
        to = address.to_string();
        let end = in_namespace(&shared, &veth, &["--to", &to, "--probe-bytes", "4MiB"]);
        // For a sink that nobody came to in time.
        drop(veth.tcp_connect(Side::Near, address));
        came = sink.join().unwrap();
        end
    });
    assert_eq!((came.len(), came.iter().any(|byte| *byte != 0)), (4 << 20, false));
    assert_shown("doctor_veth", told(&end, &to));

    // With somebody who looks on, and the least memory for MSG_ZEROCOPY. Nobody listens any more.
    let protocol = Protocol::from_raw(u32::from(3_u16.to_be()).try_into().unwrap());
    let socket = |kind| veth.socket(Side::Near, AddressFamily::PACKET, kind, Some(protocol));
    let packets = socket(SocketType::RAW).unwrap();
    assert!(sets_optmem(&veth, "4096"));
    let end = unhurried(|| in_namespace(&shared, &veth, &["--to", &to]));
    if taps_reach_everywhere() {
        // What doctor itself sends is copied for them, wherever it goes.
        let text = told(&end, &to);
        let last = "\n\nZero copy does not work here as it should: see live-probe.\n";
        assert!(text.starts_with("exit 1\n") && text.ends_with(last), "{text}");
    } else {
        assert_shown("doctor_looked_on", told(&end, &to));
    }
    drop(packets);

    // Without scatter-gather.
    veth.set_scatter_gather(Side::Near, false).unwrap();
    let end = settled(|| in_namespace(&shared, &veth, &["--to", &to]));
    assert_shown("doctor_no_scatter_gather", told(&end, &to));
}

#[test]
fn bridges_taps_and_ipsec_are_judged_by_what_they_do() {
    let test = "bridges_taps_and_ipsec_are_judged_by_what_they_do";
    let Some(veth) = veth(test) else { return };
    let shared = Shared::new();
    let ip = |words: &str| -> bool {
        let mut command = veth.command(Side::Near, "ip");
        let ended = command.args(words.split(' ')).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    };
    let path = |to: &str| -> (String, String, i32) {
        let end = settled(|| in_namespace(&shared, &veth, &["--json", "--to", to]));
        let report = json(&end);
        let path = check(&report, "path");
        let text = |key: &str| path[key].as_str().unwrap().to_owned();
        (text("status"), text("found"), end.status.code().unwrap())
    };
    let is = |to: &str, status: &str, found: &str| {
        let (said, why, code) = path(to);
        assert_eq!((said.as_str(), why.as_str()), (status, found));
        assert!(status != "FAIL" || code == 1, "exit {code} though the path copies");
    };
    if ip("link add br0 type bridge") && ip("addr add 10.90.0.1/24 dev br0") {
        // Down there is no way by it.
        assert!(ip("link set br0 up") && ip("link add p1 type veth peer name p2"));
        assert!(ip("link set p1 master br0 up"));
        let found = "br0 is a bridge with p1 below it: by a card nothing is copied, by a cable or \
                     tap to this host all of it";
        is("10.90.0.2:9", "warn", found);
    } else {
        skip(test, "the kernel has no bridges");
    }
    if ip("tuntap add mode tap name tap0") && ip("addr add 10.91.0.1/24 dev tap0") {
        assert!(ip("link set tap0 up"));
        let found = "tap0 is a tun or tap device: a program reads it, into memory of its own";
        is("10.91.0.2:9", "FAIL", found);
    } else {
        skip(test, "needs root: /dev/net/tun cannot be opened");
    }
    let far = SocketAddr::new(veth.address(Side::Far, Family::V4), 9).to_string();
    let policy = "xfrm policy add dst 10.77.0.0/24 proto tcp dport 9 dir out \
                  tmpl src 10.77.0.1 dst 10.77.0.2 proto esp mode transport";
    if ip(policy) {
        let found = "an IPsec policy covers the destination: what is encrypted is copied first";
        is(&far, "FAIL", found);
        let (_, other, _) = path(&far.replace(":9", ":10"));
        assert!(other.starts_with("near is a veth cable"), "{other}");
        // What lets through as it is, and comes first.
        assert!(ip("xfrm policy add dst 10.77.0.2/32 dir out priority 0 action allow"));
        assert!(ip("xfrm policy delete dst 10.77.0.0/24 proto tcp dport 9 dir out"));
        assert!(ip(&policy.replace("dir out", "dir out priority 1")));
        let (_, allowed, _) = path(&far);
        assert!(allowed.starts_with("near is a veth cable"), "{allowed}");
    } else {
        skip(test, "the kernel has no IPsec");
    }
}

#[test]
fn a_server_is_sent_nothing_unless_it_was_asked_for() {
    let end = settled(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sink = swallow(listener);
        let end = run(["doctor", "--json", "--to", &address.to_string()]);
        // For a sink that nobody came to in time.
        drop(TcpStream::connect(address));
        assert_eq!(sink.join().unwrap(), [0; 0]);
        end
    });
    let end = end.expect(1);
    let report = json(&end);
    let names = names(&report);
    assert_eq!(names[names.len() - 4..], OF_A_PATH);
    let probe = check(&report, "path-probe");
    assert_eq!(probe["found"], "nothing sent: the server is no ringwire recv");
    assert_eq!(check(&report, "path")["status"], "FAIL", "loopback copies");
}

#[test]
fn a_receiver_throws_a_probe_away_and_goes_on() {
    let receiver = Receiver::start(&["--count", "1"]);
    let args = ["doctor", "--json", "--to", &receiver.address];
    let connection = format!("{} is a ringwire recv", receiver.address);
    // A receiver that gets a processor too late has not greeted in time.
    let greeted = |end: &End| check(&json(end), "connection")["found"] == connection;
    let when_greeted = || until("a greeting", || Some(run(args)).filter(greeted));
    let end = with_memory(when_greeted).expect(1);
    let report = json(&end);
    if check(&report, "engine")["status"] == "FAIL" {
        let why = check(&report, "engine")["found"].as_str().unwrap();
        return skip("a_receiver_throws_a_probe_away_and_goes_on", why);
    }
    let probe = check(&report, "path-probe");
    assert_eq!(probe["found"], "16 MiB sent, all of it copied on the way");
    receiver.program.stderr_line("what it was sent", |line| {
        line.starts_with("note: 127.0.0.1:").then_some(())?;
        line.ends_with(" probed its path with 16.8 MB").then_some(())
    });
    assert_eq!(std::fs::read_dir(receiver.dir()).unwrap().count(), 0, "it kept something");
    // That was no transfer: the one it was started for comes now.
    let dir = scratch();
    let file = dir.path().join("a.bin");
    std::fs::write(&file, b"content").unwrap();
    let mut send = ringwire(SEND);
    send.arg(&file).args(["--to", &receiver.address]);
    Program::start(send).end().expect(0);
    assert_same(&receiver.dir().join("a.bin"), b"content");
}

#[test]
fn a_receiver_that_serves_others_is_known_all_the_same() {
    let receiver = Receiver::start(&[]);
    let served = receiver.greeted();
    // Whatever it is asked to send: this receiver would take it for a sender's greeting.
    let args = ["doctor", "--json", "--to", &receiver.address, "--probe-bytes", "1MiB"];
    let connection = format!("{} is a ringwire recv that serves others", receiver.address);
    let told = |end: &End| check(&json(end), "connection")["found"] == connection;
    // One that gets a processor too late has not greeted in time.
    let report = json(&until("a greeting", || Some(run(args)).filter(told)));
    let probe = check(&report, "path-probe");
    assert_eq!(probe["found"], "nothing sent: the ringwire recv serves others");
    assert_eq!(probe["hint"], "nothing: ask again when it has a place free");
    drop(served);
}

#[test]
fn a_destination_without_an_address_is_an_error() {
    let name = "a".repeat(64);
    let end = run(["doctor", "--to", &format!("{name}:80")]).expect(2);
    assert!(end.stderr.starts_with(&format!("error: cannot resolve {name}:80: ")));
    assert_eq!(end.stdout, "");
}

#[test]
fn a_destination_where_nobody_listens_is_judged_by_its_route() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = free.local_addr().unwrap().to_string();
    drop(free);
    let report = json(&settled(|| run(["doctor", "--json", "--to", &to])).expect(1));
    assert_eq!(check(&report, "route")["status"], "ok");
    assert_eq!(check(&report, "connection")["status"], "warn");
    assert_eq!(check(&report, "path-probe")["found"], "nothing sent: there is no connection");
}
