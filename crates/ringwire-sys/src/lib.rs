//! The kernel, as ringwire uses it: all system calls, and all unsafe code but that of blocks.
//! Programs use `ringwire`, and not this crate.
//!
//! ```text
//!            engine::any          Engine, by io_uring or by plain calls
//!           ╱           ╲
//!  engine::uring      engine::epoll ── place, state, trust, attempt, shortage
//!      │                   │      ╲
//!    ring ── sqe, cqe    poller    errqueue, counters, msg_zerocopy (pure)
//!      ╲                   │      ╱
//!        sockets, send, socket, spans: descriptors, and memory that is lent
//! ```
//!
//! Calls are thin, and what they answer is decoded by pure functions. What the kernel may read is
//! decided above, by the machine of ringwire-core; `spans.rs` says how it comes here. Files with
//! unsafe code say so at their top, and why each piece of it holds.

#![deny(unsafe_code)]

mod errno;

// Memory, and its registration.
mod home;
mod mapping;
pub mod memlock;
mod register;
pub mod registration;

// Sockets, and what is sent on them.
mod control;
mod pointers;
mod send;
mod sleep;
mod socket;
mod socket_fd;
mod sockets;
mod spans;
mod waker;

// io_uring.
mod cqe;
mod probe;
mod ring;
mod sqe;

// epoll and error queues.
mod counters;
mod errqueue;
mod poller;

mod engine;

pub use engine::any::{AnyEngine, EngineKind, EngineSetup};
pub use engine::epoll::Epoll;
pub use engine::uring::Uring;
pub use sleep::Sleep;
pub use socket::{MtuProbing, facts};
pub use socket_fd::SocketFd;
pub use sockets::Sockets;
pub use waker::Waker;
