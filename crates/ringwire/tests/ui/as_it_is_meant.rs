//! The same calls as in the programs beside this one, each as it is meant.

use std::sync::Arc;

use ringwire::{BlockMut, Piece, Ring, SendError, Socket};

struct Message(Vec<u8>);

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn send(
    ring: &mut Ring,
    sock: Socket,
    borrowed: &[u8],
    message: Message,
    block: BlockMut,
) -> Result<(), SendError> {
    ring.send(sock, borrowed.to_vec())?;
    ring.send(sock, Arc::<[u8]>::from(borrowed))?;
    ring.send(sock, bytes::Bytes::from_owner(message))?;
    ring.send(sock, b"for as long as the program runs")?;
    let block = block.freeze();
    ring.send(sock, [Piece::from(b"header"), block.clone().into()])?;
    ring.send(sock, block)?;
    Ok(())
}

pub(crate) fn main() {
    let builder = Ring::builder();
    std::thread::spawn(move || builder.build().map(drop)).join().unwrap().ok();
    let _ = send;
}
