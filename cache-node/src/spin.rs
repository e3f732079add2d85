//! A shard with nothing to do looks for the next request for a while before it sleeps.
//!
//! To be woken takes longer than to answer a small request. What a reader would get wrong: a
//! connection that looks is runnable, so it keeps the runtime from polling. It takes a breath when
//! somebody waits for that, also when requests keep coming, and only a few look at a time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use larder_transport::{Luck, Spin};

use crate::core::Core;
use crate::tcp::Wire;

/// How the connections of one core wait.
#[derive(Debug)]
pub(crate) struct Spinning {
    luck: Cell<Luck>,
}

impl Spinning {
    pub(crate) fn new(spin: Spin) -> Self {
        Self { luck: Cell::new(Luck::new(spin)) }
    }

    /// Lets `work` have the luck that all connections of the core share.
    pub(crate) fn with_luck<R>(&self, work: impl FnOnce(&mut Luck) -> R) -> R {
        let mut luck = self.luck.get();
        let result = work(&mut luck);
        self.luck.set(luck);
        result
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

    /// Receives at least one byte of a request whose other bytes are here, awake until then: its
    /// peer makes them at this moment. Nobody else is polled for, since that takes as long.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub(crate) async fn await_rest(
        &mut self,
        core: &Core,
        until_us: u64,
        into: &mut [u8],
    ) -> io::Result<usize> {
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
        let look_for = core.spin.with_luck(|luck| luck.look_for(SPIN));
        if look_for.is_zero() {
            return None;
        }
        let polls = Rc::clone(&self.polls);
        let _looking = polls.look()?;
        let until_us = core.now_us() + look_for.as_micros() as u64;
        for turn in 1_u32.. {
            match self.receive_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    core.spin.with_luck(Luck::paid);
                    // A breath that is owed is taken once what came was served.
                    polls.ask_in_time();
                    return Some(received);
                }
            }
            let now_us = core.now_us();
            if now_us >= until_us || core.is_stopping() {
                core.spin.with_luck(Luck::did_not_pay);
                return None;
            }
            polls.ask_in_time();
            if polls.is_owed() {
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
pub(crate) const SPIN: Duration = Duration::from_micros(200);
/// As long as checksums of 2 MiB take: a guess, since they began before the copy that is done.
pub(crate) const REST_US: u64 = 100;
/// Looks between two times that the core is offered to other threads: that costs as much as a look.
pub(crate) const YIELD_EVERY: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_of_a_core_share_its_luck() {
        let spinning = Spinning::new(Spin::Auto);
        let looks = || !spinning.with_luck(|luck| luck.look_for(SPIN)).is_zero();
        assert!(looks());
        spinning.with_luck(Luck::did_not_pay);
        assert_eq!((0..6).filter(|_| looks()).count(), 2, "four waits slept");
        assert!(spinning.with_luck(|luck| luck.is_crowded(SPIN)));
        assert!(!looks());
    }
}
