//! Payloads in memory of every kind, filled with what their stream has at their place, and
//! overwritten the instant that they are released, whoever drops them.
//!
//! ```text
//!  payload() ──▶ arena's blocks, another arena's, Bytes, vectors ──▶ send
//!                    ▲                                                 │
//!                overwrite ◀── take_back(), or the dropping thread ◀── Released
//! ```
//!
//! Below are `pattern.rs` and `rng.rs`. Knows nothing of rings, sockets or plans. Of memory that
//! somebody still holds not a byte changes.

use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use ringwire::{Arena, Block, IntoPayload, Payload, Piece, Registration};

use crate::pattern;
use crate::rng::Rng;

/// Pieces of one payload at most.
const PIECES_MAX: u64 = 6;

/// Heap memory that overwrites itself when it is dropped.
struct OverwrittenVec(Vec<u8>);

impl AsRef<[u8]> for OverwrittenVec {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for OverwrittenVec {
    fn drop(&mut self) {
        pattern::overwrite(&mut self.0);
    }
}

/// A block that is taken from its arena again and overwritten when it is dropped.
struct OverwrittenBlock {
    block: Option<Block>,
    arena: Arena,
}

impl AsRef<[u8]> for OverwrittenBlock {
    fn as_ref(&self) -> &[u8] {
        self.block.as_deref().unwrap_or_default()
    }
}

impl Drop for OverwrittenBlock {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            overwrite_block(block, &self.arena);
        }
    }
}

/// Drops a block, and overwrites what the arena then gives for one of its length: mostly the same,
/// if this was the last handle of it.
fn overwrite_block(block: Block, arena: &Arena) {
    let bytes = block.len();
    drop(block);
    if let Ok(mut block) = arena.alloc(bytes) {
        pattern::overwrite(block.spare_mut());
    }
}

/// Takes all that the arena gives and overwrites it.
fn overwrite_free(arena: &Arena) {
    let mut blocks = Vec::new();
    for bytes in [4 << 20, 512 << 10, 64 << 10, 16 << 10, 4 << 10] {
        while let Ok(mut block) = arena.alloc(bytes) {
            pattern::overwrite(block.spare_mut());
            blocks.push(block);
        }
    }
}

/// Where a ring's payloads come from, and where they go.
pub(crate) struct Buffers {
    /// The arena that the ring knows, until it is dropped before the ring.
    pub(crate) arena: Option<Arena>,
    /// One that it does not know.
    foreign: Arena,
    /// Vectors that came back and are used again.
    vecs: Vec<Vec<u8>>,
    /// To the thread that drops what it is given.
    pub(crate) dropper: SyncSender<ToDrop>,
}

/// Something for another thread to drop.
pub(crate) enum ToDrop {
    Payload(Payload, Option<Arena>),
    Block(Block, Arena),
    Bytes(Bytes),
    /// To be told when all before it was dropped.
    Mark(SyncSender<()>),
}

impl ToDrop {
    pub(crate) fn overwrite(self) {
        match self {
            ToDrop::Payload(payload, arena) => overwrite(payload, arena.as_ref(), &mut Vec::new()),
            ToDrop::Block(block, arena) => overwrite_block(block, &arena),
            ToDrop::Bytes(bytes) => drop(bytes),
            ToDrop::Mark(reached) => drop(reached.send(())),
        }
    }
}

/// Drops a payload and overwrites its memory. Some of its vectors are kept to be used again.
fn overwrite(payload: Payload, arena: Option<&Arena>, vecs: &mut Vec<Vec<u8>>) {
    let mut piece_out = |piece: Piece| {
        let piece = match piece.into_vec() {
            Ok(mut vec) => {
                pattern::overwrite(&mut vec);
                if vecs.len() < 8 {
                    vecs.push(vec);
                }
                return;
            }
            Err(piece) => piece,
        };
        if let (Ok(block), Some(arena)) = (piece.into_block(), arena) {
            overwrite_block(block, arena);
        }
    };
    match payload.into_piece() {
        Ok(piece) => piece_out(piece),
        Err(payload) => payload.into_pieces().into_iter().for_each(piece_out),
    }
}

