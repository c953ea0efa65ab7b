//! Measures ways to send side by side: the same payloads, in the same order, into the same wire.
//!
//! ```text
//!  plan.rs     what is asked for: sizes, methods, wire, runs
//!     │
//!  runner.rs   part by part
//!     │
//!  side.rs     trials of every setting, then A B C A B C …
//!     │  job.rs: method, size, order, settings, seconds
//!     ▼
//!  method/     a Method answers a Job with a Measurement
//!     ├─ Local      a loop of this process: recipe → Loop, measured by measure.rs
//!     └─ Child      another program's, in lines of JSON: child.rs, and serve.rs at its end
//!         │  walk.rs: which payload is next     memory.rs: where it lies
//!         ▼  stage.rs: the wire, the memory and the orders that all loops of a process share
//!  report/     rows and medians of every part, the JSON; pure, and knows no part
//!   └─ median.rs  medians, spread, ratios, and whether one may be called faster
//!
//!  alternate.rs, ratio.rs   turns of milliseconds on wires that copy, and what they show: wires.rs
//!  fanout/, latency.rs      one block to many; one payload at a time
//!  scale/                   how cost grows with sockets, payloads in flight and rings
//!  tables.rs                the tables of 2022
//!  host.rs                  what it is measured on
//!
//!  words.rs    all of it in words
//!  html/       the same as a page with charts
//! ```
//!
//! Nothing here prints: [`Watch`] hears what happens, and a [`Report`] is returned.
//! What is measured, and how, is in `docs/BENCH.md`.
#![deny(unsafe_code)]

pub mod alternate;
pub mod child;
pub mod error;
pub mod fanout;
pub mod host;
pub mod html;
pub mod job;
pub mod latency;
pub mod measure;
pub mod memory;
pub mod method;
pub mod net;
pub mod plan;
pub mod ratio;
pub mod report;
pub mod runner;
pub mod scale;
pub mod serve;
pub mod side;
pub mod stage;
pub mod tables;
pub mod walk;
pub mod watch;
pub mod wires;
pub mod words;

mod descriptors;
mod kernel_memory;
mod raw;
mod sys;

pub use error::Error;
pub use job::{Job, Measurement, Settings};
pub use method::Method;
pub use plan::Plan;
pub use report::Report;
pub use runner::run;
pub use watch::Watch;
