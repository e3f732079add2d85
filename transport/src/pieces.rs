//! Pieces of somebody's memory that together are one object's bytes.
//!
//! Only addresses: what may be done there, and until when, is for [`Landing`](crate::Landing) and
//! [`Source`](crate::Source) to say. Pieces without bytes are left out.

use std::ptr::NonNull;

/// The most pieces of one object: a layer, or a token group, each.
pub const PIECES_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Pieces {
    list: List,
    bytes: u64,
}

/// Nearly every object has one piece; it needs no allocation.
#[derive(Debug)]
enum List {
    One(Piece),
    Many(Box<[Piece]>),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins among the object's bytes.
    offset: u64,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: addresses mean the same on every thread; whether the memory behind them may be used
// there is promised by whoever makes a `Landing` or a `Source` of them.
unsafe impl Send for Pieces {}

impl Pieces {
    /// # Panics
    ///
    /// If there are more than [`PIECES_MAX`], or one has bytes at address 0.
    pub(crate) fn new(pieces: impl Iterator<Item = (*mut u8, usize)>) -> Self {
        let mut end = 0u64;
        let mut pieces = pieces.filter(|&(_, bytes)| bytes > 0).map(|(base, bytes)| {
            let base = NonNull::new(base).expect("a piece that has bytes has an address");
            let piece = Piece { offset: end, base, bytes };
            end += bytes as u64;
            piece
        });
        let first = pieces.next();
        let list = match (first, pieces.next()) {
            (Some(only), None) => List::One(only),
            (first, second) => List::Many(first.into_iter().chain(second).chain(pieces).collect()),
        };
        assert!(list.all().len() <= PIECES_MAX, "an object has at most {PIECES_MAX} pieces");
        Self { list, bytes: end }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the byte at `offset` is, and how many follow it in its piece, itself included; nothing
    /// at the end and past it.
    pub(crate) fn at(&self, offset: u64) -> Option<(NonNull<u8>, usize)> {
        if offset >= self.bytes {
            return None;
        }
        let all = self.list.all();
        let index = all.partition_point(|piece| piece.offset <= offset) - 1;
        let piece = all[index];
        let inside = usize::try_from(offset - piece.offset).expect("less than the piece's bytes");
        // SAFETY: `inside` is less than the bytes of the piece, which is one allocation.
        let base = unsafe { piece.base.add(inside) };
        Some((base, piece.bytes - inside))
    }
}

impl List {
    fn all(&self) -> &[Piece] {
        match self {
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_offset_is_found_in_its_piece(lens in proptest::collection::vec(0usize..9, 0..20)) {
            let mut memory: Vec<Vec<u8>> = lens.iter().map(|&len| vec![0; len]).collect();
            let pieces = Pieces::new(memory.iter_mut().map(|m| (m.as_mut_ptr(), m.len())));
            let mut offset = 0;
            for piece in &mut memory {
                for inside in 0..piece.len() {
                    let (base, rest) = pieces.at(offset).unwrap();
                    prop_assert_eq!(base.as_ptr(), piece[inside..].as_mut_ptr());
                    prop_assert_eq!(rest, piece.len() - inside);
                    offset += 1;
                }
            }
            prop_assert_eq!(pieces.bytes(), offset);
            prop_assert!(pieces.at(offset).is_none() && pieces.at(u64::MAX).is_none());
        }
    }

    #[test]
    #[should_panic(expected = "at most 512 pieces")]
    fn pieces_are_counted() {
        let mut byte = 0u8;
        Pieces::new((0..=PIECES_MAX).map(|_| (&raw mut byte, 1)));
    }
}
