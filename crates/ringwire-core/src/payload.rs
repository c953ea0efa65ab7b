//! Step 1 of a send: what a caller may hand over.
//!
//! A [`Payload`] is one or more [`Piece`]s, each of which *owns* its bytes (or borrows them for
//! `'static`), so the ledger can keep them until the kernel has let go (K3). The set of owners is
//! closed: every one of them gives an address that does not move when the owner moves, and bytes
//! that nobody can change while the ledger holds it. Neighbours: `machine/sending.rs` takes
//! payloads, `ledger/payload.rs` keeps them, `queue/` reads their addresses. This file must not
//! know about requests or the kernel.

use std::fmt;
use std::mem;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use ringwire_arena::Block;

use crate::words::error::Error;

/// One owned, contiguous, immutable run of bytes.
///
/// Made with `into()` from a [`Block`], [`Bytes`], `Vec<u8>`, `Box<[u8]>`, `Arc<[u8]>` or
/// `&'static [u8]`. Other owners come in through [`Bytes::from_owner`].
///
/// Memory that the kernel can copy and not refer to, such as that of memfd_secret(2) and of some
/// drivers' mappings, is copied ([`Reason::Unpinnable`](crate::Reason::Unpinnable)). Memory that
/// cannot be read at all, such as what a file's mapping has behind the file's end, fails its
/// payload with `EFAULT`. But a piece of up to 4 KiB that goes together with blocks of the ring's
/// arena is read by the ring itself, as the program would: there the process gets SIGSEGV or
/// SIGBUS. Who maps files that others may cut off sends such ends by themselves, or copies of them.
pub struct Piece(Owner);

enum Owner {
    Block(Block),
    Bytes(Bytes),
    Vec(Vec<u8>),
    Boxed(Box<[u8]>),
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
}

impl Piece {
    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Owner::Block(block) => block,
            Owner::Bytes(bytes) => bytes,
            Owner::Vec(vec) => vec,
            Owner::Boxed(boxed) => boxed,
            Owner::Shared(shared) => shared,
            Owner::Static(bytes) => bytes,
        }
    }

    /// Drops the piece if that runs no code of others, neither an owner's nor the allocator's.
    /// Returns whether it did.
    #[inline(always)]
    pub(crate) fn drop_quietly(piece: &mut Option<Piece>) -> bool {
        match piece {
            Some(Piece(Owner::Block(_))) => {
                match piece.take() {
                    Some(Piece(Owner::Block(block))) => drop(block),
                    // It is a block. So the compiler need not keep it where it can be dropped.
                    other => mem::forget(other),
                }
                true
            }
            Some(Piece(Owner::Static(_))) => {
                *piece = None;
                true
            }
            _ => false,
        }
    }

    /// The block, if this piece is one; otherwise the piece, unchanged.
    pub fn into_block(self) -> Result<Block, Piece> {
        match self.0 {
            Owner::Block(block) => Ok(block),
            owner => Err(Piece(owner)),
        }
    }

    /// The `Bytes`, if this piece is one; otherwise the piece, unchanged.
    pub fn into_bytes(self) -> Result<Bytes, Piece> {
        match self.0 {
            Owner::Bytes(bytes) => Ok(bytes),
            owner => Err(Piece(owner)),
        }
    }

    /// The vector, with its capacity, if this piece is one; otherwise the piece, unchanged.
    pub fn into_vec(self) -> Result<Vec<u8>, Piece> {
        match self.0 {
            Owner::Vec(vec) => Ok(vec),
            owner => Err(Piece(owner)),
        }
    }

    /// The box, if this piece is one; otherwise the piece, unchanged.
    pub fn into_boxed(self) -> Result<Box<[u8]>, Piece> {
        match self.0 {
            Owner::Boxed(boxed) => Ok(boxed),
            owner => Err(Piece(owner)),
        }
    }

    /// The `Arc`, if this piece is one; otherwise the piece, unchanged.
    pub fn into_shared(self) -> Result<Arc<[u8]>, Piece> {
        match self.0 {
            Owner::Shared(shared) => Ok(shared),
            owner => Err(Piece(owner)),
        }
    }

    /// The bytes that live as long as the program, if this piece is such; otherwise the piece,
    /// unchanged.
    pub fn into_static(self) -> Result<&'static [u8], Piece> {
        match self.0 {
            Owner::Static(bytes) => Ok(bytes),
            owner => Err(Piece(owner)),
        }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match &self.0 {
            Owner::Block(_) => "Block",
            Owner::Bytes(_) => "Bytes",
            Owner::Vec(_) => "Vec",
            Owner::Boxed(_) => "Box",
            Owner::Shared(_) => "Arc",
            Owner::Static(_) => "Static",
        };
        write!(f, "{owner}({} bytes)", self.as_slice().len())
    }
}

