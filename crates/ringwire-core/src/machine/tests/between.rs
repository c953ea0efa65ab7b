//! What is asked of a machine between a submission and its answer. A driver asks nothing then; but
//! whoever else does must not have it tell or give up what is not so.

use super::*;
use crate::words::submission::Submission;

/// Payloads of such sizes, sent on a socket of which everything is copied.
fn copied(kind: Kind, bytes: &[usize]) -> (Play, Vec<PayloadId>) {
    let mut play = Play::new(kind);
    play.core.machine.thresholds =
        Thresholds { registered_bytes: u64::MAX, normal_bytes: u64::MAX };
    let ids = bytes.iter().map(|&bytes| play.queue(bytes)).collect();
    play.core.machine.begin_round();
    (play, ids)
}

const KINDS: [Kind; 2] = [Kind::Stream, Kind::Datagram { v6: false }];

impl Play {
    fn queue(&mut self, bytes: usize) -> PayloadId {
        let payload = vec![7; bytes].into_payload();
        self.core.send(self.sock, payload, SendOptions::default()).unwrap()
    }

    /// Polls a copy. Returns how long it is.
    fn poll_copy(&mut self) -> usize {
        match self.core.machine.poll_submission(&self.core.engine) {
            Some(Submission::Copy(copy)) => copy.bytes(),
            other => panic!("{other:?}"),
        }
    }

    /// Polls a request of a socket that is full. Returns the memory that it reads.
    fn poll_request(&mut self) -> Vec<(usize, usize)> {
        loop {
            match self.core.machine.poll_submission(&self.core.engine) {
                Some(Submission::Request(request)) => {
                    let ranges = request.spans().iter().map(|span| (span.address(), span.len()));
                    return ranges.collect();
                }
                Some(Submission::Copy(_)) => self.on_copied(Err(Errno::AGAIN)),
                None => panic!("there is none"),
            }
        }
    }

    fn on_copied(&mut self, outcome: Result<usize, Errno>) {
        self.core.machine.on_copied(outcome, &self.core.engine);
    }

    fn poll_events(&mut self) -> Vec<String> {
        self.core.machine.take_events(&mut self.events);
        self.told()
    }
}

#[test]
fn what_is_taken_back_while_its_copy_waits_is_not_read() {
    for kind in KINDS {
        let (mut play, ids) = copied(kind, &[1_000, 1_000, 1_000]);
        assert_eq!(play.poll_copy(), 3_000);
        play.on_copied(Err(Errno::AGAIN));
        play.core.cancel(ids[0]).unwrap();
        let mut released = None;
        while let Some(event) = play.core.machine.poll_event() {
            if let Event::Released { payload, .. } = event {
                released = Some(payload);
            }
        }
        let released = released.expect("released at once");
        let read = play.poll_request();
        assert_eq!(read.iter().map(|range| range.1).sum::<usize>(), 2_000);
        let address = released.pieces()[0].as_slice().as_ptr().addr();
        assert!(read.iter().all(|range| range.0 != address), "it is the caller's again");
    }
}

#[test]
fn a_copy_that_was_taken_back_while_it_waited_is_over() {
    for kind in KINDS {
        let (mut play, ids) = copied(kind, &[1_000]);
        play.poll_copy();
        play.on_copied(Err(Errno::AGAIN));
        play.core.cancel(ids[0]).unwrap();
        assert!(play.core.machine.poll_submission(&play.core.engine).is_none());
        assert_eq!(play.poll_events(), ["failed 0 0 125", "released 0 Unknown"]);
        play.assert_at_rest();
    }
}

#[test]
fn what_is_being_copied_has_begun_to_leave() {
    for kind in KINDS {
        let (mut play, ids) = copied(kind, &[1_000, 1_000]);
        let behind = play.queue(10);
        assert_eq!(play.poll_copy(), 2_010);
        for id in [ids[0], ids[1], behind] {
            assert!(matches!(play.core.cancel(id), Err(Error::Misuse(_))));
        }
        play.on_copied(Ok(2_010));
        assert_eq!(play.poll_events().len(), 6);
        play.assert_at_rest();
    }
}

#[test]
fn what_is_sent_while_a_copy_is_made_goes_behind_it() {
    for kind in KINDS {
        for outcome in [Ok(2_000), Ok(1_500), Err(Errno::AGAIN)] {
            let (mut play, _) = copied(kind, &[1_000, 1_000]);
            play.poll_copy();
            play.queue(1_000);
            if kind != Kind::Stream && outcome == Ok(1_500) {
                continue;
            }
            play.on_copied(outcome);
            let mut told = play.poll_events();
            for _ in 0..3 {
                told.extend(play.turn());
                if play.core.engine.open > 0 {
                    let bytes = play.core.engine.seen[0].bytes as u32;
                    told.extend(play.result(Ok(bytes), false));
                }
            }
            assert_eq!(told.len(), 6, "{kind:?} {outcome:?} {told:?}");
            play.assert_at_rest();
        }
    }
}

/// Its place in the tables is another's, and so is that of what was copied.
#[test]
fn the_copy_of_a_broken_socket_is_not_answered_any_more() {
    for kind in KINDS {
        for outcome in [Ok(2_000), Ok(700), Err(Errno::AGAIN), Err(Errno::PIPE)] {
            let (mut play, _) = copied(kind, &[1_000, 1_000]);
            play.poll_copy();
            play.core.abort(play.sock).unwrap();
            assert_eq!(play.poll_events().len(), 4);
            play.core.machine.drop_quiet();
            let slot = play.sock.0.slot();
            play.sock = attach(&mut play.core, kind);
            assert_eq!(play.sock.0.slot(), slot);
            play.queue(500);
            play.on_copied(outcome);
            assert!(play.poll_events().is_empty(), "{kind:?} {outcome:?}");
            assert_eq!(play.core.machine.stats().direct_copies, 0);
            assert_eq!(play.turn().len(), 2, "{kind:?} {outcome:?}");
            assert_eq!(play.core.engine.copied, [500]);
            play.assert_at_rest();
        }
    }
}

/// The kernel has taken it; what is left over fails when the connection is broken.
#[test]
fn a_copy_counts_that_was_made_before_its_connection_was_broken() {
    let (mut play, _) = copied(Kind::Stream, &[1_000, 1_000]);
    play.poll_copy();
    play.core.machine.abort(play.sock).unwrap();
    play.on_copied(Ok(1_500));
    assert!(play.core.machine.poll_submission(&play.core.engine).is_none(), "nothing follows");
    play.core.do_chores();
    let told = play.poll_events();
    assert_eq!(told, ["sent 0 1000", "released 0 Yes", "failed 1 500 125", "released 1 Unknown"]);
    play.assert_at_rest();
}
