//! Where the bytes of an object lie in a runtime's paged KV cache: arithmetic, nothing else.
//!
//! *Page* is the runtime's word here: some tokens of every layer. The order of bytes inside an
//! object is chosen with the layout; two peers that chose differently exchange good checksums and
//! wrong meaning, so it must be named in the namespace's `layout` field.

use std::ops::Range;

use crate::pieces::Pieces;
use crate::plan::{Plan, Steps};

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

    /// Layers of the cache.
    pub const fn layers(&self) -> u32 {
        self.cache.shape.layers
    }

    /// Length in bytes of an object of `page_count` pages; divide by the layers for that of one.
    /// The longest there is if it fits no number, which no object has that the cache has pages for.
    pub fn object_bytes(&self, page_count: u32) -> u64 {
        let shape = &self.cache.shape;
        let extents = extents(shape, page_count).into_iter().map(u64::from);
        extents.fold(u64::from(shape.head_bytes), u64::saturating_mul)
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
        self.walk(pages.len() as u32, pages, layers)
    }

    /// What to copy for `layers` of each page of an object of `object_pages` pages.
    ///
    /// # Errors
    /// As [`Layout::pieces`]; no object has 0 pages.
    pub fn plan(&self, object_pages: u32, layers: Range<u32>) -> Result<Plan, LayoutError> {
        if object_pages == 0 || object_pages > self.cache.page_count {
            return Err(LayoutError::Pages);
        }
        let extents = extents(&self.cache.shape, object_pages);
        let object_strides = self.order.strides(extents, self.cache.shape.head_bytes)?;
        let pieces = self.walk(object_pages, &[0], layers)?.collect();
        let steps = Steps {
            object: object_strides[Page as usize],
            device: self.cache.page_stride,
            pages: object_pages,
            page_count: self.cache.page_count,
        };
        Ok(Plan::new(pieces, steps))
    }

    /// `pages` of an object that has `object_pages` in all.
    fn walk<'a>(
        &'a self,
        object_pages: u32,
        pages: &'a [u32],
        layers: Range<u32>,
    ) -> Result<Pieces<'a>, LayoutError> {
        let cache = &self.cache;
        if layers.start > layers.end || layers.end > cache.shape.layers {
            return Err(LayoutError::Layers);
        }
        let mut extents = extents(&cache.shape, object_pages);
        let object_strides = self.order.strides(extents, cache.shape.head_bytes)?;
        extents[Layer as usize] = layers.end - layers.start;
        extents[Page as usize] = pages.len() as u32;

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
pub(crate) const fn extents(shape: &Shape, page_count: u32) -> [u32; 5] {
    [shape.layers, shape.planes, page_count, shape.page_tokens, shape.heads]
}

const TOO_LONG: LayoutError = LayoutError::Impossible("an offset does not fit 64 bits");

#[cfg(test)]
mod tests;
