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
use serde::{Deserialize, Serialize};

use crate::alternate::Sink;
use crate::error::{Error, STUCK_AFTER};
use crate::job::{Protocol, WireKind};
use crate::median::median;
use crate::net::Net;

/// Payload sizes: a short message, and a long one.
pub const SIZES: [u64; 2] = [64, 1024];
/// Calls of each method in one run.
const CALLS: u32 = 20_000;
/// Calls of each before the first run.
const WARM_UP: u32 = 2_000;
/// Longest time that is told from a longer one.
const LONGEST_NS: u64 = 1_000_000_000;

/// One run of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRow {
    /// `latency`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `write` or `ringwire`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// From 1.
    pub run: u32,
    /// Calls timed.
    pub calls: u32,
    /// Half of the calls took no longer, in nanoseconds.
    pub latency_ns_p50: f64,
    /// 99 of 100 calls took no longer.
    pub latency_ns_p99: f64,
}

/// The medians of one method's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyMedian {
    /// As in a row, like all fields down to `payload_bytes`.
    pub bench: String,
    /// The wire.
    pub wire: WireKind,
    /// What carried the payloads.
    pub protocol: Protocol,
    /// `write` or `ringwire`.
    pub method: String,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// How many runs there were.
    pub runs: u32,
    /// Calls timed in all of them.
    pub calls: u32,
    /// Median of the medians.
    pub latency_ns_p50: f64,
    /// Median of the 99th percentiles.
    pub latency_ns_p99: f64,
    /// Median of the runs' ratios to `write` of the same run, of their medians.
    pub ratio_to_write_p50: f64,
    /// The same of their 99th percentiles.
    pub ratio_to_write_p99: f64,
}

/// All of `bench latency`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Every run.
    pub rows: Vec<LatencyRow>,
    /// One for each size and method.
    pub medians: Vec<LatencyMedian>,
}

impl Latencies {
    /// Rows and their medians.
    pub fn new(rows: Vec<LatencyRow>) -> Latencies {
        Latencies { medians: medians(&rows), rows }
    }
}

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

/// The medians of rows, by size and method, in the order in which they first came.
fn medians(rows: &[LatencyRow]) -> Vec<LatencyMedian> {
    let mut firsts: Vec<&LatencyRow> = Vec::new();
    for row in rows {
        let same = |first: &&LatencyRow| {
            (first.payload_bytes, &first.method) == (row.payload_bytes, &row.method)
        };
        if !firsts.iter().any(same) {
            firsts.push(row);
        }
    }
    let of = |first: &&LatencyRow| one(first, rows);
    firsts.iter().filter_map(of).collect()
}

fn one(first: &LatencyRow, rows: &[LatencyRow]) -> Option<LatencyMedian> {
    let of_size = || rows.iter().filter(|row| row.payload_bytes == first.payload_bytes);
    let own = || of_size().filter(|row| row.method == first.method);
    let written = |run| of_size().find(|row| row.run == run && row.method == METHODS[0]);
    let ratio = |value: fn(&LatencyRow) -> f64| {
        median(own().filter_map(|row| Some(value(row) / value(written(row.run)?))))
    };
    Some(LatencyMedian {
        bench: first.bench.clone(),
        wire: first.wire,
        protocol: first.protocol,
        method: first.method.clone(),
        payload_bytes: first.payload_bytes,
        runs: own().count() as u32,
        calls: own().map(|row| row.calls).sum(),
        latency_ns_p50: median(own().map(|row| row.latency_ns_p50))?,
        latency_ns_p99: median(own().map(|row| row.latency_ns_p99))?,
        ratio_to_write_p50: ratio(|row| row.latency_ns_p50)?,
        ratio_to_write_p99: ratio(|row| row.latency_ns_p99)?,
    })
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
            self.ring.turn(STUCK_AFTER, &mut self.events)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, payload_bytes: u64, run: u32, p50: f64, p99: f64) -> LatencyRow {
        LatencyRow {
            bench: "latency".into(),
            wire: WireKind::Loopback,
            protocol: Protocol::Tcp,
            method: method.into(),
            payload_bytes,
            run,
            calls: 100,
            latency_ns_p50: p50,
            latency_ns_p99: p99,
        }
    }

    #[test]
    fn ratios_are_taken_run_by_run() {
        let rows = [
            row("write", 64, 1, 1000.0, 4000.0),
            row("ringwire", 64, 1, 1100.0, 4000.0),
            row("write", 64, 2, 2000.0, 5000.0),
            row("ringwire", 64, 2, 2000.0, 10_000.0),
            row("write", 64, 3, 3000.0, 6000.0),
            row("ringwire", 64, 3, 3600.0, 6600.0),
            row("write", 1024, 1, 7.0, 7.0),
        ];
        let medians = medians(&rows);
        assert_eq!(medians.len(), 3);
        let ringwire = &medians[1];
        assert_eq!((ringwire.method.as_str(), ringwire.runs, ringwire.calls), ("ringwire", 3, 300));
        assert_eq!((ringwire.latency_ns_p50, ringwire.latency_ns_p99), (2000.0, 6600.0));
        assert_eq!((ringwire.ratio_to_write_p50, ringwire.ratio_to_write_p99), (1.1, 1.1));
        assert_eq!(medians[0].ratio_to_write_p50, 1.0);
        assert_eq!(medians[2].payload_bytes, 1024);
    }
}
