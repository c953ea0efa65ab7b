//! What a ring promises about every payload, held against the events that it gives.
//!
//! Each id: exactly one `Sent` or `Failed`, then exactly one `Released`, of as many bytes as were
//! sent. Knows of rings nothing but their events. The core's `tests/contract/soundness.rs` has this
//! file as a module, too, so it names nothing of this crate.

use std::collections::HashMap;

use ringwire::{Event, PayloadId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `send` has returned this id.
    Queued,
    /// `Sent` or `Failed` was said.
    Settled,
}

/// The payloads of one ring whose `Released` has not come.
#[derive(Debug, Default)]
pub(crate) struct PayloadTracker(HashMap<PayloadId, (Stage, u64)>);

impl PayloadTracker {
    /// A payload of `bytes` bytes was taken by `send`, and will have events of its own.
    pub(crate) fn on_send(&mut self, id: PayloadId, bytes: u64) {
        let before = self.0.insert(id, (Stage::Queued, bytes));
        assert_eq!(before, None, "send gave an id that is in use: {id:?}");
    }

    /// Takes in an event, of any kind.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub(crate) fn on_event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Sent { id, bytes, .. } => self.settle(*id, |queued| *bytes == queued),
            Event::Failed { id, accepted, .. } => self.settle(*id, |queued| *accepted <= queued),
            Event::Released { id, payload, .. } => match self.0.remove(id) {
                Some((Stage::Settled, bytes)) if payload.len() as u64 == bytes => Ok(()),
                other => Err(format!("released as {payload:?}: {id:?}, which was {other:?}")),
            },
            _ => Ok(()),
        }
    }

    fn settle(&mut self, id: PayloadId, holds: impl Fn(u64) -> bool) -> Result<(), String> {
        match self.0.get_mut(&id) {
            Some((stage @ Stage::Queued, bytes)) if holds(*bytes) => {
                *stage = Stage::Settled;
                Ok(())
            }
            other => Err(format!("settled: {id:?}, which was {other:?}")),
        }
    }

    /// How many payloads are still to be released.
    pub(crate) fn open_payloads(&self) -> usize {
        self.0.len()
    }
}
