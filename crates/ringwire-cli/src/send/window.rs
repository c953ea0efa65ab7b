//! Who holds which block, and who has held one too long. Pure: `now` is an argument.
//!
//! Neighbours: `transfer.rs` tells it what was lent and how far each receiver is, and drops whom it
//! names. Must not know sockets or the ring.
//!
//! ```text
//!            oldest block out                             newest
//!  blocks   ┌────┬────┬────┬────┬────┬────┬────┬────┬────┐
//!           │ 17 │ 18 │ 19 │ 20 │ 21 │ 22 │ 23 │ 24 │ 25 │   the window: what the arena holds
//!           └────┴────┴────┴────┴────┴────┴────┴────┴────┘
//!  A is through up to ..................... 23
//!  B is through up to 17        B is behind: A was through with 18 when `first_through` says
//! ```
//!
//! Two rules, and `patience` is the measure of both:
//! - *silent*: a receiver that owes something (bytes, or a receipt) and gives no sign of life;
//! - *behind*: no block is free, and a receiver still holds one that another was through with that
//!   long ago. A slow receiver that nobody waits for is left alone, and so is one that is never
//!   more than `patience` behind: the others then run at its speed.
//!
//! Invariants: `released_bytes <= lent_bytes` for each receiver; `holds` ascends in both parts. A
//! block is opened and lent before any position is told, or it may be forgotten; that costs no
//! more than that nobody is called behind for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The blocks that are lent, and to whom.
#[derive(Debug)]
pub(super) struct Window {
    patience: Duration,
    standings: Vec<Standing>,
    /// Blocks from number `first` on; those before it are held by nobody.
    blocks: VecDeque<Lent>,
    first: u64,
}

#[derive(Debug, Default)]
struct Lent {
    /// When the first receiver was through with it.
    first_through: Option<Instant>,
}

#[derive(Debug, Default)]
struct Standing {
    gone: bool,
    /// The stream's length so far, frames and blocks.
    lent_bytes: u64,
    accepted_bytes: u64,
    released_bytes: u64,
    /// Blocks that it is not through with, by number, each with where it ends in the stream.
    holds: VecDeque<(u64, u64)>,
    /// Its last sign of life while it owes something.
    owes_since: Option<Instant>,
}

/// Why a receiver is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// No sign of life for so long.
    Silent(Duration),
    /// So long behind another receiver, while no block is free.
    Behind(Duration),
}

/// How far a receiver is, as the ring and its own words tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) accepted_bytes: u64,
    pub(super) released_bytes: u64,
    /// It has been sent the end of a file and not said what became of it.
    pub(super) owes_receipt: bool,
}

impl Window {
    pub(super) fn new(receivers: usize, patience: Duration) -> Window {
        Window {
            patience,
            standings: (0..receivers).map(|_| Standing::default()).collect(),
            blocks: VecDeque::new(),
            first: 0,
        }
    }

    /// A number for the next block.
    pub(super) fn open_block(&mut self) -> u64 {
        self.blocks.push_back(Lent::default());
        self.first + self.blocks.len() as u64 - 1
    }

    /// `bytes` more were lent to a receiver, and with them `block`, if one was in them.
    pub(super) fn lend(&mut self, now: Instant, receiver: usize, bytes: u64, block: Option<u64>) {
        let standing = &mut self.standings[receiver];
        standing.lent_bytes += bytes;
        standing.owes_since.get_or_insert(now);
        if let Some(number) = block {
            standing.holds.push_back((number, standing.lent_bytes));
        }
    }

    /// A receiver is so far.
    pub(super) fn on_position(&mut self, now: Instant, receiver: usize, position: Position) {
        let standing = &mut self.standings[receiver];
        let Position { accepted_bytes, released_bytes, owes_receipt } = position;
        let moved =
            accepted_bytes != standing.accepted_bytes || released_bytes != standing.released_bytes;
        standing.accepted_bytes = accepted_bytes;
        standing.released_bytes = released_bytes;
        let owes = released_bytes < standing.lent_bytes || owes_receipt;
        standing.owes_since = match standing.owes_since {
            _ if !owes => None,
            Some(since) if !moved => Some(since),
            _ => Some(now),
        };
        while let Some(&(number, end)) = standing.holds.front()
            && end <= released_bytes
        {
            standing.holds.pop_front();
            let at = number.checked_sub(self.first).map(|at| at as usize);
            if let Some(lent) = at.and_then(|at| self.blocks.get_mut(at)) {
                lent.first_through.get_or_insert(now);
            }
        }
        self.forget_free_blocks();
    }

    /// A receiver has said something.
    pub(super) fn on_sign(&mut self, now: Instant, receiver: usize) {
        if let Some(since) = &mut self.standings[receiver].owes_since {
            *since = now;
        }
    }

    /// A receiver takes no further part.
    pub(super) fn on_gone(&mut self, receiver: usize) {
        let standing = &mut self.standings[receiver];
        standing.gone = true;
        standing.holds.clear();
        standing.owes_since = None;
        self.forget_free_blocks();
    }

