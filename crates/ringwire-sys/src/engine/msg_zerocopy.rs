//! Step 6 of a send, on `MSG_ZEROCOPY`: which request a number in the error queue speaks of. Pure.
//!
//! The kernel numbers the zero-copy sends of a socket, in a `u32` that wraps, and says which ranges
//! of numbers it has let go of, in any order (K40). Nothing in the queue says whose a number is,
//! and everybody who holds the socket uses them up; so [`Ids`] counts along, and what has come back
//! is kept until its owner believes it (`epoll/trust.rs` says when):
//!
//! - On a stream in unbroken order ([`Ids::settle_in_order`]), from the first number of a *run*,
//!   which begins with a send while nothing is out.
//! - On datagrams whatever comes, on somebody's word ([`Ids::settle_all`]).
//!
//! A range of which one was not given out, or has come before, shows that somebody else sends too.
//! Invariants: the window's newest number is `next - 1`; its oldest has not been believed.
//! Neighbours: `epoll/` calls. Must not know: sockets, system calls.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use ringwire_core::{Key, Usage};

/// Numbers between the oldest one that has not come back and the newest, at most. One that is held
/// for long keeps the places of those behind it.
pub(crate) const WINDOW_MAX: usize = 1 << 16;

/// What became of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// To this request.
    To(Key),
    /// To a send that failed, maybe.
    Doubtful,
    /// It has come back, and is not believed yet.
    Returned(Key),
    /// It has come back, and is nobody's any more.
    Settled,
}

/// Numbers that have come back together, both ends included. The report is that of the first (K40).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReturnedRange {
    first: u32,
    last: u32,
    usage: Usage,
}

/// The numbers of one socket's zero-copy sends that have not come back.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    next: u32,
    window: VecDeque<Given>,
    /// What has come back and is not believed yet. Mostly empty, or short.
    returned: Vec<ReturnedRange>,
    used: bool,
}

/// A range that was not ours alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOurs;

impl Ids {
    /// Whether none is out.
    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Whether none was ever given out.
    pub(crate) fn is_unused(&self) -> bool {
        !self.used
    }

    pub(crate) fn is_full(&self) -> bool {
        self.window.len() >= WINDOW_MAX
    }

    /// How many requests have a number that is not believed to be back.
    pub(crate) fn requests(&self) -> u64 {
        let has_one = |given: &&Given| matches!(given, Given::To(_) | Given::Returned(_));
        self.window.iter().filter(has_one).count() as u64
    }

    /// The kernel has accepted a part of the request `token`, or all of it.
    pub(crate) fn sent(&mut self, token: Key) {
        self.give(Given::To(token));
    }

    fn give(&mut self, given: Given) {
        self.window.push_back(given);
        self.next = self.next.wrapping_add(1);
        self.used = true;
    }

    /// A send has failed, but may have used up a number. What comes back now says so.
    pub(crate) fn doubt(&mut self) {
        self.give(Given::Doubtful);
    }

    /// If the newest number is doubtful, and has not come back, it counts as that of the request
    /// `token`. Returns whether it does.
    pub(crate) fn keep_doubt(&mut self, token: Key) -> bool {
        match self.window.back_mut() {
            Some(newest) if *newest == Given::Doubtful => {
                *newest = Given::To(token);
                true
            }
            _ => false,
        }
    }

    /// Ends a doubt. Returns whether the number has come back, and so was used up.
    pub(crate) fn end_doubt(&mut self) -> bool {
        if self.window.back() == Some(&Given::Doubtful) {
            self.window.pop_back();
            self.next = self.next.wrapping_sub(1);
            self.drop_front();
            return false;
        }
        true
    }

    /// The error queue has `first` to `last`, both included.
    ///
    /// # Errors
    /// [`NotOurs`] if one of them was not given out, or has come back before; nothing has changed
    /// then.
    pub(crate) fn on_returned(
        &mut self,
        first: u32,
        last: u32,
        usage: Usage,
    ) -> Result<(), NotOurs> {
        let (from, to) = (self.offset(first), self.offset(last));
        if from > to || to >= self.window.len() {
            return Err(NotOurs);
        }
        let is_out = |given: &Given| matches!(given, Given::To(_) | Given::Doubtful);
        if !self.window.range(from..=to).all(is_out) {
            return Err(NotOurs);
        }
        for given in self.window.range_mut(from..=to) {
            *given = match *given {
                Given::To(token) => Given::Returned(token),
                _ => Given::Settled,
            };
        }
        self.returned.push(ReturnedRange { first, last, usage });
        Ok(())
    }

