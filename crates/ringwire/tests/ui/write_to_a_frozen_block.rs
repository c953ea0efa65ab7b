//! A frozen block may be in the kernel's hands, or in another thread's: nobody writes it any more.

use ringwire::{Arena, Block};

fn overwrite(frozen: Block) {
    frozen[0] = b'B';
    frozen.copy_from_slice(b"in one go");
}

fn append(mut frozen: Block) {
    frozen.put(b"more");
}

fn keep_writing(arena: &Arena) -> Block {
    let mut block = arena.alloc(100).unwrap();
    block.put(b"before");
    let frozen = block.freeze();
    block.put(b"after");
    frozen
}

fn main() {}
