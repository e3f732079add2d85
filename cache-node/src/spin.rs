//! A shard with nothing to do looks for the next request for a while before it sleeps.
//!
//! To be woken takes longer than to answer a small request. What a reader would get wrong: a
//! connection that looks is runnable, and the runtime polls I/O only when nothing is. So it takes a
//! breath now and then, also when requests keep coming, and only a few look at a time.

use std::cell::Cell;
use std::io;

use crate::config::Spin;
use crate::core::Core;
use crate::tcp::Wire;

/// How the connections of one core wait.
#[derive(Debug)]
pub(crate) struct Spinning {
    setting: Spin,
    /// Above 0 if it mostly paid to look, below if it did not.
    luck: Cell<i32>,
    lookers: Cell<usize>,
    /// When the runtime was last made to poll.
    polled_us: Cell<u64>,
}

/// One connection that looks.
#[derive(Debug)]
struct Look<'a> {
    spinning: &'a Spinning,
    until_us: u64,
}

impl Spinning {
    pub(crate) fn new(setting: Spin) -> Self {
        let (luck, lookers, polled_us) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Self { setting, luck, lookers, polled_us }
    }

    fn begin(&self, now_us: u64) -> Option<Look<'_>> {
        let for_us = match self.setting {
            Spin::Off => return None,
            Spin::For(duration) => duration.as_micros() as u64,
            Spin::Auto if self.luck.get() >= 0 => SPIN_US,
            Spin::Auto => {
                // Each wait that slept brings the next try nearer.
                self.luck.set(self.luck.get() + 1);
                return None;
            }
        };
        if self.lookers.get() >= LOOKERS_MAX {
            return None;
        }
        self.lookers.set(self.lookers.get() + 1);
        Some(Look { spinning: self, until_us: now_us + for_us })
    }

    fn paid(&self) {
        self.luck.set((self.luck.get() + 1).min(LUCK_MAX));
    }

    fn did_not_pay(&self) {
        self.luck.set((self.luck.get() - UNLUCKY).max(-LUCK_MAX));
    }

    /// Whether somebody else had the core in the time of a look: whoever looks is made to wait for
    /// those who slept before.
    fn is_crowded(&self, look_us: u64) -> bool {
        let is_crowded = self.setting == Spin::Auto && look_us > CROWDED_US;
        if is_crowded {
            self.luck.set(-LUCK_MAX);
        }
        is_crowded
    }

    /// Whether the runtime has to poll the `connections` that do not look.
    fn owes_poll(&self, now_us: u64, connections: usize) -> bool {
        let every_us = if connections > self.lookers.get() { POLL_US } else { POLL_LONE_US };
        let owes = now_us >= self.polled_us.get() + every_us;
        if owes {
            self.polled_us.set(now_us);
        }
        owes
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.spinning.lookers.set(self.spinning.lookers.get() - 1);
    }
}

impl Wire {
    /// Receives at least one byte, awake for as long as that is likely to pay.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub(crate) async fn await_next(&mut self, core: &Core, into: &mut [u8]) -> io::Result<usize> {
        match self.look(core, into).await {
            Some(received) => received,
            None => self.read(into).await,
        }
    }

    /// Looks for bytes for as long as that is likely to pay; `None` if it is not, or did not.
    async fn look(&mut self, core: &Core, into: &mut [u8]) -> Option<io::Result<usize>> {
        let look = core.spin.begin(core.now_us())?;
        for turn in 1_u32.. {
            match self.receive_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    core.spin.paid();
                    if core.spin.owes_poll(core.now_us(), core.stalls.len()) {
                        // Once what came was served.
                        self.owe_breath();
                    }
                    return Some(received);
                }
            }
            let now_us = core.now_us();
            if now_us >= look.until_us || core.is_stopping() {
                core.spin.did_not_pay();
                return None;
            }
            if core.spin.owes_poll(now_us, core.stalls.len()) {
                self.breathe().await;
            } else {
                if turn.is_multiple_of(YIELD_EVERY) {
                    // Whoever is to send the next request may be waiting for this core.
                    std::thread::yield_now();
                }
                futures_lite::future::yield_now().await;
                if core.spin.is_crowded(core.now_us() - now_us) {
                    return None;
                }
            }
        }
        None
    }
}

/// What a client on this host takes from an answer to its next request if it copies a megabyte in
/// between, measured on two cores of a VM.
const SPIN_US: u64 = 200;
/// A look that finds nothing takes a microsecond. If it took this long, others ran meanwhile.
const CROWDED_US: u64 = 100;
/// Looks between two times that the core is offered to other threads: that costs as much as a look.
const YIELD_EVERY: u32 = 8;
/// A look that did not pay counts as much as so many that did. A guess: it has to pay mostly.
const UNLUCKY: i32 = 4;
/// After so many waits that slept, looking is tried again. A guess: one look in 64 is cheap.
const LUCK_MAX: i32 = 64;
/// Each look costs all lookers a system call. A guess.
const LOOKERS_MAX: usize = 4;
/// How long connections that do not look may wait for those that do. A guess: as long as one look.
const POLL_US: u64 = 200;
/// The same where there are none: only new connections and the tick wait. A guess.
const POLL_LONE_US: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn looking_stops_where_it_does_not_pay_and_is_tried_again() {
        let spinning = Spinning::new(Spin::Auto);
        let mut looks = 0;
        for _ in 0..1000 {
            if let Some(look) = spinning.begin(0) {
                looks += 1;
                assert_eq!(look.until_us, SPIN_US);
                spinning.did_not_pay();
            }
        }
        assert!((2..400).contains(&looks), "{looks}");
        let mut looks = 0;
        for _ in 0..1000 {
            if spinning.begin(0).is_some() {
                looks += 1;
                spinning.paid();
            }
        }
        assert!(looks > 900, "{looks}");
    }

    #[test]
    fn a_core_that_others_want_is_left_to_them_for_a_while() {
        let spinning = Spinning::new(Spin::Auto);
        (0..1000).for_each(|_| spinning.paid());
        assert!(!spinning.is_crowded(CROWDED_US));
        assert!(spinning.begin(0).is_some());
        assert!(spinning.is_crowded(CROWDED_US + 1));
        assert!((0..LUCK_MAX).all(|_| spinning.begin(0).is_none()));
        assert!(spinning.begin(0).is_some());
        assert!(!Spinning::new(Spin::For(Duration::from_secs(1))).is_crowded(u64::MAX));
    }

    #[test]
    fn few_look_at_a_time_and_the_others_are_polled() {
        let spinning = Spinning::new(Spin::For(Duration::from_micros(7)));
        let looks: Vec<_> = (0..LOOKERS_MAX).map(|_| spinning.begin(1).unwrap()).collect();
        assert_eq!(looks[0].until_us, 8);
        assert!(spinning.begin(1).is_none());
        let polls = (0..10_000).filter(|&us| spinning.owes_poll(us, LOOKERS_MAX));
        assert_eq!(polls.count() as u64, 10_000 / POLL_LONE_US - 1);
        drop(looks);
        assert!(spinning.begin(1).is_some());
        spinning.polled_us.set(0);
        let polls = (0..10_000).filter(|&us| spinning.owes_poll(us, 1));
        assert_eq!(polls.count() as u64, 10_000 / POLL_US - 1);
        assert!(Spinning::new(Spin::Off).begin(0).is_none());
    }
}
