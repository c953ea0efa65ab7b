//! What a host, its kernel and a path do with zero-copy sends.
//!
//! ```text
//!   gather/ ── looks, tries, sends ──▶ Facts ──▶ judge/ ──▶ Report ──▶ text, JSON
//!   (all the I/O)                     facts.rs   (pure)    report.rs
//! ```
//! Facts are plain data, so that hosts which are not at hand can be judged in tests.
#![deny(unsafe_code)]

pub mod facts;

mod gather;
mod judge;
mod report;

pub use gather::{Asked, Framing, Heard, examine};
pub use judge::judge;
pub use report::{Check, Report, Status};
