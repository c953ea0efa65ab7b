//! What the bookkeeping of a payload costs without a kernel, and that small payloads fill requests.
//!
//! `RINGWIRE_COST_PAYLOADS=8000000 cargo test --release -p ringwire --lib cost -- --nocapture`
//! tells what it costs; no test can hold that on machines that others use too. The engine takes any
//! request at once and lets go of it a fixed number of requests later, as an unhurried wire does.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::arena::{Arena, Block};
use crate::config::{Limits, Thresholds};
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target, Usage};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::payload::IntoPayload as _;
use crate::queue::PathSample;
use crate::release::Events;
use crate::ring::SendOptions;
use crate::ring::core::Core;
use crate::sys::socket::Kind;

struct Sink {
    results: Vec<(Key, u32)>,
    held: VecDeque<Key>,
    held_max: usize,
    acked: Cell<u64>,
    requests: u64,
}

impl Engine for Sink {
    fn features(&self) -> Features {
        Features::ALL
    }
    fn submit(&mut self, send: Send<'_>) -> Result<(), Error> {
        let bytes: usize = send.spans.iter().map(|span| span.bytes).sum();
        self.results.push((send.token, bytes as u32));
        self.requests += 1;
        Ok(())
    }
    fn cancel(&mut self, _: Key) {}
    fn prepare_segments(&mut self, _: &Arena) -> Result<(), Error> {
        Ok(())
    }
    fn adopt_segment(&mut self, _: &Arena, _: u16) -> Result<(), Errno> {
        Ok(())
    }
    fn add_file(&mut self, place: u32, _: BorrowedFd<'_>) -> Option<u32> {
        Some(place)
    }
    fn remove_file(&mut self, _: u32) {}
    fn copy_now(
        &mut self,
        _: Target<'_>,
        spans: &[Span],
        _: Option<&SocketAddr>,
        _: Option<u16>,
    ) -> Result<usize, Errno> {
        Ok(spans.iter().map(|span| span.bytes).sum())
    }
    fn turn(&mut self, _: Deadline, completions: &mut Vec<Completion>) -> Result<(), Error> {
        for (token, bytes) in self.results.drain(..) {
            self.acked.set(self.acked.get() + u64::from(bytes));
            completions.push(Completion::Result {
                token,
                outcome: Ok(bytes),
                notification_follows: true,
            });
            self.held.push_back(token);
        }
        while self.held.len() > self.held_max {
            let token = self.held.pop_front().unwrap();
            completions.push(Completion::Notification { token, usage: Usage::ZeroCopy });
        }
        Ok(())
    }
    fn expects(&self) -> bool {
        true
    }
    fn has_unsubmitted(&mut self) -> bool {
        false
    }
    fn sample(&self, _: Target<'_>) -> Option<PathSample> {
        Some(PathSample {
            delivery_rate: 40 << 30,
            acked_bytes: self.acked.get(),
            busy: true,
            send_buffer_bytes: 64 << 20,
            window_limited_us: 0,
        })
    }
}

/// Which play.
struct Play {
    bytes: usize,
    /// Requests that are accepted and not let go of.
    held_max: usize,
    quiet: bool,
}

/// Memory for payloads, and the order in which they are sent.
struct Goods {
    blocks: Vec<Block>,
    order: Vec<usize>,
    at: usize,
}

const BLOCK_BYTES: usize = 16 << 20;

impl Goods {
    /// All payloads of `blocks` blocks, shuffled.
    fn new(arena: &Arena, blocks: usize, bytes: usize) -> Self {
        let block = |_| {
            let mut block = arena.alloc(BLOCK_BYTES).unwrap();
            block.advance(BLOCK_BYTES);
            block.freeze()
        };
        let blocks: Vec<_> = (0..blocks).map(block).collect();
        let mut order: Vec<_> = (0..blocks.len() * (BLOCK_BYTES / bytes)).collect();
        let mut seed = 1_u64;
        for at in (1..order.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            order.swap(at, (seed >> 33) as usize % (at + 1));
        }
        Goods { blocks, order, at: 0 }
    }

    fn next(&mut self, bytes: usize) -> Block {
        let (place, places) = (self.order[self.at], BLOCK_BYTES / bytes);
        self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        let start = place % places * bytes;
        self.blocks[place / places].slice(start..start + bytes)
    }
}

/// Sends `payloads` payloads. Returns nanoseconds a payload, and payloads a request.
fn play(play: &Play, payloads: u64) -> (f64, f64) {
    let arena = Arena::builder().capacity_bytes(64 << 20).build().unwrap();
    let mut goods = Goods::new(&arena, 3, play.bytes);
    let (results, held, acked) = (Vec::new(), VecDeque::new(), Cell::new(0));
    let engine = Sink { results, held, held_max: play.held_max, acked, requests: 0 };
    let mut core = Core::new(engine, Limits::default(), Thresholds::default(), 1);
    core.know(arena.clone()).unwrap();
    let fd = std::fs::File::open("/dev/null").unwrap();
    let sock = core.attach_as(fd.into(), Kind::Stream).unwrap();
    let notifier = core.notifier(1).unwrap();
    let options = match play.quiet {
        true => SendOptions::new().on(notifier).quiet(),
        false => SendOptions::new(),
    };
    let mut events = Events::with_capacity(4096);
    let (mut best, mut requests) = (f64::MAX, 0);
    for _ in 0..ROUNDS {
        let (started, before) = (Instant::now(), core.engine.requests);
        let mut sent = 0;
        while sent < payloads / ROUNDS {
            while (core.in_flight_payloads as usize) < play.held_max * 256 + 512 {
                sent += 1;
                core.send(sock, goods.next(play.bytes).into_payload(), options).unwrap();
            }
            let _ = core.turn(Deadline::Now, &mut events).unwrap();
            events.drain().for_each(drop);
        }
        best = (started.elapsed().as_nanos() as f64 / sent as f64).min(best);
        requests = core.engine.requests - before;
    }
    let held = std::mem::take(&mut core.engine.held);
    let free = |token| Completion::Notification { token, usage: Usage::ZeroCopy };
    core.completions.extend(held.into_iter().map(free));
    core.take_completions(&mut events);
    (best, payloads as f64 / ROUNDS as f64 / requests as f64)
}

const ROUNDS: u64 = 5;

#[test]
fn small_payloads_fill_requests_and_their_cost_is_told() {
    let payloads = std::env::var("RINGWIRE_COST_PAYLOADS").ok();
    let payloads = payloads.map_or(200_000, |count| count.parse().expect("a number"));
    for (bytes, held_max, quiet) in [
        (1024, 4, false),
        (1024, 32, false),
        (1024, 32, true),
        (4096, 4, false),
        (4096, 32, false),
        (4096, 32, true),
    ] {
        let (ns, a_request) = play(&Play { bytes, held_max, quiet }, payloads);
        println!("{bytes} B, {held_max} requests held, quiet {quiet}: {ns:.1} ns a payload");
        // 64 KiB are gathered from the start, 256 pieces once the path is known.
        assert!(a_request * bytes as f64 > 60_000.0, "{a_request:.1} payloads a request");
    }
}
