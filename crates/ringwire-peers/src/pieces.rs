//! What is handed to compio: parts of the working set that own it, as compio's buffers must.
//!
//! Counts are taken once a call, however many pieces it has, and nothing is copied, not even the
//! list of pieces. Offsets are in bytes from the region's first; `offset + length <= region.len()`.

use std::rc::Rc;
use std::sync::Arc;

use compio::buf::{IoBuf, IoVectoredBuf};
use ringwire_bench::memory::Region;

/// One payload, or what is left of one.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    region: Arc<Region>,
    offset: usize,
    length: usize,
}

impl Piece {
    pub(crate) fn new(region: &Arc<Region>, offset: usize, length: usize) -> Piece {
        Piece { region: region.clone(), offset, length }
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// What comes after the first `taken` bytes; `None` if that is nothing.
    pub(crate) fn after(&self, taken: usize) -> Option<Piece> {
        let length = self.length.checked_sub(taken).filter(|length| *length > 0)?;
        Some(Piece { region: self.region.clone(), offset: self.offset + taken, length })
    }
}

impl IoBuf for Piece {
    #[inline]
    fn as_init(&self) -> &[u8] {
        &self.region.bytes()[self.offset..self.offset + self.length]
    }
}

/// Several payloads of one size, or what is left of them.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    region: Arc<Region>,
    offsets: Rc<Vec<usize>>,
    payload_bytes: usize,
    /// What was taken already: less than the bytes of all payloads.
    taken: usize,
}

impl Pieces {
    /// No payload yet, of up to `pieces` of `payload_bytes` bytes.
    pub(crate) fn new(region: &Arc<Region>, payload_bytes: usize, pieces: usize) -> Pieces {
        Pieces {
            region: region.clone(),
            offsets: Rc::new(Vec::with_capacity(pieces)),
            payload_bytes,
            taken: 0,
        }
    }

    /// Names other payloads, `pieces` of them.
    #[inline]
    pub(crate) fn fill(&mut self, pieces: usize, mut next: impl FnMut() -> usize) {
        self.taken = 0;
        let offsets = Rc::make_mut(&mut self.offsets);
        offsets.clear();
        offsets.extend((0..pieces).map(|_| next()));
    }

    /// How many bytes are left.
    pub(crate) fn length(&self) -> usize {
        self.offsets.len() * self.payload_bytes - self.taken
    }

    /// What comes after the next `taken` bytes; `None` if that is nothing.
    pub(crate) fn after(&self, taken: usize) -> Option<Pieces> {
        (taken < self.length()).then(|| Pieces { taken: self.taken + taken, ..self.clone() })
    }
}

impl IoVectoredBuf for Pieces {
    #[inline]
    fn iter_slice(&self) -> impl Iterator<Item = &[u8]> {
        let (whole, mut part) = (self.taken / self.payload_bytes, self.taken % self.payload_bytes);
        let bytes = self.region.bytes();
        self.offsets[whole..].iter().map(move |offset| {
            let piece = &bytes[offset + part..offset + self.payload_bytes];
            part = 0;
            piece
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwire_bench::job::Backing;

    /// Three pages, filled with 0, 1 and 2.
    fn region() -> Arc<Region> {
        Arc::new(Region::new(3 << 12, Backing::Small).unwrap())
    }

    fn ends(pieces: &Pieces) -> Vec<(u8, u8, usize)> {
        pieces.iter_slice().map(|p| (p[0], p[p.len() - 1], p.len())).collect()
    }

    #[test]
    fn a_piece_goes_on_where_it_was_left() {
        let piece = Piece::new(&region(), 4000, 4196);
        assert_eq!(piece.as_init().len(), 4196);
        let rest = piece.after(96).unwrap();
        assert_eq!((rest.as_init()[0], rest.as_init().len()), (1, 4100));
        assert_eq!(rest.after(4099).unwrap().as_init(), [2]);
        assert!(rest.after(4100).is_none());
        assert!(piece.after(4196).is_none());
    }

    #[test]
    fn pieces_go_on_where_they_were_left() {
        let mut pieces = Pieces::new(&region(), 4096, 3);
        let mut offsets = [8192, 0, 4096].into_iter();
        pieces.fill(3, || offsets.next().unwrap());
        assert_eq!(ends(&pieces), [(2, 2, 4096), (0, 0, 4096), (1, 1, 4096)]);
        let rest = pieces.after(4095).unwrap();
        assert_eq!(ends(&rest), [(2, 2, 1), (0, 0, 4096), (1, 1, 4096)]);
        let rest = rest.after(1).unwrap();
        assert_eq!(ends(&rest), [(0, 0, 4096), (1, 1, 4096)]);
        let rest_of_one = rest.after(4196).unwrap();
        assert_eq!(ends(&rest_of_one), [(1, 1, 3996)]);
        assert_eq!((pieces.length(), rest.length(), rest_of_one.length()), (12_288, 8192, 3996));
        assert!(rest.after(8192).is_none());
        assert!(pieces.after(12_288).is_none());
    }

    #[test]
    fn filled_anew_nothing_is_taken() {
        let mut pieces = Pieces::new(&region(), 4096, 3);
        pieces.fill(2, || 0);
        let mut rest = pieces.after(5000).unwrap();
        rest.fill(1, || 4096);
        assert_eq!(ends(&rest), [(1, 1, 4096)]);
    }
}
