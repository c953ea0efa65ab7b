//! The arena as a caller sees it: blocks, limits, threads, lifetimes, and what the host refuses.

use std::io::Write as _;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use ringwire::{Arena, Block, BlockMut, Error, Registration};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn arena(capacity_bytes: usize) -> Arena {
    Arena::builder()
        .capacity_bytes(capacity_bytes)
        .registration(Registration::Off)
        .build()
        .expect("no permission needed")
}

/// Takes blocks of `bytes` until the arena is full.
fn fill(arena: &Arena, bytes: usize) -> Vec<BlockMut> {
    std::iter::from_fn(|| arena.alloc(bytes).ok()).collect()
}

#[test]
fn a_block_is_filled_frozen_sliced_and_shared() {
    let arena = arena(MIB);
    let mut block = arena.alloc(100).unwrap();
    assert_eq!((block.capacity(), block.len(), block.is_empty()), (128, 0, true));
    assert_eq!(block.spare_mut(), [0; 128], "fresh memory is zeroed");

    assert_eq!(block.put(b"hello, "), 7);
    block.spare_mut()[..5].copy_from_slice(b"world");
    block.advance(5);
    block.write_all(b"!").unwrap();
    block[0] = b'H';
    assert_eq!(&block[..], b"Hello, world!");
    assert_eq!(format!("{block:?}"), "BlockMut(13 of 128 bytes)");

    assert_eq!(block.put(&[b'x'; 200]), 115, "what fits");
    assert_eq!(block.put(b"more"), 0);
    assert_eq!(block.write_all(b"more").unwrap_err().kind(), std::io::ErrorKind::WriteZero);
    block.truncate(13);
    block.truncate(50);
    assert_eq!(block.len(), 13);

    let block = block.freeze();
    let (hello, world) = (block.slice(..5), block.slice(7..=11));
    drop(block);
    assert_eq!((&hello[..], &world[..]), (&b"Hello"[..], &b"world"[..]));
    assert_eq!(&world.slice(1..).slice(..3)[..], b"orl");
    assert_eq!(world.slice(5..).len(), 0);
    assert_eq!(format!("{hello:?}"), "Block(5 bytes)");

    let address = world.as_ptr();
    let bytes = Bytes::from(world);
    assert_eq!(bytes.as_ptr(), address, "not a copy");
    assert_eq!(arena.stats().allocated_blocks, 1);
    drop((bytes, hello));
    assert_eq!(arena.stats().allocated_blocks, 0);
}

#[test]
fn a_cleared_block_begins_again() {
    let mut block = arena(64 * KIB).alloc(64).unwrap();
    block.put(b"abc");
    block.clear();
    assert!(block.is_empty());
    assert_eq!(block.put(b"d"), 1);
    assert_eq!(&block.freeze()[..], b"d");
}

#[test]
#[should_panic(expected = "advance by 65 bytes, and the block has 64 to spare")]
fn advancing_too_far_is_a_mistake_of_the_caller() {
    arena(64 * KIB).alloc(64).unwrap().advance(65);
}

#[test]
fn slices_outside_the_block_panic_and_hold_nothing() {
    let arena = arena(64 * KIB);
    let mut block = arena.alloc(64).unwrap();
    block.put(b"abc");
    let block = block.freeze();
    for range in [0..4, 4..4] {
        let slice = std::panic::AssertUnwindSafe(|| block.slice(range));
        assert!(std::panic::catch_unwind(slice).is_err());
    }
    drop(block);
    assert_eq!(arena.stats().allocated_blocks, 0);
}

#[test]
fn blocks_of_4_kib_and_more_begin_at_a_page() {
    let arena = arena(16 * MIB);
    let blocks: Vec<_> = [4096, 5000, 8192, 10_000, 16 * KIB, 100 * KIB, MIB, 5 * MIB]
        .into_iter()
        .flat_map(|bytes| [arena.alloc(bytes).unwrap(), arena.alloc(bytes).unwrap()])
        .collect();
    assert!(blocks.iter().all(|block| (block.as_ptr() as usize).is_multiple_of(4096)));
}

