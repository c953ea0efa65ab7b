//! Steps 4 and 7: one entry a payload, which owns the memory until the kernel has let go.
//!
//! Life of an entry: open → covered by one or more requests → settled (`Sent` or `Failed` said, if
//! somebody is told) → no request covers it → released. Invariants: `0 <= accepted <= bytes`;
//! `Released` is said exactly once, after the entry is settled; dropping the table while a request
//! still covers an entry leaks the memory instead of freeing it. Must not know what a request is.
//!
//! An entry is cut in two, because every step of a send walks over hundreds of them: [`Entry`] has
//! what the steps between `send` and release read (`entry.rs`), [`Owner`] what only those two need.

use std::mem::{self, ManuallyDrop};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use crate::ledger::entry::Entry;
use crate::ledger::events::{Events, Sum};
use crate::ledger::freed::{Freed, ReleaseBatch};
use crate::ledger::leaks;
use crate::ledger::notifier::NotificationTable;
use crate::ledger::quiet::Quiet;
use crate::payload::{Payload, Piece};
use crate::words::completion::Copied;
use crate::words::errno::Errno;
use crate::words::flags::PayloadFlags;
use crate::words::ids::PayloadId;
use crate::words::options::SendOptions;
use crate::words::span::address_of;
use crate::words::table::{NONE, Step, Table};

/// A byte of a queue: a payload's table position and an offset into the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub slot: u32,
    pub skip: u64,
}

/// What `send` knows about a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub bytes: u64,
    pub socket: u32,
    /// The notification that waits for it, or [`NONE`].
    pub notification: u32,
    pub flags: PayloadFlags,
    /// What its events carry.
    pub tag: u64,
    /// Milliseconds since the ring was built; wraps.
    pub opened_ms: u32,
}

impl Opening {
    /// Of a payload of `bytes` bytes that is sent as `options` say.
    #[inline(always)]
    pub(crate) fn new(
        options: &SendOptions,
        bytes: u64,
        socket: u32,
        notification: u32,
        opened_ms: u32,
    ) -> Opening {
        Opening { bytes, socket, notification, flags: options.flags, tag: options.tag, opened_ms }
    }
}

#[derive(Debug)]
#[repr(align(64))]
struct Owner {
    /// The payload, if it is one piece and still here.
    piece: Option<Piece>,
    /// Bytes accepted, while the payload is not settled, and of one that failed.
    accepted: u64,
    socket: u32,
    notification: u32,
    opened_ms: u32,
    /// A position in the table of what few payloads have, or [`NONE`].
    rare: u32,
}

/// How a request that is closed covered its payloads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Covered {
    /// 1 if each was counted as a part of it, or 0.
    pub part: u32,
    /// Whether all are settled, though their entries do not say so.
    pub settled: bool,
}

impl Covered {
    /// No request covered them.
    pub(crate) const NOT: Covered = Covered { part: 0, settled: false };
}

/// What few payloads have.
#[derive(Debug)]
struct Rare {
    /// The payload, if it is not one piece and still here.
    payload: Option<Payload>,
    /// Where a datagram goes, if not to its socket's peer.
    address: Option<SocketAddr>,
}

/// The table of payloads. Dropping it never frees what the kernel may still read.
#[derive(Debug)]
pub(crate) struct Payloads {
    table: Table<Entry>,
    /// As long as the table.
    owners: Vec<Owner>,
    rare: Table<Rare>,
    /// The tag of the quiet payload that was accepted last and is to be told of.
    accepted_tag: Option<u64>,
    /// Quiet payloads that were released and not dropped yet.
    quiet: Quiet,
}

impl Deref for Payloads {
    type Target = Table<Entry>;
    fn deref(&self) -> &Table<Entry> {
        &self.table
    }
}

impl DerefMut for Payloads {
    fn deref_mut(&mut self) -> &mut Table<Entry> {
        &mut self.table
    }
}

impl Payloads {
    pub(crate) fn with_room(seed: u32, payloads: u32) -> Self {
        let mut owners = Vec::new();
        let _ = owners.try_reserve_exact(payloads as usize);
        Payloads {
            table: Table::with_room(seed, payloads),
            owners,
            rare: Table::with_room(seed, payloads),
            accepted_tag: None,
            quiet: Quiet::with_room(payloads),
        }
    }

    /// The quiet payloads that were released.
    #[inline]
    pub(crate) fn quiet_mut(&mut self) -> &mut Quiet {
        &mut self.quiet
    }

