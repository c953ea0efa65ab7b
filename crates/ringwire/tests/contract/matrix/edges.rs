//! Messages at the edges of registrations, of later ones, and of strange ones.

use super::*;

/// An arena that is registered as a whole, and full of blocks of `block_bytes`, in the order of
/// their addresses: so the first begins where the first segment does, and the last ends with it.
fn full_arena(
    test: &str,
    capacity: usize,
    segment: usize,
    block_bytes: usize,
) -> Option<(Arena, Vec<Block>)> {
    let built = Arena::builder()
        .capacity_bytes(capacity)
        .segment_bytes(segment)
        .registration(Registration::Require)
        .build();
    let arena = match built {
        Ok(arena) => arena,
        Err(Error::Unsupported { needs, .. }) => {
            skip(test, &format!("needs root: {capacity} bytes: {needs}"));
            return None;
        }
        Err(why) => panic!("{why}"),
    };
    let mut blocks = Vec::new();
    for start in (0..capacity).step_by(block_bytes) {
        let mut block = arena.alloc(block_bytes).unwrap();
        assert_eq!(block.put(&pattern()[start..start + block_bytes]), block_bytes);
        blocks.push(block.freeze());
    }
    assert!(arena.alloc(1).is_err(), "full");
    Some((arena, blocks))
}

fn in_order_of_addresses(blocks: &mut [Block]) {
    blocks.sort_by_key(|block| block.as_ptr() as usize);
}

/// Sends pieces on a fresh stream and compares what comes with the same bytes, copied before.
fn send_all(driver: &mut Driver, family: Family, messages: Vec<Vec<Piece>>) {
    let (near, far) = loopback::tcp_pair(family).unwrap();
    let heard = hear(far);
    let sock = driver.ring.attach(near).unwrap();
    let mut expected = Vec::new();
    let mut ids = Vec::new();
    for pieces in messages {
        expected.extend(pieces.iter().flat_map(|piece| piece.as_slice().to_vec()));
        ids.push(driver.send(sock, pieces));
    }
    driver.until_released(&ids);
    driver.ring.close(sock).unwrap();
    driver.until("closed", |driver| driver.ring.stats().sockets == 0);
    let heard = heard.join().unwrap();
    assert_same(&heard.bytes, &expected);
    assert_eq!(heard.error, None);
    driver.assert_at_rest();
}

#[test]
fn messages_begin_and_end_13_bytes_inside_a_registration() {
    let test = "messages_begin_and_end_13_bytes_inside_a_registration";
    let Some(()) = runs_here(test) else { return };
    // Capacity and block: one block that is the segment; many that adjoin; the largest there is.
    let table = [(MIB, MIB), (MIB, 64 * KIB), (64 * KIB, 4 * KIB), (16 * MIB, 16 * MIB)];
    for (capacity, block_bytes) in table {
        let Some((arena, mut blocks)) = full_arena(test, capacity, capacity, block_bytes) else {
            continue;
        };
        in_order_of_addresses(&mut blocks);
        let (first, last) = (blocks[0].as_ptr() as usize, blocks[blocks.len() - 1].as_ptr());
        assert_eq!(last as usize + block_bytes - first, capacity, "they are the segment");
        let builder = builder().arena(&arena).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        let ends = blocks.len() - 1;
        let inner = |(at, block): (usize, &Block)| {
            let from = if at == 0 { 13 } else { 0 };
            let end = if at == ends { block_bytes - 13 } else { block_bytes };
            Piece::from(block.slice(from..end))
        };
        for family in Family::BOTH {
            let all: Vec<Piece> = blocks.iter().enumerate().map(inner).collect();
            let bytes: usize = all.iter().map(|piece| piece.as_slice().len()).sum();
            assert_eq!(bytes, capacity - 26);
            let begin = vec![Piece::from(blocks[0].slice(13..1013))];
            let end = vec![Piece::from(blocks[ends].slice(block_bytes - 1013..))];
            let one_byte = vec![Piece::from(blocks[ends].slice(block_bytes - 1..))];
            send_all(&mut driver, family, vec![all, begin, end, one_byte]);
        }
        let stats = driver.ring.stats();
        assert_registered(stats.registered_requests, stats.requests);
        assert!(stats.requests + stats.direct_copies >= 4);
    }
}

#[test]
fn datagrams_begin_and_end_13_bytes_inside_a_registration() {
    let test = "datagrams_begin_and_end_13_bytes_inside_a_registration";
    let Some(()) = runs_here(test) else { return };
    let Some((arena, blocks)) = full_arena(test, 64 * KIB, 64 * KIB, 64 * KIB) else { return };
    let builder = builder().arena(&arena).thresholds(ZERO_COPY);
    let mut driver = Driver::build(builder);
    for family in Family::BOTH {
        let (us, peer) = loopback::udp_pair(family).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sock = driver.ring.attach(us).unwrap();
        let mut buffer = vec![0; 64 * KIB];
        for range in [13..32 * KIB, 32 * KIB..64 * KIB - 13, 13..14, 65_535..65_536] {
            let fate = driver.finish_one(sock, blocks[0].slice(range.clone()));
            assert_eq!(fate.sent, Some(range.len() as u64));
            let bytes = peer.recv(&mut buffer).unwrap();
            assert_same(&buffer[..bytes], &pattern()[range]);
        }
    }
    assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(8));
    driver.assert_at_rest();
}

