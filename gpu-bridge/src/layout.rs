//! Where the bytes of an object lie in a runtime's paged KV cache: arithmetic, nothing else.
//!
//! *Page* is the runtime's word here: some tokens of every layer. The order of bytes inside an
//! object is chosen with the layout; two peers that chose differently exchange good checksums and
//! wrong meaning, so it must be named in the namespace's `layout` field.

use std::ops::Range;

/// What a cache and an object can be walked along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Layers of the model.
    Layer,
    /// K, then V; a single one where they are fused or where there is only a latent.
    Plane,
    /// Pages: of the whole cache, or those of an object in chain order.
    Page,
    /// Tokens of a page.
    Token,
    /// KV heads of this rank.
    Head,
}

use Axis::{Head, Layer, Page, Plane, Token};

/// An order of the five axes, outermost first; inside is one head of one token, contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order(pub [Axis; 5]);

impl Order {
    /// Each layer is `[2, pages, tokens, heads, dim]`.
    pub const PLANES_PAGES_NHD: Self = Self([Layer, Plane, Page, Token, Head]);
    /// Each layer is `[2, pages, heads, tokens, dim]`.
    pub const PLANES_PAGES_HND: Self = Self([Layer, Plane, Page, Head, Token]);
    /// Each layer is `[pages, 2, tokens, heads, dim]`.
    pub const PAGES_PLANES_NHD: Self = Self([Layer, Page, Plane, Token, Head]);
    /// Each layer is `[pages, 2, heads, tokens, dim]`.
    pub const PAGES_PLANES_HND: Self = Self([Layer, Page, Plane, Head, Token]);
    /// Everything of a page together: `[pages, layers, 2, tokens, heads, dim]`.
    pub const PAGE_FIRST_NHD: Self = Self([Page, Layer, Plane, Token, Head]);
    /// Everything of a page together: `[pages, layers, 2, heads, tokens, dim]`.
    pub const PAGE_FIRST_HND: Self = Self([Page, Layer, Plane, Head, Token]);

    /// The stride of each axis in bytes when all lies side by side. Fails if the whole is too long.
    fn strides(self, extents: [u32; 5], unit: u32) -> Result<[u64; 5], LayoutError> {
        if ![Layer, Plane, Page, Token, Head].iter().all(|axis| self.0.contains(axis)) {
            return Err(LayoutError::Impossible("its order lacks an axis"));
        }
        let (mut strides, mut stride) = ([0; 5], u64::from(unit));
        for axis in self.0.into_iter().rev() {
            strides[axis as usize] = stride;
            stride = stride.checked_mul(extents[axis as usize].into()).ok_or(TOO_LONG)?;
        }
        Ok(strides)
    }
}

/// The sizes of a cache that do not depend on where its bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers on this rank.
    pub layers: u32,
    /// 2 where K and V are apart, 1 for a latent (MLA) or where a head has K and V side by side.
    pub planes: u32,
    /// Tokens of a page.
    pub page_tokens: u32,
    /// KV heads on this rank; 1 for a latent.
    pub heads: u32,
    /// Bytes of one head of one token in one plane: its dimension times the element size.
    pub head_bytes: u32,
}

/// A paged cache in one device memory. Offsets and strides are in bytes.
///
/// [`PagedCache::dense`] fills the fields; change them for padding or for tensors of their own.
/// Planes that overlap only in part are not noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedCache {
    /// Its sizes.
    pub shape: Shape,
    /// How many pages it has.
    pub page_count: u32,
    /// Where page 0 of each plane starts in the memory, at index `layer * planes + plane`.
    pub starts: Vec<u64>,
    /// From a page to the next one of the same plane.
    pub page_stride: u64,
    /// From a token to the next one of the same page.
    pub token_stride: u64,
    /// From a head to the next one of the same token.
    pub head_stride: u64,
}

impl PagedCache {
    /// A cache in one piece from offset 0.
    ///
    /// # Errors
    /// [`LayoutError::Impossible`] if a size is 0, an axis is missing or the whole is too long.
    pub fn dense(shape: Shape, page_count: u32, order: Order) -> Result<Self, LayoutError> {
        let strides = order.strides(extents(&shape, page_count), shape.head_bytes)?;
        let [layer_stride, plane_stride, page_stride, token_stride, head_stride] = strides;
        let start = |l, p| u64::from(l) * layer_stride + u64::from(p) * plane_stride;
        let planes = |layer| (0..shape.planes).map(move |plane| start(layer, plane));
        let starts = (0..shape.layers).flat_map(planes).collect();
        let cache = Self { shape, page_count, starts, page_stride, token_stride, head_stride };
        cache.bytes().map(|_| cache)
    }

