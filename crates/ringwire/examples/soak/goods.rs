//! Payloads of all kinds, filled with what their stream has at their place, and overwritten the
//! instant that they are released, whoever drops them.

use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use ringwire::{Arena, Block, IntoPayload, Payload, Piece, Registration};

use crate::pattern;
use crate::rng::Rng;

/// Pieces of one payload at most.
const PIECES_MAX: u64 = 6;

/// Heap memory that overwrites itself when it is dropped.
struct OwnVec(Vec<u8>);

impl AsRef<[u8]> for OwnVec {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for OwnVec {
    fn drop(&mut self) {
        pattern::overwrite(&mut self.0);
    }
}

/// A block that is taken from its arena again and overwritten when it is dropped.
struct OwnBlock {
    block: Option<Block>,
    arena: Arena,
}

impl AsRef<[u8]> for OwnBlock {
    fn as_ref(&self) -> &[u8] {
        self.block.as_deref().unwrap_or_default()
    }
}

impl Drop for OwnBlock {
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
pub(crate) fn scribble(arena: &Arena) {
    let mut blocks = Vec::new();
    for bytes in [4 << 20, 512 << 10, 64 << 10, 16 << 10, 4 << 10] {
        while let Ok(mut block) = arena.alloc(bytes) {
            pattern::overwrite(block.spare_mut());
            blocks.push(block);
        }
    }
}

/// Where a ring's payloads come from, and where they go.
pub(crate) struct Goods {
    /// The arena that the ring knows, until it is dropped before the ring.
    pub(crate) arena: Option<Arena>,
    /// One that it does not know.
    foreign: Arena,
    /// Vectors that came back and are used again.
    vecs: Vec<Vec<u8>>,
    /// Where another thread drops what it is given.
    pub(crate) elsewhere: SyncSender<Given>,
}

/// Something for another thread to drop.
pub(crate) enum Given {
    Payload(Payload, Option<Arena>),
    Block(Block, Arena),
    Bytes(Bytes),
    /// To be told when all before it was dropped.
    Mark(SyncSender<()>),
}

impl Given {
    pub(crate) fn overwrite(self) {
        match self {
            Given::Payload(payload, arena) => overwrite(payload, arena.as_ref(), &mut Vec::new()),
            Given::Block(block, arena) => overwrite_block(block, &arena),
            Given::Bytes(bytes) => drop(bytes),
            Given::Mark(reached) => drop(reached.send(())),
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

impl Goods {
    pub(crate) fn new(
        arena: Arena,
        elsewhere: SyncSender<Given>,
    ) -> Result<Goods, ringwire::Error> {
        let foreign =
            Arena::builder().capacity_bytes(4 << 20).registration(Registration::Off).build()?;
        Ok(Goods { arena: Some(arena), foreign, vecs: Vec::new(), elsewhere })
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
                    return self.vec(seed, at, bytes).into();
                };
                let Some(block) = block(&arena, seed, at, bytes) else {
                    return self.vec(seed, at, bytes).into();
                };
                if rng.percent(10) {
                    // Another holder, who lets go at any time.
                    let _ = self.elsewhere.try_send(Given::Block(block.clone(), arena.clone()));
                }
                match rng.percent(50) {
                    true => block.into(),
                    false => Bytes::from_owner(OwnBlock { block: Some(block), arena }).into(),
                }
            }
            5 => match block(&self.foreign, seed, at, bytes) {
                Some(block) => {
                    let arena = self.foreign.clone();
                    Bytes::from_owner(OwnBlock { block: Some(block), arena }).into()
                }
                None => self.vec(seed, at, bytes).into(),
            },
            6..8 => {
                let bytes = Bytes::from_owner(OwnVec(self.vec(seed, at, bytes)));
                if rng.percent(10) {
                    let _ = self.elsewhere.try_send(Given::Bytes(bytes.clone()));
                }
                bytes.into()
            }
            _ => self.vec(seed, at, bytes).into(),
        }
    }

    fn vec(&mut self, seed: u64, at: u64, bytes: usize) -> Vec<u8> {
        let mut vec = self.vecs.pop().unwrap_or_default();
        vec.resize(bytes, 0);
        pattern::fill(&mut vec, seed, at);
        vec
    }

    /// Takes a released payload in: overwrites it here, or has another thread do it.
    pub(crate) fn take_back(&mut self, rng: &mut Rng, payload: Payload) {
        if rng.percent(10) {
            let given = Given::Payload(payload, self.arena.clone());
            if let Err(back) = self.elsewhere.try_send(given) {
                use std::sync::mpsc::TrySendError::{Disconnected, Full};
                let (Full(given) | Disconnected(given)) = back;
                given.overwrite();
            }
            return;
        }
        overwrite(payload, self.arena.as_ref(), &mut self.vecs);
    }

    /// Overwrites all memory that nobody holds.
    pub(crate) fn scribble(&self) {
        self.arena.iter().chain([&self.foreign]).for_each(scribble);
    }
}

fn block(arena: &Arena, seed: u64, at: u64, bytes: usize) -> Option<Block> {
    let mut block = arena.alloc(bytes).ok()?;
    pattern::fill(&mut block.spare_mut()[..bytes], seed, at);
    block.advance(bytes);
    Some(block.freeze())
}
