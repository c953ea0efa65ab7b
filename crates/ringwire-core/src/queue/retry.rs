//! Step 5 of a send, for datagrams: what failed and goes again. Pure.
//!
//! Invariant: runs stand in the order in which their payloads were sent. Neighbours: `gso.rs` puts
//! back and takes.

use std::collections::VecDeque;

use crate::ledger::payload::{Payloads, Position};
use crate::queue::gathered::Gathered;

/// A run of payloads that no request covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// So many whole payloads, the first of which is at `slot`.
    Whole { slot: u32, count: u32 },
    /// The bytes `from .. to` of the payload at `slot`.
    Part { slot: u32, from: u64, to: u64 },
}

impl Run {
    /// The first of the payloads that it is of, and how many they are.
    pub(crate) fn payloads(&self) -> (u32, u32) {
        match *self {
            Run::Whole { slot, count } => (slot, count),
            Run::Part { slot, .. } => (slot, 1),
        }
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> Position {
        match *self {
            Run::Whole { slot, .. } => Position { slot, skip: 0 },
            Run::Part { slot, from, .. } => Position { slot, skip: from },
        }
    }
}

/// Runs that failed and go again, before everything else of their queue.
#[derive(Debug, Default)]
pub(crate) struct RetryQueue {
    runs: VecDeque<Run>,
    /// How many of them were put back since one was taken: results come in the order of their
    /// requests, and what is behind them was requested later still.
    newest: usize,
}

impl RetryQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn put_back(&mut self, run: Run) {
        self.runs.insert(self.newest, run);
        self.newest += 1;
    }

    /// Takes what `gathered` covers off the first run.
    pub(super) fn take(&mut self, gathered: &Gathered, payloads: &Payloads) {
        self.newest = 0;
        match self.runs.pop_front() {
            Some(Run::Part { slot, from, to }) if from + gathered.bytes < to => {
                self.runs.push_front(Run::Part { slot, from: from + gathered.bytes, to });
            }
            Some(Run::Whole { slot, count }) => {
                let (mut next, part) = (gathered.end.slot, gathered.end.skip > 0);
                if part && let Some(entry) = payloads.at(slot) {
                    next = entry.next;
                }
                if count > gathered.count {
                    let count = count - gathered.count;
                    self.runs.push_front(Run::Whole { slot: next, count });
                }
                if part && let Some(entry) = payloads.at(slot) {
                    let (from, to) = (gathered.end.skip, entry.bytes);
                    self.runs.push_front(Run::Part { slot, from, to });
                }
            }
            _ => {}
        }
    }

    /// Puts back what was just taken.
    pub(super) fn put_back_first(&mut self, run: Run) {
        self.newest = 0;
        self.put_back(run);
    }

    /// The first run.
    pub(super) fn first(&self) -> Option<Run> {
        self.runs.front().copied()
    }

    /// Takes the first run off.
    pub(super) fn pop(&mut self) -> Option<Run> {
        self.newest = 0;
        self.runs.pop_front()
    }

    /// Whether a part of the payload stands here.
    pub(super) fn holds_part_of(&self, payload: u32) -> bool {
        let is_part = |run: &Run| matches!(run, Run::Part { slot, .. } if *slot == payload);
        self.runs.iter().any(is_part)
    }

    /// Takes all parts of a payload off. Returns how many bytes they had.
    pub(super) fn drop_parts(&mut self, payload: u32) -> u64 {
        let mut dropped = 0;
        // Others that were put back since the last take keep their place before those to come.
        let of_it = |run: &&Run| matches!(run, Run::Part { slot, .. } if *slot == payload);
        self.newest -= self.runs.iter().take(self.newest).filter(of_it).count();
        self.runs.retain(|run| match *run {
            Run::Part { slot, from, to } if slot == payload => {
                dropped += to - from;
                false
            }
            _ => true,
        });
        dropped
    }

    /// Takes a whole payload off the first run, if that begins with it. `next` is the one behind
    /// it. Returns whether it did.
    pub(super) fn drop_whole(&mut self, payload: u32, next: u32) -> bool {
        let Some(Run::Whole { slot, count }) = self.runs.front_mut() else { return false };
        if *slot != payload {
            return false;
        }
        (*slot, *count) = (next, *count - 1);
        if *count == 0 {
            self.runs.pop_front();
            self.newest = self.newest.saturating_sub(1);
        }
        true
    }
}
