//! Requests and copies made by hand, for tests of engines. With the feature `testing` only, which
//! any crate may switch on for all others: so with nothing here can safe code have memory read that
//! might be given up. To an engine they are requests of a machine of their own: one that has those
//! of another is given none of them.

use crate::words::route::Route;
use crate::words::span::{Span, address_of};
use crate::words::submission::{CopyNow, Request, SubmitFlags};
use crate::words::table::Key;

/// Pieces of memory that is there for good.
#[derive(Clone, Debug)]
pub struct Lasting(Vec<Span>);

impl Lasting {
    /// These pieces, but for those that are empty.
    pub fn new(pieces: &[&'static [u8]]) -> Lasting {
        let pieces = pieces.iter().filter(|bytes| !bytes.is_empty());
        Lasting(pieces.map(|bytes| Span::new(address_of(bytes), bytes.len())).collect())
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|span| span.len()).sum()
    }

    /// Takes the first `bytes` bytes off.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(first) = self.0.first_mut() {
            let taken = bytes.min(first.len());
            bytes -= taken;
            *first = Span::new(first.address() + taken, first.len() - taken);
            if first.len() > 0 {
                break;
            }
            self.0.remove(0);
        }
    }
}

/// A request.
pub fn request(
    token: Key,
    socket: u32,
    route: Route,
    memory: &Lasting,
    flags: SubmitFlags,
) -> Request<'_> {
    Request { token, socket, route, segment: 0, address: None, flags, spans: &memory.0 }
}

/// A copy.
pub fn copy_now(socket: u32, memory: &Lasting) -> CopyNow<'_> {
    CopyNow { socket, address: None, segment_bytes: None, spans: &memory.0 }
}
