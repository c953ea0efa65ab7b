//! A type that somebody else wrote may hand out another address at each call, or change its bytes.

use ringwire::{PayloadId, Ring, SendError, Socket};

struct Message(Vec<u8>);

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn send(ring: &mut Ring, sock: Socket, message: Message) -> Result<PayloadId, SendError> {
    ring.send(sock, message)
}

fn main() {}
