//! What a method is asked, and what it answers. Pure, and the words that programs exchange.

use serde::{Deserialize, Serialize};

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// One byte stream.
    Tcp,
    /// One datagram a payload.
    Udp,
}

/// The order in which payloads of the working set are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// One fixed permutation, the same for every method: no payload adjoins the one before it, and
    /// none is in a cache.
    Shuffled,
    /// Ascending addresses: each payload adjoins the one before it.
    Sequential,
}

/// The pages that a working set lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backing {
    /// Pages of 4 KiB (`MADV_NOHUGEPAGE`).
    #[serde(rename = "4KiB")]
    Small,
    /// Pages of 2 MiB where the host gives them (`MADV_HUGEPAGE`).
    #[serde(rename = "huge")]
    Huge,
}

/// What a method may choose for itself. Every method gets its best of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// The pages that payloads lie on.
    pub backing: Backing,
    /// The send buffer asked for, in bytes; `None` leaves it to the kernel.
    pub sndbuf_bytes: Option<u64>,
}

/// A kind of wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireKind {
    /// A device that drops what it has transmitted; TCP's peer is virtual. Nothing copies.
    Perfect,
    /// The host's loopback device, which copies.
    Loopback,
    /// A pair of virtual cards, which copies.
    Veth,
}

impl WireKind {
    /// Its name, as the rows have it.
    pub fn name(self) -> &'static str {
        match self {
            WireKind::Perfect => "perfect",
            WireKind::Loopback => "loopback",
            WireKind::Veth => "veth",
        }
    }

    /// Whether what is lent is copied on the way all the same.
    pub fn copies(self) -> bool {
        self != WireKind::Perfect
    }
}

/// The wire that a job is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WireSpec {
    /// Which.
    pub kind: WireKind,
    /// How often the perfect wire looks for bytes to acknowledge, in microseconds; 0 spins.
    pub ack_us: u64,
    /// The largest packet in bytes, headers included; `None` leaves it to the wire.
    pub mtu: Option<u32>,
}

/// One measurement to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The method's name.
    pub method: String,
    /// What carries the payloads.
    pub protocol: Protocol,
    /// Into what.
    pub wire: WireSpec,
    /// The size of a payload.
    pub payload_bytes: u64,
    /// The memory that payloads are cut from. A method may use less, and says so.
    pub working_set_bytes: u64,
    /// The order of payloads.
    pub order: Order,
    /// What the method has chosen, or is tried with.
    pub settings: Settings,
    /// How long to send. Waiting for the last acknowledgement comes on top.
    pub seconds: f64,
}

/// What one run of a method came to.
///
/// `seconds` and `cpu_s` include the time until every byte was acknowledged and all memory was the
/// sender's again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Wall time.
    pub seconds: f64,
    /// CPU time of the process, user and system, less what its acknowledger spun.
    pub cpu_s: f64,
    /// What was taken off: the acknowledger's waiting by spinning.
    pub spin_s: f64,
    /// How long threads of the process were ready to run, and others had the processors.
    pub waited_s: f64,
    /// Payloads accepted.
    pub payloads: u64,
    /// Bytes accepted.
    pub bytes: u64,
    /// System calls or ring requests that carried them.
    pub requests: u64,
    /// Notifications that memory is free again.
    pub notifications: u64,
    /// The part of the bytes, 0 to 1, that was copied, of those about which that can be said;
    /// `None` if it can be said of none.
    pub copied_share: Option<f64>,
    /// From handing a payload over to having its memory back, of sampled payloads: half of them
    /// took no longer. `None` where the call itself gives it back.
    pub release_delay_us_p50: Option<f64>,
    /// As above: 99 of 100 took no longer.
    pub release_delay_us_p99: Option<f64>,
    /// Payloads that failed.
    pub errors: u64,
    /// The working set that was used; less than asked for where locked memory is short.
    pub working_set_bytes: u64,
    /// Why it was less.
    pub note: Option<String>,
}
