//! One socket's chance to send, between two submissions.

use crate::ledger::request::RequestEntry;
use crate::queue::gathered::Gathered;
use crate::queue::gso::GsoBatch;
use crate::words::flags::RouteFlags;
use crate::words::route::Reason;
use crate::words::submission::SubmitFlags;

/// The socket whose chance it is, and how far that is.
#[derive(Debug)]
pub(super) struct Chance {
    pub(super) slot: u32,
    /// Requests or copies that it may still make before others get their chance.
    pub(super) left: usize,
    /// Not all of a copy was taken: what is to be copied next waits with the engine.
    pub(super) is_full: bool,
    pub(super) step: Step,
    /// What was made of it last, if what comes next may be like it.
    pub(super) repeat: Option<Repeat>,
}

/// The request that was made last in a chance, if the next one may be like it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    pub(super) request: RequestEntry,
    pub(super) flags: SubmitFlags,
    /// What its payload was sent as.
    pub(super) segment_bytes: u16,
    pub(super) route: RouteFlags,
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
}

impl Chance {
    /// What is being copied, of which the answer is still to come.
    pub(super) fn being_copied(&self) -> Option<&Gathered> {
        match &self.step {
            Step::StreamCopied { gathered, .. } => Some(gathered),
            Step::BatchCopied { batch, .. } => Some(&batch.gathered),
            Step::Issue => None,
        }
    }
}
