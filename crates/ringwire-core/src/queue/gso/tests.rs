//! What leaves as one request, with literals.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::ledger::events::Events;
use crate::ledger::freed::Freed;
use crate::ledger::notifier::NotificationTable;
use crate::payload::Piece;
use crate::queue::stream::tests::Rig;
use crate::words::errno::Errno;
use crate::words::table::NONE;

const LIMITS: GsoLimits = GsoLimits {
    datagrams: 128,
    joined_bytes: u64::MAX,
    pages: 17,
    scattered_bytes: 512,
    addressed: false,
};

impl Rig {
    fn gather_by(&mut self, limits: GsoLimits) -> Option<GsoBatch> {
        let Rig { payloads, segments, queue, spans, .. } = self;
        let train = queue.gather_batch(payloads, segments, limits, spans)?;
        queue.take_batch(&train.gathered, payloads);
        let bytes: usize = spans.iter().map(|span| span.len()).sum();
        assert_eq!(bytes as u64, train.gathered.bytes);
        let pages: usize = spans.iter().map(pages_of).sum();
        assert_eq!(pages, train.pages);
        Some(train)
    }

    /// (payloads, datagrams, bytes, spans) of the next request.
    fn next_by(&mut self, limits: GsoLimits) -> (u32, u32, u64, usize) {
        let train = self.gather_by(limits).expect("something waits");
        (train.gathered.count, train.datagrams, train.gathered.bytes, self.spans.len())
    }

    fn next_train(&mut self) -> (u32, u32, u64, usize) {
        self.next_by(LIMITS)
    }

    fn take_back(&mut self, slot: u32) {
        let bytes = self.payloads.at(slot).map_or(0, |entry| entry.bytes);
        let mut events = Events::new();
        self.payloads.fail(slot, Errno::CANCELED, &mut events);
        let mut notifications = NotificationTable::new(0);
        let mut freed = Freed::default();
        self.payloads.hand_back(slot, &mut notifications, &mut events, &mut freed);
        self.payloads.at_mut(slot).unwrap().bytes = 0;
        self.queue.forget_bytes(bytes);
    }
}

#[test]
fn equal_datagrams_leave_together_and_a_shorter_one_ends_them() {
    let mut rig = Rig::new();
    for bytes in [1400, 1400, 1400, 600, 1400, 1400, 1500, 1400] {
        rig.push(rig.block(bytes));
    }
    assert_eq!(rig.next_train(), (4, 4, 4_800, 4));
    assert_eq!(rig.next_train(), (2, 2, 2_800, 2), "a longer one begins anew");
    assert_eq!(rig.next_train(), (2, 2, 2_900, 2), "and has a shorter one behind it");
    assert!(rig.queue.is_empty());
    assert_eq!(rig.queue.waiting_bytes(), 0);
}

#[test]
fn a_packet_of_65467_bytes_is_the_most() {
    let mut rig = Rig::new();
    let block = rig.block(128 << 10);
    for at in 0..90 {
        rig.push(block.slice(at * 1400..(at + 1) * 1400));
    }
    assert_eq!(rig.next_train(), (46, 46, 64_400, 1));
    assert_eq!(rig.next_train(), (44, 44, 61_600, 1));
}

#[test]
fn so_are_128_datagrams_or_what_the_path_takes() {
    let mut rig = Rig::new();
    let block = rig.block(64 << 10);
    for at in 0..300 {
        rig.push(block.slice(at * 100..(at + 1) * 100));
    }
    assert_eq!(rig.next_train(), (128, 128, 12_800, 1));
    assert_eq!(rig.next_by(GsoLimits { datagrams: 64, ..LIMITS }), (64, 64, 6_400, 1));
    assert_eq!(rig.next_by(GsoLimits { datagrams: 1, ..LIMITS }), (1, 1, 100, 1));
    assert_eq!(rig.next_by(GsoLimits { joined_bytes: 99, ..LIMITS }), (1, 1, 100, 1));
    assert_eq!(rig.next_by(GsoLimits { joined_bytes: 100, ..LIMITS }), (106, 106, 10_600, 1));
}

