//! Zero-copy network send on io_uring: bytes go from your memory to the wire, and you are told
//! when that memory is yours again.
//!
//! ```text
//!  Arena ──alloc──▶ BlockMut ──freeze──▶ Block ──┐
//!  Bytes, Vec<u8>, Arc<[u8]>, &'static [u8] … ───┤ 1 send
//!                                                ▼
//!                    the machine (ringwire-core)
//!                       2 policy     copy, or not, and why
//!                       3 arena      the block is lent         ringwire-arena
//!                       4 ledger     an entry owns it
//!                       5 queue      payloads gather ─▶ a request ─▶ engine ─▶ kernel
//!                       6 completions are decoded ◀────── ringwire-sys ◀──────────┘
//!                       7 ledger     the last part is let go
//!                                                │
//!  Event::Sent, Event::Released{payload} ◀───────┘ 8
//! ```
//!
//! Start with [`Ring`]; memory worth registering comes from an [`Arena`]; many sends are collected
//! under one notification with a [`Notifier`]. This crate is glue: it asks the machine what is to
//! be done, has the system do it, and says what came of it.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ringwire needs Linux: zero-copy send is made of io_uring, which no other system has"
);

mod arena;
mod builder;
mod inner;
mod ring;
mod segments;
mod select;
mod shared;
mod vouch;

#[doc(inline)]
pub use arena::{Arena, ArenaBuilder, ArenaStats, Block, BlockMut, Registration};
pub use builder::RingBuilder;
pub use ring::Ring;
#[doc(inline)]
pub use ringwire_core::{
    Copied, CopiedBytes, Drain, EngineChoice, Errno, Error, Event, Events, Force, IntoPayload,
    Leaked, Limits, Notifier, OnDeadline, OnStall, Payload, PayloadId, Piece, Reason, Report,
    Route, SendError, SendOptions, Socket, SocketStats, Stats, TaskRun, Thresholds, Turned, leaked,
};
#[doc(inline)]
pub use ringwire_sys::{EngineKind, Waker};
pub use shared::SharedRing;
