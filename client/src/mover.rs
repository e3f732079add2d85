//! Who starts the calls of jobs, and copies what they bring: the twin of [`Jobs`](crate::Jobs).
//!
//! A mover takes what is small first, then answers to be copied, then what is large. What a reader
//! would get wrong: it never waits for a node. Answers come to the board from the helm, and those
//! without anything to copy are finished there.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use larder_protocol::Key;
use larder_transport::{EventFd, give_way_when_woken};

use crate::call::{Call, Outcome, Pending, Uncopied};
use crate::client::Client;
use crate::completion::Sink;
use crate::config::{GetOptions, MatchOptions, PutOptions};
use crate::error::{Error, KeyError};
use crate::jobs::Finished;
use crate::matched::MatchResult;
use crate::namespace::Namespace;
use crate::object::{OwnedPlace, Payload, PutObject};
use crate::wanting::{Kept, asking};

/// What callers and movers share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) state: Mutex<State>,
    /// There is something to move.
    pub(crate) work: Condvar,
    /// Somebody may have waited for a job that has finished.
    pub(crate) finished: Condvar,
    pub(crate) event: EventFd,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) last: u64,
    /// Small, and somebody's next step hangs on it: first.
    pub(crate) quick: VecDeque<Ask>,
    /// Answers to be copied.
    pub(crate) landed: VecDeque<(u64, Uncopied)>,
    pub(crate) bulk: VecDeque<Ask>,
    /// Puts that begin when the nodes have said what they want of them.
    pub(crate) asked: HashMap<u64, Ask>,
    /// Jobs without an answer.
    pub(crate) open: HashMap<u64, Open>,
    pub(crate) finished: VecDeque<Finished>,
    /// Movers that sleep, and callers.
    pub(crate) idle_movers: usize,
    pub(crate) waiters: usize,
    /// Who the movers are: none of them may wait for all jobs, as its own is one.
    pub(crate) movers: Vec<ThreadId>,
    pub(crate) is_polled: bool,
    pub(crate) is_closed: bool,
    /// A mover panicked: what comes is let go of, not copied.
    pub(crate) is_abandoned: bool,
}

/// A job without an answer.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Its call, once that was made.
    pub(crate) call: Option<Arc<Call>>,
    /// Whether its call is to be cancelled as soon as it is made.
    pub(crate) is_cancelled: bool,
}

/// A job that no mover has begun.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) job: u64,
    pub(crate) until: Instant,
    pub(crate) namespace: Namespace,
    pub(crate) what: What,
    /// Whether the nodes were asked what they want of it.
    pub(crate) is_asked: bool,
}

#[derive(Debug)]
pub(crate) enum What {
    Get(Vec<OwnedPlace>, GetOptions),
    Put(Vec<PutObject<Payload>>, PutOptions),
    Match(Vec<Key>, MatchOptions),
    Remove(Vec<Key>),
}

enum Task {
    Start(Ask),
    Copy(u64, Uncopied),
}

