//! What to copy for each page of an object: worked out once, used for every object of its kind.
//!
//! Working out the pieces of thousands of pages takes longer than submitting them may, and all
//! pages look alike: the pieces of one, and the steps to the next, say it all. What a reader would
//! get wrong: offsets are those of the object's first page and of the cache's page 0; they are no
//! places of anything before the steps were added.

use std::ops::Range;

use crate::layout::LayoutError;
use crate::pieces::Piece;

/// The pieces of one page, for any pages of a cache. Made by [`Layout::plan`].
///
/// [`Layout::plan`]: crate::layout::Layout::plan
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pieces: Vec<Piece>,
    steps: Steps,
    object_range: Range<u64>,
    device_range: Range<u64>,
}

/// The way from a page to the next, in bytes, and how many pages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// To the next page of the object.
    pub object: u64,
    /// To the next page of the cache.
    pub device: u64,
    /// Pages of an object.
    pub pages: u32,
    /// Pages of the cache.
    pub page_count: u32,
}

impl Plan {
    pub(crate) fn new(pieces: Vec<Piece>, steps: Steps) -> Self {
        let object_range = hull(pieces.iter().map(|p| (p.object_offset, p.bytes)));
        let device_range = hull(pieces.iter().map(|p| (p.device_offset, p.bytes)));
        Self { pieces, steps, object_range, device_range }
    }

    /// The pieces of the object's first page on the cache's page 0.
    pub fn page_pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// How to get from there to other pages.
    pub const fn steps(&self) -> &Steps {
        &self.steps
    }

    /// How much is copied for an object, in bytes.
    pub fn bytes(&self) -> u64 {
        let page: u64 = self.pieces.iter().map(|piece| piece.bytes).sum();
        page * u64::from(self.steps.pages)
    }

    /// How long a piece is on average, which decides what moves them.
    pub fn piece_bytes(&self) -> u64 {
        self.bytes() / u64::from(self.steps.pages) / (self.pieces.len() as u64).max(1)
    }

    /// From where to where the first page of an object is used.
    pub const fn object_range(&self) -> &Range<u64> {
        &self.object_range
    }

    /// From the first byte of an object that is copied to the last, over all its pages.
    pub fn object_span(&self) -> u64 {
        let Range { start, end } = self.object_range;
        end - start + u64::from(self.steps.pages - 1) * self.steps.object
    }

    /// From where to where the device memory is used when `page` is.
    pub fn device_range(&self, page: u32) -> Range<u64> {
        let step = u64::from(page) * self.steps.device;
        self.device_range.start + step..self.device_range.end + step
    }

    /// Whether an object can lie in `pages`.
    ///
    /// # Errors
    /// [`LayoutError::Pages`] if they are too many, too few, or not all in the cache.
    pub fn check(&self, pages: &[u32]) -> Result<(), LayoutError> {
        let fits = pages.len() == self.steps.pages as usize
            && pages.iter().all(|&page| page < self.steps.page_count);
        fits.then_some(()).ok_or(LayoutError::Pages)
    }

    /// The pieces of an object that lies in `pages`, which [`Plan::check`] has seen; those of
    /// neighbouring pages that touch on both sides are one.
    pub fn pieces<'a>(&'a self, pages: &'a [u32]) -> impl Iterator<Item = Piece> + 'a {
        let mut all = self.pieces.iter().flat_map(move |piece| {
            pages.iter().zip(0_u64..).map(move |(&page, number)| Piece {
                object_offset: piece.object_offset + number * self.steps.object,
                device_offset: piece.device_offset + u64::from(page) * self.steps.device,
                bytes: piece.bytes,
            })
        });
        let mut pending = all.next();
        std::iter::from_fn(move || {
            let mut piece = pending.take()?;
            for next in all.by_ref() {
                if !piece.touches(&next) {
                    pending = Some(next);
                    break;
                }
                piece.bytes += next.bytes;
            }
            Some(piece)
        })
    }
}

