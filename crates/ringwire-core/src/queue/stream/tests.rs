//! Where requests end, with literals.

use std::net::SocketAddr;

use super::*;
use std::sync::Arc;

use ringwire_arena::{Block, Segment};

use crate::ledger::payload::{Opening, Payloads};
use crate::payload::{IntoPayload, Payload, Piece};
use crate::words::flags::PayloadFlags;
use crate::words::route::Force;
use crate::words::socket::PathSample;
use std::time::Duration;

/// A queue over one segment that counts as registered.
pub(crate) struct Rig {
    segment: Arc<Segment>,
    pub(crate) payloads: Payloads,
    pub(crate) segments: KnownSegments,
    pub(crate) queue: SendQueue,
    pub(crate) spans: Vec<Span>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let segment = Segment::on_heap(0, 8 << 20);
        let mut segments = KnownSegments::default();
        segments.add(Arc::clone(&segment));
        let mut queue = SendQueue::new();
        queue.pace.set_bound_bytes(1 << 20);
        Rig { segment, payloads: Payloads::with_room(0, 0), segments, queue, spans: Vec::new() }
    }

    pub(crate) fn block(&self, bytes: usize) -> Block {
        let mut block = self.segment.take(bytes).unwrap();
        block.advance(bytes);
        block.freeze()
    }

    pub(crate) fn push(&mut self, payload: impl IntoPayload) {
        self.push_to(payload, 0, None);
    }

    /// Pushes a payload that is a train, if `segment_bytes` is not 0, and goes to an address.
    pub(crate) fn push_to(
        &mut self,
        payload: impl IntoPayload,
        segment_bytes: u16,
        address: Option<SocketAddr>,
    ) -> u32 {
        let flags = match segment_bytes {
            0 => PayloadFlags::NONE,
            bytes => PayloadFlags::NONE.cut_into(bytes),
        };
        self.push_as(payload, flags, address)
    }

    /// Pushes a payload of which this was asked.
    fn push_as(
        &mut self,
        payload: impl IntoPayload,
        flags: PayloadFlags,
        address: Option<SocketAddr>,
    ) -> u32 {
        let payload: Payload = payload.into_payload();
        let bytes = payload.len() as u64;
        let (socket, notification, tag, opened_ms) = (0, NONE, 0, 0);
        let opening = Opening { bytes, socket, notification, flags, tag, opened_ms };
        let id = self.payloads.open_payload(payload, opening, address);
        self.queue.push(id.0, bytes, &mut self.payloads);
        id.0.slot()
    }

    fn gather(&mut self) -> Option<Gathered> {
        let Rig { payloads, segments, queue, spans, .. } = self;
        let gathered = queue.gather(payloads, segments, spans, GatherLimits::ANY);
        if let Some(gathered) = &gathered {
            queue.take(gathered);
        }
        gathered
    }

    /// (payloads, bytes, spans, whether registered) of the next request of a stream.
    fn next(&mut self) -> (u32, u64, usize, bool) {
        let gathered = self.gather().expect("something waits");
        (gathered.count, gathered.bytes, self.spans.len(), gathered.segment.is_some())
    }
}

#[test]
fn adjoining_pieces_become_one() {
    let mut rig = Rig::new();
    let block = rig.block(64 << 10);
    for at in 0..64 {
        rig.push(block.slice(at * 1024..(at + 1) * 1024));
    }
    assert_eq!(rig.next(), (64, 65_536, 1, true));
    assert!(rig.queue.is_empty());
}

#[test]
fn a_request_takes_256_pieces_and_no_more() {
    let mut rig = Rig::new();
    let block = rig.block(1 << 20);
    for at in 0..300 {
        // Every other 1,024 bytes, so that nothing adjoins.
        rig.push(block.slice(at * 2048..at * 2048 + 1024));
    }
    assert_eq!(rig.next(), (256, 262_144, 256, true));
    assert_eq!(rig.next(), (44, 45_056, 44, true));
}

#[test]
fn one_payload_of_many_pieces_is_split() {
    let pieces = |rig: &Rig| {
        let block = rig.block(1 << 20);
        (0..600).map(|at| Piece::from(block.slice(at * 1500..at * 1500 + 10))).collect::<Vec<_>>()
    };
    let mut rig = Rig::new();
    rig.push(pieces(&rig));
    assert_eq!(rig.next(), (1, 2_560, 256, true));
    assert_eq!(rig.next(), (1, 2_560, 256, true));
    assert_eq!(rig.next(), (1, 880, 88, true));
}

