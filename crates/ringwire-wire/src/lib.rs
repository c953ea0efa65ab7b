//! Networks to send into, for ringwire's tests and measurements.
//!
//! A *wire* is what a test or a measurement sends into. There are three, and [`Wire`] is any of
//! them:
//!
//! - [`loopback`]: sockets on this host's own loopback. Always there, always copies.
//! - [`Veth`]: two network namespaces joined by a cable of their own. No rights are needed where
//!   an ordinary user may make a user namespace. It copies too when the peer reads, but it has an
//!   MTU, a far side that can be told to keep its acknowledgements, and nobody else's traffic.
//! - [`Perfect`]: a namespace with a device that drops what it transmits, and a thread that
//!   acknowledges it. As few rights, and it copies nothing.
//!
//! A copy on the way hides what zero copy is for, so gains show on the perfect wire alone, and
//! losses on the others.
//!
//! ```text
//!   the test's process                          two namespaces, private to one Veth
//!   ┌───────────────────┐                      ┌──────── near ────────┐ ┌──────── far ─────────┐
//!   │ TcpStream  near ──┼──────────────────────┼─ 10.77.0.1           │ │                      │
//!   │                   │                      │  fd00:77::1   veth ══╪═╪══ veth   10.77.0.2   │
//!   │ TcpStream  far  ──┼──────────────────────┼──────────────────────┼─┼─      fd00:77::2     │
//!   └───────────────────┘                      └──────────────────────┘ └──────────────────────┘
//!
//!   the test's process                          one namespace, private to one Perfect
//!   ┌───────────────────┐                      ┌─────────────────────────────────────────────┐
//!   │ Flow.stream() ────┼──────────────────────┼─ 10.78.0.1    data   sink: dummy or ifb,    │
//!   │   written().add() │                      │  fd00:78::1 ───────▶ which drops it, to     │
//!   │        │          │                      │      ▲               10.78.0.2, fd00:78::2, │
//!   │        ▼          │                      │      │ ACKs          where nobody is        │
//!   │ acknowledger ─────┼── raw socket ────────┼─▶ lo ┘                                      │
//!   │   asks the socket │                      │                                             │
//!   └───────────────────┘                      └─────────────────────────────────────────────┘
//! ```
//!
//! On the perfect wire a TCP connection is made by `TCP_REPAIR` (no handshake: there is no peer),
//! what it sends is freed by the device's driver as if a card had transmitted it, and an
//! acknowledgement of all that was sent so far comes in every 30 µs, as a packet over the
//! namespace's loopback. UDP needs none of that.
//!
//! A socket stays in the namespace it was made in, whoever uses it. So tests keep their threads
//! where they are and use plain `std` sockets; only the making of one goes through a small helper
//! process (see `helper.rs`).
//!
//! Where a wire cannot be had, a test says so with [`skip`] and returns.
#![deny(unsafe_code)]

mod ends;
mod helper;
pub mod loopback;
pub mod netlink;
mod perfect;
mod rtnetlink;
mod skip;
mod socket;
mod unavailable;
mod veth;
mod wire;

pub use ends::{Family, Side};
pub use perfect::{AckerUse, Flow, Perfect, PerfectBuilder, Transmitted, Written, pin_to_cpu};
pub use skip::skip;
pub use socket::{
    Held, acknowledged_bytes, held, retransmitted_bytes, retransmitted_segments,
    set_max_pacing_rate, set_option, set_zerocopy, unacknowledged_bytes, window_is_shut,
    written_bytes,
};
pub use unavailable::Unavailable;
pub use veth::Veth;
pub use wire::{Stream, Wire};
