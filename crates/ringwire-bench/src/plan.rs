//! What is asked for. Pure.

use crate::job::{Order, WireKind, WireSpec};
use crate::wires::Kind;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bench {
    /// A bit of everything, in under 90 seconds.
    Short,
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// The tables of 2022.
    Tables,
    /// One connection, every wire.
    Wires,
    /// One block to many.
    Fanout,
    /// One small payload at a time.
    Latency,
    /// How cost grows.
    Scale,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which part.
    pub bench: Bench,
    /// Into what; a kind that was not asked for is the benchmark's choice.
    pub wire: WireSpec,
    /// The wires of `wires` where there are several, each once, in the order they are measured in;
    /// empty for what `wire` means by itself. No other part takes several.
    pub several_wires: Vec<WireKind>,
    /// Payload sizes; empty for the benchmark's own.
    pub sizes: Vec<u64>,
    /// Kinds of rows of `wires`; empty for all, or, if sizes are given, for equal payloads.
    pub kinds: Vec<Kind>,
    /// Methods; empty for all.
    pub methods: Vec<String>,
    /// The memory that payloads are cut from, in bytes.
    pub working_set_bytes: u64,
    /// The orders of payloads.
    pub orders: Vec<Order>,
    /// How long one run sends.
    pub seconds: f64,
    /// Interleaved runs of each method.
    pub runs: u32,
}

impl Plan {
    /// The least that says anything of this part: one run of a millisecond each, of 1 MiB.
    pub fn least(bench: Bench, wire: WireSpec) -> Plan {
        Plan {
            bench,
            wire,
            several_wires: Vec::new(),
            sizes: Vec::new(),
            kinds: Vec::new(),
            methods: Vec::new(),
            working_set_bytes: 1 << 20,
            orders: Vec::new(),
            seconds: 0.001,
            runs: 1,
        }
    }

    /// Whether a method of this name is to be measured.
    pub fn wants(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|name| name == method)
    }
}

/// Payload sizes of TCP, from where system calls cost most to where copying does.
pub const TCP_SIZES: [u64; 7] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// The same where there is little time: from 1 KiB to 4 MiB, in steps of eight and less.
pub const SHORT_TCP_SIZES: [u64; 5] = [1 << 10, 4 << 10, 64 << 10, 1 << 20, 4 << 20];

/// Sizes of datagrams where there is little time.
pub const SHORT_UDP_SIZES: [u64; 1] = [1_400];

/// Sizes over a wire that copies, where there is little time.
pub const SHORT_WIRE_SIZES: [u64; 3] = [1 << 10, 64 << 10, 1 << 20];

/// Sizes of datagrams: what a path of 1,500 bytes takes beside other headers, what it takes at
/// most, and what jumbo frames take.
pub const UDP_SIZES: [u64; 3] = [1_200, 1_400, 8_000];

/// The send buffers that every method is tried with.
pub const SEND_BUFFERS: [Option<u64>; 2] = [None, Some(64 << 20)];
