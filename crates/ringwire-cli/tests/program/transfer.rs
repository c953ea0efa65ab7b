//! Files of all sizes to one and to many receivers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;

use crate::common::*;

const MIB: usize = 1 << 20;

fn send(files: &[&std::path::Path], receivers: &[&Receiver], args: &[&str]) -> End {
    let mut command = ringwire(SEND);
    command.args(files);
    for receiver in receivers {
        command.args(["--to", &receiver.address]);
    }
    command.args(args);
    Program::start(command).end()
}

#[test]
fn files_of_all_sizes_arrive_whole_at_one_and_at_four_receivers() {
    let dir = scratch();
    for receivers in [1, 4] {
        let started: Vec<Receiver> =
            (0..receivers).map(|_| Receiver::start(&["--count", "8"])).collect();
        let to: Vec<&Receiver> = started.iter().collect();
        for bytes in [0, 1, 137, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 4097] {
            let content = random(bytes, bytes as u64);
            let name = format!("{bytes}.bin");
            let path = write(dir.path().join(&name), &content);
            let end = send(&[&path], &to, &[]).expect(0);
            assert_eq!(end.warnings(), [""; 0]);
            for receiver in &started {
                assert_same(&receiver.path(&name), &content);
                let line = format!("{}: 1 file stored\n", receiver.address);
                assert!(end.stdout.contains(&line), "{}", end.stdout);
            }
        }
        for receiver in started {
            let (end, dir) = receiver.end();
            assert_eq!(end.expect(0).stdout.lines().count(), 9, "an address and 8 files");
            assert_eq!(names(dir.path()).len(), 8);
        }
    }
}

#[test]
fn several_files_go_in_one_transfer() {
    let dir = scratch();
    let contents = [random(0, 1), random(3 * MIB + 5, 2), random(1, 3), random(70_000, 4)];
    let paths: Vec<_> = ["none", "some data", "ein.ü", "last"]
        .iter()
        .zip(&contents)
        .map(|(name, content)| write(dir.path().join(name), content))
        .collect();
    let receivers = [Receiver::start(&["--count", "1"]), Receiver::start(&["--count", "1"])];
    let to: Vec<&Receiver> = receivers.iter().collect();
    let files: Vec<&std::path::Path> = paths.iter().map(|path| path.as_path()).collect();
    let end = send(&files, &to, &[]).expect(0);
    assert!(end.stdout.contains(": 4 files stored"));
    for receiver in receivers {
        let (end, stored) = receiver.end();
        end.expect(0);
        assert_eq!(names(stored.path()), ["ein.ü", "last", "none", "some data"]);
        for (path, content) in paths.iter().zip(&contents) {
            assert_same(&stored.path().join(path.file_name().unwrap()), content);
        }
    }
}

#[test]
fn a_small_window_carries_a_large_file() {
    let dir = scratch();
    let content = random(9 * MIB + 123, 1);
    let path = write(dir.path().join("f"), &content);
    for (arena, block) in [("128KiB", "64KiB"), ("1MiB", "256KiB"), ("32MiB", "16MiB")] {
        let receivers = [Receiver::start(&[]), Receiver::start(&[])];
        let to: Vec<&Receiver> = receivers.iter().collect();
        send(&[&path], &to, &["--arena", arena, "--block", block]).expect(0);
        for receiver in &receivers {
            assert_same(&receiver.path("f"), &content);
        }
    }
}

#[test]
fn a_window_of_less_than_two_blocks_is_an_error() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"x");
    let path = path.to_str().unwrap();
    let end = run(["send", path, "--to", "127.0.0.1:9", "--arena", "1MiB"]).expect(2);
    assert_shown("small_arena", end.shown());
}

