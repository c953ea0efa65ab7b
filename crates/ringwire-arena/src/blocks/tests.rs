//! The allocator's decisions against tables and small oracles.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_class_is_the_smallest_that_holds_the_bytes() {
    let kib = |n: usize| n << 10;
    let table = [
        (0, 64),
        (1, 64),
        (64, 64),
        (65, 128),
        (4096, 4096),
        (4097, 8192),
        (8192, 8192),
        (8193, kib(16)),
        (kib(16) + 1, kib(32)),
        (kib(64), kib(64)),
        (kib(64) + 1, kib(80)),
        (kib(129), kib(160)),
        (kib(1024), kib(1024)),
        (kib(1024) + 1, kib(1280)),
        (kib(15 * 1024), kib(16 * 1024)),
        (kib(16 * 1024), kib(16 * 1024)),
    ];
    for (bytes, class) in table {
        assert_eq!(Class::for_bytes(bytes).unwrap().bytes(), class, "{bytes}");
    }
    assert_eq!(Class::for_bytes(kib(16 * 1024) + 1), None);
    let mut last = 0;
    for class in Class::all() {
        assert!(class.bytes() > last);
        assert_eq!(Class::for_bytes(class.bytes()), Some(class));
        assert_eq!(Class::for_bytes(last + 1), Some(class));
        last = class.bytes();
    }
    assert_eq!(last, BLOCK_BYTES_MAX);
    assert_eq!(Class::largest_within(kib(144)).unwrap().bytes(), kib(128));
}

#[test]
fn from_4_kib_up_blocks_begin_at_a_page() {
    for class in Class::all().filter(|class| class.bytes() >= 4096) {
        for place in 0..class.blocks_per_run() {
            assert_eq!(Index::new(3, place).offset_bytes(class) % 4096, 0);
        }
    }
}

#[test]
fn every_block_has_a_header_of_its_own() {
    for spans in [1, 4, 5, 64] {
        let slots: BTreeSet<_> = (0..spans)
            .flat_map(|span| (0..256).map(move |place| Index::new(span, place)))
            .map(|index| index.slot(spans))
            .collect();
        assert_eq!(slots.len(), spans as usize * 256);
        assert_eq!(slots.last(), Some(&(spans as usize * 256 - 1)));
    }
    assert!(Index::new(65_535, 255).code() < CLOSED);
    assert_eq!(Index::new(65_535, 255).slot(65_536), 65_536 * 256 - 1);
}

#[test]
fn a_closed_stack_takes_nothing_and_gives_nothing() {
    let links: Vec<AtomicU32> = (0..2).map(|_| AtomicU32::new(0)).collect();
    let next = |index: Index| links[index.place() as usize].load(Ordering::Relaxed);
    let stack = Stack::new();
    assert!(stack.push(Index::new(0, 0), &links[0]));
    assert!(stack.push(Index::new(0, 1), &links[1]));
    assert_eq!(stack.close(), Some(Index::new(0, 1)));
    assert_eq!(next(Index::new(0, 1)), Index::new(0, 0).code());
    assert!(!stack.push(Index::new(0, 0), &links[0]));
    assert_eq!(stack.pop(next), None);
    assert_eq!(stack.take_all(), None);
    assert_eq!(stack.close(), None);
}

#[test]
fn the_last_to_come_back_frees_whatever_the_order() {
    // Closing finds two out, before, between and after their return.
    let before = Outstanding::new();
    assert_eq!([before.on_close(2), before.on_return(), before.on_return()], [false, false, true]);
    let between = Outstanding::new();
    assert_eq!(
        [between.on_return(), between.on_close(2), between.on_return()],
        [false, false, true]
    );
    let after = Outstanding::new();
    assert_eq!([after.on_return(), after.on_return(), after.on_close(2)], [false, false, true]);
    assert!(Outstanding::new().on_close(0));
}

proptest! {
    /// Runs against a plain bitmap: no overlap, first fit, nothing lost, neighbours merged.
    #[test]
    fn runs_agree_with_a_bitmap(
        ops in prop::collection::vec(
            (any::<bool>(), 1_u32..20, any::<prop::sample::Index>()),
            1..200,
        )
    ) {
        const SPANS: u32 = 64;
        let mut runs = Runs::new(SPANS);
        let mut taken = [false; SPANS as usize];
        let mut held: Vec<(u32, u32)> = Vec::new();
        for (give, spans, which) in ops {
            if give && !held.is_empty() {
                let (first, spans) = held.swap_remove(which.index(held.len()));
                runs.give(first, spans);
                taken[first as usize..][..spans as usize].fill(false);
            } else {
                let fits = (0..=SPANS - spans)
                    .find(|&first| !taken[first as usize..][..spans as usize].contains(&true));
                let got = runs.take(spans);
                prop_assert_eq!(got, fits);
                if let Some(first) = got {
                    taken[first as usize..][..spans as usize].fill(true);
                    held.push((first, spans));
                }
            }
        }
        for (first, spans) in held {
            runs.give(first, spans);
        }
        prop_assert_eq!(runs.free, BTreeMap::from([(0, SPANS)]));
    }

    /// The stack, with pushes of chains, against a vector.
    #[test]
    fn a_stack_agrees_with_a_vector(ops in prop::collection::vec((0_u8..4, 1_u32..5), 1..200)) {
        let links: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
        let next = |index: Index| links[index.place() as usize].load(Ordering::Relaxed);
        let stack = Stack::new();
        let mut model: Vec<Index> = Vec::new();
        let mut out: Vec<Index> = (0..64).map(|place| Index::new(0, place)).collect();
        for (op, count) in ops {
            match op {
                0 => {
                    let got = stack.pop(next);
                    prop_assert_eq!(got, model.pop());
                    out.extend(got);
                }
                1 => {
                    let mut chain = stack.take_all();
                    while let Some(index) = chain {
                        prop_assert_eq!(model.pop(), Some(index));
                        out.push(index);
                        chain = Index::from_code(next(index));
                    }
                    prop_assert!(model.is_empty());
                }
                _ => {
                    let chain: Vec<_> =
                        (0..count).map_while(|_| out.pop()).collect();
                    for pair in chain.windows(2) {
                        let link = &links[pair[0].place() as usize];
                        link.store(pair[1].code(), Ordering::Relaxed);
                    }
                    if let (Some(&first), Some(last)) = (chain.first(), chain.last()) {
                        let pushed = stack.push(first, &links[last.place() as usize]);
                        prop_assert!(pushed);
                    }
                    model.extend(chain.iter().rev());
                }
            }
        }
    }
}
