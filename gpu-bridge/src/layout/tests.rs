//! Layouts against the definition of a dense array, element by element.

use proptest::prelude::*;

use super::*;
use crate::pieces::Piece;

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
    let one = PagedCache::dense(Shape { layers: 1, ..SHAPE }, 10, Order::PAGES_PLANES_NHD).unwrap();
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
    let long = Shape { layers: 1, planes: 1, page_tokens: 1, heads: 1 << 24, head_bytes: 1 << 24 };
    let layout = Layout::new(PagedCache::dense(long, 1, order).unwrap(), order).unwrap();
    assert_eq!(layout.object_bytes(u32::MAX), u64::MAX, "no object is shorter than it is");
    let layout = Layout::new(good(), order).unwrap();
    assert_eq!(layout.pieces(&[10], 0..1).err(), Some(LayoutError::Pages));
    assert_eq!(layout.pieces(&[0; 11], 0..1).err(), Some(LayoutError::Pages));
    assert_eq!(layout.pieces(&[0], 0..4).err(), Some(LayoutError::Layers));
}
