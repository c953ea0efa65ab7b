//! Segments: how long they live, and that no two blocks share a byte.

use std::collections::BTreeMap;
use std::sync::{Weak, mpsc};

use proptest::prelude::*;

use super::*;

fn segment(bytes: usize) -> Arc<Segment> {
    Segment::on_heap(0, bytes)
}

fn class(bytes: usize) -> Class {
    Class::for_bytes(bytes).unwrap()
}

fn get(segment: &Arc<Segment>, bytes: usize) -> Option<BlockMut> {
    let class = class(bytes);
    let raw = segment.pop(class).or_else(|| segment.alloc(class, Effort::Scavenge))?;
    Some(raw.into())
}

fn weak(segment: Arc<Segment>) -> Weak<Segment> {
    Arc::downgrade(&segment)
}

#[test]
fn a_segment_lives_as_long_as_its_last_block() {
    let segment = segment(64 << 10);
    let blocks: Vec<_> = (0..3).map(|_| get(&segment, 100).unwrap().freeze()).collect();
    segment.close();
    segment.close();
    let segment = weak(segment);
    for block in blocks {
        assert!(segment.upgrade().is_some());
        drop((block.clone(), block));
    }
    assert!(segment.upgrade().is_none(), "freed with the last");
}

#[test]
fn a_segment_without_blocks_goes_at_once() {
    let segment = segment(64 << 10);
    drop(get(&segment, 100));
    segment.close();
    assert!(get(&segment, 100).is_none() && get(&segment, 16 << 10).is_none());
    assert!(weak(segment).upgrade().is_none());
}

#[test]
fn a_forgotten_block_keeps_its_segment_for_ever() {
    let segment = segment(64 << 10);
    let kept = get(&segment, 100).unwrap();
    std::mem::forget(get(&segment, 100).unwrap().freeze());
    segment.close();
    drop(kept);
    assert!(weak(segment).upgrade().is_some());
}

#[test]
fn closing_races_with_returning() {
    for round in 0..200 {
        let segment = segment(64 << 10);
        let blocks: Vec<_> = (0..4).map(|_| get(&segment, 4096).unwrap().freeze()).collect();
        let start = Arc::new(std::sync::Barrier::new(3));
        let threads: Vec<_> = [blocks.clone(), blocks]
            .into_iter()
            .map(|blocks| {
                let start = Arc::clone(&start);
                std::thread::spawn(move || {
                    start.wait();
                    drop(blocks);
                })
            })
            .collect();
        start.wait();
        segment.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(weak(segment).upgrade().is_none(), "round {round}");
    }
}

/// Says when it is dropped.
struct Noisy<T> {
    inner: T,
    name: &'static str,
    said: mpsc::Sender<&'static str>,
}

impl<T> Drop for Noisy<T> {
    fn drop(&mut self) {
        self.said.send(self.name).unwrap();
    }
}

// SAFETY: it is what `inner` is.
unsafe impl Backing for Noisy<OnHeap> {
    fn base(&self) -> NonNull<u8> {
        self.inner.base()
    }

    fn bytes(&self) -> usize {
        self.inner.bytes()
    }
}

#[test]
fn a_registration_ends_before_the_memory_goes() {
    let (said, heard) = mpsc::channel();
    let memory = |name, bytes| Noisy { inner: OnHeap::new(bytes), name, said: said.clone() };
    let headers = memory("headers", Segment::header_bytes(64 << 10));
    let registration = Noisy { inner: (), name: "registration", said: said.clone() };
    let segment = Segment::open(
        7,
        Box::new(memory("bytes", 64 << 10)),
        Box::new(headers),
        Some(Box::new(registration)),
    );
    assert!(segment.is_registered());
    assert_eq!((segment.index(), segment.bytes()), (7, 64 << 10));
    let block = segment.take(100).unwrap().freeze();
    segment.close();
    drop(segment);
    assert_eq!(heard.try_iter().count(), 0, "a block is held");
    drop(block);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["registration", "bytes", "headers"]);
}

