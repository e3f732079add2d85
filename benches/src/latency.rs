//! How long operations took, as percentiles of an HDR histogram.
//!
//! What is recorded is the caller's choice of start. An open loop records from the moment when the
//! operation was *due*, so that waiting behind a slow one is not hidden.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations from 1 ns to a minute, three digits each.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the operations took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1,000 took no longer.
    pub p999_us: f64,
    /// None took longer.
    pub max_us: f64,
}

impl Latency {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, 3);
        Self(histogram.expect("the bounds are in order and 3 digits are supported"))
    }

    /// Records one operation; more than a minute counts as a minute.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(NANOS_MAX).max(1));
    }

    /// Adds what another thread recorded.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Durations in nanoseconds, and how often each was recorded: for another process.
    pub fn pairs(&self) -> Vec<(u64, u64)> {
        let seen = self.0.iter_recorded();
        seen.map(|seen| (seen.value_iterated_to(), seen.count_at_value())).collect()
    }

    /// Adds what another process recorded.
    pub fn add_pairs(&mut self, pairs: &[(u64, u64)]) {
        for &(nanos, count) in pairs {
            self.0.saturating_record_n(nanos.max(1), count);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many operations were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles; 0 if nothing was recorded.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        let max_us = if self.0.is_empty() { 0.0 } else { self.0.max() as f64 / 1000.0 };
        Percentiles { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

const NANOS_MAX: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_threads() {
        let (mut fast, mut slow) = (Latency::new(), Latency::new());
        (0..990).for_each(|_| fast.record(Duration::from_micros(100)));
        (0..10).for_each(|_| slow.record(Duration::from_millis(5)));
        fast.merge(&slow);
        let found = fast.percentiles();
        assert_eq!(fast.count(), 1000);
        assert!((found.p50_us - 100.0).abs() < 0.1, "{found:?}");
        assert!((found.p999_us - 5000.0).abs() < 5.0, "{found:?}");
        assert!((found.max_us - 5000.0).abs() < 5.0, "{found:?}");
    }

    #[test]
    fn pairs_bring_the_same_percentiles_to_another_process() {
        let (mut here, mut there) = (Latency::new(), Latency::new());
        (1..2000).for_each(|i| here.record(Duration::from_nanos(i * i)));
        there.add_pairs(&here.pairs());
        assert_eq!((here.count(), here.percentiles()), (there.count(), there.percentiles()));
    }

    #[test]
    fn absurd_durations_are_counted_too() {
        let mut latency = Latency::new();
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(1 << 40));
        assert_eq!(latency.count(), 2);
        assert_eq!(Latency::new().percentiles().max_us, 0.0);
    }
}
