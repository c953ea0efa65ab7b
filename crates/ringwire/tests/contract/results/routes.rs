//! Which memory is sent from where it lies, and from which size on.

use super::*;

#[test]
fn a_block_is_recognised_when_it_comes_as_bytes() {
    let test = "a_block_is_recognised_when_it_comes_as_bytes";
    let Some(()) = runs_here(test) else { return };
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    zero_copy_with(&arena, |driver| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let mut block = arena.alloc(64 * KIB).unwrap();
        assert_eq!(block.put(&noise(1, 64 * KIB)), 64 * KIB);
        let address = block.as_ptr();
        let bytes = Bytes::from(block.freeze());
        let fate = driver.finish_one(sock, bytes.clone());
        assert_same(&read_exactly(&mut far, 64 * KIB).unwrap(), &noise(1, 64 * KIB));
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(1));
        let back = fate.released.expect("released").0.into_piece().unwrap().into_bytes().unwrap();
        assert_eq!(back.as_ptr(), address, "the same memory");

        let part = bytes.slice(13..60_000);
        driver.finish_one(sock, part);
        assert_same(&read_exactly(&mut far, 59_987).unwrap(), &noise(1, 60_000)[13..]);
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(2));
        // A copy of the bytes is not the block.
        driver.finish_one(sock, Bytes::copy_from_slice(&bytes));
        assert_same(&read_exactly(&mut far, 64 * KIB).unwrap(), &noise(1, 64 * KIB));
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(2));
    });
    assert_eq!(arena.stats().allocated_blocks, 0, "all came back");
}

/// Memory that cannot be registered, and memory that the program only reads.
#[test]
fn static_memory_is_sent_from_where_it_lies() {
    let Some(()) = runs_here("static_memory_is_sent_from_where_it_lies") else { return };
    static WORDS: &[u8] = b"all these words lie in a part of the program that cannot be written";
    every_way(|driver, what| {
        let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
        let sock = driver.ring.attach(near).unwrap();
        let id = driver.send(sock, [WORDS.into(), Piece::from(b"!")].into_payload());
        driver.until_released(&[id]);
        let (payload, _) = driver.take(id).released.expect("released");
        assert_eq!(payload.pieces()[0].as_slice().as_ptr(), WORDS.as_ptr(), "{what}");
        let heard = read_exactly(&mut far, WORDS.len() + 1).unwrap();
        assert_eq!(heard[..WORDS.len()], *WORDS, "{what}");
        assert_eq!(heard[WORDS.len()], b'!', "{what}");
    });
}

/// What a default ring does with small and large requests, and that its thresholds are sharp.
#[test]
fn default_thresholds() {
    let test = "default_thresholds";
    let Some(()) = runs_here(test) else { return };
    let Some(arena) = registered_arena(test, 256 * KIB) else { return };
    let mut block = arena.alloc(64 * KIB).unwrap();
    assert_eq!(block.put(&noise(1, 64 * KIB)), 64 * KIB);
    let block = block.freeze();
    let builder = builder().arena(&arena);
    let mut driver = Driver::build(builder.thresholds(Thresholds::default()));
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let sock = driver.ring.attach(near).unwrap();
    // Both ends are here, so what would go zero-copy is copied for its path.
    // Bytes, whether from a block; bytes copied as small after it, and for the path.
    let table = match (ENGINE.registers, ENGINE.zero_copy) {
        (true, _) => [
            (4_095, true, (4_095, 0)),
            (4_096, true, (4_095, 4_096)),
            (16_383, false, (20_478, 4_096)),
            (16_384, false, (20_478, 20_480)),
        ],
        (false, true) => [
            (4_096, true, (4_096, 0)),
            (16_383, true, (20_479, 0)),
            (16_384, true, (20_479, 16_384)),
            (16_384, false, (20_479, 32_768)),
        ],
        (false, false) => [
            (4_096, true, (4_096, 0)),
            (16_384, true, (20_480, 0)),
            (16_384, false, (36_864, 0)),
            (65_536, true, (102_400, 0)),
        ],
    };
    for (bytes, from_block, expected) in table {
        let piece: Piece = match from_block {
            true => block.slice(..bytes).into(),
            false => noise(1, bytes).into(),
        };
        driver.finish_one(sock, piece);
        assert_same(&read_exactly(&mut far, bytes).unwrap(), &noise(1, bytes));
        let copied = driver.ring.stats().copied_bytes;
        let small = ENGINE.copied_for(&copied, |copied| copied.small);
        let seen = (small, copied.path_copies);
        assert_eq!(seen, expected, "{bytes}, from a block: {from_block}");
    }
    driver.assert_at_rest();
}
