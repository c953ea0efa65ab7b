//! Places, pages and records that are used again: what was there before must not be taken for what
//! is there now.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use ringwire_arena::Segment;

use super::*;
use crate::words::chore::Chore;
use crate::words::submission::Submission;

/// Memory of which a test knows whether it is held.
struct Watched {
    _held: Arc<()>,
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        b"owned"
    }
}

struct Panics;

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        b"panic"
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("an owner that panics");
    }
}

fn block(segment: &Arc<Segment>, bytes: usize) -> Piece {
    let mut block = segment.take(bytes).unwrap();
    block.advance(bytes);
    Piece::from(block.freeze())
}

#[test]
fn a_request_like_the_last_one_gives_none_of_its_header_pages_back() {
    let mut play = Play::datagrams();
    let segment = Segment::on_heap(0, 16 << 20);
    play.core.machine.add_segment(Arc::clone(&segment));
    let alike = block(&segment, 32_868);
    let body = block(&segment, 32_768);
    let page = body.as_slice().as_ptr().addr() + 32_768;
    let send = |play: &mut Play, payload: crate::payload::Payload| {
        play.core.send(play.sock, payload, SendOptions::new()).unwrap();
    };
    send(&mut play, [body, Piece::from(vec![1; 100])].into_payload());
    send(&mut play, alike.into_payload());
    play.turn();
    assert_eq!(play.core.engine.ranges[0].last().map(|range| range.0 + range.1), Some(page + 100));
    for request in 0..2 {
        let token = play.core.engine.seen[request].token;
        let (outcome, notification_follows) = (Ok(32_868), true);
        let result = Completion::Result { token, outcome, notification_follows };
        play.core.engine.completions.push(result);
    }
    play.turn();
    // The page is the first one's, which is still read.
    play.notify(1, Usage::ZeroCopy);
    send(&mut play, [block(&segment, 32_768), Piece::from(vec![2; 100])].into_payload());
    play.turn();
    let touches = |&(at, bytes): &(usize, usize)| at < page + 100 && page < at + bytes;
    assert!(!play.core.engine.ranges[2].iter().any(touches), "the page was written over");
    segment.close();
}

/// A payload of 600 MiB, of which a request carries a part, and one behind it.
fn two_that_are_out_in_part() -> Play {
    let limits = Limits { socket_bytes: 1 << 40, ring_bytes: 1 << 40, ..Limits::default() };
    let mut play = Play::with_limits(Kind::Stream, limits);
    play.send(600 << 20);
    play.send(1000);
    play.turn();
    play
}

#[test]
fn a_result_that_comes_before_its_connection_is_broken_loses_nothing() {
    let mut play = two_that_are_out_in_part();
    play.core.machine.abort(play.sock).unwrap();
    let token = play.core.engine.seen[0].token;
    let (outcome, notification_follows) = (Err(Errno::PIPE), false);
    let result = Completion::Result { token, outcome, notification_follows };
    play.core.machine.handle(result, &Script::default());
    play.core.do_chores();
    let told = play.turn();
    assert_eq!(told.iter().filter(|told| told.starts_with("failed")).count(), 2, "{told:?}");
    play.assert_at_rest();
}

#[test]
fn a_place_that_is_anothers_by_now_is_not_failed() {
    let mut play = two_that_are_out_in_part();
    let other = attach(&mut play.core, Kind::Stream);
    let inspect = Script::default();
    let token = play.core.engine.seen[0].token;
    let machine = &mut play.core.machine;
    let quiet = SendOptions::new().quiet();
    machine.send(other, vec![0; 10].into_payload(), quiet).unwrap();
    machine.abort(play.sock).unwrap();
    let (outcome, notification_follows) = (Err(Errno::PIPE), false);
    machine.handle(Completion::Result { token, outcome, notification_follows }, &inspect);
    let watched = Arc::new(());
    let payload = Bytes::from_owner(Watched { _held: Arc::clone(&watched) }).into_payload();
    machine.send(other, payload, quiet).unwrap();
    machine.begin_round();
    let mut tokens = Vec::new();
    while let Some(submission) = machine.poll_submission(&inspect) {
        if let Submission::Request(request) = submission {
            tokens.push(request.token());
        }
    }
    let (outcome, notification_follows) = (Ok(15), true);
    machine
        .handle(Completion::Result { token: tokens[0], outcome, notification_follows }, &inspect);
    while let Some(chore) = machine.poll_chore() {
        if let Chore::Break { socket } = chore {
            machine.on_broken(socket, Ok(())).unwrap();
        }
    }
    machine.drop_quiet();
    assert_eq!(Arc::strong_count(&watched), 2, "the kernel still reads it");
}

#[test]
fn what_was_not_taken_beside_an_owner_that_panics_is_dropped() {
    let watched = Arc::new(());
    let mut play = Play::stream();
    let owners =
        [Bytes::from_owner(Panics), Bytes::from_owner(Watched { _held: Arc::clone(&watched) })];
    for owner in owners {
        play.core.send(play.sock, owner.into_payload(), SendOptions::new()).unwrap();
    }
    play.turn();
    play.result(Ok(10), true);
    play.core.engine.notify(0, Usage::ZeroCopy);
    let mut events = Events::new();
    let _ = play.core.turn(Deadline::Now, &mut events).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(events.drain()))).is_err());
    assert_eq!(Arc::strong_count(&watched), 1);
}
