//! Many calls, one descriptor: answers are queued and a poller is told once.
//!
//! The descriptor is readable while answers wait. `drain` never waits and empties both; an answer
//! that comes between the two makes it readable again, so none is missed. Objects that lie in the
//! memory of a node on this host are copied by the thread that takes their answers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_transport::EventFd;

use crate::call::{Outcome, Pending, Uncopied};
use crate::error::Error;

/// Collects the answers of calls. Cheap to clone; clones share one queue and one descriptor.
#[derive(Debug, Clone)]
pub struct CompletionQueue {
    queue: Arc<Queue>,
}

/// An answer from a [`CompletionQueue`].
#[derive(Debug)]
pub struct Completion {
    /// What the caller named the call.
    pub token: u64,
    /// Its answer.
    pub outcome: Result<Outcome, Error>,
}

/// Whoever takes answers of calls that nobody waits for.
pub(crate) trait Sink: std::fmt::Debug + Send + Sync {
    /// Takes the answer of the call that was named `token`, at the helm: it does not wait.
    fn push(&self, token: u64, outcome: Result<Uncopied, Error>);
}

#[derive(Debug)]
struct Queue {
    answers: Mutex<Answers>,
    arrived: Condvar,
    event: EventFd,
}

#[derive(Debug, Default)]
struct Answers {
    list: Vec<(u64, Result<Uncopied, Error>)>,
    /// How many threads sleep in [`CompletionQueue::wait`].
    sleepers: u32,
    /// Whether somebody has the descriptor: until then nobody polls it, and it does not ring.
    is_polled: bool,
}

impl CompletionQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// [`Error::System`] if the process may not open another descriptor.
    pub fn new() -> Result<Self, Error> {
        let event =
            EventFd::new().map_err(|e| Error::System { what: "eventfd", kind: e.kind() })?;
        let (answers, arrived) = (Mutex::default(), Condvar::new());
        Ok(Self { queue: Arc::new(Queue { answers, arrived, event }) })
    }

    /// Takes the answer of `call` when it comes, under `token`. Tokens may repeat.
    pub fn watch<T>(&self, token: u64, call: Pending<T>) {
        let queue = Arc::clone(&self.queue);
        call.deliver(queue, token);
    }

    /// The descriptor to poll for reading. It stays the queue's: do not read or close it.
    pub fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// All answers so far, oldest first. Never waits; what is left to be copied is copied now.
    pub fn drain(&self) -> Vec<Completion> {
        let now = Instant::now();
        self.queue.drain(self.queue.lock(), now)
    }

    /// All answers so far; blocks up to `timeout` for the first.
    pub fn wait(&self, timeout: Duration) -> Vec<Completion> {
        let now = Instant::now();
        let mut answers = self.queue.lock();
        if answers.list.is_empty() {
            let until = now.checked_add(timeout);
            loop {
                let left = until
                    .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    break;
                }
                answers.sleepers += 1;
                let woken = self.queue.arrived.wait_timeout(answers, left);
                answers = woken.unwrap_or_else(PoisonError::into_inner).0;
                answers.sleepers -= 1;
                if !answers.list.is_empty() {
                    break;
                }
            }
        }
        self.queue.drain(answers, now)
    }
}

impl AsFd for CompletionQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let mut answers = self.queue.lock();
        if !answers.is_polled {
            answers.is_polled = true;
            if !answers.list.is_empty() {
                self.queue.event.ring();
            }
        }
        self.queue.event.as_fd()
    }
}

impl Sink for Queue {
    fn push(&self, token: u64, outcome: Result<Uncopied, Error>) {
        let mut answers = self.lock();
        answers.list.push((token, outcome));
        if answers.list.len() == 1 {
            if answers.is_polled {
                // Under the lock, or a drain in between would leave it readable for nothing.
                self.event.ring();
            }
            if answers.sleepers > 0 {
                self.arrived.notify_all();
            }
        }
    }
}

impl Queue {
    /// Takes all answers for a thread that has waited for them since `awaited_since`.
    fn drain(
        &self,
        mut answers: MutexGuard<'_, Answers>,
        awaited_since: Instant,
    ) -> Vec<Completion> {
        if answers.is_polled && !answers.list.is_empty() {
            self.event.drain();
        }
        let list = std::mem::take(&mut answers.list);
        drop(answers);
        let completed = list.into_iter().map(|(token, outcome)| Completion {
            token,
            outcome: outcome.map(|left: Uncopied| left.complete(Some(awaited_since))),
        });
        completed.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