#[test]
fn a_full_arena_says_its_numbers_and_goes_on_when_a_block_comes_back() {
    let arena = arena(64 * KIB);
    let mut blocks = fill(&arena, 16 * KIB);
    assert_eq!(blocks.len(), 4);
    let Err(error) = arena.alloc(10_000) else { panic!("it is full") };
    assert_eq!(
        error.to_string(),
        "capacity_bytes is full: 65536 of 65536, and 16384 more asked for\n\nhint: drop blocks, \
         wait for releases, or build the arena with more capacity_bytes"
    );
    blocks.swap_remove(1);
    assert!(arena.alloc(64).is_ok());
    blocks.swap_remove(0);
    blocks.pop();
    let Err(Error::LimitReached { used, max, asked, hint, .. }) = arena.alloc(48 * KIB) else {
        panic!("48 KiB are free, and not in one piece")
    };
    assert_eq!((used, max, asked), (16 * KIB as u64, 64 * KIB as u64, 48 * KIB as u64));
    assert!(hint.starts_with("no free piece is that long"), "{hint}");
}

#[test]
fn sizes_that_can_never_be_had_are_a_misuse() {
    let arena = arena(64 * KIB);
    let text = |bytes| arena.alloc(bytes).unwrap_err().to_string();
    let large = 16 * MIB + 1;
    assert_eq!(text(large), "misuse: a block of 16777217 bytes: this arena's largest is 16 MiB");
    assert_eq!(text(65_537), "misuse: a block of 65537 bytes: this arena's largest is 64 KiB");
    assert_eq!(arena.alloc(0).unwrap().capacity(), 64);

    let misuse = |builder: ringwire::ArenaBuilder| {
        let error = builder.registration(Registration::Off).build().unwrap_err();
        assert!(matches!(error, Error::Misuse(_)), "{error}");
        error.to_string()
    };
    assert_eq!(
        misuse(Arena::builder().capacity_bytes(0)),
        "misuse: an arena with capacity_bytes(0)"
    );
    misuse(Arena::builder().capacity_bytes(usize::MAX));
    misuse(Arena::builder().segment_bytes(0));
    let text = misuse(Arena::builder().capacity_bytes(4 << 30).segment_bytes(2 << 30));
    assert!(text.contains("at most 1 GiB"), "{text}");
    let text = misuse(Arena::builder().capacity_bytes(64 * MIB).segment_bytes(64 * KIB));
    assert!(text.contains("1024 segments, and an arena has at most 1023"), "{text}");
}

#[test]
fn an_arena_grows_by_segments_up_to_its_capacity() {
    let arena = Arena::builder()
        .capacity_bytes(300 * KIB)
        .segment_bytes(128 * KIB)
        .registration(Registration::Off)
        .build()
        .unwrap();
    let stats = arena.stats();
    assert_eq!((stats.capacity_bytes, stats.mapped_bytes), (320 * KIB as u64, 128 * KIB as u64));
    let blocks = fill(&arena, 64 * KIB);
    assert_eq!(blocks.len(), 5);
    let stats = arena.stats();
    assert_eq!((stats.mapped_bytes, stats.segments), (320 * KIB as u64, 3));
    assert_eq!((stats.allocated_bytes, stats.allocated_blocks), (320 * KIB as u64, 5));
    assert_eq!(stats.registered_bytes, 0);
}

#[test]
fn an_arena_full_of_the_smallest_blocks_can_hand_out_the_largest_and_back() {
    let arena = arena(16 * MIB);
    for _ in 0..2 {
        let small = fill(&arena, 64);
        assert_eq!(small.len(), 16 * MIB / 64);
        assert_eq!(arena.stats().allocated_bytes, 16 * MIB as u64);
        drop(small);
        let large = fill(&arena, 16 * MIB);
        assert_eq!(large.len(), 1);
        assert!(arena.alloc(64).is_err());
    }
    assert_eq!(arena.stats().allocated_blocks, 0);
}

