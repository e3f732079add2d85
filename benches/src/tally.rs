//! What is counted while a trace runs, and the ratios that follow.
//!
//! Hits are counted before anything of the request is written. The prefix hit is the one that
//! matters: an object behind a hole is of no use to attention.

/// Counts of a run, the same for a model and for a real node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Requests looked up.
    pub requests: u64,
    /// Ids that they named.
    pub references: u64,
    /// References that were there.
    pub block_hits: u64,
    /// References that were there, and everything before them in their request too.
    pub prefix_hits: u64,
    /// Objects written.
    pub inserts: u64,
}

impl Tally {
    /// Counts one request; one verdict for each of its references, head first.
    pub fn count_lookup(&mut self, hits: &[bool]) {
        self.requests += 1;
        self.references += hits.len() as u64;
        self.block_hits += hits.iter().filter(|hit| **hit).count() as u64;
        self.prefix_hits += hits.iter().take_while(|hit| **hit).count() as u64;
    }

    /// Σ leading runs / Σ references, 0 to 1.
    pub fn prefix_hit(&self) -> f64 {
        ratio(self.prefix_hits, self.references)
    }

    /// References that were there / all references, 0 to 1.
    pub fn block_hit(&self) -> f64 {
        ratio(self.block_hits, self.references)
    }

    /// Objects written / all references.
    pub fn inserts_per_reference(&self) -> f64 {
        ratio(self.inserts, self.references)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_ends_the_prefix_but_not_the_hits() {
        let mut tally = Tally::default();
        tally.count_lookup(&[true, true, false, true]);
        tally.count_lookup(&[false]);
        assert_eq!((tally.prefix_hits, tally.block_hits, tally.references), (2, 3, 5));
        assert_eq!((tally.prefix_hit(), tally.block_hit()), (0.4, 0.6));
        assert_eq!(Tally::default().prefix_hit(), 0.0);
    }
}
