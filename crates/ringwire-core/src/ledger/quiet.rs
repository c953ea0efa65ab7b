//! Step 7 of a send: quiet payloads that were released, and wait to be dropped.
//!
//! Dropping one may run foreign code, so it is put off until all tables agree; whoever shares a
//! machine drops them where others can use it. Neighbours: `payload.rs` fills it.

use std::mem;

use crate::payload::{Payload, Piece};

/// Payloads that one turn releases without growing the list.
const ROOM: usize = 4096;

/// Quiet payloads that were released.
#[derive(Debug, Default)]
pub struct Quiet {
    pieces: Vec<Piece>,
    payloads: Vec<Payload>,
}

impl Quiet {
    /// None, with room for as many payloads at a time.
    pub(crate) fn with_room(payloads: u32) -> Quiet {
        Quiet { pieces: Vec::with_capacity(ROOM.min(payloads as usize)), payloads: Vec::new() }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.payloads.is_empty()
    }

    /// Drops them, and keeps the room. If one of them panics, the others of its kind are dropped
    /// all the same, and nothing but their list's room is lost.
    pub fn clear(&mut self) {
        if !self.pieces.is_empty() {
            let mut pieces = mem::take(&mut self.pieces);
            pieces.clear();
            self.pieces = pieces;
        }
        if !self.payloads.is_empty() {
            let mut payloads = mem::take(&mut self.payloads);
            payloads.clear();
            self.payloads = payloads;
        }
    }

    /// Takes a piece over, or drops it at once if that runs no foreign code.
    #[inline(always)]
    pub(crate) fn push(&mut self, piece: &mut Option<Piece>) {
        if !Piece::drop_quietly(piece) {
            self.pieces.extend(piece.take());
        }
    }

    pub(crate) fn push_payload(&mut self, payload: Payload) {
        self.payloads.push(payload);
    }
}