    fn offset(&self, number: u32) -> usize {
        let oldest = self.next.wrapping_sub(self.window.len() as u32);
        number.wrapping_sub(oldest) as usize
    }

    /// Whether the oldest that is out has come back, so that [`Ids::settle_in_order`] would give
    /// something.
    pub(crate) fn has_oldest_returned(&self) -> bool {
        matches!(self.window.front(), Some(Given::Returned(_)))
    }

    /// Gives what has come back in unbroken order, from the oldest that is out, to `each`.
    pub(crate) fn settle_in_order(&mut self, mut each: impl FnMut(Key, Usage)) {
        while let Some(at) = self.returned.iter().position(|range| self.offset(range.first) == 0) {
            let range = self.returned.swap_remove(at);
            self.hand_over(range, &mut each);
            self.drop_front();
        }
    }

    /// Gives all that has come back to `each`.
    pub(crate) fn settle_all(&mut self, mut each: impl FnMut(Key, Usage)) {
        // Its room is kept for the next ones.
        let mut returned = std::mem::take(&mut self.returned);
        returned.drain(..).for_each(|range| self.hand_over(range, &mut each));
        self.returned = returned;
        self.drop_front();
    }

    fn hand_over(&mut self, range: ReturnedRange, each: &mut impl FnMut(Key, Usage)) {
        let offsets = self.offset(range.first)..self.offset(range.last) + 1;
        for (at, given) in self.window.range_mut(offsets).enumerate() {
            if let Given::Returned(token) = *given {
                *given = Given::Settled;
                each(token, if at == 0 { range.usage } else { Usage::Unreported });
            }
        }
    }

    /// Whether nothing is out any more of what has come back or has not.
    pub(crate) fn have_all_returned(&self) -> bool {
        !self.window.iter().any(|given| matches!(given, Given::To(_) | Given::Doubtful))
    }

    /// Whether something has come back that is not believed.
    pub(crate) fn has_doubts(&self) -> bool {
        !self.returned.is_empty()
    }

    /// The kernel has let go of everything that anybody has sent on the socket: gives all that is
    /// out to `each`. Returns whether all of it had come back.
    pub(crate) fn all_are_free(&mut self, mut each: impl FnMut(Key, Usage)) -> bool {
        self.settle_all(&mut each);
        let mut complete = true;
        for given in self.window.drain(..) {
            if let Given::To(token) | Given::Returned(token) = given {
                complete = false;
                each(token, Usage::Unreported);
            }
        }
        complete
    }

