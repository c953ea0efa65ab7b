//! Step 3 of a send: memory in segments, cut into blocks that can be lent to the kernel.
//!
//! ```text
//!  ┌──────────────────────┐
//!  │ Segment              │ owns   ┌─────────────── a piece of memory, registered as one ────────┐
//!  │  stacks[class]: free ┼──┐     │ span 0 (16 KiB)   │ span 1            │ span 2   span 3  …  │
//!  │  free spans          │  │     │ 4K │ 4K │ 4K │ 4K │ 64 × 256 B        │ one block of 32 KiB │
//!  │  outstanding         │  │     └──▲─┴────┴────┴────┴───────────────────┴──▲──────────────────┘
//!  └──────────▲───────────┘  │        │ pointer                               │ pointer
//!             │              │     Block, Block                            BlockMut
//!   one share │ for all its  │        │ index                                 │ index
//!   blocks    │ together     │     ┌──▼──── three tables, never registered ───▼──────────────────┐
//!             │              └────▶│ each block's count │ each free one's next │ a span's class  │
//!             └── taken back when  └────────────────────┴──────────────────────┴─────────────────┘
//!                 closed and no block is held
//! ```
//!
//! `blocks.rs` decides which piece of a segment a block is (pure), `tables.rs` keeps their counts
//! and `memory.rs` makes pointers of that and hands them out (unsafe), `handles.rs` is what holders
//! can do. Where memory comes from, and what registers it, this crate does not know: `ringwire-sys`
//! has both. Programs use `ringwire::Arena`.

#![deny(unsafe_code)]

mod backing;
mod blocks;
mod handles;
mod memory;
mod tables;

pub use backing::{Backing, EndsWithIt};
pub use blocks::{BLOCK_BYTES_MAX, Class};
pub use memory::{Block, BlockMut, Effort, RawBlock, Segment, Usage};