#[test]
fn transfers_go_over_ipv6_too() {
    let dir = scratch();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return ringwire_wire::skip("transfers_go_over_ipv6_too", "no IPv6 loopback on this host");
    }
    let mut command = ringwire(RECV);
    let target = scratch();
    command.args(["--listen", "[::1]:0", "--count", "1", "--dir"]).arg(target.path());
    let receiver = Receiver::of(command, target);
    assert!(receiver.address.starts_with("[::1]:"), "{}", receiver.address);
    let path = write(dir.path().join("f"), b"six");
    send(&[&path], &[&receiver], &[]).expect(0);
    assert_same(&receiver.path("f"), b"six");
}

#[test]
fn a_receiver_on_all_addresses_warns() {
    let target = scratch();
    let mut command = ringwire(RECV);
    command.args(["--listen", "0.0.0.0:0", "--dir"]).arg(target.path());
    let receiver = Receiver::of(command, target);
    receiver.program.stderr_line("a warning", |line| {
        (line.starts_with("warning: whoever can reach 0.0.0.0:") && line.contains("not encrypted"))
            .then_some(())
    });
}

#[test]
fn what_is_there_already_is_kept_and_the_others_get_theirs() {
    let dir = scratch();
    let a = write(dir.path().join("a"), &random(2 * MIB, 1));
    let b = write(dir.path().join("b"), b"new b");
    let [has_a, has_none] = [Receiver::start(&["--count", "1"]), Receiver::start(&[])];
    write(has_a.path("a"), b"old a");
    let end = send(&[&a, &b], &[&has_a, &has_none], &[]).expect(1);
    let why = "a exists there; \"ringwire recv --force\" would replace it";
    assert_eq!(end.warnings(), [format!("{}: {why}", has_a.address)]);
    let line = format!("{}: 1 of 2 files stored; {why}\n", has_a.address);
    assert!(end.stdout.contains(&line), "{}", end.stdout);
    assert!(end.stdout.contains(&format!("{}: 2 files stored", has_none.address)));
    assert_same(&has_a.path("a"), b"old a");
    assert_same(&has_a.path("b"), b"new b");
    assert_same(&has_none.path("a"), &random(2 * MIB, 1));
    let (end, left) = has_a.end();
    assert_eq!(end.expect(1).stdout.lines().count(), 2, "an address and one file");
    assert_eq!(names(left.path()), ["a", "b"]);
}

#[test]
fn a_refusal_is_the_last_word_of_a_receiver_not_its_loss() {
    let dir = scratch();
    let path = write(dir.path().join("a"), b"new");
    let receiver = Receiver::start(&[]);
    write(receiver.path("a"), b"old");
    for _ in 0..20 {
        let end = send(&[&path], &[&receiver], &[]).expect(1);
        let why = "a exists there; \"ringwire recv --force\" would replace it";
        assert_eq!(end.warnings(), [format!("{}: {why}", receiver.address)]);
        let line = format!("{}: 0 of 1 file stored; {why}\n", receiver.address);
        assert!(end.stdout.starts_with(&line), "{}", end.stdout);
    }
    receiver.program.signal(rustix::process::Signal::TERM);
    let (end, _dir) = receiver.end();
    // To the receiver each of these transfers came to its proper end.
    assert!(end.warnings().iter().all(|warning| warning.contains("a exists there")));
    assert_eq!(end.warnings().len(), 20);
}

#[test]
fn a_file_that_nobody_wants_is_not_read_to_its_end() {
    let dir = scratch();
    // Would take minutes to read and years to announce falsely; nothing of it is on the disk.
    let huge = dir.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let small = write(dir.path().join("small"), b"small");
    let receiver = Receiver::start(&["--count", "1", "--max-bytes", "1GiB"]);
    let end = send(&[&huge, &small], &[&receiver], &[]).expect(1);
    assert!(end.stderr.contains("--max-bytes 1GiB"), "{}", end.stderr);
    assert_same(&receiver.path("small"), b"small");
    assert_eq!(names(receiver.dir()), ["small"]);
}

