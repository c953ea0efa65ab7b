//! The kernel may read the bytes after the function that lent them has returned.

use ringwire::{PayloadId, Ring, SendError, Socket};

fn send_greeting(ring: &mut Ring, sock: Socket) -> Result<PayloadId, SendError> {
    let greeting = vec![b'h', b'i'];
    ring.send(sock, &greeting[..])
}

fn send_what_is_lent(ring: &mut Ring, sock: Socket, bytes: &[u8]) -> Result<PayloadId, SendError> {
    ring.send(sock, bytes)
}

fn main() {}
