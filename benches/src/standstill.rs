//! Notices that a run stands still, and says what its threads do meanwhile.
//!
//! What a reader would get wrong: a run that shows its progress between two steps shows nothing
//! when a step does not end, which is when somebody wants to know most.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_transport::process::{self, ThreadUse};

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
struct Threads(HashMap<u32, ThreadUse>);

impl Threads {
    /// Those that can be read; none where there is no `/proc`.
    fn now() -> Self {
        let threads = process::threads().unwrap_or_default();
        let used = |id| Some((id, process::thread_use(id).ok()?));
        Self(threads.into_iter().filter_map(used).collect())
    }

    /// A line: each thread, those that ran most first, and for how long since `before`.
    fn since(&self, before: &Self) -> String {
        let ran = |(id, thread): (&u32, &ThreadUse)| {
            let before = before.0.get(id).map_or(Duration::ZERO, |before| before.ran);
            (Reverse(thread.ran.saturating_sub(before)), thread.name.clone(), thread.state)
        };
        let mut threads: Vec<_> = self.0.iter().map(ran).collect();
        threads.sort();
        let line = threads.iter().map(|(Reverse(ran), name, state)| {
            format!("{name} {state} ran {:.2} s", ran.as_secs_f64())
        });
        line.collect::<Vec<_>>().join(", ")
    }
}

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
    fn threads_that_ran_most_come_first() {
        let thread = |name: &str, state, ms| ThreadUse {
            name: name.into(),
            state,
            ran: Duration::from_millis(ms),
        };
        let before = Threads([(7, thread("a", 'R', 9000))].into());
        let now = Threads([(7, thread("a", 'S', 9250)), (8, thread("b", 'R', 1310))].into());
        assert_eq!(now.since(&before), "b R ran 1.31 s, a S ran 0.25 s");
        assert_eq!(now.since(&now), "a S ran 0.00 s, b R ran 0.00 s");
    }
}
