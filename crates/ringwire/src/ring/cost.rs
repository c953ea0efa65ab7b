//! What the bookkeeping of a payload costs, without a kernel: a measurement, not a test.
//!
//! `cargo test --release -p ringwire --lib cost -- --ignored --nocapture`. The engine takes every
//! request at once and lets go of it a fixed number of requests later, as an unhurried wire does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::arena::Arena;
use crate::config::{Limits, Thresholds};
use crate::engine::{Completion, Deadline, Engine, Features, Send, Span, Target, Usage};
use crate::error::{Errno, Error};
use crate::ledger::Key;
use crate::payload::IntoPayload as _;
use crate::queue::PathSample;
use crate::release::{Event, Events};
use crate::ring::SendOptions;
use crate::ring::core::Core;
use crate::sys::socket::Kind;

struct Sink {
    results: Vec<(Key, u32)>,
    held: VecDeque<Key>,
    held_max: usize,
    acked: std::cell::Cell<u64>,
    requests: u64,
}

impl Engine for Sink {
    fn features(&self) -> Features {
        Features { one_piece: true, many_pieces: true, many_registered: true }
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

#[test]
#[ignore = "a measurement"]
fn cost_of_a_payload() {
    const PAYLOADS: u64 = 8_000_000;
    for (bytes, held_max, quiet) in [
        (1024_usize, 4, false),
        (1024, 32, false),
        (1024, 32, true),
        (4096, 4, false),
        (4096, 32, false),
        (4096, 32, true),
    ] {
        let arena = Arena::builder().capacity_bytes(256 << 20).build().unwrap();
        let big: Vec<_> = (0..15)
            .map(|_| {
                let mut block = arena.alloc(16 << 20).unwrap();
                let room = block.spare_mut().len();
                block.advance(room);
                block.freeze()
            })
            .collect();
        let places = (16 << 20) / bytes;
        let mut order: Vec<_> = (0..big.len() * places).collect();
        let mut seed = 1_u64;
        for at in (1..order.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            order.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let engine = Sink {
            results: Vec::new(),
            held: VecDeque::new(),
            held_max,
            acked: std::cell::Cell::new(0),
            requests: 0,
        };
        let mut core = Core::new(engine, Limits::default(), Thresholds::default(), 1);
        core.know(arena.clone()).unwrap();
        let fd = std::fs::File::open("/dev/null").unwrap();
        let sock = core.attach_as(fd.into(), Kind::Stream).unwrap();
        let notifier = core.notifier(1).unwrap();
        let mut events = Events::with_capacity(4096);
        let mut best = f64::MAX;
        let mut at = 0;
        let mut requests = 0;
        for _ in 0..5 {
            let started = Instant::now();
            let before = core.engine.requests;
            let mut sent = 0;
            while sent < PAYLOADS / 5 {
                while (core.in_flight_payloads as usize) < held_max * 256 + 512 {
                    sent += 1;
                    let place = order[at];
                    at = if at + 1 == order.len() { 0 } else { at + 1 };
                    let start = place % places * bytes;
                    let block = big[place / places].slice(start..start + bytes);
                    let options = SendOptions {
                        notifier: quiet.then_some(notifier),
                        quiet,
                        ..SendOptions::default()
                    };
                    core.send(sock, block.into_payload(), options).unwrap();
                }
                let _ = core.turn(Deadline::Now, &mut events).unwrap();
                for event in events.drain() {
                    if let Event::Released { payload, .. } = event {
                        drop(payload);
                    }
                }
            }
            best = best.min(started.elapsed().as_nanos() as f64 / sent as f64);
            requests = core.engine.requests - before;
        }
        println!(
            "{bytes} bytes, {held_max} requests held, quiet {quiet}: {best:.1} ns a payload, {:.1} payloads a request",
            PAYLOADS as f64 / 5.0 / requests as f64
        );
        core.ledger.payloads.drop_quiet();
        let held = std::mem::take(&mut core.engine.held);
        core.completions.extend(
            held.into_iter()
                .map(|token| Completion::Notification { token, usage: Usage::ZeroCopy }),
        );
        core.take_completions(&mut events);
    }
}
