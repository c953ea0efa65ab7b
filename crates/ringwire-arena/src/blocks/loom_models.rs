//! What threads can do to one another, in every order (up to a bound): `cargo xtask test` runs it;
//! alone, `RUSTFLAGS="--cfg loom" cargo test -p ringwire-arena --lib loom_` does.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;

/// A segment's free list without its memory. Each block's cell is "written" by whoever holds
/// it, so loom reports a block that two hold, or that is handed on without synchronisation.
struct Shelf {
    stack: Stack,
    links: Vec<AtomicU32>,
    counts: Vec<Count>,
    bytes: Vec<UnsafeCell<u8>>,
    outstanding: Outstanding,
    freed: AtomicUsize,
}

impl Shelf {
    fn new(blocks: u32) -> Shelf {
        let shelf = Shelf {
            stack: Stack::new(),
            links: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            counts: (0..blocks).map(|_| Count::new()).collect(),
            bytes: (0..blocks).map(|_| UnsafeCell::new(0)).collect(),
            outstanding: Outstanding::new(),
            freed: AtomicUsize::new(0),
        };
        (0..blocks).for_each(|block| shelf.give_back(Index::new(0, block)));
        shelf
    }

    fn next(&self, index: Index) -> u32 {
        self.links[index.place() as usize].load(Ordering::Relaxed)
    }

    fn pop(&self) -> Option<Index> {
        let index = self.stack.pop(|index| self.next(index))?;
        self.counts[index.place() as usize].set_one();
        self.write(index);
        Some(index)
    }

    fn write(&self, index: Index) {
        self.bytes[index.place() as usize].with_mut(|_| ());
    }

    fn read(&self, index: Index) {
        self.bytes[index.place() as usize].with(|_| ());
    }

    /// As `give_back` in `memory.rs`.
    fn give_back(&self, index: Index) {
        if !self.stack.push(index, &self.links[index.place() as usize])
            && self.outstanding.on_return()
        {
            self.free();
        }
    }

    fn drop_one(&self, index: Index) {
        self.read(index);
        if self.counts[index.place() as usize].drop_one() {
            self.write(index);
            self.give_back(index);
        }
    }

    /// Freeing touches all bytes, so it must come after everybody's last access.
    fn free(&self) {
        (0..self.bytes.len()).for_each(|block| self.write(Index::new(0, block as u32)));
        self.freed.fetch_add(1, Ordering::Relaxed);
    }

    fn chain(&self, first: Option<Index>) -> Vec<Index> {
        std::iter::successors(first, |&index| Index::from_code(self.next(index))).collect()
    }

    /// As `Segment::close`.
    fn close(&self) {
        let free = self.chain(self.stack.close());
        free.iter().for_each(|&index| self.write(index));
        if self.outstanding.on_close((self.bytes.len() - free.len()) as i64) {
            self.free();
        }
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn loom_a_stalled_pop_is_found_out() {
    model(|| {
        let shelf = Arc::new(Shelf::new(3));
        let other = Arc::clone(&shelf);
        // Takes two and returns the first, so that the head is what it was and the block below
        // it is not.
        let thread = thread::spawn(move || {
            let (first, second) = (other.pop(), other.pop());
            first.into_iter().for_each(|index| other.give_back(index));
            second
        });
        let mine = shelf.pop();
        let theirs = thread.join().unwrap();
        let mut seen: Vec<_> = mine.into_iter().chain(theirs).collect();
        seen.extend(shelf.chain(shelf.stack.take_all()));
        seen.sort();
        assert_eq!(seen, [0, 1, 2].map(|place| Index::new(0, place)), "each block once");
    });
}

#[test]
fn loom_the_last_holder_returns_the_block_wherever_it_is() {
    model(|| {
        let shelf = Arc::new(Shelf::new(1));
        let index = shelf.pop().unwrap();
        shelf.counts[0].add_one();
        let other = Arc::clone(&shelf);
        let thread = thread::spawn(move || other.drop_one(index));
        shelf.drop_one(index);
        // Whoever gets it next writes it: loom would see a reader that is not yet gone.
        let early = shelf.pop();
        thread.join().unwrap();
        assert!(early.is_some() || shelf.pop().is_some(), "it came back");
        assert_eq!(shelf.pop(), None, "it came back once");
    });
}

#[test]
fn loom_a_scavenger_loses_nothing() {
    model(|| {
        let shelf = Arc::new(Shelf::new(2));
        let other = Arc::clone(&shelf);
        let thread = thread::spawn(move || {
            let index = other.pop();
            index.into_iter().for_each(|index| other.give_back(index));
        });
        let chain = shelf.chain(shelf.stack.take_all());
        chain.iter().for_each(|&index| shelf.write(index));
        if let (Some(&first), Some(last)) = (chain.first(), chain.last()) {
            assert!(shelf.stack.push(first, &shelf.links[last.place() as usize]));
        }
        thread.join().unwrap();
        assert_eq!(shelf.chain(shelf.stack.take_all()).len(), 2);
    });
}

#[test]
fn loom_closing_and_returning_free_once() {
    model(|| {
        let shelf = Arc::new(Shelf::new(3));
        let out = [shelf.pop().unwrap(), shelf.pop().unwrap()];
        let threads = out.map(|index| {
            let other = Arc::clone(&shelf);
            thread::spawn(move || {
                other.write(index);
                other.give_back(index);
            })
        });
        shelf.close();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(shelf.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_forgotten_block_keeps_the_segment() {
    model(|| {
        let shelf = Arc::new(Shelf::new(2));
        let (_forgotten, index) = (shelf.pop().unwrap(), shelf.pop().unwrap());
        let other = Arc::clone(&shelf);
        let thread = thread::spawn(move || other.give_back(index));
        shelf.close();
        thread.join().unwrap();
        assert_eq!(shelf.freed.load(Ordering::Relaxed), 0);
    });
}