    /// How long the memory must be; checks the description on the way.
    ///
    /// # Errors
    /// [`LayoutError::Impossible`] if a size is 0, places overlap, or offsets leave 64 bits.
    pub fn bytes(&self) -> Result<u64, LayoutError> {
        let shape = &self.shape;
        if extents(shape, self.page_count).contains(&0) || shape.head_bytes == 0 {
            return Err(LayoutError::Impossible("a size is 0"));
        }
        if self.starts.len() as u64 != u64::from(shape.layers) * u64::from(shape.planes) {
            return Err(LayoutError::Impossible("not one start for each plane of each layer"));
        }
        let mut strides = [
            (self.page_stride, self.page_count),
            (self.token_stride, shape.page_tokens),
            (self.head_stride, shape.heads),
        ];
        strides.sort_unstable();
        let mut span = u64::from(shape.head_bytes);
        for (stride, extent) in strides.into_iter().filter(|&(_, extent)| extent > 1) {
            if stride < span {
                return Err(LayoutError::Impossible("a stride is shorter than what it steps over"));
            }
            let before_last = stride.checked_mul(u64::from(extent) - 1).ok_or(TOO_LONG)?;
            span = span.checked_add(before_last).ok_or(TOO_LONG)?;
        }
        self.starts.iter().max().and_then(|last| last.checked_add(span)).ok_or(TOO_LONG)
    }
}

/// A cache, and the order of the bytes in objects that are made of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    cache: PagedCache,
    order: Order,
}

impl Layout {
    /// Objects in `order` from pages of `cache`. The cache's own order needs the fewest copies.
    ///
    /// # Errors
    /// [`LayoutError::Impossible`] as for [`PagedCache::bytes`], or if an axis is missing.
    pub fn new(cache: PagedCache, order: Order) -> Result<Self, LayoutError> {
        cache.bytes()?;
        // No object has more pages than the cache, so no offset in one overflows after this.
        order.strides(extents(&cache.shape, cache.page_count), cache.shape.head_bytes)?;
        Ok(Self { cache, order })
    }

    /// Length in bytes of an object of `page_count` pages; divide by the layers for that of one.
    pub fn object_bytes(&self, page_count: u32) -> u64 {
        let shape = &self.cache.shape;
        let extents = extents(shape, page_count).into_iter().map(u64::from);
        extents.product::<u64>() * u64::from(shape.head_bytes)
    }

    /// What to copy for `layers` of the object made of `pages`, in the object's order.
    ///
    /// Offsets count from the start of the whole object, whatever the range. A page may be named
    /// twice, which makes sense only when reading from the device.
    ///
    /// # Errors
    /// [`LayoutError::Pages`] or [`LayoutError::Layers`] for what the cache does not have.
    pub fn pieces<'a>(
        &'a self,
        pages: &'a [u32],
        layers: Range<u32>,
    ) -> Result<Pieces<'a>, LayoutError> {
        let cache = &self.cache;
        if pages.len() > cache.page_count as usize || pages.iter().any(|&p| p >= cache.page_count) {
            return Err(LayoutError::Pages);
        }
        if layers.start > layers.end || layers.end > cache.shape.layers {
            return Err(LayoutError::Layers);
        }
        let mut extents = extents(&cache.shape, pages.len() as u32);
        let object_strides = self.order.strides(extents, cache.shape.head_bytes)?;
        extents[Layer as usize] = layers.end - layers.start;

        // The inner axes that lie side by side on both sides need no walking.
        let (mut unit, mut walked) = (u64::from(cache.shape.head_bytes), self.order.0.as_slice());
        while let [outer @ .., axis] = walked {
            let extent = extents[*axis as usize];
            let device_stride = match axis {
                Token => cache.token_stride,
                Head => cache.head_stride,
                Layer | Plane | Page => 0,
            };
            if extent != 1 && [device_stride, object_strides[*axis as usize]] != [unit; 2] {
                break;
            }
            unit *= u64::from(extent);
            walked = outer;
        }
        let left = walked.iter().map(|&axis| u64::from(extents[axis as usize])).product();
        let (layer, at, pending) = (layers.start, [0; 5], None);
        Ok(Pieces { cache, pages, layer, extents, object_strides, walked, unit, left, at, pending })
    }
}

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

