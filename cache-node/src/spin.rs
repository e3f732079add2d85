//! A shard with nothing to do looks for the next request for a while before it sleeps.
//!
//! To be woken takes longer than to answer a small request. What a reader would get wrong: a
//! connection that looks is runnable, and the runtime polls I/O only when nothing is. So it takes a
//! breath now and then, also when requests keep coming, and only a few look at a time.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use larder_transport::{Luck, Spin};

use crate::core::Core;
use crate::tcp::Wire;

/// How the connections of one core wait.
#[derive(Debug)]
pub(crate) struct Spinning {
    luck: Cell<Luck>,
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
    pub(crate) fn new(spin: Spin) -> Self {
        let luck = Cell::new(Luck::new(spin));
        Self { luck, lookers: Cell::new(0), polled_us: Cell::new(0) }
    }

    fn begin(&self, now_us: u64) -> Option<Look<'_>> {
        let look_for = self.with_luck(|luck| luck.look_for(SPIN));
        if look_for.is_zero() || self.lookers.get() >= LOOKERS_MAX {
            return None;
        }
        self.lookers.set(self.lookers.get() + 1);
        Some(Look { spinning: self, until_us: now_us + look_for.as_micros() as u64 })
    }

    /// Lets `work` have the luck that all connections of the core share.
    fn with_luck<R>(&self, work: impl FnOnce(&mut Luck) -> R) -> R {
        let mut luck = self.luck.get();
        let result = work(&mut luck);
        self.luck.set(luck);
        result
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

    /// Receives at least one byte of a request whose other bytes are here, awake for a while: its
    /// peer makes them at this moment. Nobody else is polled for, since that takes as long.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub(crate) async fn await_rest(&mut self, core: &Core, into: &mut [u8]) -> io::Result<usize> {
        let until_us = core.now_us() + REST_US;
        while core.now_us() < until_us {
            match self.receive_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            futures_lite::future::yield_now().await;
        }
        self.read(into).await
    }

    /// Looks for bytes for as long as that is likely to pay; `None` if it is not, or did not.
    async fn look(&mut self, core: &Core, into: &mut [u8]) -> Option<io::Result<usize>> {
        let look = core.spin.begin(core.now_us())?;
        for turn in 1_u32.. {
            match self.receive_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    core.spin.with_luck(Luck::paid);
                    if core.spin.owes_poll(core.now_us(), core.stalls.len()) {
                        // Once what came was served.
                        self.owe_breath();
                    }
                    return Some(received);
                }
            }
            let now_us = core.now_us();
            if now_us >= look.until_us || core.is_stopping() {
                core.spin.with_luck(Luck::did_not_pay);
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
                let took = Duration::from_micros(core.now_us() - now_us);
                if core.spin.with_luck(|luck| luck.is_crowded(took)) {
                    return None;
                }
            }
        }
        None
    }
}

/// What a client on this host takes from an answer to its next request if it copies a megabyte in
/// between, measured on two cores of a VM.
const SPIN: Duration = Duration::from_micros(200);
/// As long as checksums of 2 MiB take: a guess, since they began before the copy that is done.
const REST_US: u64 = 100;
/// Looks between two times that the core is offered to other threads: that costs as much as a look.
const YIELD_EVERY: u32 = 8;
/// Each look costs all lookers a system call. A guess.
const LOOKERS_MAX: usize = 4;
/// How long connections that do not look may wait for those that do. A guess: as long as one look.
const POLL_US: u64 = 200;
/// The same where there are none: only new connections and the tick wait. A guess.
const POLL_LONE_US: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_of_a_core_share_its_luck() {
        let spinning = Spinning::new(Spin::Auto);
        let until_us = |now_us| spinning.begin(now_us).map(|look| look.until_us);
        assert_eq!(until_us(5), Some(205));
        spinning.with_luck(Luck::did_not_pay);
        assert_eq!((0..6).filter_map(until_us).count(), 2, "four waits slept");
        assert!(spinning.with_luck(|luck| luck.is_crowded(SPIN)));
        assert_eq!(until_us(5), None);
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
