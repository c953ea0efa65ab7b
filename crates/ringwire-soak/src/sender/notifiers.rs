//! The notifiers of a ring, and what each of their notifications is to say.
//!
//! Below `live_ring.rs`. A payload is attached to a notifier by sending; a flush closes the account
//! of what was attached since the last one, and one `Notified` is to agree with it.

use std::collections::HashMap;

use ringwire::{Error, Event, Notifier, Ring};

use crate::rng::Rng;

/// What is attached to a notifier since its last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attached {
    payloads: u64,
    bytes: u64,
}

struct Slot {
    notifier: Notifier,
    tag: u64,
    attached: Attached,
}

pub(super) struct Notifiers {
    slots: Vec<Slot>,
    /// What is to be notified, by tag and sequence.
    flushed: HashMap<(u64, u32), Attached>,
}

impl Notifiers {
    /// So many, tagged from 0.
    pub(super) fn new(ring: &mut Ring, count: u64) -> Result<Notifiers, Error> {
        let slots = (0..count).map(|tag| {
            let attached = Attached::default();
            Ok(Slot { notifier: ring.notifier(tag)?, tag, attached })
        });
        Ok(Notifiers { slots: slots.collect::<Result<_, Error>>()?, flushed: HashMap::new() })
    }

    /// The place of any of them.
    pub(super) fn pick(&self, rng: &mut Rng) -> usize {
        rng.below(self.slots.len() as u64) as usize
    }

    pub(super) fn notifier(&self, place: usize) -> Notifier {
        self.slots[place].notifier
    }

    /// A payload was sent on it.
    pub(super) fn on_send(&mut self, place: usize, bytes: u64) {
        let attached = &mut self.slots[place].attached;
        attached.payloads += 1;
        attached.bytes += bytes;
    }

    pub(super) fn flush(&mut self, ring: &mut Ring, place: usize) -> Result<(), Error> {
        let slot = &mut self.slots[place];
        let seq = ring.flush(slot.notifier)?;
        self.flushed.insert((slot.tag, seq), std::mem::take(&mut slot.attached));
        Ok(())
    }

    pub(super) fn flush_all(&mut self, ring: &mut Ring) -> Result<(), Error> {
        (0..self.slots.len()).try_for_each(|place| self.flush(ring, place))
    }

    /// Takes in an event, of any kind.
    ///
    /// # Errors
    /// How a notification is not what it is to be.
    pub(super) fn on_event(&mut self, event: &Event) -> Result<(), String> {
        let Event::Notified { tag, seq, payloads, bytes, failed, .. } = *event else {
            return Ok(());
        };
        let expected = self.flushed.remove(&(tag, seq));
        let holds = expected.is_some_and(|all| {
            let whole = bytes == all.bytes || (bytes < all.bytes && failed > 0);
            payloads == all.payloads && whole
        });
        match holds {
            true => Ok(()),
            false => Err(format!(
                "notified: tag {tag}, sequence {seq}, {payloads} payloads, {bytes} bytes, {failed} \
                 failed; attached were {expected:?}"
            )),
        }
    }

    /// Whether every flush was notified of.
    pub(super) fn all_notified(&self) -> bool {
        self.flushed.is_empty()
    }
}
