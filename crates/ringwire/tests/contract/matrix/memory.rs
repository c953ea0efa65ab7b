//! What messages are made of: blocks, vectors, and mixtures of them.

use super::*;

/// Memory to make messages of.
pub(super) struct Stock {
    pub(super) arena: Arena,
    /// Copies of the pattern from its beginning, behind each other.
    pub(super) blocks: Vec<Block>,
    /// Every byte value, 256 times, so that a single byte can lie anywhere.
    pub(super) palette: Block,
    pub(super) next_in_palette: usize,
    pub(super) next_owner: usize,
    pub(super) large_vec: Option<Vec<u8>>,
    /// RLIMIT_MEMLOCK is in the way: 32 MiB go from vectors only, and may be copied.
    pub(super) limited: Option<Cow<'static, str>>,
}

impl Stock {
    /// With room for everything, or for what a user with little RLIMIT_MEMLOCK may register.
    pub(super) fn new() -> Stock {
        let build =
            |capacity, wish| Arena::builder().capacity_bytes(capacity).registration(wish).build();
        let (arena, blocks, limited) = match build(36 * MIB, Registration::Require) {
            Ok(arena) => (arena, vec![16 * MIB, 16 * MIB], None),
            Err(Error::Unsupported { needs, .. }) => {
                let arena = build(2 * MIB, Registration::Require)
                    .or_else(|_| build(2 * MIB, Registration::Off));
                (arena.unwrap(), vec![MIB + 256 * KIB], Some(needs))
            }
            Err(why) => panic!("{why}"),
        };
        let mut start = 0;
        let blocks = blocks.into_iter().map(|bytes| {
            let mut block = arena.alloc(bytes).unwrap();
            assert_eq!(block.put(&pattern()[start..start + bytes]), bytes);
            start += bytes;
            block.freeze()
        });
        let blocks = blocks.collect();
        let mut palette = arena.alloc(64 * KIB).unwrap();
        for (at, byte) in palette.spare_mut().iter_mut().enumerate() {
            *byte = at as u8;
        }
        palette.advance(64 * KIB);
        let palette = palette.freeze();
        let (next_in_palette, next_owner, large_vec) = (0, 0, None);
        Stock { arena, blocks, palette, next_in_palette, next_owner, large_vec, limited }
    }

    /// How much of the pattern there is in blocks.
    pub(super) fn block_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }

    /// Whether all blocks are registered; counted as missing where the host does not allow it.
    pub(super) fn is_registered(&self) -> bool {
        self.arena.registered_bytes() == self.arena.capacity_bytes()
    }

    /// The payload that says `range` of the pattern.
    pub(super) fn payload(&mut self, memory: Memory, split: usize, range: Range<usize>) -> Payload {
        let mut pieces = Vec::new();
        match memory {
            Memory::Block => self.split(&mut pieces, true, split, range),
            Memory::Normal => self.split(&mut pieces, false, split, range),
            Memory::HeaderThenBlock => {
                let header = range.start..range.end.min(range.start + 100);
                let rest = header.end..range.end;
                pieces.push(self.foreign(header));
                self.split(&mut pieces, true, split, rest);
            }
            Memory::BlockThenForeign => {
                let middle = range.start + range.len().div_ceil(2);
                self.split(&mut pieces, true, split, range.start..middle);
                pieces.push(self.foreign(middle..range.end));
            }
        }
        ringwire::IntoPayload::into_payload(pieces)
    }

    /// `count` pieces of one byte, but the second has what is left. Where there are fewer bytes,
    /// the last pieces are empty.
    pub(super) fn split(
        &mut self,
        to: &mut Vec<Piece>,
        block: bool,
        count: usize,
        range: Range<usize>,
    ) {
        if count == 1 {
            match block {
                true => self.blocks_of(to, range),
                false => to.push(self.foreign(range)),
            }
            return;
        }
        let mut at = range.start;
        for piece in 0..count {
            let left = range.end - at;
            let bytes = match piece {
                1 if left >= count - 1 => left - (count - 2),
                _ => left.min(1),
            };
            match block {
                true if bytes > 1 => self.blocks_of(to, at..at + bytes),
                true => to.push(self.palette_piece(at..at + bytes)),
                false => to.push(self.foreign(at..at + bytes)),
            }
            at += bytes;
        }
        assert_eq!(at, range.end);
    }

    pub(super) fn blocks_of(&self, to: &mut Vec<Piece>, range: Range<usize>) {
        let mut start = 0;
        for block in &self.blocks {
            let (from, end) = (range.start.max(start), range.end.min(start + block.len()));
            if from < end {
                to.push(block.slice(from - start..end - start).into());
            }
            start += block.len();
        }
        if range.is_empty() {
            to.push(self.blocks[0].slice(..0).into());
        }
    }

    /// At most one byte, which adjoins nothing that was asked for before.
    pub(super) fn palette_piece(&mut self, range: Range<usize>) -> Piece {
        self.next_in_palette = (self.next_in_palette + 2 * 256) % (64 * KIB);
        let value = range.clone().map(|at| usize::from(pattern()[at])).sum::<usize>();
        let start = self.next_in_palette + value;
        self.palette.slice(start..start + range.len()).into()
    }

    /// Ordinary memory: large pieces in a vector that is used again, small ones in every owner.
    pub(super) fn foreign(&mut self, range: Range<usize>) -> Piece {
        let bytes = &pattern()[range];
        if bytes.len() > 64 * KIB {
            let mut vec = self.large_vec.take().unwrap_or_default();
            vec.clear();
            vec.extend_from_slice(bytes);
            return vec.into();
        }
        self.next_owner += 1;
        match self.next_owner % 4 {
            0 => Bytes::copy_from_slice(bytes).into(),
            1 => Box::<[u8]>::from(bytes).into(),
            2 => Arc::<[u8]>::from(bytes).into(),
            _ => bytes.to_vec().into(),
        }
    }

    /// Checks a payload that came back, and keeps what can be used again.
    pub(super) fn take_back(&mut self, payload: Payload, range: Range<usize>) {
        let mut at = range.start;
        for piece in payload.into_pieces() {
            let bytes = piece.as_slice();
            assert_same(bytes, &pattern()[at..at + bytes.len()]);
            at += bytes.len();
            if bytes.len() > 64 * KIB
                && let Ok(vec) = piece.into_vec()
            {
                self.large_vec = Some(vec);
            }
        }
        assert_eq!(at, range.end);
    }
}
