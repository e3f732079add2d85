//! What plain LRU does with a trace: the model that a real node is compared with.
//!
//! Naive on purpose. "Tail to head" is the order of the touches inside one request: the head of a
//! chain ends youngest, so chains are evicted from their end and keep no holes.

use std::collections::BTreeMap;

use ahash::AHashMap;

use crate::tally::Tally;
use crate::trace::Request;

/// An LRU cache of ids that are all of one size.
#[derive(Debug)]
pub struct Lru {
    capacity: usize,
    stamp: u64,
    stamp_by_id: AHashMap<u64, u64>,
    id_by_stamp: BTreeMap<u64, u64>,
}

impl Lru {
    /// Room for `capacity` ids, at least one.
    pub fn new(capacity: usize) -> Self {
        let (stamp_by_id, id_by_stamp) = (AHashMap::new(), BTreeMap::new());
        Self { capacity: capacity.max(1), stamp: 0, stamp_by_id, id_by_stamp }
    }

    /// Whether `id` is there; changes no order.
    pub fn contains(&self, id: u64) -> bool {
        self.stamp_by_id.contains_key(&id)
    }

    /// Uses `id`, and writes it if it is missing; whether it was there.
    pub fn access(&mut self, id: u64) -> bool {
        self.stamp += 1;
        let before = self.stamp_by_id.insert(id, self.stamp);
        if let Some(before) = before {
            self.id_by_stamp.remove(&before);
        } else if self.stamp_by_id.len() > self.capacity {
            let (_, oldest) = self.id_by_stamp.pop_first().expect("a full cache has an oldest id");
            self.stamp_by_id.remove(&oldest);
        }
        self.id_by_stamp.insert(self.stamp, id);
        before.is_some()
    }

    /// One request: looks all its ids up as the cache stands, then uses them tail to head.
    pub fn request(&mut self, request: &Request, tally: &mut Tally) {
        let hits: Vec<bool> = request.ids.iter().map(|&id| self.contains(id)).collect();
        tally.count_lookup(&hits);
        for &id in request.ids.iter().rev() {
            if !self.access(id) {
                tally.inserts += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Trace, bundled};

    /// Single accesses, head to tail: hits and references.
    fn one_at_a_time(trace: Trace, capacity: usize) -> (u64, u64) {
        let mut lru = Lru::new(capacity);
        let (mut hits, mut references) = (0, 0);
        for request in trace {
            for id in request.unwrap().ids {
                references += 1;
                hits += u64::from(lru.access(id));
            }
        }
        (hits, references)
    }

    fn whole_requests(trace: Trace, capacity: usize) -> Tally {
        let mut lru = Lru::new(capacity);
        let mut tally = Tally::default();
        trace.for_each(|request| lru.request(&request.unwrap(), &mut tally));
        tally
    }

    /// The whole trace, if `LARDER_TRACE_DIR` says where traces are.
    fn conversation() -> Option<Trace> {
        let Some(folder) = std::env::var_os("LARDER_TRACE_DIR") else {
            eprintln!("skipped: LARDER_TRACE_DIR does not say where the whole trace is");
            return None;
        };
        let path = std::path::Path::new(&folder).join("mooncake/conversation_trace.jsonl");
        Some(Trace::open(&path).unwrap())
    }

    #[test]
    fn the_oldest_id_goes_first() {
        let mut lru = Lru::new(2);
        assert_eq!([1, 2, 1, 3].map(|id| lru.access(id)), [false, false, true, false]);
        assert!(lru.contains(1) && !lru.contains(2) && lru.contains(3));
    }

    #[test]
    fn the_sample_gives_what_an_independent_program_gave() {
        // An OrderedDict in Python, once by request and once access by access.
        for (capacity, hits, inserts, single) in [
            (1000, 3273, 77_360, 3259),
            (4000, 7081, 73_560, 7059),
            (8000, 14_277, 66_407, 14_224),
            (16_000, 20_464, 60_155, 20_464),
            (usize::MAX, 25_332, 55_287, 25_332),
        ] {
            let tally = whole_requests(bundled(), capacity);
            assert_eq!((tally.requests, tally.references), (3000, 80_619));
            assert_eq!((tally.prefix_hits, tally.block_hits), (hits, hits), "{capacity}");
            assert_eq!(tally.inserts, inserts, "{capacity}");
            assert_eq!(one_at_a_time(bundled(), capacity), (single, 80_619), "{capacity}");
        }
    }

    #[test]
    #[ignore = "needs LARDER_TRACE_DIR, a folder with mooncake/conversation_trace.jsonl"]
    fn the_whole_trace_gives_the_published_values() {
        for (capacity, ratio) in [(1828, 0.052_270), (10_000, 0.211_165), (45_698, 0.353_477)] {
            let Some(trace) = conversation() else { return };
            let (hits, references) = one_at_a_time(trace, capacity);
            assert_eq!(references, 288_500);
            let found = hits as f64 / references as f64;
            assert!((found - ratio).abs() < 5e-7, "{capacity}: {found}");
        }
        for (capacity, percent) in [(18_279, 27.89), (1 << 20, 36.64)] {
            let Some(trace) = conversation() else { return };
            let found = 100.0 * whole_requests(trace, capacity).prefix_hit();
            assert!((found - percent).abs() < 0.005, "{capacity}: {found}");
        }
    }
}
