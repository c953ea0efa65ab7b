//! Senders that were stopped for longer than their patience: nobody is blamed for it.
//!
//! Nothing here waits for a patience to pass. The sender has one of an hour, and a clock that goes
//! on by a day while it is stopped, as it does over a virtual machine that was paused: a small
//! library that is loaded before libc answers for the monotonic clock. What programs do that were
//! stopped for a while by the host's own clock, `tests/timing` has.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use rustix::process::Signal;

use crate::common::*;

/// `clock_gettime`, ahead by as many seconds as the first eight bytes of a file say.
const AHEAD_C: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static const volatile long long *ahead;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("AHEAD_FILE"), O_RDONLY);
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (ahead == MAP_FAILED) abort();
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    long answered = syscall(SYS_clock_gettime, clock, time);
    if (answered == 0 && clock == CLOCK_MONOTONIC && ahead) time->tv_sec += *ahead;
    return (int)answered;
}
"#;

/// A clock for programs, which goes as the host's and can be put forward.
struct Clock {
    ahead: File,
    dir: tempfile::TempDir,
}

impl Clock {
    /// `None` where there is no compiler for it, which is said.
    fn new(test: &str) -> Option<Clock> {
        let dir = scratch();
        let source = write(dir.path().join("ahead.c"), AHEAD_C.as_bytes());
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("ahead.so")).arg(source);
        match cc.status() {
            Ok(status) => assert!(status.success(), "cc ended with {status}"),
            Err(error) => {
                ringwire_wire::skip(test, &format!("needs a C compiler, cc: {error}"));
                return None;
            }
        }
        let path = write(dir.path().join("ahead"), &[0; 8]);
        let ahead = File::options().read(true).write(true).open(path).unwrap();
        Some(Clock { ahead, dir })
    }

    /// A program by this clock.
    fn of(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", self.dir.path().join("ahead.so"));
        command.env("AHEAD_FILE", self.dir.path().join("ahead"));
        command
    }

    /// Stops a program for a day.
    fn stop_for_a_day(&self, program: &Program) {
        program.stop();
        let mut ahead = [0; 8];
        self.ahead.read_exact_at(&mut ahead, 0).unwrap();
        let ahead = i64::from_ne_bytes(ahead) + 24 * 3600;
        self.ahead.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
        program.signal(Signal::CONT);
    }
}

#[test]
fn a_stopped_sender_drops_no_receiver() {
    let Some(clock) = Clock::new("a_stopped_sender_drops_no_receiver") else { return };
    let content = random(4 << 20, 11);
    let dir = scratch();
    let path = write(dir.path().join("f"), &content);
    for (held, let_through) in [(Held::Data(70_000), 70_000), (Held::End, 4 << 20)] {
        let receiver = Receiver::start(&["--count", "1"]);
        let gate = Gate::before(&receiver, held);
        let mut command = ringwire(SEND);
        command.arg(&path).args(["--arena", "1MiB", "--block", "64KiB", "--to", &gate.address]);
        let sender = Program::start(clock.of(command));
        until("what is let through", || {
            temporary_bytes(receiver.dir()).filter(|came| *came == let_through)
        });
        // It looks each time that it has slept, and has seen what its receiver took, then.
        let slept = sleeps(&sender);
        until("a look", || (sleeps(&sender) > slept + 5).then_some(()));
        clock.stop_for_a_day(&sender);
        // It has looked at its receivers since.
        let said = sender.stderr_line("what it makes of that", |line| {
            let looked = line.contains("did not run for") || line.starts_with("warning: ");
            looked.then(|| line.to_owned())
        });
        let began = "note: this program did not run for 24 h ";
        // A quarter of an hour's patience.
        let ended = "; 15 min 0 s of it count against receivers";
        assert!(said.starts_with(began) && said.ends_with(ended), "{said}");
        gate.open();
        let end = sender.end().expect(0);
        assert_eq!(end.warnings(), [""; 0]);
        receiver.end().0.expect(0);
        drop(gate);
    }
}

/// How often a program's first thread has gone to sleep.
fn sleeps(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count")
}

/// One greets when the sender goes on, which makes it look at the clock; the other later.
#[test]
fn a_stopped_sender_waits_for_every_greeting() {
    let Some(clock) = Clock::new("a_stopped_sender_waits_for_every_greeting") else { return };
    let mut receivers = [0; 2].map(|_| {
        let (asks, asked) = std::sync::mpsc::channel();
        let (lets, may_greet) = std::sync::mpsc::channel::<()>();
        let (address, stand_in) = stand_in(move |mut stream| {
            stream.read_exact(&mut [0; 16]).unwrap();
            asks.send(()).unwrap();
            may_greet.recv().unwrap();
            // It may have given up.
            let _ = stream.write_all(RECEIVER);
            while !matches!(read_frame(&mut stream), Ok((6, _)) | Err(_)) {}
            let _ = stream.write_all(b"\x81\0\0\0\x05\0\0\0\0\x00");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        (address, asked, lets, Some(stand_in))
    });
    let dir = scratch();
    let mut command = ringwire(SEND);
    command.arg(write(dir.path().join("f"), b"content"));
    for (address, ..) in &receivers {
        command.args(["--to", address]);
    }
    let mut sender = Program::start(clock.of(command));
    receivers.iter().for_each(|(_, asked, ..)| asked.recv().unwrap());
    clock.stop_for_a_day(&sender);
    let slept = sleeps(&sender);
    receivers[0].2.send(()).unwrap();
    until("a look", || (sender.has_ended() || sleeps(&sender) > slept).then_some(()));
    receivers[1].2.send(()).unwrap();
    sender.end().expect(0);
    receivers.iter_mut().for_each(|receiver| receiver.3.take().unwrap().join().unwrap());
}