impl Buffers {
    /// Payloads out of `arena`, and of other memory.
    ///
    /// # Errors
    /// If there is no memory for an arena that the ring does not know.
    pub(crate) fn new(
        arena: Arena,
        dropper: SyncSender<ToDrop>,
    ) -> Result<Buffers, ringwire::Error> {
        let foreign =
            Arena::builder().capacity_bytes(4 << 20).registration(Registration::Off).build()?;
        Ok(Buffers { arena: Some(arena), foreign, vecs: Vec::new(), dropper })
    }

    /// Bytes `at .. at + bytes` of stream `seed`, in one to six pieces of any memory.
    pub(crate) fn payload(&mut self, rng: &mut Rng, seed: u64, at: u64, bytes: u64) -> Payload {
        if rng.percent(70) {
            return self.piece(rng, seed, at, bytes as usize).into_payload();
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        for left in (1..=rng.between(2, PIECES_MAX)).rev() {
            let rest = bytes - done;
            let part = match left {
                1 => rest,
                // A small piece in front, as headers are, or any split.
                _ if rng.percent(50) => rest.min(rng.between(0, 300)),
                _ => rng.between(0, rest),
            };
            pieces.push(self.piece(rng, seed, at + done, part as usize));
            done += part;
        }
        match <[Piece; 2]>::try_from(pieces) {
            Ok(two) => two.into_payload(),
            Err(many) => many.into_payload(),
        }
    }

    fn piece(&mut self, rng: &mut Rng, seed: u64, at: u64, bytes: usize) -> Piece {
        match rng.below(10) {
            0..5 => {
                let Some(arena) = self.arena.clone() else {
                    return self.filled_vec(seed, at, bytes).into();
                };
                let Some(block) = filled_block(&arena, seed, at, bytes) else {
                    return self.filled_vec(seed, at, bytes).into();
                };
                if rng.percent(10) {
                    // Another holder, who lets go at any time.
                    let _ = self.dropper.try_send(ToDrop::Block(block.clone(), arena.clone()));
                }
                match rng.percent(50) {
                    true => block.into(),
                    false => {
                        Bytes::from_owner(OverwrittenBlock { block: Some(block), arena }).into()
                    }
                }
            }
            5 => match filled_block(&self.foreign, seed, at, bytes) {
                Some(block) => {
                    let arena = self.foreign.clone();
                    Bytes::from_owner(OverwrittenBlock { block: Some(block), arena }).into()
                }
                None => self.filled_vec(seed, at, bytes).into(),
            },
            6..8 => {
                let bytes = Bytes::from_owner(OverwrittenVec(self.filled_vec(seed, at, bytes)));
                if rng.percent(10) {
                    let _ = self.dropper.try_send(ToDrop::Bytes(bytes.clone()));
                }
                bytes.into()
            }
            _ => self.filled_vec(seed, at, bytes).into(),
        }
    }

    fn filled_vec(&mut self, seed: u64, at: u64, bytes: usize) -> Vec<u8> {
        let mut vec = self.vecs.pop().unwrap_or_default();
        vec.resize(bytes, 0);
        pattern::fill(&mut vec, seed, at);
        vec
    }

    /// Takes a released payload in: overwrites it here, or has another thread do it.
    pub(crate) fn take_back(&mut self, rng: &mut Rng, payload: Payload) {
        if rng.percent(10) {
            let to_drop = ToDrop::Payload(payload, self.arena.clone());
            if let Err(back) = self.dropper.try_send(to_drop) {
                use std::sync::mpsc::TrySendError::{Disconnected, Full};
                let (Full(to_drop) | Disconnected(to_drop)) = back;
                to_drop.overwrite();
            }
            return;
        }
        overwrite(payload, self.arena.as_ref(), &mut self.vecs);
    }

    /// Overwrites all memory that nobody holds.
    pub(crate) fn overwrite_free(&self) {
        self.arena.iter().chain([&self.foreign]).for_each(overwrite_free);
    }
}

fn filled_block(arena: &Arena, seed: u64, at: u64, bytes: usize) -> Option<Block> {
    let mut block = arena.alloc(bytes).ok()?;
    pattern::fill(&mut block.spare_mut()[..bytes], seed, at);
    block.advance(bytes);
    Some(block.freeze())
}