    /// Opens an entry that owns a payload of one piece. Should the table have to grow and there is
    /// no memory, the piece is leaked: so the compiler need not keep it where it can be dropped.
    #[inline(always)]
    pub(crate) fn open(&mut self, piece: ManuallyDrop<Piece>, opening: Opening) -> PayloadId {
        let start = address_of(piece.as_slice());
        let piece = ManuallyDrop::new(Some(ManuallyDrop::into_inner(piece)));
        self.open_entry(start, piece, opening, NONE)
    }

    /// Opens an entry that owns a payload of any number of pieces, and goes to any address.
    pub(crate) fn open_payload(
        &mut self,
        payload: Payload,
        opening: Opening,
        address: Option<SocketAddr>,
    ) -> PayloadId {
        let (start, piece, payload) = match payload.into_piece() {
            Ok(piece) => (address_of(piece.as_slice()), Some(piece), None),
            Err(payload) => (0, None, Some(payload)),
        };
        let rare = match (&payload, address) {
            (None, None) => NONE,
            _ => self.rare.insert(Rare { payload, address }).slot(),
        };
        self.open_entry(start, ManuallyDrop::new(piece), opening, rare)
    }

    #[inline(always)]
    fn open_entry(
        &mut self,
        start: usize,
        piece: ManuallyDrop<Option<Piece>>,
        opening: Opening,
        rare: u32,
    ) -> PayloadId {
        let Opening { bytes, socket, notification, flags, tag, opened_ms } = opening;
        let key = self.table.insert(Entry {
            bytes,
            address: start,
            tag,
            next: NONE,
            parts: 0,
            flags: flags.of_held(start != 0 && bytes > 0 && rare == NONE),
            copied: Copied::No,
        });
        let at = key.slot() as usize;
        let owner = match at < self.owners.len() {
            true => &mut self.owners[at],
            false => self.grow_owners(),
        };
        // Field by field, from registers to where they stay. Nothing is there to be dropped.
        mem::forget(mem::replace(&mut owner.piece, ManuallyDrop::into_inner(piece)));
        owner.accepted = 0;
        owner.socket = socket;
        owner.notification = notification;
        owner.opened_ms = opened_ms;
        owner.rare = rare;
        PayloadId(key)
    }

    /// Has a payload follow another one in its queue.
    #[inline(always)]
    pub(crate) fn link(&mut self, slot: u32, next: u32) {
        if let Some(entry) = self.table.at_mut(slot) {
            entry.next = next;
        }
    }

    /// One place more, for a fresh position of the table: they grow together.
    #[cold]
    fn grow_owners(&mut self) -> &mut Owner {
        self.owners.push(Owner {
            piece: None,
            accepted: 0,
            socket: NONE,
            notification: NONE,
            opened_ms: 0,
            rare: NONE,
        });
        let last = self.owners.len() - 1;
        debug_assert_eq!(last + 1, self.table.places());
        &mut self.owners[last]
    }

    fn owner(&self, slot: u32) -> Option<&Owner> {
        self.owners.get(slot as usize)
    }

    /// The pieces; none if the payload is not here any more.
    pub(crate) fn pieces(&self, slot: u32) -> &[Piece] {
        let Some(owner) = self.owner(slot) else { return &[] };
        match self.rare.at(owner.rare) {
            Some(Rare { payload: Some(payload), .. }) => payload.pieces(),
            _ => owner.piece.as_slice(),
        }
    }

    /// Where a datagram goes, if not to its socket's peer.
    pub(crate) fn address(&self, slot: u32) -> Option<&SocketAddr> {
        self.rare.at(self.owner(slot)?.rare)?.address.as_ref()
    }

    /// The position of the payload's socket.
    pub(crate) fn socket(&self, slot: u32) -> u32 {
        self.owner(slot).map_or(NONE, |owner| owner.socket)
    }

    /// Whether the kernel has accepted a byte.
    pub(crate) fn has_begun(&self, slot: u32) -> bool {
        self.owner(slot).is_some_and(|owner| owner.accepted > 0)
    }

    /// When the oldest payload that is held was opened, as its age at `now_ms`.
    pub(crate) fn oldest_ms(&self, now_ms: u32) -> Option<u32> {
        self.ages_ms(now_ms).map(|(_, age_ms)| age_ms).max()
    }

    /// The socket of each payload that is held, and the payload's age at `now_ms`.
    pub(crate) fn ages_ms(&self, now_ms: u32) -> impl Iterator<Item = (u32, u32)> {
        let held = self.table.iter().filter(|(_, entry)| entry.is_held());
        held.filter_map(move |(slot, _)| {
            let owner = self.owner(slot)?;
            Some((owner.socket, now_ms.wrapping_sub(owner.opened_ms)))
        })
    }

