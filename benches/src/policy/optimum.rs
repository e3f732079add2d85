//! The best that any policy could do with a trace, knowing what comes (Belady).
//!
//! After each request those objects stay whose next use is nearest; of equals the deepest goes. An
//! object is never needed later than what stands behind it in a chain, so chains are kept from
//! their head, and both the hits and the leading runs are as many as can be.

use std::collections::BTreeSet;

use super::{Score, Whole};

/// What a cache of `capacity` objects would hit at best.
pub fn optimum(whole: &Whole, capacity: usize) -> Score {
    let next_uses = next_uses(whole);
    let mut score = Score::default();
    let mut kept = Kept { capacity, uses: vec![None; whole.object_count()], last: BTreeSet::new() };
    let mut hits = Vec::new();
    let mut first = 0;
    for asked in whole.requests() {
        hits.clear();
        hits.extend(asked.ids.iter().map(|&id| kept.uses[id as usize].is_some()));
        score.count(asked.input_tokens, &hits);
        score.tally.inserts += hits.iter().filter(|hit| !**hit).count() as u64;
        for (&id, &next) in asked.ids.iter().zip(&next_uses[first..]) {
            kept.keep(id, next, whole.depths()[id as usize]);
        }
        kept.shrink();
        first += asked.ids.len();
    }
    score.objects = kept.last.len() as u64;
    score
}

/// What is resident.
struct Kept {
    capacity: usize,
    /// By object: the request that uses it next, if it is resident.
    uses: Vec<Option<u32>>,
    /// `(next use, depth, object)`: whoever has to go is the last.
    last: BTreeSet<(u32, u16, u32)>,
}

impl Kept {
    fn keep(&mut self, id: u32, next: u32, depth: u16) {
        if let Some(before) = self.uses[id as usize].replace(next) {
            self.last.remove(&(before, depth, id));
        }
        self.last.insert((next, depth, id));
    }

    fn shrink(&mut self) {
        while self.last.len() > self.capacity
            && let Some((_, _, id)) = self.last.pop_last()
        {
            self.uses[id as usize] = None;
        }
    }
}

/// For each reference the number of the request that uses its object next.
fn next_uses(whole: &Whole) -> Vec<u32> {
    let mut next_uses = vec![NEVER; whole.references().len()];
    let mut next_of = vec![NEVER; whole.object_count()];
    let mut end = next_uses.len();
    let lens: Vec<usize> = whole.requests().map(|asked| asked.ids.len()).collect();
    for (request, len) in (0u32..).zip(lens).collect::<Vec<_>>().into_iter().rev() {
        let references = end - len..end;
        end -= len;
        for at in references {
            let id = whole.references()[at] as usize;
            next_uses[at] = std::mem::replace(&mut next_of[id], request);
        }
    }
    next_uses
}

const NEVER: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::super::whole::tests::whole;
    use super::*;

    /// The most leading hits by trying every set of objects after every request.
    fn by_trying(whole: &Whole, capacity: usize) -> u64 {
        fn best(requests: &[Vec<u32>], resident: u32, capacity: u32) -> u64 {
            let Some((request, rest)) = requests.split_first() else { return 0 };
            let run = request.iter().take_while(|&&id| resident >> id & 1 == 1).count() as u64;
            let all = request.iter().fold(resident, |set, &id| set | 1 << id);
            let mut most = 0;
            let mut subset = all;
            loop {
                if subset.count_ones() == capacity.min(all.count_ones()) {
                    most = most.max(best(rest, subset, capacity));
                }
                if subset == 0 {
                    break;
                }
                subset = (subset - 1) & all;
            }
            run + most
        }
        let requests: Vec<_> = whole.requests().map(|asked| asked.ids.to_vec()).collect();
        best(&requests, 0, capacity as u32)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nobody_hits_more(
            chains in prop::collection::vec((0u64..2, 1u64..4), 1..6),
            capacity in 1usize..4,
        ) {
            let mut text = String::new();
            for (branch, len) in chains {
                // A shared head, then one of two branches.
                let id = |depth| if depth == 0 { 0 } else { 10 * branch + depth + 1 };
                let ids = (0..len).map(id);
                let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
                writeln!(text, "0 512 {}", ids.join(" ")).unwrap();
            }
            let whole = whole(&text);
            let score = optimum(&whole, capacity);
            prop_assert_eq!(score.tally.prefix_hits, by_trying(&whole, capacity));
            prop_assert_eq!(score.tally.prefix_hits, score.tally.block_hits);
        }
    }

    #[test]
    fn room_for_all_misses_only_what_is_new() {
        let whole = whole("0 1 1 2\n1 1 1 3\n2 1 1 2\n");
        let score = optimum(&whole, 3);
        assert_eq!((score.tally.prefix_hits, score.tally.inserts), (3, 3));
    }
}