#[test]
fn force_replaces_files_and_nothing_else() {
    let dir = scratch();
    let a = write(dir.path().join("a"), b"new");
    let link = write(dir.path().join("link"), b"new");
    let outside = write(dir.path().join("outside"), b"precious");
    let receiver = Receiver::start(&["--force", "--count", "1"]);
    write(receiver.path("a"), b"old");
    symlink(&outside, receiver.path("link")).unwrap();
    let end = send(&[&a, &link], &[&receiver], &[]).expect(1);
    assert!(end.stderr.contains("link is a symbolic link there"), "{}", end.stderr);
    assert_same(&receiver.path("a"), b"new");
    assert_same(&outside, b"precious");
    assert!(fs::symlink_metadata(receiver.path("link")).unwrap().is_symlink());
}

#[test]
fn senders_wait_for_their_turn() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"second");
    let receiver = Receiver::start(&["--count", "2"]);
    // The first one has greeted and is being served.
    let mut first = receiver.greeted();
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--to", &receiver.address]);
    let mut second = Program::start(command);
    let told = format!("note: {} serves other senders; waiting up to ", receiver.address);
    second.stderr_line("that it has to wait", |line| line.starts_with(&told).then_some(()));
    assert!(!second.has_ended());
    first.write_all(BYE).unwrap();
    drop(first);
    second.end().expect(0);
    assert_same(&receiver.path("f"), b"second");
    receiver.end().0.expect(0);
}

#[test]
fn a_sender_whose_turn_will_not_come_is_told() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"second");
    let receiver = Receiver::start(&["--count", "1"]);
    let mut first = receiver.greeted();
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--to", &receiver.address]);
    let second = Program::start(command);
    second.stderr_line("that it has to wait", |line| line.starts_with("note: ").then_some(()));
    first.write_all(BYE).unwrap();
    drop(first);
    let address = receiver.address.clone();
    receiver.end().0.expect(0);
    let end = second.end().expect(2);
    let error = format!("error: {address} ended before it was this sender's turn: ");
    assert!(end.stderr.contains(&error), "{}", end.shown());
    assert!(end.stderr.contains("; nothing was sent\n\nhint: "), "{}", end.shown());
}

/// It gets no turn, and nothing is said of it.
#[test]
fn a_sender_that_was_told_to_wait_and_goes_is_forgotten() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"third");
    let receiver = Receiver::start(&["--count", "2"]);
    let mut first = receiver.greeted();
    let mut second = receiver.connect();
    let mut greeting = [0; 16];
    second.read_exact(&mut greeting).unwrap();
    assert!(greeting.starts_with(BUSY), "{greeting:?}");
    // The same number in every greeting, and never the one that says nothing.
    assert!(greeting[11..] != [0; 5], "{greeting:?}");
    let closing = format!("{:?}", second.local_addr().unwrap());
    drop(second);
    first.write_all(BYE).unwrap();
    drop(first);
    send(&[&path], &[&receiver], &[]).expect(0);
    let (end, stored) = receiver.end();
    let end = end.expect(0);
    assert_same(&stored.path().join("f"), b"third");
    assert!(!end.stderr.contains(&closing), "{}", end.stderr);
}

/// What a name with several addresses is, and a receiver that listens at several of its host's.
#[test]
fn a_receiver_that_is_named_twice_is_known_by_whatever_addresses() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"x");
    let path = path.to_str().unwrap();
    let target = scratch();
    let mut command = ringwire(RECV);
    command.args(["--listen", "0.0.0.0:0", "--count", "1", "--dir"]).arg(target.path());
    let receiver = Receiver::of(command, target);
    let port = receiver.address.strip_prefix("0.0.0.0:").unwrap();
    let at = |host: &str| format!("{host}:{port}");
    // However patient: it is known at once, though the receiver serves one at a time.
    for (one, other, is) in [
        ("127.0.0.1", "127.0.0.1", at("127.0.0.1")),
        ("localhost", "127.0.0.1", at("127.0.0.1")),
        ("127.0.0.1", "[::ffff:127.0.0.1]", at("127.0.0.1")),
        ("127.0.0.1", "0.0.0.0", "at".into()),
        ("127.0.0.1", "127.0.0.2", "at".into()),
    ] {
        let (one, other) = (at(one), at(other));
        let args = [&SEND[..], &[path, "--to", &one, "--to", &other]].concat();
        let end = run(args).expect(2);
        let same = format!("error: {one} and {other} are the same receiver ({is}");
        let error = end.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.starts_with(&same), "{}", end.shown());
        assert!(error.ends_with("); nothing was sent"), "{}", end.shown());
        assert!(end.stderr.ends_with("\n\nhint: name each receiver once\n"), "{}", end.shown());
    }
    // None of that was the transfer that it was started for.
    let to = at("127.0.0.1");
    run([&SEND[..], &[path, "--to", &to]].concat()).expect(0);
    let (end, stored) = receiver.end();
    end.expect(0);
    assert_same(&stored.path().join("f"), b"x");
}

