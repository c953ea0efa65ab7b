//! Memory is never the caller's again before the kernel has let go of it, whatever happens.
//!
//! Each case runs for 100 rounds on registered and for 100 on normal memory, over IPv4 and IPv6,
//! with everything accepted and with a request that waits for room. In each round several hundred
//! KiB are in flight when the event of its name happens (counted; see `soundness/peer.rs`). All
//! memory that was released is overwritten at once, and so is all that the arena and the heap will
//! give. Then the peer reads, and every case says what it must see. `soundness/canary.rs` shows
//! that the rig would notice: it does the same without ringwire, wrongly, and must be caught.

mod canary;
mod exit;
#[path = "../../../ringwire-soak/src/pattern.rs"]
mod pattern;
mod peer;
mod rig;
#[path = "../../../ringwire-soak/src/tracker.rs"]
mod tracker;

use crate::contract::runs_here;
use crate::support::AT_ONCE;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringwire::{Arena, Errno, Error, OnDeadline, Payload, Piece, Registration};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::ENGINE;
use crate::support::{BOTH_TASK_RUNS, wait_until};
use peer::End;
use rig::{After, Memory, Sender, Setup, Stream, Tally, Unavailable};

/// Runs the rounds of one case on both kinds of memory.
fn case(
    name: &str,
    after: After,
    mut round: impl FnMut(u32, Setup, &mut Tally) -> Result<(), Unavailable>,
) {
    for memory in Memory::BOTH {
        let name = format!("{name}, {memory:?}");
        rig::rounds(&name, after, |number, tally| round(number, Setup::of(number, memory), tally));
    }
}

/// The seed of a stream, of which a round has several.
fn seed(round: u32, stream: u64) -> u64 {
    (u64::from(round) << 8 | stream).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

const BYSTANDER_BYTES: u64 = 205_536;

/// Another connection on the same ring, with bytes in flight of its own, which must not notice what
/// happens to the first.
fn bystander(sender: &mut Sender, setup: Setup, round: u32) -> Stream {
    let mut stream = sender.stream(Setup { roomy: true, ..setup }, seed(round, 1));
    for (index, bytes) in [65_536, 40_001, 99_999].into_iter().enumerate() {
        sender.send(&mut stream.near, bytes, index);
    }
    stream
}

/// The bystander is closed, and its peer sees everything, then EOF.
fn bystander_is_whole(sender: &mut Sender, mut stream: Stream, tally: &mut Tally) {
    sender.ring.close(stream.near.sock).expect("a handle that works");
    assert_eq!(sender.turn_until_read(&mut stream), End::Eof);
    assert_eq!(stream.peer.bytes, BYSTANDER_BYTES);
    tally.saw(&stream.peer);
}

/// A ring is dropped, and its peer has not read. The peer sees all accepted bytes, then EOF; of
/// what was queued behind them it may see a part.
#[test]
fn a_dropped_ring() {
    let Some(()) = runs_here("a_dropped_ring") else { return };
    for task_run in BOTH_TASK_RUNS {
        case(&format!("a dropped ring, {task_run:?}"), After::Lost, |round, setup, tally| {
            let mut sender = Sender::new(Setup { task_run, ..setup })?;
            let mut stream = sender.stream(setup, seed(round, 0));
            sender.load(&mut stream.near);
            let accepted = sender.turn_until_stuck(&stream.near)?;
            let (leaked_before, in_flight) =
                (ringwire::leaked().bytes, stream.near.unacknowledged());
            tally.event(in_flight);

            let Sender { ring, arena, .. } = sender;
            drop(ring);
            let leaked = ringwire::leaked().bytes - leaked_before;
            if ENGINE.zero_copy {
                assert!(leaked >= in_flight, "{leaked} bytes leaked, {in_flight} in flight");
            }
            let arena = arena.expect("still there");
            rig::scribble(&arena);
            if round % 3 == 0 {
                drop(arena);
            }

            let Stream { near, peer } = stream;
            drop(near.duplicate);
            tally.sees_accepted_then_eof(peer, accepted, near.queued);
            Ok(())
        });
    }
}

/// Each forgotten ring keeps four descriptors for good, and often only 1,024 are allowed until a
/// process asks for more.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum anybody may");
}