#[test]
fn one_request_reads_one_segment_only() {
    let test = "one_request_reads_one_segment_only";
    let Some(()) = runs_here(test) else { return };
    let Some((arena, blocks)) = full_arena(test, 128 * KIB, 64 * KIB, 64 * KIB) else { return };
    let builder = builder().arena(&arena).thresholds(ZERO_COPY);
    let mut driver = Driver::build(builder);
    let [first, second] = &blocks[..] else { panic!("two segments of one block") };
    // Payloads from two segments: a registered request each.
    let from_both = || vec![vec![first.clone().into()], vec![second.clone().into()]];
    send_all(&mut driver, Family::V4, from_both());
    let stats = driver.ring.stats();
    assert_eq!(stats.registered_requests, ENGINE.registered(2));
    assert!(stats.requests == 2 || !ENGINE.registers);
    // One payload with pieces from both goes unregistered as a whole.
    let pieces = vec![first.slice(..50_000).into(), second.slice(13..50_000).into()];
    send_all(&mut driver, Family::V4, vec![pieces]);
    let stats = driver.ring.stats();
    assert_eq!(stats.registered_requests, ENGINE.registered(2));
    assert!(stats.requests == 3 || !ENGINE.registers);
}

#[test]
fn segments_that_come_later_are_registered_too() {
    let test = "segments_that_come_later_are_registered_too";
    let Some(()) = runs_here(test) else { return };
    let built = Arena::builder()
        .capacity_bytes(512 * KIB)
        .segment_bytes(64 * KIB)
        .registration(Registration::Require)
        .build();
    let arena = match built {
        Ok(arena) => arena,
        Err(why) => return skip(test, &format!("needs root: {why}")),
    };
    let builder = builder().arena(&arena).thresholds(ZERO_COPY);
    let mut driver = Driver::build(builder);
    // In each segment, one block at least that is there before the ring hears of the segment.
    let mut blocks = Vec::new();
    for round in 0..4 {
        while arena.stats().segments < 2 * round + 2 {
            let mut block = arena.alloc(16 * KIB).unwrap();
            let start = blocks.len() * 16 * KIB;
            assert_eq!(block.put(&pattern()[start..start + 16 * KIB]), 16 * KIB);
            blocks.push(block.freeze());
        }
        let before = driver.ring.stats();
        let messages = blocks.iter().map(|block| vec![block.slice(13..).into()]).collect();
        send_all(&mut driver, Family::V6, messages);
        let after = driver.ring.stats();
        let requests = after.requests - before.requests;
        let registered = after.registered_requests - before.registered_requests;
        assert_registered(registered, requests);
        if ENGINE.registers && has(Feature::VectoredRegistered) {
            assert!(requests >= 2 * round + 2, "a segment a request at least");
        }
    }
    assert_eq!(arena.stats().segments, 8);
    drop(blocks);
    driver.assert_at_rest();
}

/// Two rings, on threads that did not build the arena, lend the same blocks at the same time.
#[test]
fn rings_share_an_arena_and_its_blocks() {
    let test = "rings_share_an_arena_and_its_blocks";
    let Some(()) = runs_here(test) else { return };
    let Some((arena, blocks)) = full_arena(test, 256 * KIB, 256 * KIB, 64 * KIB) else { return };
    let threads = BOTH_TASK_RUNS.map(|task_run| {
        let (arena, blocks) = (arena.clone(), blocks.clone());
        thread::spawn(move || {
            let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
            let mut driver = Driver::build(builder);
            for _ in 0..20 {
                let message = |block: &Block| vec![block.clone().into()];
                send_all(&mut driver, Family::V4, blocks.iter().map(message).collect());
            }
            let stats = driver.ring.stats();
            assert_eq!(ENGINE.registered(stats.requests), stats.registered_requests);
            assert_eq!(stats.payloads, 80);
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(arena.stats().allocated_blocks, 4, "ours");
    drop(blocks);
    assert_eq!(arena.stats().allocated_blocks, 0);
}

#[test]
fn blocks_of_a_strange_arena_go_as_normal_memory() {
    let Some(()) = runs_here("blocks_of_a_strange_arena_go_as_normal_memory") else { return };
    let strange = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
    let known = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
    let builder = builder().arena(&known).thresholds(ZERO_COPY);
    let mut driver = Driver::build(builder);
    let mut block = strange.alloc(64 * KIB).unwrap();
    assert_eq!(block.put(&pattern()[..64 * KIB]), 64 * KIB);
    send_all(&mut driver, Family::V4, vec![vec![block.freeze().into()]]);
    let stats = driver.ring.stats();
    assert_eq!((stats.registered_requests, stats.kernel_zero_copy_bytes), (0, 0));
    assert_eq!(stats.requests + stats.direct_copies, 1 + stats.retries);
}
