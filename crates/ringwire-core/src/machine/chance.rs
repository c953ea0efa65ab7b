//! One socket's chance to send, between two submissions.

use crate::queue::gathered::Gathered;
use crate::queue::gso::GsoBatch;
use crate::words::route::Reason;

/// The socket whose chance it is, and how far that is.
#[derive(Debug)]
pub(super) struct Chance {
    pub(super) slot: u32,
    /// Requests or copies that it may still make before others get their chance.
    pub(super) left: usize,
    pub(super) step: Step,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A request, or a copy.
    Issue,
    /// The answer to a copy of a stream.
    StreamCopied { gathered: Gathered, reason: Reason },
    /// The answer to a copy of datagrams.
    BatchCopied { batch: GsoBatch, reason: Reason },
    /// A copy of datagrams that found no room waits with the engine.
    BatchWaits { batch: GsoBatch, reason: Reason },
    /// What a stream did not take of a copy waits with the engine.
    WaitWithRest,
}