#[test]
fn pages_are_counted_and_adjoining_pieces_share_theirs() {
    let mut rig = Rig::new();
    let block = rig.block(256 << 10);
    // Each on a page of its own.
    for at in 0..20 {
        rig.push(block.slice(at * 8192..at * 8192 + 1400));
    }
    assert_eq!(rig.next_train(), (17, 17, 23_800, 17));
    assert_eq!(rig.next_train(), (3, 3, 4_200, 3));
    // Each crosses into the next page: two fragments.
    for at in 0..20 {
        rig.push(block.slice(at * 8192 + 3000..at * 8192 + 4400));
    }
    assert_eq!(rig.next_train(), (8, 8, 11_200, 8), "the ninth would be on pages 17 and 18");
    assert_eq!(rig.next_train(), (8, 8, 11_200, 8));
    assert_eq!(rig.next_train(), (4, 4, 5_600, 4));
    // Where nothing is sent without a copy, nothing is counted.
    for at in 0..20 {
        rig.push(block.slice(at * 8192..at * 8192 + 1400));
    }
    assert_eq!(rig.next_by(GsoLimits { pages: usize::MAX, ..LIMITS }), (20, 20, 28_000, 20));
}

#[test]
fn small_datagrams_are_gathered_however_they_lie() {
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    for at in 0..200 {
        rig.push(block.slice(at * 4096..at * 4096 + 512));
    }
    assert_eq!(rig.next_train(), (127, 127, 65_024, 127));
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    for at in 0..200 {
        rig.push(block.slice(at * 4096..at * 4096 + 513));
    }
    assert_eq!(rig.next_train(), (17, 17, 8_721, 17));
}

#[test]
fn a_train_is_cut_into_requests_between_datagrams() {
    let mut rig = Rig::new();
    let block = rig.block(200_000);
    rig.push_to(block, 1400, None);
    for _ in 0..3 {
        assert_eq!(rig.next_train(), (1, 46, 64_400, 1));
    }
    assert_eq!(rig.next_train(), (1, 5, 6_800, 1), "200,000 are 142 × 1,400 and 1,200");
    assert!(rig.queue.is_empty());
    assert_eq!(rig.queue.waiting_bytes(), 0);
}

#[test]
fn a_train_that_lies_askew_is_cut_at_its_last_whole_datagram() {
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    // Pieces of 1,000 bytes on pages of their own: 17 of them are twelve datagrams and a part.
    let pieces = (0..40).map(|at| Piece::from(block.slice(at * 8192..at * 8192 + 1000)));
    let pieces: Vec<Piece> = pieces.collect();
    rig.push_to(pieces, 1400, None);
    assert_eq!(rig.next_train(), (1, 12, 16_800, 17), "16,800 bytes end in the 17th piece");
    assert_eq!(rig.next_train(), (1, 11, 15_400, 17), "from there on 800 bytes first");
    assert_eq!(rig.next_train(), (1, 6, 7_800, 8));
    assert!(rig.queue.is_empty());
}

#[test]
fn whole_trains_join_single_datagrams_and_each_other() {
    let mut rig = Rig::new();
    rig.push(rig.block(1400));
    rig.push_to(rig.block(14_000), 1400, None);
    rig.push_to(rig.block(2_900), 1400, None);
    rig.push_to(rig.block(2_800), 1400, None);
    assert_eq!(rig.next_train(), (3, 14, 18_300, 3), "the third ends with 100 bytes");
    assert_eq!(rig.next_train(), (1, 2, 2_800, 1));
    // One of several datagrams cannot be the short end, and a part of one joins nothing.
    rig.push(rig.block(1400));
    rig.push_to(rig.block(2_600), 1300, None);
    rig.push(rig.block(1400));
    rig.push_to(rig.block(70_000), 1400, None);
    rig.push(rig.block(1400));
    assert_eq!(rig.next_train(), (1, 1, 1_400, 1));
    assert_eq!(rig.next_train(), (1, 2, 2_600, 1));
    assert_eq!(rig.next_train(), (1, 1, 1_400, 1));
    assert_eq!(rig.next_train(), (1, 46, 64_400, 1));
    assert_eq!(rig.next_train(), (1, 4, 5_600, 1));
    assert_eq!(rig.next_train(), (1, 1, 1_400, 1));
}

