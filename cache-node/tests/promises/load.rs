//! Calls made again and again by several threads while something happens to the nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_client::{KeyError, KeyResult, Status};

use crate::limit::note_late;

/// What one call was answered. Whatever is none of these fails the test where it is seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Every key was found, stored or removed as it should be.
    Right,
    /// Some are not there.
    Miss,
    /// Some could not be asked about.
    Unanswered(KeyError),
}

/// One call: when, how long, how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) verdict: Verdict,
}

/// A call to repeat, by its round.
pub(crate) struct Repeated<'a> {
    name: &'static str,
    call: Box<dyn FnMut(u64) -> Verdict + Send + 'a>,
}

impl<'a> Repeated<'a> {
    pub(crate) fn new(name: &'static str, call: impl FnMut(u64) -> Verdict + Send + 'a) -> Self {
        Self { name, call: Box::new(call) }
    }
}

impl Verdict {
    /// Of one key.
    pub(crate) fn of<T>(answer: &KeyResult<T>) -> Self {
        match answer {
            Ok(_) => Self::Right,
            Err(KeyError::Status(Status::Miss)) => Self::Miss,
            Err(error) if error.is_unanswered() => Self::Unanswered(error.clone()),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Of several keys: the worst.
    pub(crate) fn of_all<T>(answers: &[KeyResult<T>]) -> Self {
        answers.iter().map(Self::of).fold(Self::Right, |worst, one| match (&worst, &one) {
            (Self::Unanswered(_), _) | (_, Self::Right) => worst,
            _ => one,
        })
    }
}

/// Repeats every call on a thread of its own while `during` runs. All samples, oldest first.
pub(crate) fn under_load(calls: Vec<Repeated<'_>>, during: impl FnOnce()) -> Vec<Sample> {
    let over = AtomicBool::new(false);
    let mut samples: Vec<Sample> = std::thread::scope(|scope| {
        let over = &over;
        let end = EndsLoad(over);
        let threads = calls.into_iter().map(|calls| scope.spawn(move || repeat(calls, over)));
        let threads: Vec<_> = threads.collect();
        during();
        drop(end);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    samples.sort_by_key(|sample| sample.began);
    samples
}

fn repeat(mut calls: Repeated<'_>, over: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let verdict = (calls.call)(round);
        let took = began.elapsed();
        samples.push(Sample { name: calls.name, began, took, verdict });
        // Calls that are refused at once would otherwise take the core from those that are not.
        std::thread::sleep(Duration::from_millis(1));
    }
    samples
}

/// Ends the load however the test goes on, or its threads would be waited for in vain.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks that no call took longer than this; for tests that run alone.
pub(crate) fn expect_on_time<'a>(samples: impl IntoIterator<Item = &'a Sample>, at_most: Duration) {
    if let Some(longest) = samples.into_iter().max_by_key(|sample| sample.took)
        && longest.took > at_most
    {
        note_late(format!("{longest:?}"));
    }
}