fn hull(ranges: impl Iterator<Item = (u64, u64)>) -> Range<u64> {
    let mut hull: Option<Range<u64>> = None;
    for (start, bytes) in ranges {
        let end = start + bytes;
        let known = hull.get_or_insert(start..end);
        *known = known.start.min(start)..known.end.max(end);
    }
    hull.unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::{Axis, Layout, Order, PagedCache, Shape};

    fn orders() -> impl Strategy<Value = Order> {
        Just([Axis::Layer, Axis::Plane, Axis::Page, Axis::Token, Axis::Head])
            .prop_shuffle()
            .prop_map(Order)
    }

    fn bytes(pieces: impl Iterator<Item = Piece>) -> Vec<(u64, u64)> {
        let each = |p: Piece| (0..p.bytes).map(move |b| (p.object_offset + b, p.device_offset + b));
        let mut all: Vec<_> = pieces.flat_map(each).collect();
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn plan_moves_the_bytes_that_a_walk_of_the_layout_moves(
            sizes in [1u32..4, 1..3, 1..4, 1..4, 1..4],
            both in [orders(), orders()],
            (pages, taken) in (1..6u32).prop_flat_map(|n| {
                (Just((0..n).collect::<Vec<u32>>()).prop_shuffle(), 1..=n as usize)
            }),
            range in any::<[prop::sample::Index; 2]>(),
        ) {
            let [layers, planes, page_tokens, heads, head_bytes] = sizes;
            let shape = Shape { layers, planes, page_tokens, heads, head_bytes };
            let ends = range.map(|i| i.index(layers as usize + 1) as u32);
            let range = ends[0].min(ends[1])..ends[0].max(ends[1]);
            let cache = PagedCache::dense(shape, pages.len() as u32, both[0]).unwrap();
            let layout = Layout::new(cache, both[1]).unwrap();
            let (pages, object_pages) = (&pages[..taken], taken as u32);

            let plan = layout.plan(object_pages, range.clone()).unwrap();
            prop_assert_eq!(plan.check(pages), Ok(()));
            let expected = bytes(layout.pieces(pages, range).unwrap());
            let found = bytes(plan.pieces(pages));
            prop_assert_eq!(plan.bytes(), found.len() as u64);
            prop_assert_eq!(&found, &expected);
            // What bounds are checked by holds every byte.
            let end = plan.object_range().start + plan.object_span();
            for (object, device) in found {
                prop_assert!((plan.object_range().start..end).contains(&object));
                prop_assert!(pages.iter().any(|&p| plan.device_range(p).contains(&device)));
            }
        }
    }

    #[test]
    fn neighbouring_pages_are_one_piece_and_wrong_ones_are_refused() {
        let shape = Shape { layers: 3, planes: 2, page_tokens: 16, heads: 8, head_bytes: 256 };
        for (order, counts) in [
            (Order::PLANES_PAGES_NHD, [6, 12]),
            (Order::PAGES_PLANES_HND, [3, 6]),
            (Order::PAGE_FIRST_NHD, [1, 2]),
        ] {
            let cache = PagedCache::dense(shape, 10, order).unwrap();
            let layout = Layout::new(cache, order).unwrap();
            let plan = layout.plan(2, 0..3).unwrap();
            let found = [[3, 4], [3, 5]].map(|pages| plan.pieces(&pages).count());
            assert_eq!(found, counts, "{order:?}");
            assert_eq!(plan.bytes(), layout.object_bytes(2));
            for bad in [&[3][..], &[3, 4, 5], &[3, 10]] {
                assert_eq!(plan.check(bad), Err(LayoutError::Pages));
            }
            for pages in [0, 11] {
                assert_eq!(layout.plan(pages, 0..1).err(), Some(LayoutError::Pages));
            }
            assert_eq!(layout.plan(1, 0..4).err(), Some(LayoutError::Layers));
            assert_eq!(layout.plan(1, 2..2).unwrap().bytes(), 0);
        }
    }
}
