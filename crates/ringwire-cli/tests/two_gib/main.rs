//! The main job at size: 2 GiB of random data to many receivers in one `send`, some of which fail.

#[path = "../program/common.rs"]
#[expect(dead_code, reason = "it needs a part of what the other tests share")]
mod common;

use std::fs;
use std::io::{Read, Write};

use common::*;
use rustix::process::Signal;

const BYTES: u64 = 2 << 30;
const ARENA_BYTES: u64 = 64 << 20;
/// What the sender may need beside its arena.
const BESIDE_BYTES: u64 = 48 << 20;

#[test]
fn two_gib_to_four_receivers_while_one_is_killed_and_one_is_stopped() {
    let test = "two_gib_to_four_receivers_while_one_is_killed_and_one_is_stopped";
    let source = scratch();
    let disk = rustix::fs::statvfs(source.path()).unwrap();
    // The file itself, and what each receiver may have of it.
    if disk.f_bavail * disk.f_frsize < 5 * BYTES {
        return ringwire_wire::skip(test, "less than 10 GiB of disk are free");
    }
    let path = source.path().join("big.bin");
    let hash = write_random(&path);

    let good: Vec<Receiver> = (0..2).map(|_| Receiver::start(&["--count", "1"])).collect();
    let killed = Receiver::start(&[]);
    let stopped = Receiver::start(&[]);
    let mut command = ringwire(SEND);
    command.arg(&path).args(["--arena", "64MiB"]);
    // One of the good ones gets half of the file for now, and the others no more than it and an
    // arena.
    let gate = Gate::before(&good[0], Held::Data(BYTES / 2));
    command.args(["--to", &gate.address]);
    for receiver in good[1..].iter().chain([&killed, &stopped]) {
        command.args(["--to", &receiver.address]);
    }
    let sender = Program::start(command);
    let has_half = |receiver: &Receiver| {
        until("half of the file", || {
            temporary_bytes(receiver.dir()).filter(|&bytes| bytes >= BYTES / 2)
        })
    };
    has_half(&killed);
    killed.program.signal(Signal::KILL);
    has_half(&stopped);
    stopped.program.stop();
    gate.open();
    // The others get an arena further than what is stopped, and no more until it is gone.
    let stopped_at = temporary_bytes(stopped.dir());
    until("a good one to be ahead", || {
        good.iter().all(|good| temporary_bytes(good.dir()) > stopped_at).then_some(())
    });
    stopped.program.signal(Signal::KILL);
    // The kernel's own account of the most that it ever had, as late as it can be read.
    let mut rss_bytes_max = 0;
    for receiver in good {
        let address = receiver.address.clone();
        until("a whole file", || {
            rss_bytes_max = rss_bytes_max.max(most_rss_bytes(sender.pid()));
            receiver.path("big.bin").exists().then_some(())
        });
        let (end, dir) = receiver.end();
        let stored = end.expect(0).stdout;
        assert!(stored.contains(&format!("{BYTES} bytes, BLAKE3 {hash}, ")), "{stored}");
        // Not by the program's word alone.
        assert_eq!(hash_of(&dir.path().join("big.bin")), hash, "{address}");
        assert_eq!(names(dir.path()), ["big.bin"]);
    }
    let end = sender.end().expect(1);
    let stored = end.stdout.lines().filter(|line| line.ends_with(": 1 file stored")).count();
    assert_eq!(stored, 2, "{}", end.shown());
    for lost in [&killed, &stopped] {
        let line = format!("{}: 0 of 1 file stored; ", lost.address);
        assert!(end.stdout.contains(&line), "{}", end.shown());
        assert!(!lost.path("big.bin").exists());
    }
    assert!(
        rss_bytes_max > ARENA_BYTES / 2 && rss_bytes_max <= ARENA_BYTES + BESIDE_BYTES,
        "the sender's peak RSS is {rss_bytes_max} bytes"
    );
}

fn write_random(path: &std::path::Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::create(path).unwrap();
    for piece in 0..BYTES >> 24 {
        let content = random(1 << 24, piece);
        hasher.update(&content);
        file.write_all(&content).unwrap();
    }
    hasher.finalize()
}

fn hash_of(path: &std::path::Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize(),
            bytes => hasher.update(&buffer[..bytes]),
        };
    }
}

/// VmHWM of a process; 0 once it has ended.
fn most_rss_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.map_or(0, |kib| kib.parse::<u64>().unwrap() << 10)
}
