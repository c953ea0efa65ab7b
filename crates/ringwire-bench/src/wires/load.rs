//! What is sent in the turns of `bench wires`: payloads of one size, of many, or of two pieces.
//!
//! All sides send the same blocks in the same order, and a turn sends whole *units*, so that turns
//! have equal bytes whatever payloads they are made of: a unit is one payload, or a whole cycle of
//! mixed ones. Must not know the sender, nor the wire.

use ringwire::{Arena, Block};

use crate::error::Error;
use crate::report::wires::Shape;

/// Memory that payloads are cut from: more than a core's own caches, so that it is read anew.
pub const WORKING_SET_BYTES: u64 = 16 << 20;
/// Payloads at most: they cost more than their bytes.
const PAYLOADS_MAX: u64 = 8192;

/// Bytes of the header of a payload of two pieces.
pub const HEADER_BYTES: usize = 100;

/// A header as servers write them, status line and all.
static HEADER: [u8; HEADER_BYTES] = *b"HTTP/1.1 200 OK\r\nserver: bench1\r\n\
    content-type: application/octet-stream\r\ncontent-length: 1234567\r\n\r\n";

/// How many payloads of each size a cycle of mixed ones has: about as many bytes of each of the
/// larger ones, and most payloads small, as in a server's answers.
const MIXED: [(u64, u64); 7] = [
    (64, 256),
    (1 << 10, 128),
    (4 << 10, 64),
    (16 << 10, 16),
    (64 << 10, 8),
    (256 << 10, 4),
    (1 << 20, 1),
];
/// Cycles, each in an order of its own: together the working set.
const CYCLES: u64 = 5;
/// Any: that every run sends the same is what counts.
const SEED: u64 = 4;

/// The payloads that every side sends, round and round.
#[derive(Debug)]
pub(super) struct Load {
    /// What stands before each block in its payload; may be empty.
    pub header: &'static [u8],
    pub blocks: Box<[Block]>,
    /// The blocks' memory, which a ring must know to send it registered.
    pub arena: Arena,
    /// Payloads of a unit.
    pub unit: usize,
    /// Bytes of a unit.
    pub unit_bytes: u64,
}

impl Load {
    /// Payloads of `shape`; of `bytes` bytes, or with bodies of as many, if they are alike.
    pub(super) fn new(shape: Shape, bytes: u64) -> Result<Load, Error> {
        if shape == Shape::Mixed {
            let mut random = fastrand::Rng::with_seed(SEED);
            let mut sizes = Vec::new();
            for _ in 0..CYCLES {
                let mut cycle: Vec<u64> = MIXED
                    .into_iter()
                    .flat_map(|(size, times)| std::iter::repeat_n(size, times as usize))
                    .collect();
                random.shuffle(&mut cycle);
                sizes.extend(cycle);
            }
            let unit = sizes.len() / CYCLES as usize;
            return Load::cut(&sizes, &[], unit);
        }
        let payloads = (WORKING_SET_BYTES / bytes).clamp(4, PAYLOADS_MAX);
        let header: &[u8] = if shape == Shape::Pair { &HEADER } else { &[] };
        Load::cut(&vec![bytes; payloads as usize], header, 1)
    }

    fn cut(sizes: &[u64], header: &'static [u8], unit: usize) -> Result<Load, Error> {
        // Small blocks are rounded up, and a ring keeps pages for headers.
        let capacity: u64 = sizes.iter().map(|bytes| bytes.next_power_of_two().max(256)).sum();
        let arena = Arena::builder().capacity_bytes((capacity + (4 << 20)) as usize).build()?;
        let block = |(number, bytes): (usize, &u64)| {
            let bytes = *bytes as usize;
            let mut block = arena.alloc(bytes)?;
            block.spare_mut()[..bytes].fill(number as u8);
            block.advance(bytes);
            Ok(block.freeze())
        };
        let blocks = sizes.iter().enumerate().map(block).collect::<Result<_, Error>>()?;
        let unit_bytes = sizes[..unit].iter().map(|bytes| bytes + header.len() as u64).sum();
        Ok(Load { header, blocks, arena, unit, unit_bytes })
    }

    /// The mean size of a payload.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.unit_bytes / self.unit as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_mixed_payloads_has_the_same_bytes_wherever_it_begins() {
        let load = Load::new(Shape::Mixed, 0).unwrap();
        assert_eq!((load.unit, load.blocks.len()), (477, 2_385));
        assert_eq!(load.unit_bytes, 3_293_184);
        assert_eq!(load.payload_bytes(), 6_903);
        let unit_of = |cycle: &[Block]| cycle.iter().map(|block| block.len() as u64).sum::<u64>();
        assert!(load.blocks.chunks(477).all(|cycle| unit_of(cycle) == 3_293_184));
        let first = |cycle: usize| load.blocks[cycle * 477..][..9].iter().map(|b| b.len());
        assert_ne!(first(0).collect::<Vec<_>>(), first(1).collect::<Vec<_>>(), "in other orders");
    }

    #[test]
    fn a_pair_has_its_header_in_its_size() {
        let load = Load::new(Shape::Pair, 16 << 10).unwrap();
        assert_eq!((load.unit, load.unit_bytes, load.payload_bytes()), (1, 16_484, 16_484));
        assert_eq!((load.header.len(), load.blocks.len()), (100, 1024));
        let load = Load::new(Shape::Equal, 64).unwrap();
        assert_eq!((load.unit_bytes, load.blocks.len(), load.header.len()), (64, 8192, 0));
    }
}