    /// Counts `bytes` more as accepted, which are not the last.
    pub(crate) fn accept_part(&mut self, slot: u32, bytes: u64) {
        if let Some(owner) = self.owners.get_mut(slot as usize) {
            owner.accepted += bytes;
            debug_assert!(self.table.at(slot).is_some_and(|entry| owner.accepted < entry.bytes));
        }
    }

    /// Counts `bytes` more as accepted, wherever in the payload, and says `Sent` if they are the
    /// last that were not. Returns the next payload of the socket.
    #[inline]
    pub(crate) fn accept_some(&mut self, slot: u32, bytes: u64, events: &mut Events) -> u32 {
        let Some(entry) = self.table.at(slot) else { return NONE };
        let (all, next) = (entry.bytes, entry.next);
        if bytes < all {
            let Some(owner) = self.owners.get_mut(slot as usize) else { return next };
            owner.accepted += bytes;
            debug_assert!(owner.accepted <= all);
            if owner.accepted < all {
                return next;
            }
        }
        self.accept_rest(Position { slot, skip: 0 }, all, events);
        next
    }

    /// Counts a payload's bytes from `at` on as accepted, and says `Sent`, if they are no more than
    /// `left`. Returns how many they are, and the next payload of the socket.
    #[inline(always)]
    pub(crate) fn accept_rest(
        &mut self,
        at: Position,
        left: u64,
        events: &mut Events,
    ) -> Option<(u64, u32)> {
        let (key, entry) = self.table.entry_mut(at.slot)?;
        let rest = entry.bytes - at.skip;
        if rest <= left {
            entry.flags.set_passed();
            if entry.flags.settle() {
                if !entry.flags.quiet() {
                    events.sent(PayloadId(key), entry.tag, entry.bytes);
                } else if entry.flags.tells_accepted() {
                    self.accepted_tag = Some(entry.tag);
                }
            }
        }
        Some((rest, entry.next))
    }

    /// The tag of the quiet payload that was accepted last and is to be told of, once.
    #[inline]
    pub(crate) fn take_accepted_tag(&mut self) -> Option<u64> {
        self.accepted_tag.take()
    }

    /// Takes in that the payload's queue is given up.
    pub(crate) fn pass(&mut self, slot: u32) {
        if let Some(entry) = self.table.at_mut(slot) {
            entry.flags.set_passed();
        }
    }

    /// Settles the payload as failed. False if it was settled already.
    pub(crate) fn fail(&mut self, slot: u32, error: Errno, events: &mut Events) -> bool {
        let Some((key, entry)) = self.table.entry_mut(slot) else { return false };
        if !entry.flags.fail() {
            return false;
        }
        if !entry.flags.quiet()
            && let Some(owner) = self.owners.get(slot as usize)
        {
            events.failed(PayloadId(key), entry.tag, owner.accepted, error);
        }
        true
    }

    /// Counts each of `count` payloads from `slot` on as a part of one request more.
    pub(crate) fn add_part(&mut self, mut slot: u32, count: u32) {
        for _ in 0..count {
            let Some(entry) = self.table.at_mut(slot) else { break };
            entry.parts += 1;
            slot = entry.next;
        }
    }

    /// Settles payloads, which are accepted and have nobody who is told of that.
    pub(crate) fn settle_run(&mut self, mut slot: u32, count: u32) {
        for _ in 0..count {
            let Some(entry) = self.table.at_mut(slot) else { break };
            entry.flags.settle();
            entry.flags.set_passed();
            slot = entry.next;
        }
    }

    /// Takes a request off each of `count` payloads from `slot` on that it `covered`, and in what
    /// was observed of them. Releases those that are settled, whose queue has gone past them, and
    /// that no other request covers. Returns what became free.
    pub(crate) fn release_run(
        &mut self,
        slot: u32,
        count: u32,
        covered: Covered,
        observed: Copied,
        notifications: &mut NotificationTable,
        events: &mut Events,
    ) -> Freed {
        self.release_chain::<false>(slot, count, covered, observed, notifications, events)
    }

    /// The same of `count` payloads that a request has had wholly and alone, and of which nobody
    /// was told when it was accepted.
    pub(crate) fn release_silent_run(
        &mut self,
        slot: u32,
        count: u32,
        observed: Copied,
        notifications: &mut NotificationTable,
        events: &mut Events,
    ) -> Freed {
        let covered = Covered { part: 0, settled: true };
        self.release_chain::<true>(slot, count, covered, observed, notifications, events)
    }

