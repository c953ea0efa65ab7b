//! Tables whose freed positions are used again, and the keys of their entries.

use std::fmt;

/// The end of a chain of table positions.
pub(crate) const NONE: u32 = u32::MAX;

/// A position in a table together with the generation it had when it was handed out: how often it
/// was used before, from where the ring's tables begin to count.
///
/// One number, so that it is read as it was written: half by half, the processor waits until the
/// halves have left for the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// The key of a position of this generation.
    #[inline]
    pub const fn new(slot: u32, generation: u32) -> Key {
        Key((generation as u64) << 32 | slot as u64)
    }

    /// The position.
    #[inline]
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// Its generation.
    #[inline]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Both in one number, as it travels through the kernel (`user_data`).
    #[inline]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The key that [`Key::to_bits`] made this of.
    #[inline]
    pub const fn from_bits(bits: u64) -> Key {
        Key(bits)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot(), self.generation())
    }
}

/// A table whose freed positions are used again, each time with a new generation, so that a stale
/// key finds nothing.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    used: u32,
    first_generation: u32,
}

/// What becomes of a value that a [`Table::discard_chain`] has come to.
pub(crate) enum Step {
    /// It is dropped, its key is stale, and the walk goes on.
    Discard { next: u32 },
    /// The walk ends before it.
    Stop,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// An empty table. `seed` sets where generations start, so that keys of different rings differ.
    pub(crate) fn new(seed: u32) -> Self {
        let first_generation = seed.wrapping_mul(0x9E37_79B9);
        Table { slots: Vec::new(), free: NONE, used: 0, first_generation }
    }

    /// An empty table with room for `slots` positions: address space, no memory until it is used.
    /// A caller who limits nothing asks for more than there is; that table grows when it must.
    pub(crate) fn with_room(seed: u32, slots: u32) -> Self {
        let mut table = Self::new(seed);
        let _ = table.slots.try_reserve_exact(slots as usize);
        table
    }

    /// Stores `value`. Allocates only when more positions are in use than ever before.
    #[inline(always)]
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.used += 1;
        if self.free != NONE {
            let slot = self.free;
            let entry = &mut self.slots[slot as usize];
            self.free = entry.next_free;
            entry.value = Some(value);
            return Key::new(slot, entry.generation);
        }
        let slot = u32::try_from(self.slots.len()).expect("limits keep tables below 2^32");
        let generation = self.first_generation;
        self.slots.push(Slot { generation, next_free: NONE, value: Some(value) });
        Key::new(slot, generation)
    }

    /// Takes the value out and makes its key stale.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.slots.get_mut(slot as usize)?.value.take()?;
        self.free(slot);
        Some(value)
    }

    /// Drops the value and makes its key stale.
    #[inline]
    pub(crate) fn discard(&mut self, slot: u32) {
        let value = self.slots.get_mut(slot as usize).map(|place| &mut place.value);
        if value.is_some_and(|value| value.take().is_some()) {
            self.free(slot);
        }
    }

    /// Discards a chain of `count` values from `slot` on, as long as `step` says so and there is a
    /// value. Returns where it ended, and how many were left.
    #[inline(always)]
    pub(crate) fn discard_chain(
        &mut self,
        mut slot: u32,
        count: u32,
        mut step: impl FnMut(Key, &mut T) -> Step,
    ) -> (u32, u32) {
        let mut left = count;
        while left > 0 {
            let Some(place) = self.slots.get_mut(slot as usize) else { break };
            let Some(value) = &mut place.value else { break };
            let key = Key::new(slot, place.generation);
            let Step::Discard { next } = step(key, value) else { break };
            place.value = None;
            place.generation = place.generation.wrapping_add(1);
            place.next_free = self.free;
            self.free = slot;
            self.used -= 1;
            slot = next;
            left -= 1;
        }
        (slot, left)
    }

    #[inline]
    fn free(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.next_free = self.free;
        self.free = slot;
        self.used -= 1;
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.value.as_mut()
    }

    /// The value at a position, and its key.
    #[inline]
    pub(crate) fn entry_mut(&mut self, slot: u32) -> Option<(Key, &mut T)> {
        let Slot { generation, value, .. } = self.slots.get_mut(slot as usize)?;
        Some((Key::new(slot, *generation), value.as_mut()?))
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot() as usize)?;
        if slot.generation == key.generation() { slot.value.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot() as usize)?;
        if slot.generation == key.generation() { slot.value.as_mut() } else { None }
    }

    /// The key of a position that is in use.
    pub(crate) fn key(&self, slot: u32) -> Key {
        Key::new(slot, self.slots.get(slot as usize).map_or(0, |s| s.generation))
    }

    /// How many positions there are.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }

    /// How many positions are in use.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i as u32, s.value.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(i, s)| Some((i as u32, s.value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = Table::new(1);
        let first = table.insert("a");
        assert_eq!(table.remove(first.slot()), Some("a"));
        let second = table.insert("b");
        assert_eq!(first.slot(), second.slot());
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(second), Some(&"b"));
        assert_eq!(table.remove(first.slot() + 1), None);
    }

    #[test]
    fn a_chain_is_discarded_as_far_as_is_said() {
        let mut table = Table::new(1);
        // Each value is the next one's position.
        let keys = [1, 2, 3, NONE].map(|next| table.insert(next));
        let mut seen = Vec::new();
        let ended = table.discard_chain(0, 4, |key, &mut next| {
            seen.push(key);
            if next == 3 { Step::Stop } else { Step::Discard { next } }
        });
        assert_eq!(
            (ended, seen),
            ((2, 2), keys[..3].to_vec()),
            "where it stopped, and what is left"
        );
        assert_eq!((table.used(), table.get(keys[1]), table.get(keys[2])), (2, None, Some(&3)));
        let to_the_end = |_: Key, &mut next: &mut u32| Step::Discard { next };
        assert_eq!(table.discard_chain(2, 9, to_the_end), (NONE, 7), "nothing is behind it");
        assert_eq!(table.used(), 0);
        let again = [(); 4].map(|()| table.insert(0));
        assert_eq!(again.map(Key::slot), [3, 2, 1, 0], "what was freed last is used first");
        assert_eq!(table.get(keys[3]), None, "each time with a new generation");
    }

    #[test]
    fn keys_of_two_rings_differ() {
        let key = |seed| Table::new(seed).insert(()).generation();
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn key_bits_round_trip() {
        let key = Key::new(7, 0xFFFF_FFFE);
        assert_eq!(Key::from_bits(key.to_bits()), key);
        assert_eq!(key.to_bits(), 0xFFFF_FFFE_0000_0007);
    }
}
