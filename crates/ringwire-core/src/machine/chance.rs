//! One socket's chance to send, between two submissions.

use crate::machine::repeat::Repeat;
use crate::queue::gathered::Gathered;
use crate::queue::gso::GsoBatch;
use crate::words::route::Reason;

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
