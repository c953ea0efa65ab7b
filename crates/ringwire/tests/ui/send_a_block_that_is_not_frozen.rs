//! A block that can still be written cannot be sent.

use ringwire::{BlockMut, PayloadId, Ring, SendError, Socket};

fn send(ring: &mut Ring, sock: Socket, block: BlockMut) -> Result<PayloadId, SendError> {
    ring.send(sock, block)
}

fn main() {}
