//! Zero-copy network send on io_uring: bytes go from your memory to the wire, and you are told
//! when that memory is yours again.
//!
//! ```text
//!  Arena ──alloc──▶ BlockMut ──freeze──▶ Block ──┐
//!  Bytes, Vec<u8>, Arc<[u8]>, &'static [u8] … ───┤ 1 send      ring.rs, payload.rs
//!                                                ▼
//!                       2 policy     copy, or not, and why     policy/
//!                       3 arena      the block is lent         arena/
//!                       4 ledger     an entry owns it          ledger/
//!                       5 queue      payloads gather           queue.rs ─▶ engine/ ─▶ kernel
//!                       6 completions are decoded              sys/cqe.rs ◀──────────┘
//!                       7 ledger     the last part is let go   ledger/
//!                                                │
//!  Event::Sent, Event::Released{payload} ◀───────┘ 8           release.rs
//! ```
//!
//! Start with [`Ring`]; memory worth registering comes from an [`Arena`]; many sends are collected
//! under one notification with a [`Notifier`].

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ringwire needs Linux: zero-copy send is made of io_uring, which no other system has"
);

pub mod arena;
pub mod config;
pub mod error;
pub mod stats;

mod engine;
mod headers;
mod ledger;
mod payload;
mod policy;
mod queue;
mod release;
mod ring;
mod running;
mod segments;
mod sys;

#[doc(inline)]
pub use arena::{Arena, ArenaBuilder, ArenaStats, Block, BlockMut, Registration};
#[doc(inline)]
pub use config::{EngineChoice, Limits, OnStall, TaskRun, Thresholds};
pub use engine::Deadline;
#[doc(inline)]
pub use error::{Errno, Error, SendError};
pub use ledger::{Notifier, PayloadId, leaked};
pub use payload::{IntoPayload, Payload, Piece};
pub use policy::{Force, Reason, Route};
pub use release::{Copied, Drain, Event, Events};
#[cfg(any(test, feature = "costs"))]
#[doc(hidden)]
pub use ring::costs;
pub use ring::{OnDeadline, Report, Ring, RingBuilder, SendOptions, Socket, Turned, Waker};
// How the program and doctor measure patience, so that there is one rule; no part of the interface.
#[doc(hidden)]
pub use running::{Patience, Running};
#[doc(inline)]
pub use stats::{CopiedBytes, SocketStats, Stats};
