//! Ends the process when an executor stands still: half a node that looks alive is worse than none.
//!
//! Time is counted in the watchdog's own periods, not by a clock: when the whole machine or process
//! was paused, the watchdog was too, and then nobody has stood still. What a reader would get
//! wrong: a shard that wants its core and is not given it stands still too, on a host whose other
//! programs are busy. That is no fault of its own, and it goes on as soon as it may.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_transport::process::{self, ThreadUse};

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
    let mut watch = Watch::new(state.shards.len(), ABORT_PERIODS, PERIOD);
    while hung_up.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        match watch.observe_node(state) {
            Verdict::Moving => {}
            Verdict::Starved { shard, periods } => {
                tracing::warn!(shard, periods, "a shard gets no processor: others have its core");
            }
            Verdict::Still { shard, periods } => {
                tracing::error!(shard, periods, "a shard stands still, the process ends");
                std::process::abort();
            }
        }
    }
}

/// Decides from the ticks seen in each period whether a shard stands still.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Vec<Seen>,
    periods_max: u32,
    period: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    ticks: Option<u64>,
    /// Without a tick, its own fault as far as one can tell.
    still_periods: u32,
    /// Without a tick, because others had its core.
    starved_periods: u32,
    /// How long its thread had run when it was last looked at, if it did not tick then.
    ran: Option<Duration>,
}

/// What one look at the ticks says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every shard that has not retired moves.
    Moving,
    /// This shard wants a core and was not given one for that many periods; told once.
    Starved {
        /// Which one; the first if there are several.
        shard: usize,
        /// How many periods of the observer.
        periods: u32,
    },
    /// This shard has not ticked for that many periods in which it might have.
    Still {
        /// Which one; the first if there are several.
        shard: usize,
        /// How many periods of the observer.
        periods: u32,
    },
}

impl Watch {
    /// A watch that calls a shard still after `periods_max` periods without a tick.
    pub(crate) fn new(shards: usize, periods_max: u32, period: Duration) -> Self {
        Self { seen: vec![Seen::default(); shards], periods_max, period }
    }

    /// One look at a node: nothing is expected of it before it is ready.
    pub(crate) fn observe_node(&mut self, state: &NodeState) -> Verdict {
        if state.phase() == Phase::Starting {
            return Verdict::Moving;
        }
        let use_of = |shard: usize| process::thread_use(state.shards[shard].thread()?).ok();
        self.observe(state.shards.iter().map(|counters| counters.ticks()), use_of)
    }

    /// One look, once a period, at the ticks of each shard; `None` for one that has retired. Asks
    /// for what the thread of a shard that did not tick has had of the processors.
    pub(crate) fn observe(
        &mut self,
        ticks: impl Iterator<Item = Option<u64>>,
        use_of: impl Fn(usize) -> Option<ThreadUse>,
    ) -> Verdict {
        let mut verdict = Verdict::Moving;
        for (shard, (seen, ticks)) in self.seen.iter_mut().zip(ticks).enumerate() {
            if ticks.is_none() || ticks != seen.ticks {
                *seen = Seen { ticks, ..Seen::default() };
                continue;
            }
            let now = use_of(shard);
            let before = std::mem::replace(&mut seen.ran, now.as_ref().map(|now| now.ran));
            let is_starved = now.zip(before).is_some_and(|(now, before)| {
                now.is_runnable() && now.ran.saturating_sub(before) < self.period / 2
            });
            if is_starved {
                seen.starved_periods += 1;
            } else {
                seen.still_periods += 1;
            }
            let (still, starved) = (seen.still_periods, seen.starved_periods);
            if still >= self.periods_max {
                return Verdict::Still { shard, periods: still };
            }
            if is_starved && starved == self.periods_max && verdict == Verdict::Moving {
                verdict = Verdict::Starved { shard, periods: starved };
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
        watch.observe(ticks.iter().copied(), |_| None)
    }

    #[test]
    fn a_shard_that_others_keep_from_its_core_is_told_of_and_not_still() {
        let ran = |ms, is_runnable| {
            let (name, state) = ("shard".into(), if is_runnable { 'R' } else { 'S' });
            Some(ThreadUse { name, state, ran: Duration::from_millis(ms) })
        };
        let mut watch = Watch::new(1, 10, PERIOD);
        let mut look =
            |thread: Option<ThreadUse>| watch.observe([Some(7)].into_iter(), |_| thread.clone());
        let starved = Verdict::Starved { shard: 0, periods: 10 };
        // What it had before is not known at the first look without a tick.
        let verdicts: Vec<_> = (0..200).map(|look_ms| look(ran(50 + look_ms, true))).collect();
        assert_eq!(verdicts.iter().position(|&verdict| verdict == starved), Some(11));
        assert_eq!(verdicts.iter().filter(|&&verdict| verdict != Verdict::Moving).count(), 1);
        // It runs and does not tick, or it waits for something else: both are its own fault.
        for is_runnable in [true, false] {
            let mut watch = Watch::new(1, 10, PERIOD);
            let looks = (0..12).map(|at| {
                let had = ran(if is_runnable { 60 * at } else { 0 }, is_runnable);
                watch.observe([Some(7)].into_iter(), |_| had.clone())
            });
            let still = Verdict::Still { shard: 0, periods: 10 };
            assert_eq!(looks.collect::<Vec<_>>()[10], still);
        }
    }

    #[test]
    fn a_shard_that_ticks_is_never_still() {
        let mut watch = Watch::new(2, 10, PERIOD);
        for tick in 0..100 {
            // The second one ticks in every ninth period only: slow, but alive.
            let verdict = look(&mut watch, &[Some(tick), Some(tick / 9)]);
            assert_eq!(verdict, Verdict::Moving, "{tick}");
        }
    }

    #[test]
    fn a_shard_is_still_after_so_many_periods_without_a_tick_and_no_sooner() {
        let mut watch = Watch::new(3, 10, PERIOD);
        for tick in 0..10 {
            assert_eq!(look(&mut watch, &[Some(tick), Some(7), Some(tick)]), Verdict::Moving);
        }
        let still = Verdict::Still { shard: 1, periods: 10 };
        assert_eq!(look(&mut watch, &[Some(10), Some(7), Some(10)]), still);
        assert_eq!(look(&mut watch, &[Some(11), Some(8), Some(11)]), Verdict::Moving);
    }

    #[test]
    fn a_shard_that_never_ticked_is_still_and_a_retired_one_is_not() {
        let mut watch = Watch::new(2, 3, PERIOD);
        let verdicts: Vec<_> = (0..4).map(|_| look(&mut watch, &[None, Some(0)])).collect();
        assert_eq!(verdicts[2], Verdict::Moving);
        assert_eq!(verdicts[3], Verdict::Still { shard: 1, periods: 3 });
    }

    #[test]
    fn nothing_is_expected_before_the_node_is_ready() {
        let state = NodeState::new(&Config::default());
        let mut watch = Watch::new(1, 2, PERIOD);
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