#[test]
fn several_connections_are_served_at_once_when_asked_for() {
    let dir = scratch();
    let path = write(dir.path().join("f"), b"second");
    let receiver = Receiver::start(&["--connections", "2"]);
    let silent = receiver.greeted();
    send(&[&path], &[&receiver], &[]).expect(0);
    assert_same(&receiver.path("f"), b"second");
    drop(silent);
}

#[test]
fn an_arena_beyond_the_memlock_limit_works_and_says_so_or_is_an_error_when_asked_for() {
    // Root is not held to the limit.
    let test = "an_arena_beyond_the_memlock_limit_works_and_says_so";
    if !has_uring() {
        return ringwire_wire::skip(test, "nothing is registered without io_uring");
    }
    let dir = scratch();
    let path = write(dir.path().join("f"), b"registered or not");
    let Some(limited) = unprivileged(dir.path()) else {
        return ringwire_wire::skip(test, "the program cannot be run as another user from here");
    };
    let send = |receiver: &Receiver, args: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -l 4096; exec \"$@\"", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_ringwire")).args(SEND).arg(&path);
        command.args(["--to", &receiver.address]).args(args).env("LC_ALL", "C");
        limited(&mut command);
        Program::start(command).end()
    };
    let receiver = Receiver::start(&[]);
    let end = send(&receiver, &[]).expect(0);
    assert!(end.stderr.starts_with("note: "), "{}", end.stderr);
    assert!(end.stderr.contains("RLIMIT_MEMLOCK"), "{}", end.stderr);
    assert_same(&receiver.path("f"), b"registered or not");
    let end = send(&receiver, &["--require-registered"]).expect(2);
    assert!(end.stderr.starts_with("error: cannot set up --arena: "), "{}", end.stderr);
    assert!(end.stderr.contains("RLIMIT_MEMLOCK"), "{}", end.stderr);
    // Who sends from no registration locks nothing for one.
    for engine in ["msg-zerocopy", "copy"] {
        let receiver = Receiver::start(&[]);
        let end = send(&receiver, &["--engine", engine]).expect(0);
        assert!(!end.stderr.contains("registered"), "{}", end.stderr);
        assert_same(&receiver.path("f"), b"registered or not");
    }
}

/// What makes a command run without root's rights, after `dir` has been opened for it; `None` where
/// the program cannot be reached without them.
pub(crate) fn unprivileged(dir: &std::path::Path) -> Option<impl Fn(&mut std::process::Command)> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // A user of this test's own: the kernel counts locked memory for all processes of a user.
    let user = 20_000 + std::process::id() % 40_000;
    let root = rustix::process::geteuid().is_root();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let drop_rights = move |command: &mut std::process::Command| {
        if root {
            command.uid(user).gid(user);
        }
    };
    let mut command = ringwire(["--version"]);
    drop_rights(&mut command);
    let reached = command.output().is_ok_and(|output| output.status.success());
    let mut command = std::process::Command::new("ls");
    drop_rights(command.arg(dir));
    (reached && command.output().is_ok_and(|output| output.status.success())).then_some(drop_rights)
}