#[test]
fn headers_may_hold_anything_at_first() {
    const BYTES: usize = 64 << 10;
    let headers = OnHeap::new(Segment::header_bytes(BYTES));
    // SAFETY: the memory was just allocated, is that long, and nobody else has it yet.
    unsafe { headers.base().write_bytes(0xFF, headers.bytes()) };
    let segment = Segment::open(0, Box::new(OnHeap::new(BYTES)), Box::new(headers), None);
    assert!(!segment.is_registered());
    let blocks: Vec<_> = std::iter::from_fn(|| segment.take(64)).collect();
    assert_eq!(blocks.len(), BYTES / 64);
    drop(blocks);
    assert_eq!(segment.usage(), Usage::default());
    segment.close();
    assert!(weak(segment).upgrade().is_none());
}

#[test]
#[should_panic(expected = "headers for a shorter segment")]
fn too_few_headers_are_refused() {
    let memory = || Box::new(OnHeap::new(64 << 10));
    Segment::open(0, memory(), Box::new(OnHeap::new(4096)), None);
}

#[derive(Clone, Debug)]
enum Op {
    Get(usize),
    Drop(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u32..17, 0_usize..64).prop_map(|(log, more)| Op::Get((1 << log) + more)),
        3 => any::<prop::sample::Index>().prop_map(Op::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The allocator against a map of what is held: nothing overlaps, everything is aligned and
    /// inside, a refusal is true, contents stay, and in the end all comes back.
    #[test]
    fn the_allocator_agrees_with_a_map_of_ranges(ops in prop::collection::vec(op(), 1..300)) {
        const BYTES: usize = 256 << 10;
        let segment = segment(BYTES);
        let base = segment.base().as_ptr() as usize;
        let mut held: BTreeMap<usize, (BlockMut, u8)> = BTreeMap::new();
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Get(bytes) => match get(&segment, bytes) {
                    Some(mut block) => {
                        let start = block.as_ptr() as usize - base;
                        let capacity = block.capacity();
                        prop_assert!(capacity >= bytes);
                        prop_assert!(start + capacity <= BYTES);
                        prop_assert_eq!(start % capacity.min(4096), 0);
                        if let Some((below, (other, _))) = held.range(..=start).next_back() {
                            prop_assert!(below + other.capacity() <= start);
                        }
                        if let Some((&above, _)) = held.range(start..).next() {
                            prop_assert!(start + capacity <= above);
                        }
                        let byte = step as u8;
                        block.spare_mut().fill(byte);
                        block.advance(capacity);
                        held.insert(start, (block, byte));
                    }
                    None => {
                        // True only if no run of spans that long is without a held block.
                        let mut spans = [false; BYTES / SPAN_BYTES];
                        for (start, (block, _)) in &held {
                            let last = (start + block.capacity() - 1) / SPAN_BYTES;
                            spans[start / SPAN_BYTES..=last].fill(true);
                        }
                        let run = class(bytes).spans_per_run() as usize;
                        prop_assert!(spans.windows(run).all(|run| run.contains(&true)));
                    }
                },
                Op::Drop(which) if !held.is_empty() => {
                    let start = *held.keys().nth(which.index(held.len())).unwrap();
                    let (block, byte) = held.remove(&start).unwrap();
                    prop_assert!(block.iter().all(|&b| b == byte));
                }
                Op::Drop(_) => {}
            }
            let bytes: usize = held.values().map(|(block, _)| block.capacity()).sum();
            let usage = Usage { blocks: held.len() as u64, bytes: bytes as u64 };
            prop_assert_eq!(segment.usage(), usage);
        }
        drop(held);
        prop_assert!(get(&segment, BYTES).is_some(), "all of it in one piece again");
        segment.close();
        prop_assert!(weak(segment).upgrade().is_none());
    }
}
