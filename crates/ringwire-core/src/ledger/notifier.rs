//! Step 7: notification slots, as the 2022 patch set had them, in user space (K8).
//!
//! A notifier always has one *open* notification to which payloads attach. A flush detaches it,
//! numbers it, and installs a fresh one at once; the detached one is posted when the last of its
//! payloads has been released, so notifications of one notifier may be posted out of order.
//! Invariant: `0 <= outstanding <= payloads`.

use crate::ledger::events::{Events, Sum};
use crate::words::completion::Copied;
use crate::words::ids::Notifier;
use crate::words::table::Table;

#[derive(Debug)]
struct Slot {
    tag: u64,
    seq: u32,
    open: u32,
}

#[derive(Debug)]
struct Notification {
    tag: u64,
    seq: u32,
    payloads: u64,
    outstanding: u64,
    bytes: u64,
    copied: Copied,
    failed: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Payloads may attach.
    Open,
    /// Detached; posted when the last payload is released.
    Flushed,
    /// Its notifier was removed; nobody is told.
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct NotificationTable {
    notifiers: Table<Slot>,
    notifications: Table<Notification>,
}

impl NotificationTable {
    pub(crate) fn new(seed: u32) -> Self {
        NotificationTable { notifiers: Table::new(seed), notifications: Table::new(seed) }
    }

    /// Notifiers in use.
    pub(crate) fn notifiers(&self) -> u32 {
        self.notifiers.used()
    }

    /// Notifications open or not yet posted.
    pub(crate) fn notifications(&self) -> u32 {
        self.notifications.used()
    }

    /// A new notifier with an open notification, its first sequence number 0.
    pub(crate) fn add(&mut self, tag: u64) -> Notifier {
        let open = self.open(tag);
        Notifier(self.notifiers.insert(Slot { tag, seq: 0, open }))
    }

    fn open(&mut self, tag: u64) -> u32 {
        let fresh = Notification {
            tag,
            seq: 0,
            payloads: 0,
            outstanding: 0,
            bytes: 0,
            copied: Copied::No,
            failed: 0,
            stage: Stage::Open,
        };
        self.notifications.insert(fresh).slot()
    }

    /// The position of the notifier's open notification; `None` for a stale handle.
    pub(crate) fn current(&self, notifier: Notifier) -> Option<u32> {
        self.notifiers.get(notifier.0).map(|slot| slot.open)
    }

    /// Attaches payloads to a notification.
    pub(crate) fn attach(&mut self, notification: u32, payloads: u32) {
        if let Some(open) = self.notifications.at_mut(notification) {
            open.payloads += u64::from(payloads);
            open.outstanding += u64::from(payloads);
        }
    }

    /// Detaches the open notification and installs a fresh one. Returns the sequence number of the
    /// detached one; `None` for a stale handle.
    pub(crate) fn flush(&mut self, notifier: Notifier, events: &mut Events) -> Option<u32> {
        let slot = self.notifiers.get(notifier.0)?;
        let (tag, seq, detached) = (slot.tag, slot.seq, slot.open);
        let open = self.open(tag);
        let slot = self.notifiers.get_mut(notifier.0)?;
        slot.open = open;
        slot.seq = seq.wrapping_add(1);
        let notification = self.notifications.at_mut(detached)?;
        notification.seq = seq;
        notification.stage = Stage::Flushed;
        self.post_if_due(detached, events);
        Some(seq)
    }

    /// Removes a notifier. What is flushed is still posted; what is attached since is not.
    pub(crate) fn remove(&mut self, notifier: Notifier) -> Option<()> {
        self.notifiers.get(notifier.0)?;
        let slot = self.notifiers.remove(notifier.0.slot())?;
        let open = self.notifications.at_mut(slot.open)?;
        open.stage = Stage::Abandoned;
        self.post_if_due(slot.open, &mut Events::new());
        Some(())
    }