/// What one call of `send` hands over: one or more pieces that leave in order.
///
/// One or two pieces are kept in place; more live in a `Vec`, which `Released` gives back with
/// them, so it can be used again. On a stream a payload is a run of bytes; on UDP it is one
/// datagram, or a train of them.
pub struct Payload(Pieces);

enum Pieces {
    One(Piece),
    Two([Piece; 2]),
    Many(Vec<Piece>),
}

impl Payload {
    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        match &self.0 {
            Pieces::One(piece) => slice::from_ref(piece),
            Pieces::Two(pieces) => pieces,
            Pieces::Many(pieces) => pieces,
        }
    }

    /// The number of bytes in all pieces.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty payload is unusual, not a state")]
    pub fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.as_slice().len()).sum()
    }

    /// The only piece; or the payload, unchanged, if there are several or none.
    #[inline]
    pub fn into_piece(self) -> Result<Piece, Payload> {
        match self.0 {
            Pieces::One(piece) => Ok(piece),
            pieces => Err(Payload(pieces)),
        }
    }

    /// All pieces, in order. Allocates for payloads of one or two.
    pub fn into_pieces(self) -> Vec<Piece> {
        match self.0 {
            Pieces::One(piece) => vec![piece],
            Pieces::Two(pieces) => pieces.into(),
            Pieces::Many(pieces) => pieces,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pieces()).finish()
    }
}

/// A payload that was not taken, and why. The payload is handed back untouched.
#[derive(thiserror::Error)]
#[error("{why}")]
pub struct SendError {
    /// The payload, as it was given.
    pub payload: Payload,
    /// Why it was not taken.
    #[source]
    pub why: Error,
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("payload_bytes", &self.payload.len())
            .field("why", &self.why)
            .finish()
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What `send` takes. Sealed: ringwire has to own the bytes until the kernel lets go of them, so
/// only owners it knows can be sent.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent: ringwire must own the bytes until the kernel lets go",
    label = "not an owner of bytes that ringwire knows",
    note = "send a `Block`, `Bytes`, `Vec<u8>`, `Box<[u8]>`, `Arc<[u8]>`, `&'static [u8]`, or an \
            array or `Vec` of `Piece`s",
    note = "wrap any other owner with `Bytes::from_owner(owner)`"
)]
pub trait IntoPayload: sealed::Sealed {
    /// The payload that owns these bytes.
    fn into_payload(self) -> Payload;
}

impl sealed::Sealed for Payload {}
impl IntoPayload for Payload {
    #[inline]
    fn into_payload(self) -> Payload {
        self
    }
}

impl sealed::Sealed for Piece {}
impl IntoPayload for Piece {
    #[inline]
    fn into_payload(self) -> Payload {
        Payload(Pieces::One(self))
    }
}

impl sealed::Sealed for Vec<Piece> {}
impl IntoPayload for Vec<Piece> {
    fn into_payload(self) -> Payload {
        Payload(Pieces::Many(self))
    }
}

impl<const N: usize> sealed::Sealed for [Piece; N] {}
impl<const N: usize> IntoPayload for [Piece; N] {
    fn into_payload(self) -> Payload {
        let mut pieces = self.into_iter();
        match (N, pieces.next(), pieces.next()) {
            (1, Some(piece), None) => Payload(Pieces::One(piece)),
            (2, Some(first), Some(second)) => Payload(Pieces::Two([first, second])),
            (_, first, second) => {
                Payload(Pieces::Many(first.into_iter().chain(second).chain(pieces).collect()))
            }
        }
    }
}