/// Yields pieces that are as long as they can be: no two in a row touch on both sides.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    cache: &'a PagedCache,
    pages: &'a [u32],
    layer: u32,
    extents: [u32; 5],
    object_strides: [u64; 5],
    /// The axes that are walked, outermost first; the others lie inside `unit`.
    walked: &'a [Axis],
    unit: u64,
    left: u64,
    at: [u32; 5],
    pending: Option<Piece>,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut piece = self.pending.take().or_else(|| self.step())?;
        while let Some(next) = self.step() {
            if piece.object_offset + piece.bytes != next.object_offset
                || piece.device_offset + piece.bytes != next.device_offset
            {
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

/// Why a description is not one of a cache, or a request not one for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The description contradicts itself.
    #[error("no cache is like this: {0}")]
    Impossible(&'static str),
    /// A page that the cache does not have, or more pages than it has.
    #[error("a page is outside the cache")]
    Pages,
    /// A range of layers that the model does not have.
    #[error("layers are outside the model")]
    Layers,
}

/// How long each axis is, by its number.
const fn extents(shape: &Shape, page_count: u32) -> [u32; 5] {
    [shape.layers, shape.planes, page_count, shape.page_tokens, shape.heads]
}

const TOO_LONG: LayoutError = LayoutError::Impossible("an offset does not fit 64 bits");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AXES: [Axis; 5] = [Layer, Plane, Page, Token, Head];

    /// For each byte of the object, in order: its offset and the one on the device. Element by
    /// element, by the definition of a dense array.
    fn naive(
        shape: &Shape,
        orders: [Order; 2],
        page_count: u32,
        pages: &[u32],
        layers: Range<u32>,
    ) -> Vec<(u64, u64)> {
        let [cache, object] = orders.map(|order| order.0.map(|axis| axis as usize));
        let place = |order: [usize; 5], extents: [u32; 5], index: [u32; 5]| {
            let whole = order
                .iter()
                .fold(0, |at, &axis| at * u64::from(extents[axis]) + u64::from(index[axis]));
            whole * u64::from(shape.head_bytes)
        };
        let (object_extents, cache_extents) =
            (extents(shape, pages.len() as u32), extents(shape, page_count));
        let mut bytes = Vec::new();
        for element in 0..object_extents.iter().product::<u32>() {
            let (mut rest, mut index) = (element, [0; 5]);
            for &axis in object.iter().rev() {
                (index[axis], rest) = (rest % object_extents[axis], rest / object_extents[axis]);
            }
            if layers.contains(&index[0]) {
                let from = place(object, object_extents, index);
                index[2] = pages[index[2] as usize];
                let to = place(cache, cache_extents, index);
                bytes.extend((0..u64::from(shape.head_bytes)).map(|b| (from + b, to + b)));
            }
        }
        bytes
    }

    fn orders() -> impl Strategy<Value = Order> {
        Just(AXES).prop_shuffle().prop_map(Order)
    }

    /// All pages of a cache in any order, and how many of them an object has.
    fn some_pages() -> impl Strategy<Value = (Vec<u32>, usize)> {
        (1..6u32).prop_flat_map(|n| (Just((0..n).collect()).prop_shuffle(), 0..=n as usize))
    }

    proptest! {
        #[test]
        fn pieces_are_what_the_definition_says_and_as_long_as_can_be(
            sizes in [1u32..4, 1..3, 1..5, 1..4, 1..4],
            both in prop_oneof![[orders(), orders()], orders().prop_map(|order| [order; 2])],
            (pages, taken) in some_pages(),
            range in any::<[prop::sample::Index; 2]>(),
        ) {
            let [layers, planes, page_tokens, heads, head_bytes] = sizes;
            let shape = Shape { layers, planes, page_tokens, heads, head_bytes };
            let (page_count, pages) = (pages.len() as u32, &pages[..taken]);
            let ends = range.map(|i| i.index(layers as usize + 1) as u32);
            let range = ends[0].min(ends[1])..ends[0].max(ends[1]);

            let cache = PagedCache::dense(shape, page_count, both[0]).unwrap();
            let layout = Layout::new(cache, both[1]).unwrap();
            let found: Vec<_> = layout.pieces(pages, range.clone()).unwrap().collect();
            let bytes = found.iter().flat_map(|p| {
                (0..p.bytes).map(|b| (p.object_offset + b, p.device_offset + b))
            });
            let expected = naive(&shape, both, page_count, pages, range);
            prop_assert_eq!(bytes.collect::<Vec<_>>(), expected);
            let touch = |p: &[Piece]| {
                p[0].object_offset + p[0].bytes == p[1].object_offset
                    && p[0].device_offset + p[0].bytes == p[1].device_offset
            };
            prop_assert!(!found.windows(2).any(touch));
        }
    }

    /// 3 layers, 2 planes, pages of 16 tokens, 8 heads of 256 bytes: 32 KiB a page and plane.
    const SHAPE: Shape = Shape { layers: 3, planes: 2, page_tokens: 16, heads: 8, head_bytes: 256 };

    fn count(shape: Shape, order: Order, pages: &[u32]) -> usize {
        let layout = Layout::new(PagedCache::dense(shape, 10, order).unwrap(), order).unwrap();
        layout.pieces(pages, 0..shape.layers).unwrap().count()
    }

    #[test]
    fn neighbouring_pages_are_one_copy_where_the_cache_allows() {
        for order in [Order::PLANES_PAGES_NHD, Order::PLANES_PAGES_HND] {
            assert_eq!([count(SHAPE, order, &[3, 4, 5]), count(SHAPE, order, &[3, 5])], [6, 12]);
        }
        for order in [Order::PAGES_PLANES_NHD, Order::PAGES_PLANES_HND] {
            assert_eq!([count(SHAPE, order, &[3, 4, 5]), count(SHAPE, order, &[3, 5])], [3, 6]);
        }
        for order in [Order::PAGE_FIRST_NHD, Order::PAGE_FIRST_HND] {
            assert_eq!([count(SHAPE, order, &[3, 4, 5]), count(SHAPE, order, &[3, 5])], [1, 2]);
        }
        let latent = Shape { planes: 1, heads: 1, head_bytes: 1152, ..SHAPE };
        assert_eq!(count(latent, Order::PLANES_PAGES_NHD, &[3, 4, 5]), 3);
    }

    #[test]
    fn layers_may_have_tensors_of_their_own_and_pages_may_be_padded() {
        let one =
            PagedCache::dense(Shape { layers: 1, ..SHAPE }, 10, Order::PAGES_PLANES_NHD).unwrap();
        let starts = [1 << 30, 0, 1 << 20].map(|layer| [layer, layer + 32_768]).concat();
        let cache = PagedCache { shape: SHAPE, starts, page_stride: 69_632, ..one };
        assert_eq!(cache.bytes(), Ok((1 << 30) + 9 * 69_632 + 2 * 32_768));
        let layout = Layout::new(cache, Order::PAGES_PLANES_NHD).unwrap();
        assert_eq!(layout.object_bytes(2), 3 * 2 * 65_536);
        let piece =
            |object_offset, device_offset| Piece { object_offset, device_offset, bytes: 65_536 };
        let last: Vec<_> = layout.pieces(&[7, 8], 2..3).unwrap().collect();
        let start = (1 << 20) + 7 * 69_632;
        assert_eq!(last, [piece(4 * 65_536, start), piece(5 * 65_536, start + 69_632)]);
    }

    #[test]
    fn impossible_caches_and_requests_are_refused() {
        let order = Order::PLANES_PAGES_NHD;
        let refused = |shape, pages| PagedCache::dense(shape, pages, order).is_err();
        assert!(refused(Shape { heads: 0, ..SHAPE }, 1) && refused(SHAPE, 0));
        assert!(refused(Shape { layers: u32::MAX, head_bytes: u32::MAX, ..SHAPE }, u32::MAX));
        assert!(PagedCache::dense(SHAPE, 1, Order([Layer; 5])).is_err());
        let good = || PagedCache::dense(SHAPE, 10, order).unwrap();
        assert!(PagedCache { token_stride: 255, ..good() }.bytes().is_err());
        assert!(PagedCache { starts: vec![0; 5], ..good() }.bytes().is_err());
        assert!(PagedCache { starts: vec![u64::MAX; 6], ..good() }.bytes().is_err());
        let layout = Layout::new(good(), order).unwrap();
        assert_eq!(layout.pieces(&[10], 0..1).err(), Some(LayoutError::Pages));
        assert_eq!(layout.pieces(&[0; 11], 0..1).err(), Some(LayoutError::Pages));
        assert_eq!(layout.pieces(&[0], 0..4).err(), Some(LayoutError::Layers));
    }
}