#[test]
fn the_paths_bound_ends_a_request_but_never_before_one_payload() {
    let mut rig = Rig::new();
    rig.queue.pace.set_bound_bytes(10_000);
    for _ in 0..3 {
        rig.push(rig.block(4096));
    }
    rig.push(rig.block(65_536));
    assert_eq!(rig.next(), (2, 8_192, 1, true), "12,288 would be more than 10,000");
    assert_eq!(rig.next(), (1, 4_096, 1, true));
    assert_eq!(rig.next(), (1, 65_536, 1, true));
}

#[test]
fn half_the_send_buffers_charge_ends_a_request() {
    let mut rig = Rig::new();
    rig.queue.pace.set_send_buffer_bytes(87_040);
    let block = rig.block(1 << 20);
    for at in 0..20 {
        rig.push(block.slice(at * 8192..at * 8192 + 100));
    }
    // 43,520 bytes are ten pages of 4,096 for ten pieces of 100 bytes.
    assert_eq!(rig.next(), (10, 1_000, 10, true));
    assert_eq!(rig.next(), (10, 1_000, 10, true));
}

/// A payload of the random test, as it counts for a request.
struct Plain {
    start: usize,
    bytes: usize,
    flags: PayloadFlags,
}

/// What the next request has to be: payloads, bytes and spans, and whether all are silent.
fn expected(waiting: &[Plain], charge_max: u64, bytes_max: u64) -> (u32, u64, Vec<Span>, bool) {
    let (mut count, mut bytes, mut spans, mut silent) = (0, 0, Vec::<Span>::new(), true);
    let mut charged = 0;
    for payload in waiting {
        let joined = spans.pop_if(|last| last.end() == payload.start);
        let span = match joined {
            Some(last) => last.longer_by(payload.bytes),
            None => Span::new(payload.start, payload.bytes),
        };
        let more = charged + charge(span) - joined.map_or(0, charge);
        let total = bytes + payload.bytes as u64;
        let fits = more <= charge_max && total <= bytes_max && spans.len() < PIECES_MAX;
        let alike = payload.flags.route_flags() == waiting[0].flags.route_flags();
        if count > 0 && !(fits && alike) {
            spans.extend(joined);
            break;
        }
        spans.push(span);
        (count, bytes, charged, silent) =
            (count + 1, total, more, silent && payload.flags.is_silent());
    }
    (count, bytes, spans, silent)
}

#[test]
fn a_request_is_as_full_as_its_bounds_allow() {
    let mut seed = 1_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut full, mut requests) = ([0; 3], 0);
    for _ in 0..300 {
        let mut rig = Rig::new();
        let block = rig.block(4 << 20);
        let (send_buffer, bytes_max) = (64 << (10 + random(8)), 1 << (12 + random(10)));
        rig.queue.pace.set_send_buffer_bytes(send_buffer);
        rig.queue.pace.set_bound_bytes(bytes_max);
        let small = random(4) > 0;
        let (longest, adjoining) = (1 << random(if small { 12 } else { 17 }), random(4) == 0);
        let mut waiting = Vec::new();
        let mut end = 0;
        for _ in 0..random(700) + 2 {
            let bytes = 1 + random(longest) as usize;
            let at = if adjoining || random(5) == 0 { end } else { random(3 << 20) as usize };
            let at = if at + bytes > block.len() { 0 } else { at };
            end = at + bytes;
            let payload = block.slice(at..end);
            let start = address_of(&payload);
            let flags = match random(1_000) {
                0..=2 => PayloadFlags::NONE.forced(Force::Copy),
                3..=99 => PayloadFlags::NONE.made_quiet().made_telling(),
                100..=199 => PayloadFlags::NONE,
                _ => PayloadFlags::NONE.made_quiet(),
            };
            rig.push_as(payload, flags, None);
            waiting.push(Plain { start, bytes, flags });
        }
        let mut rest = &waiting[..];
        while !rest.is_empty() {
            let gathered = rig.gather().unwrap();
            let (count, bytes, spans, silent) = expected(rest, send_buffer / 2, bytes_max);
            assert_eq!((gathered.count, gathered.bytes), (count, bytes));
            assert_eq!((&rig.spans, gathered.silent), (&spans, silent));
            assert!(gathered.alone && gathered.segment == Some(0));
            rest = &rest[count as usize..];
            requests += 1;
            full[0] += u32::from(spans.len() == PIECES_MAX);
            full[1] += u32::from(silent && count > 1);
            full[2] += u32::from(spans.len() < count as usize);
        }
        assert!(rig.gather().is_none());
    }
    assert!(full.iter().all(|&seen| seen > 10), "{full:?} of {requests}");
}

