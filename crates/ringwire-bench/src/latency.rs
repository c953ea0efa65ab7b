//! `bench latency`: what one small payload costs that finds nobody before it.
//!
//! Over loopback, one connection, call by call: a `write`, or a `send` and turns of the ring until
//! `Sent`. Each call begins when the receiver has read all before it, and which method is next is
//! drawn anew for each pair. The receiver sleeps in its read, as receivers do, so waking it is part
//! of both.

use std::net::TcpStream;
use std::time::Instant;

use hdrhistogram::Histogram;
use ringwire::{Arena, Block, EngineChoice, Event, Events, Ring, Socket};

use crate::alternate::Sink;
use crate::error::{Error, STUCK_AFTER};
use crate::job::Protocol;
use crate::net::Net;
use crate::report::latency::LatencyRow;

/// Payload sizes: a short message, and a long one.
pub const SIZES: [u64; 2] = [64, 1024];
/// Calls of each method in one run.
const CALLS: u32 = 20_000;
/// Calls of each before the first run.
const WARM_UP: u32 = 2_000;
/// The longest time that the histogram distinguishes.
const LONGEST_NS: u64 = 1_000_000_000;

/// The two methods, in the order in which runs and rows have them.
const METHODS: [&str; 2] = ["write", "ringwire"];

/// Measures `runs` runs of payloads of `payload_bytes` bytes over `net`, a wire that copies.
/// `stops` is asked after every run.
///
/// # Errors
/// What keeps it from being measured.
pub fn measure(
    net: &Net,
    payload_bytes: u64,
    runs: u32,
    stops: impl Fn() -> bool,
) -> Result<Vec<LatencyRow>, Error> {
    let (near, far) = net.pair()?;
    let sink = Sink::new(far, net.other_cpu())?;
    // The receiver ends when every handle to the connection is gone, so these go before it.
    let mut pair = Pair::new(near, payload_bytes as usize)?;
    pair.run(&sink, WARM_UP)?;
    let mut rows = Vec::new();
    for run in 1..=runs {
        let histograms = pair.run(&sink, CALLS)?;
        for (method, histogram) in METHODS.into_iter().zip(&histograms) {
            rows.push(LatencyRow {
                bench: "latency".into(),
                wire: net.spec().kind,
                protocol: Protocol::Tcp,
                method: method.into(),
                payload_bytes,
                run,
                calls: CALLS,
                latency_ns_p50: histogram.value_at_quantile(0.5) as f64,
                latency_ns_p99: histogram.value_at_quantile(0.99) as f64,
            });
        }
        if stops() {
            break;
        }
    }
    drop(pair);
    Ok(rows)
}

/// Both methods over one connection.
struct Pair {
    stream: TcpStream,
    ring: Ring,
    sock: Socket,
    events: Events,
    block: Block,
    sent_bytes: u64,
    random: fastrand::Rng,
}

impl Pair {
    fn new(stream: TcpStream, payload_bytes: usize) -> Result<Pair, Error> {
        let arena = Arena::builder().capacity_bytes(1 << 20).build()?;
        let mut ring = Ring::builder().engine(EngineChoice::Uring).arena(&arena).build()?;
        let dup = stream.try_clone().map_err(|error| Error::io("duplicating a socket", error))?;
        let sock = ring.attach(dup)?;
        let mut block = arena.alloc(payload_bytes)?;
        block.spare_mut()[..payload_bytes].fill(7);
        block.advance(payload_bytes);
        let (events, block) = (Events::with_capacity(16), block.freeze());
        let random = fastrand::Rng::with_seed(1);
        Ok(Pair { stream, ring, sock, events, block, sent_bytes: 0, random })
    }

    /// `calls` calls of each method, in pairs.
    fn run(&mut self, sink: &Sink, calls: u32) -> Result<[Histogram<u64>; 2], Error> {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_NS, 3)
                .map_err(|why| Error::Misuse(format!("a histogram: {why}")))
        };
        let mut histograms = [histogram()?, histogram()?];
        for _ in 0..calls {
            let first = usize::from(self.random.bool());
            for method in [first, 1 - first] {
                let started = Instant::now();
                match method {
                    0 => self.write()?,
                    _ => self.send()?,
                }
                let took = started.elapsed();
                histograms[method].saturating_record(took.as_nanos().max(1) as u64);
                self.sent_bytes += self.block.len() as u64;
                sink.spin(self.sent_bytes)?;
            }
        }
        Ok(histograms)
    }

    fn write(&self) -> Result<(), Error> {
        match rustix::io::write(&self.stream, &self.block) {
            Ok(taken) if taken == self.block.len() => Ok(()),
            Ok(taken) => Err(Error::Stuck(format!("an empty connection took {taken} bytes"))),
            Err(errno) => Err(Error::io("write", errno)),
        }
    }

    fn send(&mut self) -> Result<(), Error> {
        self.ring.send(self.sock, self.block.clone()).map_err(|refused| refused.why)?;
        loop {
            self.ring.turn(Some(STUCK_AFTER), &mut self.events)?;
            if self.events.is_empty() {
                return Err(Error::Stuck("a payload was never sent".into()));
            }
            let mut sent = false;
            for event in self.events.drain() {
                match event {
                    Event::Sent { .. } => sent = true,
                    Event::Failed { error, .. } => {
                        return Err(Error::Stuck(format!("a payload failed: {error}")));
                    }
                    _ => {}
                }
            }
            if sent {
                return Ok(());
            }
        }
    }
}
