//! Handles of slots: one that fills, any number that read. The only unsafe code of the arena.
//!
//! What makes it sound: the bookkeeping never gives the same bytes to two live slots, a [`SlotMut`]
//! is the only handle of its slot, and a [`Slot`] only reads. Handles stay on their shard's thread
//! (`Rc`), hold the arena, and the arena holds the region.

use super::size::Size;
use super::{Arena, Inner};
use std::ops::{Deref, Range};
use std::rc::Rc;

/// A slot being filled from its beginning; nobody else can see it. Dropping it gives it back.
#[derive(Debug)]
pub struct SlotMut {
    inner: Rc<Inner>,
    id: u32,
    offset_grains: u32,
    len: u32,
    filled: u32,
}

/// A filled slot: immutable bytes. Clones share them, the last drop frees them.
pub struct Slot {
    inner: Rc<Inner>,
    id: u32,
    len: u32,
}

const _: () = assert!(size_of::<Slot>() <= 16, "the index has 16 B for it");
const _: () = assert!(size_of::<Option<Slot>>() <= 16);

/// A slot was frozen before it was full; it went back to the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{filled} of {len} bytes of a slot were filled")]
pub struct Unfilled {
    /// Bytes that were filled.
    pub filled: u32,
    /// Bytes the slot has.
    pub len: u32,
}

impl SlotMut {
    pub(super) fn new(inner: Rc<Inner>, place: super::slabs::Place, len: u32) -> Self {
        Self { inner, id: place.id, offset_grains: place.offset_grains, len, filled: 0 }
    }

    /// Bytes it was taken for.
    #[expect(clippy::len_without_is_empty, reason = "a slot of 0 bytes is not worth a question")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Bytes filled so far, from the beginning.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Where the slot begins in the region, in bytes.
    pub fn offset(&self) -> u64 {
        Size::grains_to_bytes(self.offset_grains)
    }

    /// What was filled so far.
    pub fn filled_bytes(&self) -> &[u8] {
        let base = self.inner.at(self.offset_grains);
        // SAFETY: the slot has `len >= filled` initialised bytes at this place, kept mapped by
        // `inner`, and its only handle is borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts(base, self.filled as usize) }
    }

    /// Where the next bytes go. They count only after [`SlotMut::advance`].
    ///
    /// It shows whatever the memory held before; a caller fills it, it does not read it.
    pub fn unfilled(&mut self) -> &mut [u8] {
        let base = self.inner.at(self.offset_grains);
        // SAFETY: `filled <= len` bytes further is inside the slot or at its end.
        let next = unsafe { base.add(self.filled as usize) };
        // SAFETY: the rest of the slot is initialised memory, kept mapped by `inner`, and its only
        // handle is borrowed mutably for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(next, (self.len - self.filled) as usize) }
    }

    /// Says that the first `n` bytes of [`SlotMut::unfilled`] were written.
    ///
    /// # Panics
    ///
    /// If that is more than there is room for.
    pub fn advance(&mut self, n: usize) {
        let room = self.len - self.filled;
        let n = u32::try_from(n).ok().filter(|&n| n <= room);
        self.filled += n.expect("no more is filled than the slot has room for");
    }

    /// Copies `bytes` behind what was filled.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn write(&mut self, bytes: &[u8]) {
        let room = self.unfilled();
        assert!(bytes.len() <= room.len(), "no more is written than the slot has room for");
        room[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    /// Copies `bytes` over the first of those that were filled.
    ///
    /// # Panics
    ///
    /// If fewer were filled.
    pub fn rewrite(&mut self, bytes: &[u8]) {
        let filled = self.filled as usize;
        let base = self.inner.at(self.offset_grains);
        // SAFETY: the slot has `len >= filled` initialised bytes at this place, kept mapped by
        // `inner`, and its only handle is borrowed mutably for as long as the slice lives.
        let filled = unsafe { std::slice::from_raw_parts_mut(base, filled) };
        filled[..bytes.len()].copy_from_slice(bytes);
    }

    /// Makes the bytes readable, now that all of them were written.
    ///
    /// # Errors
    ///
    /// If some were not; the slot is freed then, so what the memory held before stays unseen.
    pub fn freeze(self) -> Result<Slot, Unfilled> {
        if self.filled < self.len {
            return Err(Unfilled { filled: self.filled, len: self.len });
        }
        self.inner.slabs.borrow_mut().freeze(self.id);
        Ok(Slot { inner: Rc::clone(&self.inner), id: self.id, len: self.len })
    }
}

impl Drop for SlotMut {
    fn drop(&mut self) {
        self.inner.slabs.borrow_mut().release(self.id, self.len);
    }
}

impl Slot {
    /// Where the slot begins in the region, in bytes.
    pub fn offset(&self) -> u64 {
        Size::grains_to_bytes(self.offset_grains())
    }

    /// The bytes of the region that are this slot's: its length, without the rounding.
    pub fn region_span(&self) -> Range<u64> {
        let start = self.offset();
        start..start + u64::from(self.len)
    }

    /// Has the record of the slot loaded, which says where its bytes are.
    #[inline]
    pub fn prefetch_record(&self) {
        crate::prefetch(&self.inner.slabs.borrow().slots[self.id]);
    }

    /// Whether somebody else holds a clone: dropping this one frees nothing.
    pub fn is_shared(&self) -> bool {
        self.inner.slabs.borrow().slots[self.id].is_shared()
    }

    /// What the owner tagged it with, [`UNTAGGED`](super::UNTAGGED) if it did not.
    pub fn tag(&self) -> u32 {
        self.inner.slabs.borrow().slots[self.id].tag
    }

    /// Names the slot for [`Arena::live_slots_in`]: the number of the index entry that holds it.
    ///
    /// The owner sets it back to [`UNTAGGED`](super::UNTAGGED) when it drops its handle while
    /// others still hold theirs; else a later window would name an entry that is someone else's.
    pub fn set_tag(&self, tag: u32) {
        self.inner.slabs.borrow_mut().slots[self.id].tag = tag;
    }

    /// The arena it is in.
    pub fn arena(&self) -> Arena {
        Arena { inner: Rc::clone(&self.inner) }
    }

    pub(super) fn is_in(&self, inner: &Rc<Inner>) -> bool {
        Rc::ptr_eq(&self.inner, inner)
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    fn offset_grains(&self) -> u32 {
        self.inner.slabs.borrow().slots[self.id].offset_grains
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = self.inner.at(self.offset_grains());
        // SAFETY: the slot has `len` bytes at this place, all written before it was frozen, kept
        // mapped by `inner`. It is freed only when no handle is left, and this one is borrowed.
        unsafe { std::slice::from_raw_parts(base, self.len as usize) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        self.inner.slabs.borrow_mut().retain(self.id);
        Self { inner: Rc::clone(&self.inner), id: self.id, len: self.len }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.slabs.borrow_mut().release(self.id, self.len);
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("offset", &self.offset()).field("len", &self.len).finish()
    }
}