#[test]
fn a_request_has_its_payloads_alone_only_if_no_other_covers_one() {
    for covered in 0..4 {
        let mut rig = Rig::new();
        let block = rig.block(64 << 10);
        let slots = [0, 1, 2].map(|at| {
            let payload = block.slice(at * 8192..at * 8192 + 1024);
            rig.push_as(payload, PayloadFlags::NONE, None)
        });
        if let Some(&slot) = slots.get(covered) {
            rig.payloads.add_part(slot, 1);
        }
        let gathered = rig.gather().unwrap();
        assert_eq!((gathered.count, gathered.alone), (3, covered == 3), "{covered}");
    }
}

#[test]
fn a_piece_that_crosses_a_page_charges_both() {
    let span = |offset: usize, bytes| charge(Span::new(8192 + offset, bytes));
    assert_eq!(span(0, 1), 4_096);
    assert_eq!(span(0, 4_096), 4_096);
    assert_eq!(span(1, 4_096), 8_192);
    assert_eq!(span(4_095, 1), 4_096);
}

#[test]
fn small_foreign_pieces_are_copied_beside_registered_ones() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        let body = rig.block(16 << 10);
        rig.push([Piece::from(vec![b'h'; 100]), Piece::from(body)]);
    }
    let gathered = rig.gather().unwrap();
    assert_eq!((gathered.count, gathered.bytes), (3, 49_452));
    assert_eq!(gathered.segment, Some(0));
    assert_ne!(gathered.headers, NONE);
    let all_inside = rig.spans.iter().all(|s| rig.segments.find(s.address(), s.len()) == Some(0));
    assert!(all_inside && rig.spans.len() == 6);
}

#[test]
fn a_large_foreign_piece_ends_a_registered_request_and_goes_unregistered_itself() {
    let mut rig = Rig::new();
    rig.push(rig.block(4096));
    rig.push(vec![0; 4097]);
    rig.push(rig.block(4096));
    assert_eq!(rig.next(), (1, 4_096, 1, true));
    let (count, bytes, _, registered) = rig.next();
    assert_eq!((count, bytes, registered), (2, 8_193, false), "with what comes behind it");
    // In one payload with a block, all of it goes unregistered.
    let body = rig.block(4096);
    rig.push([Piece::from(body), Piece::from(vec![0; 4097])]);
    let (count, bytes, _, registered) = rig.next();
    assert_eq!((count, bytes, registered), (1, 8_193, false));
}

#[test]
fn foreign_pieces_alone_are_not_copied() {
    let mut rig = Rig::new();
    rig.push(vec![0; 100]);
    rig.push(vec![0; 100]);
    let gathered = rig.gather().unwrap();
    assert_eq!((gathered.count, gathered.segment, gathered.headers), (2, None, NONE));
}

#[test]
fn full_header_space_ends_a_request() {
    let mut rig = Rig::new();
    // 64 pages of header space, one piece of 4,096 bytes each.
    for _ in 0..70 {
        let body = rig.block(64);
        rig.push([Piece::from(vec![0; 4096]), Piece::from(body)]);
    }
    assert_eq!(rig.next(), (64, 266_240, 128, true));
    let (count, _, _, registered) = rig.next();
    assert_eq!((count, registered), (6, false), "no page is free while the first is out");
}

#[test]
fn empty_pieces_are_dropped_and_empty_payloads_covered() {
    let mut rig = Rig::new();
    let body = rig.block(64);
    rig.push([Piece::from(b""), Piece::from(body), Piece::from(b"")]);
    rig.push(b"");
    assert_eq!(rig.next(), (2, 64, 1, true));
}

#[test]
fn chains_are_cut_at_64_kib_or_at_the_paths_bound() {
    let mut queue = SendQueue::new();
    queue.pace.set_bound_bytes(1 << 30);
    let cuts: Vec<bool> = (0..6).map(|_| queue.cut(30_000, false).0).collect();
    assert_eq!(cuts, [false, false, true, false, false, true]);
    queue.pace.set_bound_bytes(40_000);
    let cuts: Vec<bool> = (0..4).map(|_| queue.cut(30_000, false).0).collect();
    assert_eq!(cuts, [false, true, false, true]);
    queue.pace.set_bound_bytes(0);
    assert_eq!(
        [queue.cut(1, false).0, queue.cut(1, false).0],
        [true, true],
        "a peer that keeps its window shut"
    );
}

#[test]
fn a_report_is_believed_of_large_requests_and_of_those_with_packets_of_their_own() {
    let mut queue = SendQueue::new();
    queue.pace.set_bound_bytes(1 << 30);
    assert_eq!(queue.cut(65_535, false), (false, false));
    assert_eq!(queue.cut(1, false), (true, false), "it ends a packet that it did not begin");
    assert_eq!(queue.cut(65_536, false), (true, true));
    queue.pace.set_bound_bytes(100);
    assert_eq!(queue.cut(100, false), (true, true), "it begins and ends one");
}

