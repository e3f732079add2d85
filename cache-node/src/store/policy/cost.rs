//! Where hits are counted by what it would cost to make an object again.
//!
//! An object deep in a chain takes more of a GPU's time than the chain's head: attention looks at
//! all that stands before it. What a reader would get wrong: cost moves memory within a namespace,
//! hardly from one to another. It is relative to the mean of what the namespace has on this shard,
//! as worth tells kinds of state apart by hits, and seconds of one model are not those of another.

use crate::namespace::NamespaceId;

/// Whose objects are weighed by cost, and how deep in their chains these are.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// Those of all are, and by nothing but their depth.
    of_all: bool,
    /// By the number of the namespace.
    weighed: Vec<Option<Depths>>,
}

/// The objects of a namespace that are here.
#[derive(Debug, Clone, Copy)]
struct Depths {
    count: u64,
    sum: u64,
    /// What an object costs in the mean, as it was when it was last worked out.
    mean_cost: Option<f32>,
}

impl Costs {
    /// Of all namespaces, or of none yet.
    pub(super) fn new(of_all: bool) -> Self {
        Self { of_all, weighed: Vec::new() }
    }

    /// Objects of a namespace that has none yet are weighed, or not.
    pub(super) fn weigh(&mut self, id: NamespaceId, is_weighed: bool) {
        let at = id.number() as usize;
        if is_weighed && self.weighed.len() <= at {
            self.weighed.resize(at + 1, None);
        }
        if let Some(depths) = self.weighed.get_mut(at) {
            let none = Depths { count: 0, sum: 0, mean_cost: None };
            *depths = is_weighed.then_some(none);
        }
    }

    /// Whether objects of all namespaces are weighed: then hits are no measure of anything.
    pub(super) fn are_of_all(&self) -> bool {
        self.of_all
    }

    /// An object came.
    pub(super) fn came(&mut self, id: NamespaceId, depth: u16) {
        if let Some(Some(depths)) = self.weighed.get_mut(id.number() as usize) {
            depths.count += 1;
            depths.sum += u64::from(depth);
        }
    }

    /// An object went.
    pub(super) fn went(&mut self, id: NamespaceId, depth: u16) {
        if let Some(Some(depths)) = self.weighed.get_mut(id.number() as usize) {
            depths.count -= 1;
            depths.sum -= u64::from(depth);
        }
    }

    /// Works the means out anew. In between factors stay as they are, so that objects that were
    /// judged at different moments can be compared.
    pub(super) fn settle(&mut self) {
        for depths in self.weighed.iter_mut().flatten() {
            let mean = (depths.count > 0).then(|| depths.sum as f32 / depths.count as f32);
            depths.mean_cost = mean.map(cost);
        }
    }

    /// By what the worth of an object is multiplied: the root of its cost, as the next victim of a
    /// class is as deep as it is, and stands for others that are not. (Of the conversation trace
    /// the whole cost saves less GPU time than none at all, with 5 and 10 % of the objects.)
    pub(super) fn factor(&self, id: NamespaceId, depth: u16) -> f32 {
        if self.of_all {
            return cost(f32::from(depth)).sqrt();
        }
        match self.weighed.get(id.number() as usize) {
            Some(Some(Depths { mean_cost: Some(mean), .. })) => {
                let factor = (cost(f32::from(depth)) / mean).sqrt();
                factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX)
            }
            _ => 1.0,
        }
    }
}

/// What making an object again costs, against making the head of its chain.
fn cost(depth: f32) -> f32 {
    1.0 + (2.0 * depth + 1.0) / (2.0 * COST_DEPTH)
}

/// The depth at which making an object again costs twice what the head costs: 52 objects of 512
/// tokens, where attention costs as much as all the rest (Llama-3-8B, from its shape).
const COST_DEPTH: f32 = 52.0;
/// Depth is what a client says, and an object that is worth much more than those behind it in its
/// list stands before them: so many times as much, at most (guessed).
const FACTOR_MAX: f32 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_relative_to_the_mean_of_a_namespace() {
        let ids = [0, 1].map(NamespaceId);
        let mut costs = Costs::new(false);
        costs.weigh(ids[1], true);
        costs.weigh(ids[0], false);
        for depth in [0, 52, 104] {
            ids.iter().for_each(|&id| costs.came(id, depth));
        }
        assert_eq!(costs.factor(ids[1], 52), 1.0, "nothing is settled yet");
        costs.settle();
        assert_eq!(costs.factor(ids[1], 52), 1.0);
        assert!(costs.factor(ids[1], 104) > 1.2 && costs.factor(ids[1], 0) < 0.8);
        assert_eq!(costs.factor(ids[0], 104), 1.0);
        assert_eq!(costs.factor(ids[1], u16::MAX), FACTOR_MAX, "whatever a client says");
        costs.went(ids[1], 104);
        costs.settle();
        assert_eq!(costs.factor(ids[1], 26), 1.0);
        [0, 52].into_iter().for_each(|depth| costs.went(ids[1], depth));
        costs.settle();
        assert_eq!(costs.factor(ids[1], 0), 1.0);
        costs.weigh(ids[1], false);
        assert_eq!(costs.factor(ids[1], 104), 1.0, "another's now");
    }

    #[test]
    fn where_all_are_weighed_depth_is_all_that_counts() {
        let costs = Costs::new(true);
        let factors = [0, 9].map(|id| costs.factor(NamespaceId(id), 52));
        assert!(factors[0] > 1.4 && factors[0] == factors[1] && costs.are_of_all());
    }

    #[test]
    fn cost_grows_with_depth() {
        assert!((cost(51.0) - 2.0).abs() < 0.02 && (cost(0.0) - 1.0).abs() < 0.01);
    }
}
