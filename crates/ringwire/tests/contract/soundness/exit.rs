//! A process that is told to exit while bytes are in flight: by a signal, or by its own call of
//! `exit`, with a thread that goes on overwriting whatever memory it is given.
//!
//! The process is this test once more, told by the environment what to send to whom.

use crate::contract::runs_here;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, process, thread};

use ringwire::TaskRun;
use rustix::process::{Pid, Signal, kill_process};

use super::peer::{self, Peer};
use super::rig::{self, After, Memory, Sender, Setup, Tally, Unavailable};
use crate::support::PATIENCE;

const CHILD: &str = "RINGWIRE_SOUNDNESS_CHILD";
const SELF: &str = "contract::soundness::exit::a_process_told_to_exit";

/// What ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    BySignal,
    ByItself,
}

/// The peer of a process that exits sees all bytes that were accepted, then EOF.
#[test]
fn a_process_told_to_exit() {
    let Some(()) = runs_here("a_process_told_to_exit") else { return };
    if let Ok(task) = env::var(CHILD) {
        child(&task);
    }
    for told in [Told::BySignal, Told::ByItself] {
        for memory in Memory::BOTH {
            let case = format!("a process told to exit, {told:?}, {memory:?}");
            rig::rounds(&case, After::Free, |number, tally| {
                round(number, Setup::of(number, memory), told, tally)
            });
        }
    }
}

fn round(number: u32, setup: Setup, told: Told, tally: &mut Tally) -> Result<(), Unavailable> {
    let (listener, address) = peer::listen(setup.v6).expect("a port on loopback");
    listener.set_read_timeout(Some(PATIENCE)).expect("a time to wait");
    let seed = super::seed(number, 3);
    let Setup { roomy, .. } = setup;
    let registered = setup.memory == Memory::Registered;
    let mut process = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", SELF, "--nocapture"])
        .env(CHILD, format!("{address} {seed} {registered} {roomy} {}", told == Told::ByItself))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut said = String::new();
    let mut stderr = BufReader::new(process.stderr.take().expect("piped"));
    stderr.read_line(&mut said).expect("a line");
    if let Some(why) = said.strip_prefix("unavailable ") {
        process.wait().expect("it exits");
        return Err(Unavailable(why.trim().to_owned()));
    }
    let (far, _) = listener.accept().expect("its connection");
    let peer = Peer::new(far.into(), seed).expect("a time to wait");
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [accepted, queued, unacknowledged] = numbers[..] else {
        panic!("the process said: {said}");
    };
    tally.event(unacknowledged);
    if told == Told::BySignal {
        let pid = Pid::from_child(&process);
        kill_process(pid, Signal::TERM).expect("it is there");
    }
    let status = process.wait().expect("it exits");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, (told == Told::BySignal).then_some(15), "{status}");

    tally.sees_accepted_then_eof(peer, accepted, queued);
    Ok(())
}

/// Sends, says what was accepted, and exits or is killed.
#[expect(clippy::exit, reason = "exiting is what it is for")]
fn child(task: &str) -> ! {
    let words: Vec<&str> = task.split(' ').collect();
    let [address, seed, registered, roomy, by_itself] = words[..] else {
        panic!("what is {task}?");
    };
    let memory = if registered == "true" { Memory::Registered } else { Memory::Normal };
    let roomy = roomy == "true";
    let setup = Setup { memory, task_run: TaskRun::Deferred, v6: false, roomy };
    let address: SocketAddr = address.parse().expect("an address");
    let started = Sender::new(setup).and_then(|mut sender| {
        let near = peer::connect(address, roomy).expect("somebody listens");
        let mut near = sender.attach(near, seed.parse().expect("a seed"), roomy);
        sender.load(&mut near);
        let accepted = sender.turn_until_stuck(&near)?;
        Ok((sender, near, accepted))
    });
    let (sender, near, accepted) = match started {
        Ok(started) => started,
        Err(Unavailable(why)) => {
            eprintln!("unavailable {}", why.replace('\n', " "));
            process::exit(0);
        }
    };
    let arena = sender.arena.clone().expect("still there");
    rig::scribble(&arena);
    thread::spawn(move || {
        loop {
            rig::scribble(&arena);
        }
    });
    eprintln!("{accepted} {} {}", near.queued, near.unacknowledged());
    if by_itself == "true" {
        process::exit(0);
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        thread::park_timeout(PATIENCE);
    }
    process::exit(3);
}
