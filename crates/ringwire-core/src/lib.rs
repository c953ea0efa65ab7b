//! What ringwire decides, as a state machine.
//!
//! ```text
//!  send ─▶ payload entry ─▶ queue ─▶ poll_submission ─▶ Submission::{Request, Copy, …} ─▶ engine
//!              ▲                                                                            │
//!  Event::Released ◀─ ledger ◀──────────── handle(Completion) ◀────────────────────────────┘
//! ```
//!
//! Nothing here has a descriptor, makes a system call, looks at a clock or knows a thread: the
//! machine is told the time, asked what is to be done, and told what came of it. So a day of it
//! runs in a second, and whatever it decides can be played again. `ringwire` drives it on the
//! engines of `ringwire-sys`; programs use `ringwire`, and not this crate.
//!
//! Imports run downwards only, and not between neighbours: `words` ← `engine`, `headers`,
//! `payload`, `running`, `stats` ← `ledger`, `policy`, `segments` ← `queue` ← `machine` ← `driver`.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "costs"))]
#[doc(hidden)]
pub mod costs;
pub mod engine;
pub mod running;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

mod driver;
mod headers;
mod ledger;
mod machine;
mod payload;
mod policy;
mod queue;
mod segments;
mod stats;
mod words;

pub use driver::{Driver, OnDeadline, Report, Turned};
pub use ledger::events::{Drain, Event, Events};
pub use ledger::leaks::{Leaked, leaked};
pub use ledger::quiet::Quiet;
pub use machine::state::{Config, Machine};
pub use payload::{IntoPayload, Payload, Piece, SendError};
pub use policy::pinned::Budget;
pub use stats::{CopiedBytes, SocketStats, Stats};

pub use words::chore::Chore;
pub use words::completion::{Completion, Copied, Usage};
pub use words::config::{EngineChoice, Limits, OnStall, TaskRun, Thresholds};
pub use words::deadline::Deadline;
pub use words::errno::{Errno, NO_ROOM};
pub use words::error::Error;
pub use words::ids::{Notifier, PayloadId, Socket};
pub use words::options::SendOptions;
pub use words::route::{Force, Reason, Route};
pub use words::socket::{DatagramOptions, Kind, PathSample, SocketFacts};
pub use words::span::Span;
pub use words::submission::{CopyNow, Refused, Request, Submission, SubmitFlags};
pub use words::table::Key;