    fn drop_front(&mut self) {
        while self.window.front() == Some(&Given::Settled) {
            self.window.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(slot: u32) -> Key {
        Key::new(slot, 1)
    }

    fn in_order(ids: &mut Ids) -> Vec<u32> {
        let mut slots = Vec::new();
        ids.settle_in_order(|token, _| slots.push(token.slot()));
        slots
    }

    /// What comes back where somebody vouches for all numbers.
    fn back(ids: &mut Ids, first: u32, last: u32) -> Result<Vec<u32>, NotOurs> {
        ids.on_returned(first, last, Usage::ZeroCopy)?;
        let mut slots = Vec::new();
        ids.settle_all(|token, _| slots.push(token.slot()));
        Ok(slots)
    }

    fn sent(start: u32, count: u32) -> Ids {
        let mut ids = Ids { next: start, ..Ids::default() };
        (0..count).for_each(|slot| ids.sent(key(slot)));
        ids
    }

    #[test]
    fn ranges_come_in_any_order_and_each_number_once() {
        let mut ids = sent(0, 27);
        // As an aborted connection was seen to give them.
        assert_eq!(back(&mut ids, 10, 26), Ok((10..27).collect()));
        assert!(!ids.is_empty());
        assert_eq!(back(&mut ids, 0, 9), Ok((0..10).collect()));
        assert!(ids.is_empty());
        assert_eq!(back(&mut ids, 0, 9), Err(NotOurs), "a second time");
        assert_eq!(back(&mut ids, 27, 27), Err(NotOurs), "not given out yet");
    }

    #[test]
    fn numbers_wrap() {
        let mut ids = sent(u32::MAX - 1, 4);
        assert_eq!(back(&mut ids, u32::MAX, 0), Ok(vec![1, 2]));
        assert_eq!(back(&mut ids, u32::MAX - 1, u32::MAX - 1), Ok(vec![0]));
        assert_eq!(back(&mut ids, 1, 1), Ok(vec![3]));
        assert!(ids.is_empty());
    }

    #[test]
    fn a_range_that_is_not_all_ours_changes_nothing() {
        let mut ids = sent(5, 4);
        for (first, last) in [(4, 5), (8, 9), (6, 5), (0, u32::MAX), (9, 4), (100, 100)] {
            assert_eq!(back(&mut ids, first, last), Err(NotOurs), "{first} to {last}");
        }
        assert_eq!(back(&mut ids, 6, 6), Ok(vec![1]));
        assert_eq!(back(&mut ids, 5, 7), Err(NotOurs), "6 has come back");
        assert_eq!(back(&mut ids, 5, 5), Ok(vec![0]));
        assert_eq!(back(&mut ids, 7, 8), Ok(vec![2, 3]));
    }

    #[test]
    fn a_failed_send_may_have_used_up_a_number() {
        let mut ids = sent(0, 2);
        ids.doubt();
        assert!(!ids.end_doubt(), "nothing came");
        ids.sent(key(2));
        ids.doubt();
        // It came back together with others.
        assert_eq!(back(&mut ids, 1, 3), Ok(vec![1, 2]));
        assert!(ids.end_doubt());
        ids.sent(key(4));
        assert_eq!(back(&mut ids, 0, 0), Ok(vec![0]));
        assert_eq!(back(&mut ids, 4, 4), Ok(vec![4]));
        assert!(ids.is_empty());
        // With nothing before it.
        ids.doubt();
        assert_eq!(back(&mut ids, 5, 5), Ok(vec![]));
        assert!(ids.end_doubt() && ids.is_empty());
        ids.sent(key(6));
        assert_eq!(back(&mut ids, 6, 6), Ok(vec![6]));
    }

    #[test]
    fn a_doubt_that_is_kept_is_a_request_with_a_number() {
        let mut ids = sent(0, 1);
        assert!(!ids.keep_doubt(key(9)), "nothing is in doubt");
        ids.doubt();
        assert!(ids.keep_doubt(key(1)) && !ids.keep_doubt(key(1)));
        assert_eq!(ids.requests(), 2);
        assert!(ids.end_doubt(), "there is none any more");
        // It comes back, or the kernel owes nothing any more.
        assert_eq!(back(&mut ids, 1, 1), Ok(vec![1]));
        ids.doubt();
        assert!(ids.keep_doubt(key(2)));
        let mut told = Vec::new();
        assert!(!ids.all_are_free(|token, _| told.push(token.slot())));
        assert_eq!((told, ids.requests()), (vec![0, 2], 0));
        ids.doubt();
        assert_eq!(back(&mut ids, 3, 3), Ok(vec![]));
        assert!(!ids.keep_doubt(key(3)), "it has come back");
    }

    #[test]
    fn a_doubt_that_ends_gives_up_the_places_behind_which_it_stood() {
        let mut ids = sent(0, 1);
        ids.doubt();
        assert_eq!(back(&mut ids, 0, 0), Ok(vec![0]));
        assert!(!ids.end_doubt());
        assert!(ids.is_empty());
        ids.sent(key(1));
        assert_eq!(back(&mut ids, 1, 1), Ok(vec![1]));
    }

    #[test]
    fn what_comes_back_can_be_believed_in_order_only() {
        let mut ids = sent(0, 6);
        assert_eq!(ids.on_returned(2, 2, Usage::ZeroCopy), Ok(()));
        assert_eq!((in_order(&mut ids), ids.has_oldest_returned()), (vec![], false));
        assert_eq!(ids.on_returned(0, 1, Usage::Copied), Ok(()));
        assert_eq!(ids.on_returned(4, 5, Usage::ZeroCopy), Ok(()));
        assert!(ids.has_oldest_returned() && ids.has_doubts());
        let mut told = Vec::new();
        ids.settle_in_order(|token, usage| told.push((token.slot(), usage)));
        let (first, none) = (Usage::Copied, Usage::Unreported);
        assert_eq!(told, [(0, first), (1, none), (2, Usage::ZeroCopy)]);
        // 3 is out.
        assert!(ids.has_doubts() && !ids.has_oldest_returned());
        assert_eq!(ids.on_returned(3, 3, Usage::ZeroCopy), Ok(()));
        assert_eq!(in_order(&mut ids), [3, 4, 5]);
        assert!(ids.is_empty() && !ids.has_doubts());
        // The next run: somebody has used up number 6 meanwhile, so these are 7 and 8.
        ids.sent(key(6));
        ids.sent(key(7));
        assert_eq!(ids.on_returned(7, 7, Usage::ZeroCopy), Ok(()), "the first of them");
        assert_eq!(in_order(&mut ids), [], "taken for the second");
        assert_eq!(ids.on_returned(8, 8, Usage::ZeroCopy), Err(NotOurs));
    }

    #[test]
    fn where_nothing_of_anybodys_is_out_all_is_free() {
        let mut ids = sent(0, 3);
        assert_eq!(ids.on_returned(1, 1, Usage::Copied), Ok(()));
        let mut told = Vec::new();
        let complete = ids.all_are_free(|token, usage| told.push((token.slot(), usage)));
        let (none, first) = (Usage::Unreported, Usage::Copied);
        assert_eq!((told, complete), (vec![(1, first), (0, none), (2, none)], false));
        assert!(ids.is_empty() && !ids.has_doubts());
        ids.sent(key(3));
        assert_eq!(ids.on_returned(3, 3, Usage::ZeroCopy), Ok(()));
        assert!(ids.all_are_free(|token, _| assert_eq!(token.slot(), 3)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send,
        /// A range of those that are out, from the `n`th on.
        Back(usize, u32),
        /// Any range at all.
        Any(u32, u32),
        /// A send that fails, and whether it used up a number.
        Fail(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Send),
            3 => (0..40_usize, 0..6_u32).prop_map(|(at, more)| Step::Back(at, more)),
            1 => (0..80_u32, 0..80_u32).prop_map(|(first, last)| Step::Any(first, last)),
            1 => any::<bool>().prop_map(Step::Fail),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn plays_as_a_map_does(
            start in prop_oneof![Just(0), Just(u32::MAX - 20)],
            steps in steps(),
        ) {
            let mut ids = Ids { next: start, ..Ids::default() };
            // By how often a number was given out, which does not wrap.
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            let mut given = u64::from(start);
            for step in steps {
                let range = match step {
                    Step::Send => {
                        ids.sent(key(given as u32));
                        model.insert(given, given as u32);
                        given += 1;
                        continue;
                    }
                    Step::Fail(used) => {
                        ids.doubt();
                        if used {
                            prop_assert_eq!(back(&mut ids, given as u32, given as u32), Ok(vec![]));
                            given += 1;
                        }
                        prop_assert_eq!(ids.end_doubt(), used);
                        continue;
                    }
                    Step::Back(at, more) => match model.keys().nth(at) {
                        Some(&first) => first..=first + u64::from(more),
                        None => continue,
                    },
                    Step::Any(first, last) => {
                        let first = u64::from(start) + u64::from(first);
                        first..=u64::from(start) + u64::from(last)
                    }
                };
                let ours = !range.is_empty() && range.clone().all(|id| model.contains_key(&id));
                let got = back(&mut ids, *range.start() as u32, *range.end() as u32);
                if ours {
                    let want: Vec<u32> = range.map(|id| model.remove(&id).unwrap()).collect();
                    prop_assert_eq!(got, Ok(want));
                } else {
                    prop_assert_eq!(got, Err(NotOurs));
                }
                prop_assert_eq!(ids.is_empty(), model.is_empty());
            }
        }
    }
}