    fn forget_free_blocks(&mut self) {
        let oldest = self
            .standings
            .iter()
            .filter_map(|standing| standing.holds.front())
            .map(|&(number, _)| number)
            .min();
        let keep = oldest.unwrap_or(self.first + self.blocks.len() as u64);
        while self.first < keep && self.blocks.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Who is too late. `no_block_free`: the reader waits for a block, or a lent one for room.
    pub(super) fn late(&self, now: Instant, no_block_free: bool) -> Option<(usize, Late)> {
        self.standings.iter().enumerate().filter(|(_, standing)| !standing.gone).find_map(
            |(receiver, standing)| {
                let silent = standing.owes_since.map(|since| now.duration_since(since));
                if let Some(silent) = silent
                    && silent > self.patience
                {
                    return Some((receiver, Late::Silent(silent)));
                }
                let (number, _) = standing.holds.front()?;
                let lent = self.blocks.get(number.checked_sub(self.first)? as usize)?;
                let behind = now.duration_since(lent.first_through?);
                (no_block_free && behind > self.patience)
                    .then_some((receiver, Late::Behind(behind)))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BLOCK: u64 = 100;

    /// Two receivers, patience of 10 seconds, 3 blocks of 100 bytes lent to both at `t0`.
    fn window(t0: Instant) -> Window {
        let mut window = Window::new(2, 10 * SECOND);
        for _ in 0..3 {
            let number = window.open_block();
            window.lend(t0, 0, BLOCK, Some(number));
            window.lend(t0, 1, BLOCK, Some(number));
        }
        window
    }

    fn at(bytes: u64) -> Position {
        Position { accepted_bytes: bytes, released_bytes: bytes, owes_receipt: false }
    }

    #[test]
    fn a_receiver_that_gives_no_sign_is_silent() {
        let t0 = Instant::now();
        let mut window = window(t0);
        window.on_position(t0 + SECOND, 0, at(300));
        assert_eq!(window.late(t0 + 10 * SECOND, false), None);
        assert_eq!(window.late(t0 + 11 * SECOND, false), Some((1, Late::Silent(11 * SECOND))));
        // A word from it counts, and so does a byte that its kernel took.
        window.on_sign(t0 + 11 * SECOND, 1);
        assert_eq!(window.late(t0 + 21 * SECOND, false), None);
        let took = Position { accepted_bytes: 1, released_bytes: 0, owes_receipt: false };
        window.on_position(t0 + 21 * SECOND, 1, took);
        assert_eq!(window.late(t0 + 31 * SECOND, false), None);
        assert!(window.late(t0 + 32 * SECOND, false).is_some());
    }

    #[test]
    fn who_owes_nothing_is_never_late() {
        let t0 = Instant::now();
        let mut window = window(t0);
        window.on_position(t0, 0, at(300));
        window.on_position(t0, 1, at(300));
        assert_eq!(window.late(t0 + 1000 * SECOND, true), None);
        // A receipt is owed too, and the time begins when it is.
        let owes = Position { owes_receipt: true, ..at(300) };
        window.on_position(t0 + 1000 * SECOND, 0, owes);
        assert_eq!(window.late(t0 + 1010 * SECOND, true), None);
        assert_eq!(window.late(t0 + 1011 * SECOND, true), Some((0, Late::Silent(11 * SECOND))));
    }

    #[test]
    fn who_is_behind_is_late_only_while_no_block_is_free() {
        let t0 = Instant::now();
        let mut window = window(t0);
        window.on_position(t0 + SECOND, 0, at(300));
        for second in 2..=12 {
            // Moves all the time, a byte a second.
            window.on_position(
                t0 + second * SECOND,
                1,
                Position { accepted_bytes: u64::from(second), ..at(0) },
            );
        }
        assert_eq!(window.late(t0 + 12 * SECOND, false), None);
        assert_eq!(window.late(t0 + 12 * SECOND, true), Some((1, Late::Behind(11 * SECOND))));
        window.on_gone(1);
        assert_eq!(window.late(t0 + 100 * SECOND, true), None);
        assert!(window.blocks.is_empty());
    }

    #[test]
    fn who_is_slow_but_within_patience_is_kept_for_ever() {
        let t0 = Instant::now();
        let mut window = Window::new(2, 10 * SECOND);
        for second in 0..1000 {
            let now = t0 + second * SECOND;
            let number = window.open_block();
            window.lend(now, 0, BLOCK, Some(number));
            window.lend(now, 1, BLOCK, Some(number));
            // The first takes each block at once, the second always nine seconds later.
            window.on_position(now, 0, at(BLOCK * u64::from(second + 1)));
            window.on_position(now, 1, at(BLOCK * u64::from(second.saturating_sub(8))));
            assert_eq!(window.late(now, true), None, "after {second} s");
            assert!(window.blocks.len() <= 10);
        }
    }

    #[test]
    fn all_equally_stuck_are_silent_not_behind() {
        let t0 = Instant::now();
        let window = window(t0);
        assert_eq!(window.late(t0 + 11 * SECOND, true), Some((0, Late::Silent(11 * SECOND))));
    }

    #[test]
    fn blocks_that_nobody_holds_are_forgotten() {
        let t0 = Instant::now();
        let mut window = Window::new(1, SECOND);
        let skipped = window.open_block();
        let lent = window.open_block();
        assert_eq!((skipped, lent), (0, 1));
        window.lend(t0, 0, BLOCK, Some(lent));
        assert_eq!(window.late(t0 + 2 * SECOND, false), Some((0, Late::Silent(2 * SECOND))));
        window.on_position(t0, 0, at(BLOCK));
        assert!(window.blocks.is_empty());
        assert_eq!(window.open_block(), 2);
        window.lend(t0, 0, BLOCK, Some(2));
        window.on_gone(0);
        assert!(window.blocks.is_empty());
        assert_eq!(window.late(t0 + 2 * SECOND, true), None);
    }
}
