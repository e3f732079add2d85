//! Where a caller wants the bytes of one object: memory that another thread fills.
//!
//! A landing is `Send` and `'static`, so an I/O thread can hold it, and whoever holds it is the
//! only one who touches the memory. Dropping it is how the memory comes home. What a reader would
//! get wrong: a landing that was dropped is never written again by anybody, so a get may be
//! answered only after its landing was.

use crate::lend::Ticket;
use crate::pieces::Pieces;
use crate::rdma::reach::{Exposed, Reached};
use larder_protocol::message::RemotePiece;
use std::any::Any;
use std::sync::Arc;

/// Memory for one object: one piece or several that together have its length.
#[derive(Debug)]
pub struct Landing {
    /// Dropped before the memory comes home.
    pub(crate) reached: Option<Reached>,
    /// Likewise: who waits for the memory may use this as well then.
    aboard: Option<Box<Aboard>>,
    memory: Memory,
}

/// Memory of a device, as long as the landing, that cards write instead.
#[derive(Debug)]
struct Aboard {
    exposed: Exposed,
    address: u64,
    /// Dropped with the landing.
    _away: Arc<dyn Any + Send + Sync>,
}

#[derive(Debug)]
enum Memory {
    Owned(Vec<u8>),
    Pieces { pieces: Pieces, _until: Until },
}

/// What says that the memory is not used any more, by being dropped.
#[derive(Debug)]
enum Until {
    Lent { _ticket: Ticket },
    Raw { _keepalive: Option<Arc<dyn Any + Send + Sync>> },
}

