//! Notices that a run stands still, and says what its threads do meanwhile.
//!
//! What a reader would get wrong: a run that shows its progress between two steps shows nothing
//! when a step does not end, which is when somebody wants to know most.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Watches a run from a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Standstill {
    steps: Arc<AtomicU64>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Standstill {
    /// Tells `say` how long the run has stood still, and what each thread did meanwhile, whenever
    /// `every` has passed without a [`Standstill::step`].
    ///
    /// # Errors
    /// If there is no thread left.
    pub fn watch(
        every: Duration,
        say: impl FnMut(Duration, &str) + Send + 'static,
    ) -> std::io::Result<Self> {
        let steps = Arc::new(AtomicU64::new(0));
        let (end, ended) = mpsc::channel::<()>();
        let (watched, mut say) = (Arc::clone(&steps), say);
        let watch = move || {
            let mut last = (Instant::now(), watched.load(Ordering::Relaxed), Threads::now());
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let (steps, threads) = (watched.load(Ordering::Relaxed), Threads::now());
                if steps == last.1 {
                    say(last.0.elapsed(), &threads.since(&last.2));
                } else {
                    last = (Instant::now(), steps, threads);
                }
            }
        };
        let thread = std::thread::Builder::new().name("larder-watch".into()).spawn(watch)?;
        Ok(Self { steps, end: Some(end), thread: Some(thread) })
    }

    /// The run has got on.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A `say` that panicked has told so.
            let _ = thread.join();
        }
    }
}

/// What the threads of this process have done so far, by their ids.
#[derive(Debug, Default)]
struct Threads(HashMap<u64, Thread>);

#[derive(Debug, Clone)]
struct Thread {
    name: String,
    /// As the kernel has it: `R` runs or wants to, `S` sleeps, `D` waits for the kernel.
    state: char,
    user_ticks: u64,
    system_ticks: u64,
}

impl Threads {
    /// Those that can be read; none where there is no `/proc`.
    fn now() -> Self {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            Some((id, Thread::parse(&fs::read_to_string(task.path().join("stat")).ok()?)?))
        });
        Self(threads.collect())
    }

    /// A line: each thread, those that did most first, with its CPU since `before`.
    fn since(&self, before: &Self) -> String {
        let spent = |(id, thread): (&u64, &Thread)| {
            let (user, system) =
                before.0.get(id).map_or((0, 0), |before| (before.user_ticks, before.system_ticks));
            let user = thread.user_ticks.saturating_sub(user);
            (user, thread.system_ticks.saturating_sub(system), thread.clone())
        };
        let mut threads: Vec<_> = self.0.iter().map(spent).collect();
        threads.sort_by_key(|(user, system, thread)| {
            (std::cmp::Reverse(user + system), thread.name.clone())
        });
        let mut line = String::new();
        for (user, system, Thread { name, state, .. }) in threads {
            let [user, system] = [user, system].map(|ticks| ticks as f64 / TICKS_PER_S);
            let comma = if line.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(line, "{comma}{name} {state} {user:.2} s user {system:.2} s system");
        }
        line
    }
}

impl Thread {
    /// Takes `/proc/PID/task/TID/stat` apart. The name stands in brackets and may hold any.
    fn parse(stat: &str) -> Option<Self> {
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let mut words = after.split_ascii_whitespace();
        let state = words.next()?.chars().next()?;
        let user_ticks = words.nth(10)?.parse().ok()?;
        let system_ticks = words.next()?.parse().ok()?;
        Some(Self { name, state, user_ticks, system_ticks })
    }
}

/// The unit of `/proc` on every architecture that we run on.
const TICKS_PER_S: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_still_is_told_of_and_who_steps_is_not() {
        let (told, tells) = mpsc::channel();
        let every = Duration::from_millis(20);
        let watch = Standstill::watch(every, move |still, threads| {
            told.send((still, threads.to_owned())).unwrap();
        })
        .unwrap();
        let (still, threads) = tells.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(still >= every, "{still:?}");
        assert!(threads.contains("larder-watch R "), "{threads}");
        let (longer, _) = tells.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(longer > still);
        // From a step on, it is counted anew.
        let stepped = Instant::now();
        watch.step();
        let anew = tells.iter().find(|(again, _)| *again < longer).unwrap();
        assert!(anew.0 <= stepped.elapsed());
        drop(watch);
        assert!(tells.iter().count() < 1000, "it ends");
    }

    #[test]
    fn a_thread_is_known_by_its_stat_whatever_its_name_is() {
        let stat = "77 (a ) (b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20";
        let thread = Thread::parse(stat).unwrap();
        assert_eq!((thread.name.as_str(), thread.state), ("a ) (b", 'S'));
        assert_eq!((thread.user_ticks, thread.system_ticks), (250, 31));
        assert!(Thread::parse("77 (short) S 1 2").is_none());
        let before = Threads::default();
        let now = Threads([(77, thread)].into());
        assert_eq!(now.since(&before), "a ) (b S 2.50 s user 0.31 s system");
        assert_eq!(now.since(&now), "a ) (b S 0.00 s user 0.00 s system");
    }
}