#[test]
fn what_a_path_is_known_to_deliver() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let sample = |acked_bytes, busy, delivery_rate, window_limited_us| PathSample {
        delivery_rate,
        acked_bytes,
        busy,
        send_buffer_bytes: 1 << 20,
        window_limited_us,
        busy_us: 0,
        mtu: 9_000,
    };
    let bounds = |samples: &[(u64, PathSample)]| {
        let mut pace = Pace::new();
        samples.iter().for_each(|&(ms, sample)| pace.on_sample(at(ms), sample));
        pace.bound_bytes()
    };
    assert_eq!(bounds(&[]), 65_536);
    assert_eq!(bounds(&[(0, sample(0, true, 9 << 30, 0))]), 65_536);
    // 400,000 bytes in 10 ms are 10 ms of 40 MB/s; a first measurement is held to 64 KiB.
    let busy = [(0, sample(0, true, 0, 0)), (10, sample(400_000, true, 0, 0))];
    assert_eq!(bounds(&busy), 65_536);
    // Then the lower one of two counts.
    let more = |acked| [busy[0], busy[1], (20, sample(acked, true, 0, 0))];
    assert_eq!(bounds(&more(500_000)), 100_000);
    assert_eq!(bounds(&more(9_000_000)), 400_000);
    assert_eq!(bounds(&[busy[0], (10, sample(10_000, true, 0, 0))]), 10_000);
    // A path that keeps up with everything lets the bound double, as far as the kernel's estimate.
    let idle = |count: u64, rate| -> Vec<_> {
        (0..count).map(|look| (look * 10, sample(0, false, rate, 0))).collect()
    };
    assert_eq!(bounds(&idle(1, 1 << 40)), 131_072);
    assert_eq!(bounds(&idle(3, 1 << 40)), 524_288);
    assert_eq!(bounds(&idle(9, 20_000_000)), 200_000);
    assert_eq!(bounds(&idle(40, u64::MAX)), 512 << 20);
    // A slow peer whose window is shut for a quarter of the time gets one payload a request, also
    // for some looks after that; a fast one is not held back.
    let shut = |acked| [(0, sample(0, true, 0, 0)), (100, sample(acked, true, 0, 26_000))];
    assert_eq!(bounds(&shut(200_000)), 0);
    let [first, second] = shut(200_000);
    assert_eq!(bounds(&[first, second, (200, sample(400_000, true, 0, 26_000))]), 0);
    assert_eq!(bounds(&shut(50_000_000)), 65_536);
}

/// Looks at a busy connection that acknowledges 40 MB/s while it has something to do: when they
/// come, how much was acknowledged and how long it was busy until then, in ms.
fn bound_after(looks: &[(u64, u64, u64)]) -> u64 {
    let start = Instant::now();
    let mut pace = Pace::new();
    for &(at_ms, acked_bytes, busy_ms) in looks {
        let sample = PathSample {
            delivery_rate: 0,
            acked_bytes,
            busy: true,
            send_buffer_bytes: 1 << 20,
            window_limited_us: 0,
            busy_us: 1_000 * busy_ms,
            mtu: 9_000,
        };
        pace.on_sample(start + Duration::from_millis(at_ms), sample);
    }
    pace.bound_bytes()
}

#[test]
fn time_in_which_nothing_was_to_be_sent_is_not_the_paths() {
    let known = [(0, 0, 50), (20, 800_000, 70), (40, 1_600_000, 90)];
    assert_eq!(bound_after(&known), 400_000);
    // Stopped for a minute: what was with the kernel went in 30 ms.
    let stopped = [known[0], known[1], known[2], (60_000, 2_800_000, 120)];
    assert_eq!(bound_after(&stopped), 300_000, "a tick of 10 ms may be missing");
    // A burst of a second's worth each ten seconds.
    let bursts = [(0, 0, 50), (10_000, 40_000_000, 1_050), (20_000, 80_000_000, 2_050)];
    assert_eq!(bound_after(&bursts), 396_039);
    // A peer that takes its time had something to do all the time.
    let slow = [(0, 0, 50), (10_000, 40_000, 10_050), (20_000, 80_000, 20_050)];
    assert_eq!(bound_after(&slow), 40);
    // A kernel that does not tell.
    assert_eq!(bound_after(&[(0, 0, 0), (10_000, 40_000_000, 0), (20_000, 80_000_000, 0)]), 40_000);
}