/// The ring, its sockets, ids and blocks are all forgotten; only the arena's handle is left. The
/// peer sees all accepted bytes. EOF comes when somebody shuts the connection down, since the
/// forgotten ring still has it.
#[test]
fn every_handle_forgotten() {
    let Some(()) = runs_here("every_handle_forgotten") else { return };
    case("every handle forgotten", After::Lost, |round, setup, tally| {
        raise_descriptor_limit();
        let mut sender = Sender::new(setup)?;
        // Blocks of one's own are forgotten with the rest; where there are none, the ring's alone
        // must do.
        sender.kept = (round % 4 == 0).then(Vec::new);
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        let accepted = sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        let arena = sender.arena.take().expect("still there");
        std::mem::forget(sender);
        rig::scribble(&arena);

        stream.peer.read(accepted);
        stream.near.duplicate.shutdown(Shutdown::Write).expect("a connection");
        let Stream { near, peer } = stream;
        drop(near.duplicate);
        tally.sees_accepted_then_eof(peer, accepted, near.queued);
        Ok(())
    });
}

/// The peer resets the connection. What it had read is a prefix, intact; here everything fails or
/// was sent before, and is released at once.
#[test]
fn a_reset_by_the_peer() {
    let Some(()) = runs_here("a_reset_by_the_peer") else { return };
    case("a reset by the peer", After::Free, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        let other = bystander(&mut sender, setup, round);
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        sender.turn_until_stuck(&stream.near)?;
        stream.peer.read_only(100_000);
        sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        tally.saw(&stream.peer);
        stream.peer.reset();
        // The kernel may take it in later, on a thread of its own.
        wait_until("the reset is here", || is_over(&stream.near.duplicate));
        // It cannot be accepted any more, so at least this one fails.
        sender.send(&mut stream.near, 65_536, 0);
        sender.turn_until("all but the bystander's released", |sender| {
            sender.ring.stats().in_flight_bytes == ENGINE.zero_copied(BYSTANDER_BYTES)
        });
        assert!(!sender.failed.is_empty());
        assert_eq!(sender.broken.len(), 1);
        for error in sender.failed.iter().chain(&sender.broken) {
            assert!([Errno::PIPE, Errno::CONNRESET].contains(error), "{error}");
        }

        bystander_is_whole(&mut sender, other, tally);
        sender.finish()
    });
}

/// Whether a connection has ended, in both directions.
fn is_over(near: &TcpStream) -> bool {
    let mut fds = [PollFd::new(near, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).expect("a socket can be polled");
    fds[0].revents().contains(PollFlags::HUP)
}

/// The socket is closed. The peer sees all that was queued, then EOF.
#[test]
fn a_closed_socket() {
    let Some(()) = runs_here("a_closed_socket") else { return };
    case("a closed socket", After::Free, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        let other = bystander(&mut sender, setup, round);
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        sender.ring.close(stream.near.sock).expect("a handle that works");
        sender.turn(Duration::ZERO);
        sender.scribble();

        assert_eq!(sender.turn_until_read(&mut stream), End::Eof);
        assert_eq!(stream.peer.bytes, stream.near.queued);
        tally.saw(&stream.peer);
        bystander_is_whole(&mut sender, other, tally);
        assert_eq!((&sender.failed, &sender.broken), (&vec![], &vec![]));
        sender.finish()
    });
}