macro_rules! owners {
    ($($owner:ty => $variant:ident),* $(,)?) => {$(
        impl From<$owner> for Piece {
            #[inline]
            fn from(owner: $owner) -> Piece {
                Piece(Owner::$variant(owner))
            }
        }
        impl From<$owner> for Payload {
            #[inline]
            fn from(owner: $owner) -> Payload {
                Payload(Pieces::One(owner.into()))
            }
        }
        impl sealed::Sealed for $owner {}
        impl IntoPayload for $owner {
            #[inline]
            fn into_payload(self) -> Payload {
                self.into()
            }
        }
    )*};
}

owners! {
    Block => Block,
    Bytes => Bytes,
    Vec<u8> => Vec,
    Box<[u8]> => Boxed,
    Arc<[u8]> => Shared,
    &'static [u8] => Static,
}

impl<const N: usize> From<&'static [u8; N]> for Piece {
    fn from(bytes: &'static [u8; N]) -> Piece {
        Piece(Owner::Static(bytes))
    }
}

impl<const N: usize> sealed::Sealed for &'static [u8; N] {}
impl<const N: usize> IntoPayload for &'static [u8; N] {
    fn into_payload(self) -> Payload {
        Piece::from(self).into_payload()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_one_and_two_stay_in_place_and_larger_ones_keep_their_order() {
        let one = [Piece::from(b"a")].into_payload();
        assert!(matches!(one.0, Pieces::One(_)));
        let two = [Piece::from(b"a"), Piece::from(b"b")].into_payload();
        assert!(matches!(two.0, Pieces::Two(_)));
        let four = [b"a", b"b", b"c", b"d"].map(Piece::from).into_payload();
        let bytes: Vec<u8> = four.pieces().iter().flat_map(|p| p.as_slice().to_vec()).collect();
        assert_eq!(bytes, b"abcd");
        let none: [Piece; 0] = [];
        assert_eq!(none.into_payload().len(), 0);
    }

    #[test]
    fn a_vector_comes_back_with_its_capacity() {
        let mut vec = Vec::with_capacity(100);
        vec.push(1);
        let payload = vec.into_payload();
        let vec = payload.into_piece().unwrap().into_vec().unwrap();
        assert_eq!((vec.len(), vec.capacity()), (1, 100));
    }

    #[test]
    fn every_owner_comes_back_as_what_it_was_and_as_nothing_else() {
        let shared: Arc<[u8]> = Arc::from(*b"shared");
        let pieces = || {
            [
                Piece::from(Bytes::from_static(b"bytes")),
                Piece::from(b"vec".to_vec()),
                Piece::from(Box::<[u8]>::from(*b"boxed")),
                Piece::from(Arc::clone(&shared)),
                Piece::from(b"static"),
            ]
        };
        let whats: [fn(Piece) -> bool; 5] = [
            |piece| piece.into_bytes().is_ok_and(|bytes| bytes == b"bytes"[..]),
            |piece| piece.into_vec().is_ok_and(|vec| vec == b"vec"),
            |piece| piece.into_boxed().is_ok_and(|boxed| *boxed == *b"boxed"),
            |piece| piece.into_shared().is_ok_and(|shared| *shared == *b"shared"),
            |piece| piece.into_static().is_ok_and(|bytes| bytes == b"static"),
        ];
        for (at, what) in whats.into_iter().enumerate() {
            for (which, piece) in pieces().into_iter().enumerate() {
                assert_eq!(what(piece), at == which, "{which} as {at}");
            }
        }
        assert_eq!(Arc::strong_count(&shared), 1, "each was dropped, or had by who asked");
        let piece = Piece::from(b"static").into_shared().unwrap_err();
        assert_eq!(piece.into_static().ok(), Some(&b"static"[..]), "unchanged");
    }

    #[test]
    fn a_payload_stays_small_enough_to_move_twice() {
        assert!(size_of::<Payload>() <= 96, "{}", size_of::<Payload>());
    }
}
