//! When operations are due: at random times of a given rate, whatever became of those before.
//!
//! Times come from the schedule, never from the last answer. Latency counted from them holds the
//! waiting that a slow answer causes, which a closed loop would hide.

use std::time::{Duration, Instant};

use crate::random::Random;

/// Due times of a Poisson process.
#[derive(Debug)]
pub(super) struct Arrivals {
    random: Random,
    per_s: f64,
    next: Instant,
}

impl Arrivals {
    /// `per_s` operations a second on average, more than 0, from `start` on.
    pub(super) fn new(start: Instant, per_s: f64, seed: u64) -> Self {
        let mut arrivals = Self { random: Random::new(seed), per_s, next: start };
        arrivals.advance();
        arrivals
    }

    /// When the next operation is due.
    pub(super) const fn due(&self) -> Instant {
        self.next
    }

    /// Goes on to the one after it.
    pub(super) fn advance(&mut self) {
        let gap_s = -(1.0 - self.random.unit()).ln() / self.per_s;
        self.next += Duration::from_secs_f64(gap_s.min(GAP_S_MAX));
    }
}

const GAP_S_MAX: f64 = 3600.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_their_rate_and_are_not_even() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start, 1000.0, 7);
        let until = start + Duration::from_secs(20);
        let mut gaps = Vec::new();
        while arrivals.due() < until {
            let before = arrivals.due();
            arrivals.advance();
            gaps.push((arrivals.due() - before).as_secs_f64());
        }
        assert!((19_000..21_000).contains(&gaps.len()), "{}", gaps.len());
        let short = gaps.iter().filter(|gap| **gap < 0.001).count() as f64 / gaps.len() as f64;
        assert!((short - 0.632).abs() < 0.02, "1 - 1/e of the gaps are below the mean: {short}");
    }
}