/// The socket is aborted. All its memory is released although the peer reads nothing; what the peer
/// then reads is a prefix, intact, and a reset.
#[test]
fn an_aborted_socket() {
    let Some(()) = runs_here("an_aborted_socket") else { return };
    case("an aborted socket", After::Free, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        let other = bystander(&mut sender, setup, round);
        let mut next = sender.stream(Setup { roomy: true, ..setup }, seed(round, 2));
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        sender.ring.abort(stream.near.sock).expect("a handle that works");
        // What is sent right behind it takes the places in the tables that the abort has freed.
        for index in 0..27 {
            sender.send(&mut next.near, 4_097, index);
        }
        sender.turn(Duration::ZERO);
        sender.turn_until("the aborted payloads released", |sender| {
            sender.ring.stats().in_flight_bytes <= BYSTANDER_BYTES + 110_619
        });
        let stats = sender.ring.socket_stats(stream.near.sock);
        assert!(matches!(stats, Err(Error::Misuse(_))), "the handle is stale: {stats:?}");
        let cancelled = sender.failed.len();
        assert_eq!(sender.failed, vec![Errno::CANCELED; cancelled]);

        assert_eq!(stream.peer.read_to_end(), End::Reset);
        assert!(stream.peer.bytes < stream.near.queued, "{} bytes", stream.peer.bytes);
        tally.saw(&stream.peer);

        bystander_is_whole(&mut sender, other, tally);
        sender.ring.close(next.near.sock).expect("a handle that works");
        assert_eq!(sender.turn_until_read(&mut next), End::Eof);
        assert_eq!(next.peer.bytes, 110_619);
        tally.saw(&next.peer);
        assert_eq!((sender.failed.len(), &sender.broken), (cancelled, &vec![]));
        sender.finish()
    });
}

/// The socket is detached with everything accepted and little acknowledged, and goes on by plain
/// writes. The peer sees all of it, then EOF.
#[test]
fn a_detached_socket() {
    let Some(()) = runs_here("a_detached_socket") else { return };
    case("a detached socket", After::Free, |round, setup, tally| {
        let setup = Setup { roomy: true, ..setup };
        let mut sender = Sender::new(setup)?;
        let other = bystander(&mut sender, setup, round);
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        let mut detached =
            TcpStream::from(sender.ring.detach(stream.near.sock).expect("all accepted"));
        sender.scribble();
        let mut plain = [0; 10_000];
        pattern::fill(&mut plain, stream.near.seed, stream.near.queued);
        detached.write_all(&plain).expect("room in the send buffer");
        pattern::overwrite(&mut plain);
        detached.shutdown(Shutdown::Write).expect("a connection");
        drop(detached);

        assert_eq!(sender.turn_until_read(&mut stream), End::Eof);
        assert_eq!(stream.peer.bytes, stream.near.queued + 10_000);
        tally.saw(&stream.peer);
        bystander_is_whole(&mut sender, other, tally);
        assert_eq!((&sender.failed, &sender.broken), (&vec![], &vec![]));
        sender.finish()
    });
}

/// A shutdown gives up. With `Abort` the peer sees a prefix, intact, and a reset, and nothing
/// leaks; with `Leave` it sees all accepted bytes, then EOF.
#[test]
fn a_ring_shut_down() {
    let Some(()) = runs_here("a_ring_shut_down") else { return };
    case("a ring shut down", After::Lost, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        let accepted = sender.turn_until_stuck(&stream.near)?;
        let (payloads, in_flight) =
            (sender.ring.stats().in_flight_payloads, stream.near.unacknowledged());
        tally.event(in_flight);

        let Sender { ring, arena, .. } = sender;
        let arena = arena.expect("still there");
        if round % 8 < 4 {
            let report = ring.shutdown(AT_ONCE, OnDeadline::Abort);
            rig::scribble(&arena);
            // A copy that was accepted is nobody's, and there is nothing to break a connection for.
            let broken = payloads > 0;
            assert!(broken || !ENGINE.zero_copy);
            let seen = (report.released_payloads, report.aborted_sockets);
            assert_eq!(seen, (payloads, u64::from(broken)));
            assert_eq!((report.leaked_payloads, report.unsent_payloads), (0, 0));
            drop(stream.near.duplicate);
            assert_eq!(stream.peer.read_to_end(), if broken { End::Reset } else { End::Eof });
            let whole = stream.peer.bytes == stream.near.queued;
            assert_eq!(whole, !broken, "{} bytes", stream.peer.bytes);
            tally.saw(&stream.peer);
        } else {
            let report = ring.shutdown(AT_ONCE, OnDeadline::Leave);
            rig::scribble(&arena);
            let all = report.released_payloads + report.leaked_payloads + report.unsent_payloads;
            assert_eq!((all, report.aborted_sockets), (payloads, 0));
            let lent = ENGINE.zero_copied(in_flight);
            assert!(report.leaked_bytes >= lent, "{in_flight} in flight, {report:?}");
            assert!(ENGINE.zero_copy || report.leaked_payloads == 0, "copies are nobody's");
            let Stream { near, peer } = stream;
            drop(near.duplicate);
            tally.sees_accepted_then_eof(peer, accepted, near.queued);
        }
        Ok(())
    });
}