impl Board {
    pub(crate) fn new(event: EventFd) -> Self {
        let (work, finished) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::default(), work, finished, event }
    }

    /// The life of a mover: until the jobs are closed and all have ended.
    pub(crate) fn serve(self: &Arc<Self>, client: &Client) {
        // Whoever submits a job wakes a mover, and has better to do than to wait for it.
        let _ = give_way_when_woken();
        self.lock().movers.push(std::thread::current().id());
        let mut rescue = Rescue { board: self, job: None, is_armed: true };
        while let Some(task) = self.next() {
            rescue.job = Some(task.job());
            match task {
                Task::Start(ask) => self.start(client, ask),
                // Whoever submitted it has waited for it ever since.
                Task::Copy(job, uncopied) => self.finish(job, Ok(uncopied.complete(None))),
            }
        }
        rescue.is_armed = false;
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(ask) = state.quick.pop_front() {
                return Some(Task::Start(ask));
            }
            if let Some((job, uncopied)) = state.landed.pop_front() {
                return Some(Task::Copy(job, uncopied));
            }
            if let Some(ask) = state.bulk.pop_front() {
                return Some(Task::Start(ask));
            }
            if state.is_closed && state.open.is_empty() {
                return None;
            }
            state.idle_movers += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_movers -= 1;
        }
    }

    /// Makes the call of a job, which others answer.
    fn start(self: &Arc<Self>, client: &Client, ask: Ask) {
        let Ask { job, until, namespace, what, is_asked } = ask;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return self.finish(job, Ok(what.unanswered(&KeyError::DeadlineExceeded)));
        }
        let deadline = Some(left);
        match what {
            What::Get(places, options) => {
                let options = GetOptions { deadline, ..options };
                self.watch(job, client.start_get_into(&namespace, places, &options));
            }
            What::Put(objects, options) => {
                let options = PutOptions { deadline, ..options };
                let kept = Kept::all(&objects, Payload::len, &options);
                let is_open = !is_asked && kept.is_in_doubt(&namespace);
                let offered = is_open.then(|| client.offered(&objects, |o| o.bytes.pieces()));
                let asking = offered.and_then(|offered| asking(&namespace, &offered));
                if let Some((keys, asking)) = asking {
                    let what = What::Put(objects, options);
                    let put =
                        Ask { job, until, namespace: namespace.clone(), what, is_asked: true };
                    self.lock().asked.insert(job, put);
                    let asking = MatchOptions { deadline, ..asking };
                    self.watch(job, client.start_match(&namespace, &keys, &asking));
                    return;
                }
                self.watch(job, client.start_put(&namespace, objects, &options));
            }
            What::Match(keys, options) => {
                let options = MatchOptions { deadline, ..options };
                self.watch(job, client.start_match(&namespace, &keys, &options));
            }
            What::Remove(keys) => {
                self.watch(job, client.start_remove(&namespace, &keys, deadline));
            }
        }
    }

    fn watch<T>(self: &Arc<Self>, job: u64, call: Result<Pending<T>, Error>) {
        let call = match call {
            Ok(call) => call,
            Err(error) => return self.finish(job, Err(error)),
        };
        let mut state = self.lock();
        let mut is_unwanted = state.is_closed;
        if let Some(open) = state.open.get_mut(&job) {
            is_unwanted |= open.is_cancelled;
            open.call = Some(Arc::clone(call.call()));
        }
        drop(state);
        if is_unwanted {
            // Whoever cancelled or closed did not see it.
            call.cancel();
        }
        call.deliver(Arc::clone(self) as Arc<dyn Sink>, job);
    }

    pub(crate) fn finish(&self, job: u64, outcome: Result<Outcome, Error>) {
        let mut state = self.lock();
        let put = state.asked.remove(&job);
        if state.open.remove(&job).is_none() {
            return;
        }
        state.finished.push_back(Finished { job, outcome });
        if state.finished.len() == 1 && state.is_polled {
            // Under the lock, or a drain in between would leave it readable for nothing.
            self.event.ring();
        }
        let has_waiters = state.waiters > 0;
        let is_over = state.is_closed && state.open.is_empty();
        // Whoever is woken wants the lock at once.
        drop(state);
        drop(put);
        if has_waiters {
            self.finished.notify_all();
        }
        if is_over {
            self.work.notify_all();
        }
    }

    /// `None` if the time is over.
    pub(crate) fn await_finished<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Option<MutexGuard<'a, State>> {
        let left = match until {
            None => Duration::MAX,
            Some(until) => until.saturating_duration_since(Instant::now()),
        };
        if left.is_zero() {
            return None;
        }
        state.waiters += 1;
        let woken = self.finished.wait_timeout(state, left);
        state = woken.unwrap_or_else(PoisonError::into_inner).0;
        state.waiters -= 1;
        Some(state)
    }

    /// Waits until no job is under way; whether that is so before the time is over.
    pub(crate) fn await_all(
        &self,
        mut state: MutexGuard<'_, State>,
        until: Option<Instant>,
    ) -> bool {
        while !state.open.is_empty() {
            let Some(woken) = self.await_finished(state, until) else { return false };
            state = woken;
        }
        true
    }

    /// Has somebody move what was added. Takes the lock, for whoever is woken wants it at once.
    pub(crate) fn wake_mover(&self, state: MutexGuard<'_, State>) {
        let is_asleep = state.idle_movers > 0;
        drop(state);
        if is_asleep {
            self.work.notify_one();
        }
    }

    /// Has the descriptor say that nothing waits, if something was `taken` and that is so.
    pub(crate) fn quiet(&self, state: &State, taken: bool) {
        if taken && state.is_polled && state.finished.is_empty() {
            self.event.drain();
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Board {
    fn push(&self, job: u64, outcome: Result<Uncopied, Error>) {
        let mut state = self.lock();
        if let Some(put) = state.asked.remove(&job) {
            // What was said is noted, and if nothing was the put goes on all the same. One that was
            // cancelled meanwhile is cancelled as soon as it has begun.
            state.bulk.push_front(put);
            return self.wake_mover(state);
        }
        drop(state);
        match outcome {
            Ok(uncopied) if uncopied.has_copies() => {
                let mut state = self.lock();
                if state.is_abandoned {
                    drop(state);
                    drop(uncopied);
                    return self.finish(job, Err(Error::Closed));
                }
                state.landed.push_back((job, uncopied));
                self.wake_mover(state);
            }
            outcome => self.finish(job, outcome.map(|uncopied| uncopied.complete(None))),
        }
    }
}

impl State {
    /// Takes the job back if no mover has begun it.
    pub(crate) fn unstarted(&mut self, job: u64) -> Option<Ask> {
        [&mut self.quick, &mut self.bulk].into_iter().find_map(|asks| {
            let at = asks.iter().position(|ask| ask.job == job)?;
            asks.remove(at)
        })
    }

    pub(crate) fn take_asks(&mut self) -> Vec<Ask> {
        let asked = self.asked.drain().map(|(_, ask)| ask);
        self.quick.drain(..).chain(self.bulk.drain(..)).chain(asked).collect()
    }

    pub(crate) fn calls(&self) -> Vec<Arc<Call>> {
        self.open.values().filter_map(|open| open.call.clone()).collect()
    }
}

impl Task {
    const fn job(&self) -> u64 {
        match self {
            Self::Start(Ask { job, .. }) | Self::Copy(job, _) => *job,
        }
    }
}

impl What {
    /// The answer if nothing is asked; lets go of memory.
    pub(crate) fn unanswered(self, error: &KeyError) -> Outcome {
        let all = |count| vec![Err(error.clone()); count];
        match self {
            Self::Get(places, _) => {
                Outcome::GetInto(places.iter().map(|_| Err(error.clone())).collect())
            }
            Self::Put(objects, _) => Outcome::Put(all(objects.len())),
            Self::Match(keys, _) => {
                Outcome::Match(MatchResult::all_failed(keys.len(), error.clone()))
            }
            Self::Remove(keys) => Outcome::Remove(all(keys.len())),
        }
    }
}

/// Has everybody answered if a mover panics: nobody else would.
struct Rescue<'a> {
    board: &'a Board,
    /// What the mover was doing last. Its memory was let go of on the way here.
    job: Option<u64>,
    is_armed: bool,
}

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let mut state = self.board.lock();
        (state.is_closed, state.is_abandoned) = (true, true);
        let (asks, landed) = (state.take_asks(), std::mem::take(&mut state.landed));
        let calls = state.calls();
        let own = self.job.filter(|job| {
            let call = state.open.get(job).and_then(|open| open.call.as_ref());
            call.is_none_or(|call| call.is_answered())
        });
        drop(state);
        // Not those whose calls are under way or being made by other movers: they have memory.
        let over: Vec<u64> = asks
            .iter()
            .map(|ask| ask.job)
            .chain(landed.iter().map(|(job, _)| *job))
            .chain(own)
            .collect();
        drop((asks, landed));
        over.into_iter().for_each(|job| self.board.finish(job, Err(Error::Closed)));
        calls.iter().for_each(Call::cancel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::NamespaceSpec;
    use larder_protocol::view::View;

    use crate::inbox::Remote;
    use crate::router::Routes;

    /// A call that was answered.
    fn answered() -> Arc<Call> {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let view = Arc::new(View::new(1, Vec::new()).unwrap());
        let remote = Remote::new(waker, Routes::new(view, Vec::new()));
        let call = Call::new(Outcome::Get(Vec::new()), Instant::now(), None, remote);
        call.leg_ended();
        call
    }

    #[test]
    fn a_mover_that_panics_leaves_nobody_waiting() {
        let board = Arc::new(Board::new(EventFd::new().unwrap()));
        let namespace = Namespace::describe(NamespaceSpec::new("t", "m")).unwrap();
        let mut state = board.lock();
        // Nobody has begun the second, and another mover has the memory of the third.
        (1..=3).for_each(|job| drop(state.open.insert(job, Open::default())));
        let until = Instant::now() + Duration::from_secs(60);
        let what = What::Remove(Vec::new());
        state.quick.push_back(Ask { job: 2, until, namespace, what, is_asked: false });
        drop(state);
        drop(Rescue { board: &board, job: Some(1), is_armed: true });
        let mut state = board.lock();
        assert!(state.is_closed && state.open.contains_key(&3) && state.quick.is_empty());
        let mut ended: Vec<_> = state.finished.drain(..).map(|f| (f.job, f.outcome)).collect();
        ended.sort_by_key(|(job, _)| *job);
        assert_eq!(ended, [(1, Err(Error::Closed)), (2, Err(Error::Closed))]);
        drop(state);
        board.finish(3, Err(Error::Closed));
        assert!(board.next().is_none(), "other movers end");
    }

    #[test]
    fn a_mover_that_panics_in_a_copy_answers_its_job() {
        let board = Board::new(EventFd::new().unwrap());
        let open = Open { call: Some(answered()), is_cancelled: false };
        board.lock().open.insert(1, open);
        drop(Rescue { board: &board, job: Some(1), is_armed: true });
        assert_eq!(board.lock().finished[0].outcome, Err(Error::Closed));
        assert!(board.next().is_none(), "other movers end");
    }
}
