//! The bytes of a stream: every one of them says which stream it belongs to and where it stands.
//!
//! The eight bytes at position `8 * i` of the stream with seed `s` are `s + i * STEP`. That is an
//! addition a word, so filling and checking run at the speed of memory; and a word that comes late,
//! twice, from another stream or from memory that was overwritten is not the word expected there.
//! The core's `tests/contract/soundness.rs` has this file as a module, too, so it names nothing of
//! this crate.

/// Odd, with its bits well mixed: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

const WORD: usize = 8;

fn word(seed: u64, index: u64) -> u64 {
    seed.wrapping_add(index.wrapping_mul(STEP))
}

fn byte(seed: u64, at: u64) -> u8 {
    word(seed, at / WORD as u64).to_le_bytes()[(at % WORD as u64) as usize]
}

/// How many bytes from position `at` lie before the next whole word.
fn before_first_word(at: u64, bytes: usize) -> usize {
    (at.wrapping_neg() as usize % WORD).min(bytes)
}

/// Fills memory with what stands at position `at` of stream `seed`.
pub(crate) fn fill(bytes: &mut [u8], seed: u64, at: u64) {
    let (front, rest) = bytes.split_at_mut(before_first_word(at, bytes.len()));
    let first = at + front.len() as u64;
    front.iter_mut().zip(at..).for_each(|(to, at)| *to = byte(seed, at));
    let mut next = word(seed, first / WORD as u64);
    let (words, back) = rest.as_chunks_mut::<WORD>();
    for to in words {
        *to = next.to_le_bytes();
        next = next.wrapping_add(STEP);
    }
    back.iter_mut().zip(next.to_le_bytes()).for_each(|(to, byte)| *to = byte);
}

/// Writes over memory that was released, so that whoever still reads it is found out. The compiler
/// may not skip it, although the memory is mostly freed next.
pub(crate) fn overwrite(bytes: &mut [u8]) {
    bytes.fill(0xDB);
    std::hint::black_box(bytes);
}

/// How many of these bytes are not what stands at position `at` of stream `seed`.
pub(crate) fn wrong_bytes(bytes: &[u8], seed: u64, at: u64) -> u64 {
    let (front, rest) = bytes.split_at(before_first_word(at, bytes.len()));
    let first = at + front.len() as u64;
    let mut next = word(seed, first / WORD as u64);
    let mut difference = 0;
    let (words, back) = rest.as_chunks::<WORD>();
    for seen in words {
        difference |= u64::from_le_bytes(*seen) ^ next;
        next = next.wrapping_add(STEP);
    }
    let whole = difference == 0
        && front.iter().zip(at..).all(|(&seen, at)| seen == byte(seed, at))
        && back.iter().zip(next.to_le_bytes()).all(|(&seen, expected)| seen == expected);
    if whole {
        return 0;
    }
    bytes.iter().zip(at..).filter(|&(&seen, at)| seen != byte(seed, at)).count() as u64
}
