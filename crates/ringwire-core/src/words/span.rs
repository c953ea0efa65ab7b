//! Memory as the kernel is told of it: an address and a length.
//!
//! This is the door through which memory reaches the kernel. A [`Span`] is made of bytes that a
//! payload or a header page owns, by this crate alone, and reaches an engine only inside a request
//! or a copy that the machine has lent it (`submission.rs`). So whoever audits what the kernel may
//! read reads this crate's ledger, and the engines that keep the promise of
//! [`Engine`](crate::engine::Engine).

/// The address and length of memory that a ledger entry owns.
///
/// An address, not a pointer: nothing in this crate reads through it. Its provenance was exposed,
/// so that an engine can make a pointer of it again for a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    address: usize,
    bytes: usize,
}

impl Span {
    /// `bytes` bytes at `address`, which is that of memory with an owner.
    #[inline]
    pub(crate) const fn new(address: usize, bytes: usize) -> Span {
        Span { address, bytes }
    }

    /// The first address.
    #[inline]
    pub const fn address(self) -> usize {
        self.address
    }

    /// Its length in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no request has an empty span")]
    pub const fn len(self) -> usize {
        self.bytes
    }

    /// The first `bytes` bytes, and what is behind them. `None` of a span that is shorter.
    pub fn split_at(self, bytes: usize) -> Option<(Span, Span)> {
        let rest = self.bytes.checked_sub(bytes)?;
        Some((Span { bytes, ..self }, Span { address: self.address + bytes, bytes: rest }))
    }

    /// The address behind it.
    #[inline]
    pub(crate) const fn end(self) -> usize {
        self.address.wrapping_add(self.bytes)
    }

    /// The same, and `bytes` bytes behind it.
    #[inline]
    pub(crate) const fn longer_by(self, bytes: usize) -> Span {
        Span { address: self.address, bytes: self.bytes + bytes }
    }
}

/// Where bytes are, for a [`Span`].
#[inline]
pub(crate) fn address_of(bytes: &[u8]) -> usize {
    bytes.as_ptr().expose_provenance()
}