#[test]
fn one_block_left_keeps_its_span_and_no_more() {
    let arena = arena(MIB);
    let mut small = fill(&arena, 64);
    let last = small.pop();
    drop(small);
    assert_eq!(fill(&arena, 16 * KIB).len(), MIB / (16 * KIB) - 1);
    drop(last);
    assert_eq!(fill(&arena, MIB).len(), 1);
}

/// A cheap generator: no seed is needed to repeat a run, the threads' order decides.
fn step(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn threads_that_allocate_hand_on_and_return_lose_nothing_and_share_nothing() {
    const THREADS: u64 = 4;
    let arena = arena(16 * MIB);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::sync_channel::<(Block, u8)>(64)).unzip();
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, receiver)| {
            let arena = arena.clone();
            let next = senders[(number + 1) % THREADS as usize].clone();
            thread::spawn(move || {
                let check = |(block, byte): (Block, u8)| {
                    assert!(block.iter().all(|&b| b == byte), "somebody else wrote it");
                };
                let mut state = 0x9E37_79B9 + number as u64;
                let mut held = std::collections::VecDeque::new();
                for turn in 0..20_000_u64 {
                    let bytes = match step(&mut state) % 16 {
                        0 => 200 * KIB,
                        1..4 => 20 * KIB,
                        4..8 => 3_000,
                        _ => 64,
                    };
                    if let Ok(mut block) = arena.alloc(bytes) {
                        let byte = (turn + number as u64) as u8;
                        let filled = block.capacity().min(4096);
                        block.spare_mut()[..filled].fill(byte);
                        block.advance(filled);
                        let block = block.freeze();
                        match next.try_send((block.clone(), byte)) {
                            Ok(()) => drop(block),
                            Err(_) => held.push_back((block.slice(filled / 2..), byte)),
                        }
                    } else {
                        held.drain(..held.len() / 2).for_each(check);
                    }
                    if turn % 3 == 0 {
                        receiver.try_iter().for_each(check);
                    }
                    if held.len() > 100 {
                        held.pop_front().into_iter().for_each(check);
                    }
                }
                held.into_iter().for_each(check);
                drop(next);
                receiver
            })
        })
        .collect();
    drop(senders);
    let receivers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    drop(receivers);
    assert_eq!(arena.stats().allocated_blocks, 0);
    assert_eq!(fill(&arena, 16 * MIB).len(), 1, "all of it in one piece again");
}

