//! Whether a peer is worth asking: a breaker that opens on failure and closes on an answer.
//!
//! Pure: time and chance are arguments. What a reader would get wrong: while it is open nobody's
//! call tests the peer; probes do that in the background, further apart each time.

use std::time::{Duration, Instant};

/// Pauses between probes, and what counts as silence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Silence of this length while a deadline passes opens the circuit.
    pub(crate) suspect_after: Duration,
    /// First pause before a probe.
    pub(crate) pause_min: Duration,
    /// Longest pause between probes.
    pub(crate) pause_max: Duration,
}

/// The breaker of one peer.
#[derive(Debug)]
pub(crate) struct Circuit {
    patience: Patience,
    open: Option<Open>,
    chance: u64,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    probe_at: Instant,
    pause: Duration,
}

impl Circuit {
    /// A closed one. `seed` makes clients that lost the same peer probe it at different times.
    pub(crate) const fn new(patience: Patience, seed: u64) -> Self {
        Self { patience, open: None, chance: seed | 1 }
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A connection could not be made, or what came over it was wrong.
    pub(crate) fn failed(&mut self, now: Instant) {
        let pause = self
            .open
            .map_or(self.patience.pause_min, |open| (open.pause * 2).min(self.patience.pause_max));
        self.open = Some(Open { probe_at: now + self.jittered(pause), pause });
    }

    /// A deadline passed while the peer had been silent since `silent_since`. Whether this opened
    /// the circuit.
    pub(crate) fn deadline_missed(&mut self, now: Instant, silent_since: Instant) -> bool {
        let silence = now.saturating_duration_since(silent_since);
        if self.is_open() || silence < self.patience.suspect_after {
            return false;
        }
        self.failed(now);
        true
    }

    /// The peer answered something. Whether this closed the circuit.
    pub(crate) const fn answered(&mut self) -> bool {
        self.open.take().is_some()
    }

    /// When the next probe is due, if one ever is.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.open.map(|open| open.probe_at)
    }

    /// Says that a probe starts now; without an answer the next one comes later still.
    pub(crate) fn probe_started(&mut self, now: Instant) {
        if self.is_open() {
            self.failed(now);
        }
    }

    /// Between a half and the whole of `pause`.
    fn jittered(&mut self, pause: Duration) -> Duration {
        // Xorshift: chance enough to spread probes.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let half = pause / 2;
        half + half.mul_f64((self.chance >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        suspect_after: Duration::from_millis(50),
        pause_min: Duration::from_millis(50),
        pause_max: Duration::from_secs(2),
    };

    #[test]
    fn a_failure_opens_and_an_answer_closes() {
        let mut circuit = Circuit::new(PATIENCE, 1);
        assert!(!circuit.is_open() && !circuit.answered());
        circuit.failed(Instant::now());
        assert!(circuit.is_open() && circuit.probe_at().is_some());
        assert!(circuit.answered());
        assert!(!circuit.is_open() && circuit.probe_at().is_none());
    }

    #[test]
    fn a_missed_deadline_of_a_peer_that_talks_opens_nothing() {
        let mut circuit = Circuit::new(PATIENCE, 1);
        let now = Instant::now();
        let silent_since = now - Duration::from_millis(49);
        assert!(!circuit.deadline_missed(now, silent_since));
        assert!(circuit.deadline_missed(now + Duration::from_millis(1), silent_since));
        assert!(
            !circuit.deadline_missed(now + Duration::from_secs(9), silent_since),
            "open already"
        );
    }

    #[test]
    fn probes_come_further_apart_up_to_a_limit() {
        let mut circuit = Circuit::new(PATIENCE, 7);
        let mut now = Instant::now();
        circuit.failed(now);
        let mut pause = PATIENCE.pause_min;
        for _ in 0..12 {
            let next = circuit.probe_at().unwrap();
            let waited = next - now;
            assert!(waited >= pause / 2 && waited <= pause, "{waited:?} of {pause:?}");
            now = next;
            circuit.probe_started(now);
            pause = (pause * 2).min(PATIENCE.pause_max);
        }
        circuit.answered();
        circuit.failed(now);
        assert!(circuit.probe_at().unwrap() - now <= PATIENCE.pause_min, "starts over");
    }

    #[test]
    fn two_clients_do_not_probe_in_step() {
        let now = Instant::now();
        let mut probes: Vec<_> = (1..20)
            .map(|seed| {
                let mut circuit =
                    Circuit::new(PATIENCE, u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
                circuit.failed(now);
                circuit.probe_at().unwrap()
            })
            .collect();
        probes.dedup();
        assert!(probes.len() > 10);
    }
}
