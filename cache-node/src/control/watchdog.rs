//! Ends the process when an executor stands still: half a node that looks alive is worse than none.
//!
//! Time is counted in the watchdog's own periods, not by a clock: when the whole machine or process
//! was paused, the watchdog was too, and then nobody has stood still.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::counters::{NodeState, Phase};

/// The thread that watches. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// Taken when the thread shall end: it waits for the other side to hang up.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch the executors of a node, from when it is ready.
    pub(crate) fn spawn(state: Arc<NodeState>) -> io::Result<Self> {
        let (alive, hung_up) = channel();
        let thread = std::thread::Builder::new()
            .name("larder-watchdog".into())
            .spawn(move || watch(&state, &hung_up))?;
        Ok(Self { alive: Some(alive), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.alive.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watchdog had panicked");
        }
    }
}

fn watch(state: &NodeState, hung_up: &Receiver<()>) {
    let mut watch = Watch::new(state.shards.len(), ABORT_PERIODS);
    while hung_up.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        if let Verdict::Still { shard, periods } = watch.observe_node(state) {
            tracing::error!(shard, periods, "a shard stands still, the process ends");
            std::process::abort();
        }
    }
}

/// Decides from the ticks seen in each period whether a shard stands still.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Vec<Seen>,
    periods_max: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    ticks: Option<u64>,
    still_periods: u32,
}

/// What one look at the ticks says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every shard that has not retired moves.
    Moving,
    /// This shard has not ticked for that many periods.
    Still {
        /// Which one; the first if there are several.
        shard: usize,
        /// How many periods of the observer.
        periods: u32,
    },
}

impl Watch {
    /// A watch that calls a shard still after `periods_max` periods without a tick.
    pub(crate) fn new(shards: usize, periods_max: u32) -> Self {
        Self { seen: vec![Seen::default(); shards], periods_max }
    }

    /// One look at a node: nothing is expected of it before it is ready.
    pub(crate) fn observe_node(&mut self, state: &NodeState) -> Verdict {
        if state.phase() == Phase::Starting {
            return Verdict::Moving;
        }
        self.observe(state.shards.iter().map(|counters| counters.ticks()))
    }

    /// One look, once a period, at the ticks of each shard; `None` for one that has retired.
    pub(crate) fn observe(&mut self, ticks: impl Iterator<Item = Option<u64>>) -> Verdict {
        let mut verdict = Verdict::Moving;
        for (shard, (seen, ticks)) in self.seen.iter_mut().zip(ticks).enumerate() {
            let moved = ticks.is_none() || ticks != seen.ticks;
            seen.ticks = ticks;
            seen.still_periods = if moved { 0 } else { seen.still_periods + 1 };
            if seen.still_periods >= self.periods_max && verdict == Verdict::Moving {
                verdict = Verdict::Still { shard, periods: seen.still_periods };
            }
        }
        verdict
    }
}

/// A shard's tick is as long, so one that lives is seen to move in nearly each period.
const PERIOD: Duration = Duration::from_millis(100);
/// A second, the longest that a client should take a standing node for a slow one.
const ABORT_PERIODS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    fn look(watch: &mut Watch, ticks: &[Option<u64>]) -> Verdict {
        watch.observe(ticks.iter().copied())
    }

    #[test]
    fn a_shard_that_ticks_is_never_still() {
        let mut watch = Watch::new(2, 10);
        for tick in 0..100 {
            // The second one ticks in every ninth period only: slow, but alive.
            let verdict = look(&mut watch, &[Some(tick), Some(tick / 9)]);
            assert_eq!(verdict, Verdict::Moving, "{tick}");
        }
    }

    #[test]
    fn a_shard_is_still_after_so_many_periods_without_a_tick_and_no_sooner() {
        let mut watch = Watch::new(3, 10);
        for tick in 0..10 {
            assert_eq!(look(&mut watch, &[Some(tick), Some(7), Some(tick)]), Verdict::Moving);
        }
        let still = Verdict::Still { shard: 1, periods: 10 };
        assert_eq!(look(&mut watch, &[Some(10), Some(7), Some(10)]), still);
        assert_eq!(look(&mut watch, &[Some(11), Some(8), Some(11)]), Verdict::Moving);
    }

    #[test]
    fn a_shard_that_never_ticked_is_still_and_a_retired_one_is_not() {
        let mut watch = Watch::new(2, 3);
        let verdicts: Vec<_> = (0..4).map(|_| look(&mut watch, &[None, Some(0)])).collect();
        assert_eq!(verdicts[2], Verdict::Moving);
        assert_eq!(verdicts[3], Verdict::Still { shard: 1, periods: 3 });
    }

    #[test]
    fn nothing_is_expected_before_the_node_is_ready() {
        let state = NodeState::new(&Config::default());
        let mut watch = Watch::new(1, 2);
        assert!((0..10).all(|_| watch.observe_node(&state) == Verdict::Moving));
        state.set_ready();
        let verdicts: Vec<_> = (0..3).map(|_| watch.observe_node(&state)).collect();
        assert_eq!(verdicts[2], Verdict::Still { shard: 0, periods: 2 });
    }

    #[test]
    fn a_process_with_a_shard_that_stands_still_is_aborted() {
        // The test starts itself once more, as the process to be aborted.
        const IS_VICTIM: &str = "LARDER_TEST_WATCHDOG_VICTIM";
        if std::env::var_os(IS_VICTIM).is_some() {
            let state = NodeState::new(&Config::default());
            state.set_ready();
            let _watchdog = Watchdog::spawn(Arc::clone(&state)).unwrap();
            std::thread::sleep(Duration::from_secs(30));
            return;
        }
        let test = concat!(module_path!(), "::a_process_with_a_shard_that_stands_still_is_aborted");
        let (_, test) = test.split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--test-threads=1"])
            .env(IS_VICTIM, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(6), "{output:?}");
    }

    #[test]
    fn a_dropped_watchdog_watches_no_more() {
        let state = NodeState::new(&Config::default());
        state.set_ready();
        drop(Watchdog::spawn(Arc::clone(&state)).unwrap());
        assert_eq!(Arc::strong_count(&state), 1);
    }
}