    /// Releases a run. `SILENT`: nearly all are quiet, so that a loop of its own for those pays.
    #[inline(always)]
    fn release_chain<const SILENT: bool>(
        &mut self,
        slot: u32,
        count: u32,
        covered: Covered,
        observed: Copied,
        notifications: &mut NotificationTable,
        events: &mut Events,
    ) -> Freed {
        let mut freed = Freed::default();
        let mut batch = ReleaseBatch::NONE;
        let (mut slot, mut left) = (slot, count);
        while left > 0 {
            let (owners, quiet) = (&mut self.owners, &mut self.quiet);
            (slot, left) = self.table.discard_chain(slot, left, |key, entry| {
                let Some(owner) = owners.get_mut(key.slot() as usize) else { return Step::Stop };
                let flags = entry.flags;
                let is_over = match SILENT {
                    true => flags.is_plain_and_silent(),
                    false => flags.is_plainly_over(covered.settled),
                };
                if entry.parts != covered.part || !is_over {
                    return Step::Stop;
                }
                if owner.notification != batch.notification {
                    freed.add_batch(batch.tell(observed, notifications, events));
                    batch.notification = owner.notification;
                }
                batch.add(entry.bytes, entry.copied);
                if SILENT || flags.quiet() {
                    quiet.push(&mut owner.piece);
                } else {
                    let (id, copied) = (PayloadId(key), entry.copied.and(observed));
                    events.released(id, entry.tag, &mut owner.piece, copied);
                }
                Step::Discard { next: entry.next }
            });
            if left > 0 {
                let one = self.release_any(slot, covered, observed, notifications, events);
                let Some((one, next)) = one else { break };
                freed.add(one);
                (slot, left) = (next, left - 1);
            }
        }
        freed.add_batch(batch.tell(observed, notifications, events));
        freed
    }

    /// Takes a request off one payload, whatever it is, and releases it in the same way. Returns
    /// the next one of its socket besides; `None` if there is no such payload.
    #[inline(never)]
    fn release_any(
        &mut self,
        slot: u32,
        covered: Covered,
        observed: Copied,
        notifications: &mut NotificationTable,
        events: &mut Events,
    ) -> Option<(Freed, u32)> {
        let mut freed = Freed::default();
        let entry = self.table.at_mut(slot)?;
        let next = entry.next;
        entry.parts -= covered.part;
        entry.copied = entry.copied.and(observed);
        if entry.parts == 0 && (covered.settled || entry.flags.is_over()) {
            self.hand_back(slot, notifications, events, &mut freed);
            freed.places += u32::from(freed.payloads == 0);
            self.table.discard(slot);
        }
        Some((freed, next))
    }

    /// Hands the memory back now and keeps the entry's place in its queue, for a payload that was
    /// taken back before any request covered it.
    #[inline(never)]
    pub(crate) fn hand_back(
        &mut self,
        slot: u32,
        notifications: &mut NotificationTable,
        events: &mut Events,
        freed: &mut Freed,
    ) {
        let Some((key, entry)) = self.table.entry_mut(slot) else { return };
        debug_assert!(entry.parts == 0);
        if !entry.flags.let_go() {
            return;
        }
        entry.address = 0;
        let Some(owner) = self.owners.get_mut(slot as usize) else { return };
        let id = PayloadId(key);
        let failed = entry.flags.is_failed();
        let copied = if failed || entry.bytes == 0 { Copied::Unknown } else { entry.copied };
        freed.payloads += 1;
        freed.bytes += entry.bytes;
        let rare = mem::replace(&mut owner.rare, NONE);
        let rare = if rare == NONE { None } else { self.rare.remove(rare) };
        match (rare.and_then(|rare| rare.payload), entry.flags.quiet()) {
            (None, false) => events.released(id, entry.tag, &mut owner.piece, copied),
            (None, true) => self.quiet.push(&mut owner.piece),
            (Some(payload), false) => events.released_pieces(id, entry.tag, payload, copied),
            (Some(payload), true) => self.quiet.push_payload(payload),
        }
        if owner.notification != NONE {
            let bytes = if failed { owner.accepted } else { entry.bytes };
            let released = Sum { payloads: 1, bytes, copied, failed: u64::from(failed) };
            notifications.on_released(owner.notification, released, events);
        }
    }
}

impl Drop for Payloads {
    fn drop(&mut self) {
        for (slot, entry) in self.table.iter_mut() {
            if entry.parts > 0
                && entry.is_held()
                && let Some(owner) = self.owners.get_mut(slot as usize)
            {
                // The kernel may read this memory until a notification that nobody will see (K3,
                // K7). Forgetting a block keeps its count above zero for ever, so its arena never
                // hands it out again and never unmaps it; other owners are leaked.
                mem::forget(owner.piece.take());
                mem::forget(self.rare.remove(owner.rare));
                leaks::count(entry.bytes);
            }
        }
    }
}