/// The arena is dropped before everything else, and others are given memory where it would have
/// been. With the ring alive the peer sees all that was queued, and the blocks come back with their
/// bytes; with the ring dropped next, it sees all accepted bytes. Then EOF.
#[test]
fn an_arena_dropped_first() {
    let Some(()) = runs_here("an_arena_dropped_first") else { return };
    case("an arena dropped first", After::Lost, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        let accepted = sender.turn_until_stuck(&stream.near)?;
        tally.event(stream.near.unacknowledged());

        drop(sender.arena.take());
        // As long as the first, so that it would be mapped into the hole that the first had left.
        let squatter = Arena::builder()
            .capacity_bytes(rig::ARENA_BYTES)
            .registration(Registration::Off)
            .build()
            .expect("no permission needed");
        rig::scribble(&squatter);

        if round % 3 == 0 {
            drop(sender);
            rig::scribble(&squatter);
            let Stream { near, peer } = stream;
            drop(near.duplicate);
            tally.sees_accepted_then_eof(peer, accepted, near.queued);
            return Ok(());
        }
        sender.ring.close(stream.near.sock).expect("a handle that works");
        assert_eq!(sender.turn_until_read(&mut stream), End::Eof);
        assert_eq!(stream.peer.bytes, stream.near.queued);
        tally.saw(&stream.peer);
        sender.finish()
    });
}

/// What another thread is given to drop.
enum Given {
    Clones(Vec<Piece>),
    Back(Payload),
}

/// Clones of everything in flight are dropped on another thread, half of them before the release
/// and half after it, and so is what comes back; that thread allocates again and overwrites. The
/// peer sees all that was queued, then EOF, and all blocks are home.
#[test]
fn a_block_dropped_on_another_thread() {
    let Some(()) = runs_here("a_block_dropped_on_another_thread") else { return };
    case("a block dropped on another thread", After::Free, |round, setup, tally| {
        let mut sender = Sender::new(setup)?;
        sender.kept = Some(Vec::new());
        let mut stream = sender.stream(setup, seed(round, 0));
        sender.load(&mut stream.near);
        sender.turn_until_stuck(&stream.near)?;
        let mut early = sender.kept.take().expect("kept");
        let late = early.split_off(early.len() / 2);
        let arena = sender.arena.clone().expect("still there");
        let (give, given) = mpsc::channel();
        let other = thread::spawn(move || {
            for what in given {
                match what {
                    Given::Clones(clones) => drop(clones),
                    Given::Back(payload) => rig::overwrite(payload),
                }
                rig::scribble(&arena);
            }
        });
        tally.event(stream.near.unacknowledged());

        give.send(Given::Clones(early)).expect("it listens");
        sender.ring.close(stream.near.sock).expect("a handle that works");
        let mut back = |payload| give.send(Given::Back(payload)).expect("it listens");
        assert_eq!(sender.turn_until_read_and(&mut stream, &mut back), End::Eof);
        sender.turn_until_and("everything released", &mut back, |sender| {
            sender.ring.stats().in_flight_payloads == 0
        });
        give.send(Given::Clones(late)).expect("it listens");
        drop(give);
        other.join().expect("it only drops and overwrites");

        assert_eq!(stream.peer.bytes, stream.near.queued);
        tally.saw(&stream.peer);
        sender.finish()
    });
}