#[test]
fn a_full_arena_changes_between_small_and_large_under_threads() {
    let arena = arena(16 * MIB);
    let threads: Vec<_> = (0..3)
        .map(|number: usize| {
            let arena = arena.clone();
            thread::spawn(move || {
                for turn in 0..6 {
                    // Each takes at most a third, so what they want is there, unless blocks of
                    // another size lie in the way.
                    let bytes = if (turn + number).is_multiple_of(2) { 64 } else { 256 * KIB };
                    let wanted = 4 * MIB / bytes;
                    let blocks: Vec<_> =
                        (0..wanted).map_while(|_| arena.alloc(bytes).ok()).collect();
                    assert_eq!(blocks.len(), wanted);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(fill(&arena, 16 * MIB).len(), 1);
}

#[test]
fn blocks_outlive_the_arena_on_other_threads() {
    for _ in 0..50 {
        let arena = arena(MIB);
        let (sender, receiver) = mpsc::channel::<Block>();
        let reader = thread::spawn(move || {
            receiver
                .into_iter()
                .map(|block| {
                    assert!(block.iter().all(|&byte| byte == 7));
                    block.len()
                })
                .sum::<usize>()
        });
        for _ in 0..64 {
            let mut block = arena.alloc(4096).unwrap();
            block.put(&[7; 4096]);
            sender.send(block.freeze()).unwrap();
        }
        let kept = arena.alloc(100).unwrap();
        drop(arena);
        drop(sender);
        assert_eq!(reader.join().unwrap(), 64 * 4096);
        drop(kept);
    }
}

#[test]
fn what_is_not_registered_is_said() {
    let off = arena(64 * KIB);
    assert_eq!(off.registered_bytes(), 0);
    assert_eq!(off.why().unwrap(), "nothing is registered: Registration::Off was asked for");

    let arena = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
    match arena.why() {
        None => assert_eq!(arena.registered_bytes(), 256 * KIB),
        Some(why) => {
            assert!(arena.registered_bytes() < 256 * KIB);
            ringwire_wire::skip("what_is_not_registered_is_said", &why);
        }
    }
    assert!(arena.alloc(256 * KIB).is_ok() || arena.why().is_some());
}

/// Runs `test` on a thread without CAP_IPC_LOCK, so that RLIMIT_MEMLOCK binds; gives it the limit.
fn under_memlock(name: &'static str, test: impl FnOnce(usize) + Send + 'static) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let Some(limit) = limit.filter(|limit| (1 << 20..=64 << 20).contains(limit)) else {
        return ringwire_wire::skip(name, &format!("RLIMIT_MEMLOCK is {limit:?}, not 1 … 64 MiB"));
    };
    let run = move || {
        let mut sets = capabilities(None).expect("capget");
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).expect("giving up a capability");
        test(limit as usize);
    };
    thread::spawn(run).join().expect("the test");
}

#[test]
fn an_arena_larger_than_memlock_registers_a_part_and_hands_it_out_first() {
    let name = "an_arena_larger_than_memlock";
    under_memlock(name, move |limit| {
        let capacity = 2 * limit;
        let arena = Arena::builder().capacity_bytes(capacity).build().unwrap();
        let Some(why) = arena.why() else {
            return ringwire_wire::skip(name, "the kernel did not count the memory");
        };
        if arena.registered_bytes() == 0 {
            return ringwire_wire::skip(name, &why);
        }
        assert!(arena.registered_bytes() <= limit);
        assert!(why.contains("RLIMIT_MEMLOCK is"), "{why}");
        assert!(why.contains("hint: raise it with \"ulimit -l "), "{why}");
        let stats = arena.stats();
        assert_eq!((stats.segments, stats.mapped_bytes), (2, capacity as u64));

        // The registered part is the first to be used, and all of the arena can be.
        let registered = arena.registered_bytes();
        let blocks = fill(&arena, 64 * KIB);
        assert_eq!(blocks.len(), capacity / (64 * KIB));
        let first = blocks[0].as_ptr() as usize;
        let inside = |block: &&BlockMut| {
            (block.as_ptr() as usize).checked_sub(first).is_some_and(|at| at < registered)
        };
        assert_eq!(blocks.iter().take_while(inside).count(), registered / (64 * KIB));
        drop(blocks);
        let error = arena.alloc(capacity.min(16 * MIB)).unwrap_err();
        assert!(matches!(error, Error::Misuse(_)), "the largest segment is smaller: {error}");
    });
}

/// Also where the kernel cannot share registrations, so that the arena itself holds none.
#[test]
fn what_an_arena_says_is_registered_could_be_registered_all_at_once() {
    under_memlock("what_an_arena_says_is_registered", |limit| {
        let builder = Arena::builder().capacity_bytes(2 * limit).segment_bytes(limit / 4);
        let arena = builder.build().unwrap();
        let blocks = fill(&arena, 64 * KIB);
        assert_eq!(blocks.len(), 2 * limit / (64 * KIB));
        let registered = arena.registered_bytes();
        assert!(registered <= limit || arena.why().is_none(), "{registered} of {limit}");
    });
}

#[test]
fn an_arena_that_must_be_registered_and_cannot_is_an_error_with_numbers() {
    under_memlock("an_arena_that_must_be_registered", |limit| {
        let required =
            Arena::builder().capacity_bytes(2 * limit).registration(Registration::Require).build();
        match required {
            Err(error @ Error::Unsupported { .. }) => {
                let text = error.to_string();
                assert!(text.starts_with("a registered arena of "), "{text}");
                assert!(text.contains("\n\nhint: "), "{text}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => ringwire_wire::skip("an_arena_that_must_be_registered", "it is, here"),
        }
    });
}
