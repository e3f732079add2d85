//! The caches that are measured: one for each way that runtimes lay out the same bytes.

use larder_gpu_bridge::runtimes::{SGLANG_LAYER_FIRST, SGLANG_PAGE_FIRST, VLLM_NAMES, vllm_order};
use larder_gpu_bridge::{Layout, LayoutError, Order, PagedCache, Shape};

use crate::random::Random;

/// A cache, and objects of one page each in its own order.
#[derive(Debug, Clone)]
pub struct Case {
    /// What a runtime calls it.
    pub name: String,
    /// The cache and the objects.
    pub layout: Layout,
    /// Length of the cache.
    pub cache_bytes: u64,
}

/// 2 MiB a page: 32 layers, 16 tokens, 8 heads of 128 elements of 2 bytes, K and V.
const SHAPE: Shape = Shape { layers: 32, planes: 2, page_tokens: 16, heads: 8, head_bytes: 256 };

impl Case {
    /// All of them, of `page_count` pages each.
    ///
    /// # Errors
    /// None for a few thousand pages.
    pub fn all(page_count: u32) -> Result<Vec<Self>, LayoutError> {
        let fused = Shape { planes: 1, head_bytes: 512, ..SHAPE };
        let vllm = VLLM_NAMES.into_iter().filter_map(|name| {
            vllm_order(name).map(|order| (format!("vLLM {name}"), fused, order))
        });
        let latent = Shape { layers: 61, planes: 1, heads: 1, head_bytes: 1152, ..SHAPE };
        let thin = Shape { layers: 64, page_tokens: 8, ..SHAPE };
        let others = [
            ("K/V split".to_owned(), SHAPE, Order::PLANES_PAGES_NHD),
            ("K/V split, 16 KiB".to_owned(), thin, Order::PLANES_PAGES_NHD),
            ("SGLang layer_first".to_owned(), SHAPE, SGLANG_LAYER_FIRST),
            ("SGLang page_first".to_owned(), SHAPE, SGLANG_PAGE_FIRST),
            ("MLA".to_owned(), latent, Order::PLANES_PAGES_NHD),
        ];
        vllm.chain(others)
            .map(|(name, shape, order)| {
                let cache = PagedCache::dense(shape, page_count, order)?;
                let cache_bytes = cache.bytes()?;
                Ok(Self { name, layout: Layout::new(cache, order)?, cache_bytes })
            })
            .collect()
    }

    /// `bytes` bytes in a row, for the plain copy that all is compared with. At most 4 GiB.
    ///
    /// # Errors
    /// If there are none.
    pub fn plain(bytes: u64) -> Result<Layout, LayoutError> {
        let head_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let shape = Shape { layers: 1, planes: 1, page_tokens: 1, heads: 1, head_bytes };
        let order = Order::PAGE_FIRST_NHD;
        Layout::new(PagedCache::dense(shape, 1, order)?, order)
    }
}

/// `count` different pages of `page_count`, in no order.
pub fn some_pages(random: &mut Random, count: usize, page_count: u32) -> Vec<u32> {
    let mut pages: Vec<u32> = (0..page_count).collect();
    for at in 0..count {
        let other = at + random.below((pages.len() - at) as u64) as usize;
        pages.swap(at, other);
    }
    pages.truncate(count);
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_have_objects_of_the_size_that_is_spoken_of() {
        let cases = Case::all(8).unwrap();
        assert_eq!(cases.len(), 11);
        for case in &cases {
            let expected = if case.name == "MLA" { 61 * 16 * 1152 } else { 2 << 20 };
            assert_eq!(case.layout.object_bytes(1), expected, "{}", case.name);
            assert_eq!(case.cache_bytes, 8 * expected, "{}", case.name);
        }
        let thin = cases.iter().find(|case| case.name.contains("16 KiB")).unwrap();
        assert_eq!(thin.layout.plan(1, 0..64).unwrap().piece_bytes(), 16 << 10);
    }

    #[test]
    fn pages_differ() {
        let mut pages = some_pages(&mut Random::new(3), 100, 120);
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 100);
        assert!(pages.iter().all(|&page| page < 120));
    }
}