    /// Takes in the release of attached payloads.
    pub(crate) fn on_released(&mut self, notification: u32, released: Sum, events: &mut Events) {
        let Some(entry) = self.notifications.at_mut(notification) else { return };
        debug_assert!(entry.outstanding >= released.payloads);
        entry.outstanding -= released.payloads;
        entry.bytes += released.bytes;
        entry.copied = entry.copied.and(released.copied);
        entry.failed += released.failed;
        self.post_if_due(notification, events);
    }

    fn post_if_due(&mut self, notification: u32, events: &mut Events) {
        let Some(entry) = self.notifications.at(notification) else { return };
        if entry.outstanding > 0 || entry.stage == Stage::Open {
            return;
        }
        let Some(n) = self.notifications.remove(notification) else { return };
        if n.stage == Stage::Flushed {
            let copied = if n.payloads == 0 { Copied::Unknown } else { n.copied };
            let Notification { tag, seq, payloads, bytes, failed, .. } = n;
            events.notified(tag, seq, Sum { payloads, bytes, copied, failed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::events::Event;

    fn one(bytes: u64, copied: Copied, failed: bool) -> Sum {
        Sum { payloads: 1, bytes, copied, failed: u64::from(failed) }
    }

    fn posted(events: &mut Events) -> Vec<(u64, u32, u64, u64, Copied, u64)> {
        let row = |event| match event {
            Event::Notified { tag, seq, payloads, bytes, copied, failed } => {
                (tag, seq, payloads, bytes, copied, failed)
            }
            other => panic!("unexpected {other:?}"),
        };
        events.drain().map(row).collect()
    }

    #[test]
    fn an_empty_flush_is_posted_at_once() {
        let mut table = NotificationTable::new(0);
        let mut events = Events::new();
        let notifier = table.add(7);
        assert_eq!(table.flush(notifier, &mut events), Some(0));
        assert_eq!(posted(&mut events), [(7, 0, 0, 0, Copied::Unknown, 0)]);
        assert_eq!(table.notifications(), 1, "the fresh one");
    }

    #[test]
    fn later_flushes_may_be_posted_first_and_each_exactly_once() {
        let mut table = NotificationTable::new(0);
        let mut events = Events::new();
        let notifier = table.add(9);
        let first = table.current(notifier).unwrap();
        table.attach(first, 1);
        table.attach(first, 1);
        table.flush(notifier, &mut events);
        let second = table.current(notifier).unwrap();
        assert_ne!(first, second);
        table.attach(second, 1);
        assert_eq!(table.flush(notifier, &mut events), Some(1));
        table.on_released(first, one(10, Copied::No, false), &mut events);
        assert!(events.is_empty());
        table.on_released(second, one(5, Copied::Yes, false), &mut events);
        assert_eq!(posted(&mut events), [(9, 1, 1, 5, Copied::Yes, 0)]);
        table.on_released(first, one(3, Copied::Unknown, true), &mut events);
        assert_eq!(posted(&mut events), [(9, 0, 2, 13, Copied::Unknown, 1)]);
    }

    #[test]
    fn the_sequence_wraps() {
        let mut table = NotificationTable::new(0);
        let mut events = Events::new();
        let notifier = table.add(1);
        table.notifiers.get_mut(notifier.0).unwrap().seq = u32::MAX;
        assert_eq!(table.flush(notifier, &mut events), Some(4_294_967_295));
        assert_eq!(table.flush(notifier, &mut events), Some(0));
    }

    #[test]
    fn a_removed_notifier_posts_what_was_flushed_and_nothing_else() {
        let mut table = NotificationTable::new(0);
        let mut events = Events::new();
        let notifier = table.add(3);
        let flushed = table.current(notifier).unwrap();
        table.attach(flushed, 1);
        table.flush(notifier, &mut events);
        let open = table.current(notifier).unwrap();
        table.attach(open, 1);
        assert_eq!(table.remove(notifier), Some(()));
        assert_eq!(table.flush(notifier, &mut events), None);
        table.on_released(open, one(1, Copied::No, false), &mut events);
        assert!(events.is_empty());
        table.on_released(flushed, one(1, Copied::No, false), &mut events);
        assert_eq!(posted(&mut events), [(3, 0, 1, 1, Copied::No, 0)]);
        assert_eq!(table.notifications(), 0);
    }
}
