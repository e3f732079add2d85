//! The walk over an object that yields what lies in one piece on both sides.
//!
//! What a reader would get wrong: pieces come in the order of the object, so two that touch on the
//! device only are two.

use crate::layout::{Axis, PagedCache};

/// One contiguous range of an object and where it lies on the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// From the start of the object.
    pub object_offset: u64,
    /// From the start of the device memory.
    pub device_offset: u64,
    /// Length of both.
    pub bytes: u64,
}

impl Piece {
    /// Whether `next` goes on where this ends, on both sides.
    pub(crate) const fn touches(&self, next: &Self) -> bool {
        self.object_offset + self.bytes == next.object_offset
            && self.device_offset + self.bytes == next.device_offset
    }
}

/// Yields pieces that are as long as they can be: no two in a row touch on both sides.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    pub(crate) cache: &'a PagedCache,
    pub(crate) pages: &'a [u32],
    pub(crate) layer: u32,
    pub(crate) extents: [u32; 5],
    pub(crate) object_strides: [u64; 5],
    /// The axes that are walked, outermost first; the others lie inside `unit`.
    pub(crate) walked: &'a [Axis],
    pub(crate) unit: u64,
    pub(crate) left: u64,
    pub(crate) at: [u32; 5],
    pub(crate) pending: Option<Piece>,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut piece = self.pending.take().or_else(|| self.step())?;
        while let Some(next) = self.step() {
            if !piece.touches(&next) {
                self.pending = Some(next);
                break;
            }
            piece.bytes += next.bytes;
        }
        Some(piece)
    }
}

impl Pieces<'_> {
    fn step(&mut self) -> Option<Piece> {
        self.left = self.left.checked_sub(1)?;
        let (cache, at) = (self.cache, self.at.map(u64::from));
        let layer = u64::from(self.layer) + at[0];
        let plane = layer * u64::from(cache.shape.planes) + at[1];
        let page = u64::from(self.pages[self.at[2] as usize]) * cache.page_stride;
        let inner = at[3] * cache.token_stride + at[4] * cache.head_stride;
        let device_offset = cache.starts[plane as usize] + page + inner;
        let along = [layer, at[1], at[2], at[3], at[4]].into_iter().zip(self.object_strides);
        let object_offset = along.map(|(index, stride)| index * stride).sum();
        for &axis in self.walked.iter().rev() {
            self.at[axis as usize] += 1;
            if self.at[axis as usize] < self.extents[axis as usize] {
                break;
            }
            self.at[axis as usize] = 0;
        }
        Some(Piece { object_offset, device_offset, bytes: self.unit })
    }
}
