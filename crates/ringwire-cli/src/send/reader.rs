//! The thread that reads: every file once, block by block, into the arena.
//!
//! Neighbours: `source.rs` reads and hashes; `transfer.rs` gets the blocks and gives their number
//! back when their memory is free. Must not know receivers.
//!
//! ```text
//!   arena.alloc ──▶ BlockMut ──fill──▶ Block ──Read::Block──▶ transfer.rs ──▶ ring
//!        ▲                                                                     │
//!        └──────────── Window::on_returned ◀── Notified ◀──────────────────────┘
//! ```
//! The arena is the only bound: at most as many blocks are in the channel as fit into it.

use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ringwire::{Arena, Block, BlockMut, Error, Waker};

use super::source::{Planned, Source};
use crate::exit::Failure;

/// What the reader has for the receivers, in order.
pub(super) enum Read {
    /// File number `file` begins.
    File { file: u32, size: u64 },
    /// The next bytes of it.
    Block(Block),
    /// It was whole, with this hash. `direct`: it was read past the page cache.
    End { blake3: [u8; 32], direct: bool },
    /// Nobody wants the rest of it.
    Skipped,
    /// It cannot be sent to its end, or (`begun` false) not at all. Nothing comes after this.
    Failed { failure: Failure, begun: bool },
    /// That was the last file.
    All,
}

/// Blocks on their way out and back, seen by both threads.
pub(super) struct Returns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Blocks handed to the transfer and not come back.
    lent: usize,
    /// Counts what has come back, so that no return is missed between two looks.
    returned: u64,
    /// The reader waits for a block to come back.
    waiting: bool,
    /// The file that nobody wants the rest of.
    skip: Option<u32>,
    stop: bool,
}

/// Why the reader got no block.
enum NoBlock {
    Stop,
    Error(Error),
}

impl Returns {
    pub(super) fn new() -> Returns {
        let state = State { lent: 0, returned: 0, waiting: false, skip: None, stop: false };
        Returns { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A block's memory is free again.
    pub(super) fn on_returned(&self) {
        let mut state = self.lock();
        state.lent = state.lent.saturating_sub(1);
        state.returned += 1;
        self.changed.notify_one();
    }

    /// Nobody wants the rest of file number `file`.
    pub(super) fn skip(&self, file: u32) {
        self.lock().skip = Some(file);
        self.changed.notify_one();
    }

    /// Ends the reader.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// Whether the reader stands still for want of a block.
    pub(super) fn is_awaited(&self) -> bool {
        self.lock().waiting
    }

    fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    fn skips(&self, file: u32) -> bool {
        self.lock().skip == Some(file)
    }

    /// A block, as soon as there is one.
    fn alloc(&self, arena: &Arena, block_bytes: usize) -> Result<BlockMut, NoBlock> {
        loop {
            let returned = self.lock().returned;
            match arena.alloc(block_bytes) {
                Ok(block) => return Ok(block),
                Err(error @ Error::LimitReached { .. }) => {
                    let mut state = self.lock();
                    if state.lent == 0 && state.returned == returned {
                        // Nothing will come back: the arena is too small, or memory was lost.
                        return Err(NoBlock::Error(error));
                    }
                    state.waiting = true;
                    while !state.stop && state.returned == returned {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    state.waiting = false;
                    if state.stop {
                        return Err(NoBlock::Stop);
                    }
                }
                Err(error) => return Err(NoBlock::Error(error)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading thread's work.
pub(super) struct Reader<'a> {
    pub(super) files: &'a [Planned],
    pub(super) arena: Arena,
    pub(super) block_bytes: usize,
    pub(super) returns: &'a Returns,
    pub(super) to_ring: Sender<Read>,
    pub(super) waker: Waker,
}

/// The transfer has ended before the reader; there is nobody to tell.
struct Unheard;

impl Reader<'_> {
    /// Reads everything, or until told to stop.
    pub(super) fn run(self) {
        let _: Result<(), Unheard> = self.read_all();
    }

    fn read_all(&self) -> Result<(), Unheard> {
        for (file, planned) in (0..).zip(self.files) {
            let mut source = match Source::open(&planned.path) {
                Ok(source) => source,
                Err(failure) => return self.say(Read::Failed { failure, begun: false }),
            };
            source.go_direct();
            self.say(Read::File { file, size: source.size() })?;
            match self.read_file(file, source) {
                Ok(end) => self.say(end?)?,
                Err(failure) => return self.say(Read::Failed { failure, begun: true }),
            }
        }
        self.say(Read::All)
    }

    /// Reads one file; what to say of its end.
    fn read_file(&self, file: u32, mut source: Source) -> Result<Result<Read, Unheard>, Failure> {
        loop {
            if self.returns.skips(file) {
                return Ok(Ok(Read::Skipped));
            }
            if self.returns.is_stopped() {
                return Ok(Err(Unheard));
            }
            if source.is_read() {
                break;
            }
            let mut block = match self.returns.alloc(&self.arena, self.block_bytes) {
                Ok(block) => block,
                Err(NoBlock::Stop) => return Ok(Err(Unheard)),
                Err(NoBlock::Error(error)) => {
                    return Err(Failure::new(format!("cannot get memory to read into: {error}")));
                }
            };
            let spare = block.spare_mut();
            // The arena rounds up; a frame must not.
            let bytes = spare.len().min(self.block_bytes);
            let filled = source.fill(&mut spare[..bytes])?;
            if filled == 0 {
                // Shorter than it said: that is for `finish` to say.
                break;
            }
            block.advance(filled);
            self.returns.lock().lent += 1;
            if self.say(Read::Block(block.freeze())).is_err() {
                return Ok(Err(Unheard));
            }
        }
        let direct = source.is_direct();
        Ok(Ok(Read::End { blake3: source.finish()?, direct }))
    }

    fn say(&self, what: Read) -> Result<(), Unheard> {
        self.to_ring.send(what).map_err(|_| Unheard)?;
        self.waker.wake();
        Ok(())
    }
}