#[test]
fn an_empty_datagram_is_one_by_itself() {
    let mut rig = Rig::new();
    for bytes in [0, 0, 100, 0, 100] {
        rig.push(vec![0; bytes]);
    }
    assert_eq!(rig.next_train(), (1, 1, 0, 0));
    assert_eq!(rig.next_train(), (1, 1, 0, 0));
    assert_eq!(rig.next_train(), (1, 1, 100, 1));
    assert_eq!(rig.next_train(), (1, 1, 0, 0));
    assert_eq!(rig.next_train(), (1, 1, 100, 1));
}

#[test]
fn destinations_are_kept_apart() {
    let to = |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut rig = Rig::new();
    for address in [to(1), to(1), to(2), None, None, to(2)] {
        rig.push_to(rig.block(1000), 0, address);
    }
    let limits = GsoLimits { addressed: true, ..LIMITS };
    assert_eq!(rig.next_by(limits), (2, 2, 2_000, 2));
    assert_eq!(rig.next_by(limits), (1, 1, 1_000, 1));
    assert_eq!(rig.next_by(limits), (2, 2, 2_000, 2));
    assert_eq!(rig.next_by(limits), (1, 1, 1_000, 1));
}

#[test]
fn memory_of_two_kinds_goes_in_two_requests_or_unregistered() {
    let mut rig = Rig::new();
    rig.push(rig.block(5000));
    rig.push(vec![0; 5000]);
    rig.push(rig.block(5000));
    let train = rig.gather_by(LIMITS).unwrap();
    assert_eq!((train.datagrams, train.gathered.segment), (1, Some(0)), "too large to copy beside");
    let train = rig.gather_by(LIMITS).unwrap();
    assert_eq!((train.datagrams, train.gathered.segment), (2, None));
    // Small foreign pieces are copied beside registered ones.
    for _ in 0..4 {
        let body = rig.block(1380);
        rig.push([Piece::from(vec![b'h'; 20]), Piece::from(body)]);
    }
    let train = rig.gather_by(LIMITS).unwrap();
    assert_eq!((train.datagrams, train.gathered.bytes), (4, 5_600));
    assert_eq!(train.gathered.segment, Some(0));
    assert_ne!(train.gathered.headers, NONE);
    assert!(rig.spans.iter().all(|s| rig.segments.find(s.address(), s.len()) == Some(0)));
}

#[test]
fn a_datagram_of_many_pages_goes_alone() {
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    for datagram in 0..2_usize {
        let at = |piece: usize| (datagram * 20 + piece) * 8192;
        let pieces =
            (0..20_usize).map(|piece| Piece::from(block.slice(at(piece)..at(piece) + 100)));
        rig.push(pieces.collect::<Vec<_>>());
    }
    let train = rig.gather_by(LIMITS).unwrap();
    assert_eq!((train.datagrams, train.pages, rig.spans.len()), (1, 20, 20));
    // More pieces than one message may have.
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    let pieces = (0..1025).map(|at| Piece::from(block.slice(at * 100..at * 100 + 1)));
    rig.push(pieces.collect::<Vec<_>>());
    assert_eq!(rig.gather_by(LIMITS), None);
}

#[test]
fn what_was_taken_back_leaves_no_gap() {
    let mut rig = Rig::new();
    let slots: Vec<u32> = (0..6).map(|_| rig.push_to(rig.block(1000), 0, None)).collect();
    rig.take_back(slots[0]);
    rig.take_back(slots[3]);
    assert_eq!(rig.next_train(), (1, 0, 0, 0), "a place in front is passed by itself");
    assert_eq!(rig.next_train(), (5, 4, 4_000, 4));
    assert!(rig.queue.is_empty());
    assert_eq!(rig.queue.waiting_bytes(), 0);
}

