//! Where the bytes of one object come from: memory that another thread reads.
//!
//! The twin of [`Landing`](crate::Landing). What a reader would get wrong: its bytes must stay the
//! same until it is dropped, not only valid, for their checksum travels ahead of them.

use crate::lend::Ticket;
use crate::pieces::Pieces;
use crate::rdma::reach::Reached;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The bytes of one object: one piece or several.
#[derive(Debug)]
pub struct Source {
    /// Dropped before the memory comes home.
    pub(crate) reached: Option<Reached>,
    memory: Memory,
}

enum Memory {
    Owned(Vec<u8>),
    Shared { owner: Arc<dyn AsRef<[u8]> + Send + Sync>, bytes: usize },
    Pieces { pieces: Pieces, _until: Until },
}

/// What says that the memory is not used any more, by being dropped.
enum Until {
    Lent { _ticket: Ticket },
    Raw { _keepalive: Option<Arc<dyn Any + Send + Sync>> },
}

impl Source {
    /// The bytes of a vector.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { reached: None, memory: Memory::Owned(bytes) }
    }

    /// Bytes that others may be reading too: of a `bytes::Bytes`, a mapped file.
    ///
    /// The owner says the same bytes every time it is asked, else the put fails its check.
    ///
    /// # Panics
    ///
    /// Whoever reads the source does, if the owner says fewer than it said here.
    pub fn from_owner(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let bytes = (*owner).as_ref().len();
        Self { reached: None, memory: Memory::Shared { owner, bytes } }
    }

    /// Bytes in memory that somebody else looks after.
    ///
    /// `keepalive` is dropped with the source, and is how its owner learns of that.
    ///
    /// # Safety
    ///
    /// Every piece is initialised memory that is valid for reads. Until the source is dropped
    /// nobody writes it and it stays mapped, whatever thread the source is on.
    ///
    /// # Panics
    ///
    /// If there are more than [`PIECES_MAX`](crate::pieces::PIECES_MAX) pieces with bytes.
    pub unsafe fn from_raw(
        pieces: impl IntoIterator<Item = (*const u8, usize)>,
        keepalive: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        Self::from_pieces(pieces.into_iter(), Until::Raw { _keepalive: keepalive })
    }

    /// Bytes in memory that comes home with `ticket`.
    ///
    /// # Safety
    ///
    /// As [`Source::from_raw`], until `ticket` is dropped.
    pub(crate) unsafe fn lent(
        pieces: impl Iterator<Item = (*const u8, usize)>,
        ticket: Ticket,
    ) -> Self {
        Self::from_pieces(pieces, Until::Lent { _ticket: ticket })
    }

    fn from_pieces(pieces: impl Iterator<Item = (*const u8, usize)>, until: Until) -> Self {
        let pieces = Pieces::new(pieces.map(|(base, bytes)| (base.cast_mut(), bytes)));
        Self { reached: None, memory: Memory::Pieces { pieces, _until: until } }
    }

    /// The object's length.
    pub fn len(&self) -> u64 {
        match &self.memory {
            Memory::Owned(bytes) => bytes.len() as u64,
            Memory::Shared { bytes, .. } => *bytes as u64,
            Memory::Pieces { pieces, .. } => pieces.bytes(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From the byte at `offset` to the end of its piece; nothing at the end and past it.
    pub fn piece_at(&self, offset: u64) -> &[u8] {
        match &self.memory {
            Memory::Owned(bytes) => rest(bytes, offset),
            Memory::Shared { owner, bytes } => rest(&(**owner).as_ref()[..*bytes], offset),
            Memory::Pieces { pieces, .. } => {
                let Some((base, bytes)) = pieces.at(offset) else { return &[] };
                // SAFETY: whoever made the source promised that these bytes are valid, and that
                // nobody writes them until it is dropped; it is borrowed while the slice lives.
                unsafe { std::slice::from_raw_parts(base.as_ptr(), bytes) }
            }
        }
    }

    /// The bytes `from..to`, piece by piece, for a checksum or a vectored write; fewer if there are
    /// not that many.
    pub fn pieces(&self, from: u64, to: u64) -> impl Iterator<Item = &[u8]> {
        let mut offset = from;
        std::iter::from_fn(move || {
            let piece = self.piece_at(offset);
            let wanted = usize::try_from(to.saturating_sub(offset)).unwrap_or(usize::MAX);
            let piece = &piece[..piece.len().min(wanted)];
            offset += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Owned(_) => "Owned",
            Self::Shared { .. } => "Shared",
            Self::Pieces { .. } => "Pieces",
        };
        f.write_str(kind)
    }
}

fn rest(bytes: &[u8], offset: u64) -> &[u8] {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[offset..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn is_send<T: Send + 'static>() {}
    const _: () = is_send::<Source>();

    #[test]
    fn owned_and_shared_bytes_are_one_piece() {
        for source in [Source::from_vec(b"abcd".to_vec()), Source::from_owner(Arc::new(*b"abcd"))] {
            assert_eq!(source.len(), 4);
            assert_eq!(source.piece_at(1), b"bcd");
            assert!(source.piece_at(4).is_empty() && source.piece_at(u64::MAX).is_empty());
            assert_eq!(source.pieces(1, 3).collect::<Vec<_>>(), [b"bc"]);
        }
    }

    #[test]
    fn pieces_follow_each_other() {
        let (left, right) = (b"abc", b"defgh");
        let pieces = [(left.as_ptr(), 3), (right.as_ptr(), 5)];
        // SAFETY: both pieces are constants.
        let source = unsafe { Source::from_raw(pieces, None) };
        let seen: Vec<&[u8]> = source.pieces(2, 6).collect();
        assert_eq!(seen, [&b"c"[..], b"def"]);
        assert_eq!(source.pieces(0, u64::MAX).map(<[u8]>::len).sum::<usize>(), 8);
        assert_eq!(source.pieces(6, 2).count(), 0);
    }
}