impl Landing {
    /// Lands in a vector, in the bytes it has; [`Landing::into_vec`] gives it back.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::new(Memory::Owned(bytes))
    }

    /// Lands in memory that somebody else looks after: pinned memory, an arena of a caller's.
    ///
    /// `keepalive` is dropped with the landing, and is how its owner learns of that.
    ///
    /// # Safety
    ///
    /// Every piece is initialised memory that is valid for reads and writes. Until the landing is
    /// dropped nobody else reads or writes it and it stays mapped, whatever thread the landing is
    /// on. Pieces do not overlap.
    ///
    /// # Panics
    ///
    /// If there are more than [`PIECES_MAX`](crate::pieces::PIECES_MAX) pieces with bytes.
    pub unsafe fn from_raw(
        pieces: impl IntoIterator<Item = (*mut u8, usize)>,
        keepalive: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        let pieces = Pieces::new(pieces.into_iter());
        Self::new(Memory::Pieces { pieces, _until: Until::Raw { _keepalive: keepalive } })
    }

    /// Lands in memory that comes home with `ticket`.
    ///
    /// # Safety
    ///
    /// As [`Landing::from_raw`], until `ticket` is dropped.
    pub(crate) unsafe fn lent(
        pieces: impl Iterator<Item = (*mut u8, usize)>,
        ticket: Ticket,
    ) -> Self {
        let until = Until::Lent { _ticket: ticket };
        Self::new(Memory::Pieces { pieces: Pieces::new(pieces), _until: until })
    }

    const fn new(memory: Memory) -> Self {
        Self { reached: None, memory, aboard: None }
    }

    /// As it is, but for cards, which write to `address` and on in `exposed` memory of a device
    /// instead: what comes another way comes to where it came before. `away` is dropped with the
    /// landing, and no peer writes there any more then.
    ///
    /// # Safety
    ///
    /// Until `away` is dropped nobody else reads or writes so many bytes there.
    #[must_use]
    pub unsafe fn or_aboard(
        mut self,
        exposed: &Exposed,
        address: u64,
        away: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let aboard = Aboard { exposed: exposed.clone(), address, _away: away };
        self.aboard = Some(Box::new(aboard));
        self
    }

    /// Whether cards write to memory of a device, so that what has landed cannot be looked at.
    pub fn is_aboard(&self) -> bool {
        self.aboard.is_some()
    }

    /// What a peer is told of memory of a device, if there is some, and that memory.
    pub(crate) fn aboard(&self) -> Option<(RemotePiece, Exposed)> {
        let Aboard { exposed, address, .. } = self.aboard.as_deref()?;
        let bytes = u32::try_from(self.len()).ok()?;
        let rkey = exposed.key_of(*address, bytes.into())?;
        Some((RemotePiece { address: *address, rkey, bytes }, exposed.clone()))
    }

    /// Bytes it has room for: the object's length.
    pub fn len(&self) -> u64 {
        match &self.memory {
            Memory::Owned(bytes) => bytes.len() as u64,
            Memory::Pieces { pieces, .. } => pieces.bytes(),
        }
    }

    /// Whether it has room for nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From the byte at `offset` to the end of its piece; nothing at the end and past it. A peer
    /// that could write it cannot any more: its pair has ended.
    pub fn piece_at(&mut self, offset: u64) -> &mut [u8] {
        self.reached = None;
        match &mut self.memory {
            Memory::Owned(bytes) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                &mut bytes[offset..]
            }
            Memory::Pieces { pieces, .. } => {
                let Some((base, bytes)) = pieces.at(offset) else { return &mut [] };
                // SAFETY: whoever made the landing promised that these bytes are valid, and only
                // ours until it is dropped; it is borrowed mutably for as long as the slice lives,
                // so no peer is let to write it meanwhile.
                unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), bytes) }
            }
        }
    }

    /// Copies `bytes` to `offset` and on, across pieces.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn write_at(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = self.piece_at(offset);
            assert!(!piece.is_empty(), "no more is written than the landing has room for");
            let n = piece.len().min(bytes.len());
            piece[..n].copy_from_slice(&bytes[..n]);
            offset += n as u64;
            bytes = &bytes[n..];
        }
    }

    /// Calls `f` with what landed in `from..to`, piece by piece: for checking it.
    pub fn for_each_piece(&mut self, from: u64, to: u64, mut f: impl FnMut(&[u8])) {
        let mut offset = from;
        while offset < to.min(self.len()) {
            let wanted = usize::try_from(to - offset).unwrap_or(usize::MAX);
            let piece = self.piece_at(offset);
            let n = piece.len().min(wanted);
            f(&piece[..n]);
            offset += n as u64;
        }
    }

    /// The vector it was made from.
    ///
    /// # Errors
    ///
    /// The landing, if it was not made from one.
    pub fn into_vec(self) -> Result<Vec<u8>, Self> {
        match self.memory {
            Memory::Owned(bytes) => Ok(bytes),
            memory @ Memory::Pieces { .. } => Err(Self { memory, ..self }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn is_send<T: Send + 'static>() {}
    const _: () = is_send::<Landing>();

    #[test]
    fn a_vector_comes_back_filled() {
        let mut landing = Landing::from_vec(vec![0; 6]);
        landing.write_at(0, b"abc");
        landing.write_at(3, b"def");
        assert_eq!(landing.piece_at(4), b"ef");
        assert!(landing.piece_at(6).is_empty() && landing.piece_at(u64::MAX).is_empty());
        assert_eq!(landing.into_vec().unwrap(), b"abcdef");
    }

    #[test]
    fn bytes_are_written_and_read_across_pieces() {
        let mut memory = [0u8; 8];
        let (left, right) = memory.split_at_mut(3);
        let pieces = [(right.as_mut_ptr(), 5), (left.as_mut_ptr(), 3)];
        // SAFETY: both pieces live until the end of the test, and only the landing uses them.
        let mut landing = unsafe { Landing::from_raw(pieces, None) };
        assert_eq!(landing.len(), 8);
        landing.write_at(2, b"abcdef");
        let mut seen = Vec::new();
        landing.for_each_piece(3, 7, |piece| seen.push(piece.to_vec()));
        assert_eq!(seen, [b"bc".to_vec(), b"de".to_vec()]);
        landing.for_each_piece(0, 0, |_| panic!("nothing to see"));
        assert!(landing.into_vec().is_err());
        assert_eq!(&memory, b"def\0\0abc");
    }

    #[test]
    fn the_owner_learns_that_its_memory_came_home() {
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(());
        // SAFETY: no pieces, no promises.
        let landing = unsafe { Landing::from_raw([], Some(Arc::clone(&owner))) };
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(landing);
        assert_eq!(Arc::strong_count(&owner), 1);
    }

    #[test]
    #[should_panic(expected = "no more is written than the landing has room for")]
    fn nothing_is_written_past_the_end() {
        Landing::from_vec(vec![0; 4]).write_at(2, b"abc");
    }
}