#[test]
fn what_goes_again_keeps_its_place_and_is_cut_anew() {
    let mut rig = Rig::new();
    let slots: Vec<u32> = (0..6).map(|_| rig.push_to(rig.block(1000), 0, None)).collect();
    let two = GsoLimits { datagrams: 2, ..LIMITS };
    assert_eq!([rig.next_by(two), rig.next_by(two)], [(2, 2, 2_000, 2); 2]);
    // Both fail, in this order; what waits is behind them.
    for first in [slots[0], slots[2]] {
        rig.queue.put_back_run(Run::Whole { slot: first, count: 2 }, &rig.payloads);
    }
    assert_eq!(rig.queue.waiting_bytes(), 6_000);
    let one = GsoLimits { datagrams: 1, ..LIMITS };
    let first = rig.gather_by(one).unwrap().gathered;
    assert_eq!((first.first.slot, first.count), (slots[0], 1));
    // It fails once more, and stands in front again.
    rig.queue.put_back_run(Run::Whole { slot: slots[0], count: 1 }, &rig.payloads);
    let order: Vec<u32> = (0..6).map(|_| rig.gather_by(one).unwrap().gathered.first.slot).collect();
    assert_eq!(order, slots);
    assert!(rig.queue.is_empty());
    assert_eq!(rig.queue.waiting_bytes(), 0);
}

#[test]
fn a_part_of_a_train_goes_again_before_the_rest_of_it() {
    let mut rig = Rig::new();
    let slot = rig.push_to(rig.block(200_000), 1400, None);
    rig.push(rig.block(1400));
    assert_eq!([rig.next_train(), rig.next_train()], [(1, 46, 64_400, 1); 2]);
    rig.queue.put_back_run(Run::Part { slot, from: 64_400, to: 128_800 }, &rig.payloads);
    assert!(rig.queue.holds_part_of(slot));
    assert_eq!(rig.next_by(GsoLimits { datagrams: 40, ..LIMITS }), (1, 40, 56_000, 1));
    assert_eq!(rig.next_train(), (1, 6, 8_400, 1));
    assert!(!rig.queue.holds_part_of(slot));
    assert_eq!(rig.next_train(), (1, 46, 64_400, 1));
    // It fails for good: the rest of it goes with it.
    rig.queue.put_back_run(Run::Part { slot, from: 0, to: 64_400 }, &rig.payloads);
    assert_eq!(rig.queue.waiting_bytes(), 64_400 + 6_800 + 1_400);
    rig.queue.drop_payload(slot, &rig.payloads);
    assert_eq!(rig.queue.waiting_bytes(), 1_400);
    assert_eq!(rig.next_train(), (1, 1, 1_400, 1));
    assert!(rig.queue.is_empty());
}

#[test]
fn dropping_what_goes_again_keeps_the_order_of_the_rest() {
    let one = GsoLimits { datagrams: 1, ..LIMITS };
    for dropped in 0..=2 {
        let mut rig = Rig::new();
        let slots: Vec<u32> = (0..5).map(|_| rig.push_to(rig.block(1000), 0, None)).collect();
        (0..4).for_each(|_| assert_eq!(rig.next_by(one), (1, 1, 1_000, 1)));
        let again = |rig: &mut Rig, slot| {
            rig.queue.put_back_run(Run::Whole { slot, count: 1 }, &rig.payloads);
        };
        again(&mut rig, slots[0]);
        again(&mut rig, slots[1]);
        slots[..dropped].iter().for_each(|slot| rig.queue.drop_payload(*slot, &rig.payloads));
        // Their results come later, as their requests did.
        again(&mut rig, slots[2]);
        again(&mut rig, slots[3]);
        let left = &slots[dropped..];
        assert_eq!(rig.queue.waiting_bytes(), 1_000 * left.len() as u64);
        let next = |_| rig.gather_by(one).unwrap().gathered.first.slot;
        let order: Vec<u32> = (0..left.len()).map(next).collect();
        assert_eq!(order, left, "{dropped} dropped");
        assert!(rig.queue.is_empty());
    }
}

#[test]
fn a_whole_train_that_goes_again_may_have_to_be_cut() {
    let mut rig = Rig::new();
    let train = rig.push_to(rig.block(14_000), 1400, None);
    rig.push(rig.block(1400));
    assert_eq!(rig.next_train(), (2, 11, 15_400, 2));
    rig.queue.put_back_run(Run::Whole { slot: train, count: 2 }, &rig.payloads);
    let six = GsoLimits { datagrams: 6, ..LIMITS };
    assert_eq!(rig.next_by(six), (1, 6, 8_400, 1));
    assert_eq!(rig.next_by(six), (1, 4, 5_600, 1));
    assert_eq!(rig.next_by(six), (1, 1, 1_400, 1));
    assert!(rig.queue.is_empty());
    assert_eq!(rig.queue.waiting_bytes(), 0);
}
