//! What runtimes call the layouts of their caches, in our words.
//!
//! What a reader would get wrong: a name fixes the order of the bytes and nothing else. Sizes,
//! padding and where each layer's tensor begins are the running process's to say, and between two
//! versions of a runtime the same name may mean another order, so that the version belongs into the
//! namespace beside it.

use crate::layout::Axis::{self, Head, Layer, Page, Plane, Token};
use crate::layout::Order;

/// vLLM's name of a physical order, as its `kv_cache_layout` says it since 0.32: a letter each for
/// layers, blocks, heads and tokens, and then C, which is K and V of one head and token side by
/// side. So there is one plane, and a head has the bytes of both.
///
/// `None` if it is not a name of that kind.
pub fn vllm_order(name: &str) -> Option<Order> {
    let letters = name.strip_suffix('C')?;
    let mut axes = [Plane; 5];
    let mut count = 0;
    for letter in letters.chars() {
        let axis: Axis = match letter {
            'L' => Layer,
            'B' => Page,
            'H' => Head,
            'N' => Token,
            _ => return None,
        };
        if count == 4 || axes[..count].contains(&axis) {
            return None;
        }
        axes[count] = axis;
        count += 1;
    }
    (count == 4).then_some(Order(axes))
}

/// The orders that vLLM 0.32 and 0.33 can have.
pub const VLLM_NAMES: [&str; 6] = ["LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC"];

/// SGLang's host pool `layer_first`: K and V apart, a layer after the other, its tokens in a row.
pub const SGLANG_LAYER_FIRST: Order = Order([Plane, Layer, Page, Token, Head]);

/// SGLang's host pool `page_first`: K and V apart, all layers of a token together.
pub const SGLANG_PAGE_FIRST: Order = Order([Plane, Page, Token, Layer, Head]);

/// SGLang's host pool `page_first_direct`: K and V apart, all layers of a page together, each with
/// its tokens in a row.
pub const SGLANG_PAGE_FIRST_DIRECT: Order = Order([Plane, Page, Layer, Token, Head]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, PagedCache, Shape};
    use crate::pieces::Piece;

    const SHAPE: Shape = Shape { layers: 3, planes: 1, page_tokens: 4, heads: 2, head_bytes: 10 };
    const PAGES: u32 = 5;

    /// Row-major offset of an element, by the letters of the name alone.
    fn by_letters(name: &str, at: &dyn Fn(char) -> u64, extent: &dyn Fn(char) -> u64) -> u64 {
        let letters = name.chars().filter(|&letter| letter != 'C');
        letters.fold(0, |sum, letter| sum * extent(letter) + at(letter)) * 10
    }

    #[test]
    fn each_order_of_vllm_is_where_its_letters_say() {
        let extent = |letter| match letter {
            'L' => 3,
            'B' => u64::from(PAGES),
            'H' => 2,
            _ => 4,
        };
        for name in VLLM_NAMES {
            let order = vllm_order(name).unwrap();
            let cache = PagedCache::dense(SHAPE, PAGES, order).unwrap();
            let layout = Layout::new(cache, Order::PAGE_FIRST_NHD).unwrap();
            let mut object = 0;
            let mut places = vec![None; layout.object_bytes(2) as usize];
            for piece in layout.pieces(&[4, 1], 0..3).unwrap() {
                for byte in 0..piece.bytes {
                    let place = &mut places[(piece.object_offset + byte) as usize];
                    assert_eq!(place.replace(piece.device_offset + byte), None, "{name}");
                }
            }
            for (page, layer, token, head) in (0..2 * 3 * 4 * 2_u64)
                .map(|n| ([4, 1][n as usize / 24], n / 8 % 3, n / 2 % 4, n % 2))
            {
                let at = |letter| match letter {
                    'L' => layer,
                    'B' => page,
                    'H' => head,
                    _ => token,
                };
                let expected = by_letters(name, &at, &extent);
                for byte in 0..10 {
                    assert_eq!(places[object], Some(expected + byte), "{name}");
                    object += 1;
                }
            }
        }
        for bad in ["", "C", "LBHN", "LBHC", "LBHHC", "LBHNNC", "LBHXC", "lbhnc"] {
            assert_eq!(vllm_order(bad), None, "{bad}");
        }
    }

    /// What was seen of a CPU engine: tensors `[4096, 4, 128, 64]` of 2-byte elements with strides
    /// `[32768, 8192, 64, 1]`, one run of 64 KiB for each block and layer.
    #[test]
    fn strides_of_a_real_engine_are_those_of_its_name() {
        let shape = Shape { layers: 4, planes: 1, page_tokens: 128, heads: 4, head_bytes: 128 };
        let order = vllm_order("LBHNC").unwrap();
        let cache = PagedCache::dense(shape, 4096, order).unwrap();
        assert_eq!([cache.page_stride, cache.head_stride, cache.token_stride], [65536, 16384, 128]);
        let plan = Layout::new(cache, order).unwrap().plan(1, 0..4).unwrap();
        assert_eq!((plan.page_pieces().len(), plan.piece_bytes()), (4, 64 << 10));
    }

    #[test]
    fn pools_of_sglang_have_as_many_runs_a_page_as_it_says() {
        let shape = Shape { layers: 8, planes: 2, page_tokens: 64, heads: 8, head_bytes: 256 };
        let latent = Shape { planes: 1, heads: 1, head_bytes: 1152, ..shape };
        for (order, runs, latent_runs) in [
            (SGLANG_LAYER_FIRST, 16, 8),
            (SGLANG_PAGE_FIRST, 2, 1),
            (SGLANG_PAGE_FIRST_DIRECT, 2, 1),
        ] {
            for (shape, runs) in [(shape, runs), (latent, latent_runs)] {
                let cache = PagedCache::dense(shape, 10, order).unwrap();
                let plan = Layout::new(cache, order).unwrap().plan(1, 0..8).unwrap();
                assert_eq!(plan.page_pieces().len(), runs, "{order:?}");
            }
        }
    }

    /// Groups of a hybrid model take their pages from one pool: layer i of each group is the same
    /// tensor, seen with the group's own sizes, and a page is of one group at a time.
    #[test]
    fn groups_of_a_hybrid_model_share_memory_and_not_bytes() {
        let attention =
            Shape { layers: 2, planes: 1, page_tokens: 16, heads: 4, head_bytes: 1 << 10 };
        // A state that is not by token: one of them a page, shorter than the page.
        let state = Shape { layers: 2, planes: 1, page_tokens: 1, heads: 1, head_bytes: 40_000 };
        let order = vllm_order("LBNHC").unwrap();
        let pool = PagedCache::dense(attention, 6, order).unwrap();
        let padded = PagedCache {
            starts: pool.starts.clone(),
            page_stride: pool.page_stride,
            ..PagedCache::dense(state, 6, order).unwrap()
        };
        assert!(padded.bytes().unwrap() <= pool.bytes().unwrap());
        let of = |cache: PagedCache, pages: &[u32]| -> Vec<Piece> {
            Layout::new(cache, order)
                .unwrap()
                .plan(pages.len() as u32, 0..2)
                .unwrap()
                .pieces(pages)
                .collect()
        };
        let (attention, state) = (of(pool, &[0, 3]), of(padded, &[1, 4]));
        assert_eq!(state.iter().map(|p| p.bytes).collect::<Vec<_>>(), [40_000; 4]);
        let meet = |a: &Piece, b: &Piece| {
            a.device_offset < b.device_offset + b.bytes
                && b.device_offset < a.device_offset + a.bytes
        };
        assert!(!attention.iter().any(|a| state.iter().any(|s| meet(a, s))));
    }
}
