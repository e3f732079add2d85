//! Calls for callers that must not be held up: submit, go on, take the answers later.
//!
//! A scheduler between two steps of a model has no time for a checksum of 128 MiB, nor for a copy
//! out of a node's memory. So a job is handed to a thread of its own, the *mover*, which starts its
//! call, checks and copies what comes, and queues the answer. What a reader would get wrong: when
//! an answer can be taken, nobody touches the job's memory any more, and that holds for cancelled
//! jobs too: cancelling makes the answer come sooner, it does not replace it.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_protocol::Key;
use larder_transport::{EventFd, process_id};

use crate::call::{Call, Outcome};
use crate::client::Client;
use crate::config::{GetOptions, MatchOptions, PutOptions};
use crate::error::{Error, KeyError};
use crate::mover::{Ask, Board, Open, State, What};
use crate::namespace::Namespace;
use crate::object::{OwnedPlace, Payload, PutObject};

/// How jobs are done. Fill in what differs from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobsConfig {
    /// Threads that start, check and copy. Default 1: it keeps up with a copy of memory.
    pub threads: u16,
    /// Most jobs that were submitted and whose answers were not taken. Default 4,096.
    pub jobs_max: usize,
}

/// Does jobs. Cheap to clone; clones share the queue. Usable from any thread.
///
/// When the last clone is dropped, what is under way is cancelled and waited for. So nothing that
/// is dropped with a job's memory may own a clone: it would wait for itself.
#[derive(Debug, Clone)]
pub struct Jobs {
    crew: Arc<Crew>,
}

/// A job that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What submitting it answered.
    pub job: u64,
    /// Its answer: of the variant that fits what was submitted.
    pub outcome: Result<Outcome, Error>,
}

/// The movers, and what they and the callers share.
#[derive(Debug)]
struct Crew {
    client: Client,
    board: Arc<Board>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    jobs_max: usize,
    pid: u32,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self { threads: 1, jobs_max: 4096 }
    }
}

impl Jobs {
    /// Starts the movers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no threads or no jobs, [`Error::System`] if there is no
    /// thread or descriptor left, [`Error::Closed`], [`Error::Forked`].
    pub fn new(client: &Client, config: &JobsConfig) -> Result<Self, Error> {
        client.check_open()?;
        if config.threads == 0 || config.jobs_max == 0 {
            return Err(Error::InvalidArgument { what: "threads and jobs_max must not be 0" });
        }
        let system = |what| move |e: std::io::Error| Error::System { what, kind: e.kind() };
        let event = EventFd::new().map_err(system("eventfd"))?;
        let board = Arc::new(Board::new(event));
        let crew = Crew {
            client: client.clone(),
            board: Arc::clone(&board),
            threads: Mutex::default(),
            jobs_max: config.jobs_max,
            pid: process_id(),
        };
        let crew = Arc::new(crew);
        for _ in 0..config.threads {
            let (client, board) = (client.clone(), Arc::clone(&board));
            let thread = std::thread::Builder::new().name("larder-mover".into());
            let thread = thread.spawn(move || board.serve(&client)).map_err(system("thread"))?;
            crew.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Self { crew })
    }

    /// Reads objects into landings; answered by [`Outcome::GetInto`].
    ///
    /// # Errors
    /// [`Error::Busy`] above the limit of jobs, [`Error::Closed`], [`Error::Forked`]. All else is
    /// told by the answer.
    pub fn submit_get(
        &self,
        namespace: &Namespace,
        places: Vec<OwnedPlace>,
        options: &GetOptions,
    ) -> Result<u64, Error> {
        self.submit(namespace, options.deadline, What::Get(places, options.clone()))
    }

    /// Stores objects; answered by [`Outcome::Put`].
    ///
    /// # Errors
    /// As [`Jobs::submit_get`].
    pub fn submit_put(
        &self,
        namespace: &Namespace,
        objects: Vec<PutObject<Payload>>,
        options: &PutOptions,
    ) -> Result<u64, Error> {
        self.submit(namespace, options.deadline, What::Put(objects, options.clone()))
    }

    /// Asks which keys are there; answered by [`Outcome::Match`].
    ///
    /// # Errors
    /// As [`Jobs::submit_get`].
    pub fn submit_match(
        &self,
        namespace: &Namespace,
        keys: Vec<Key>,
        options: &MatchOptions,
    ) -> Result<u64, Error> {
        self.submit(namespace, options.deadline, What::Match(keys, options.clone()))
    }

    /// Removes objects; answered by [`Outcome::Remove`].
    ///
    /// # Errors
    /// As [`Jobs::submit_get`].
    pub fn submit_remove(
        &self,
        namespace: &Namespace,
        keys: Vec<Key>,
        deadline: Option<Duration>,
    ) -> Result<u64, Error> {
        self.submit(namespace, deadline, What::Remove(keys))
    }

    /// The descriptor to poll for reading: it is readable while answers wait. It stays ours: do not
    /// read or close it.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn fd(&self) -> Result<RawFd, Error> {
        let mut state = self.crew.lock()?;
        if !state.is_polled {
            state.is_polled = true;
            if !state.finished.is_empty() {
                self.crew.board.event.ring();
            }
        }
        Ok(self.crew.board.event.as_fd().as_raw_fd())
    }

    /// All jobs that have ended and were not taken, oldest first. Never waits.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn drain(&self) -> Result<Vec<Finished>, Error> {
        let mut state = self.crew.lock()?;
        let finished = std::mem::take(&mut state.finished);
        self.crew.board.quiet(&state, !finished.is_empty());
        Ok(finished.into())
    }

    /// Takes the job that ended first, if one has. Never waits.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn next(&self) -> Result<Option<Finished>, Error> {
        let mut state = self.crew.lock()?;
        let finished = state.finished.pop_front();
        self.crew.board.quiet(&state, finished.is_some());
        Ok(finished)
    }

    /// Takes job `job`, if it has ended.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn poll(&self, job: u64) -> Result<Option<Finished>, Error> {
        self.wait(job, Duration::ZERO)
    }

    /// Takes job `job`; blocks up to `timeout` for its end. `None` if it has not ended by then, or
    /// there is no such job, or it was taken.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn wait(&self, job: u64, timeout: Duration) -> Result<Option<Finished>, Error> {
        let until = Instant::now().checked_add(timeout);
        let board = &self.crew.board;
        let mut state = self.crew.lock()?;
        loop {
            if let Some(at) = state.finished.iter().position(|finished| finished.job == job) {
                let finished = state.finished.remove(at);
                board.quiet(&state, true);
                return Ok(finished);
            }
            if !state.open.contains_key(&job) {
                return Ok(None);
            }
            let Some(woken) = board.await_finished(state, until) else { return Ok(None) };
            state = woken;
        }
    }

    /// Blocks until no job is under way, at most for `timeout`; whether that is so. Answers stay
    /// where they are.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn drain_all(&self, timeout: Duration) -> Result<bool, Error> {
        let until = Instant::now().checked_add(timeout);
        Ok(self.crew.board.await_all(self.crew.lock()?, until))
    }

    /// Has job `job` end soon: keys without an answer get [`KeyError::Cancelled`]. Whether it was
    /// under way still. Its answer comes all the same, and only that says that its memory is free.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn cancel(&self, job: u64) -> Result<bool, Error> {
        let mut state = self.crew.lock()?;
        let Some(open) = state.open.get_mut(&job) else { return Ok(false) };
        open.is_cancelled = true;
        let call = open.call.clone();
        if let Some(ask) = state.unstarted(job) {
            drop(state);
            let outcome = ask.what.unanswered(&KeyError::Cancelled);
            self.crew.board.finish(job, Ok(outcome));
            return Ok(true);
        }
        drop(state);
        if let Some(call) = call {
            call.cancel();
        }
        Ok(true)
    }

    /// Cancels everything, waits for it, and ends the movers. Answers can still be taken.
    ///
    /// Whose memory tells a mover to close, by being dropped, is not waited for.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn close(&self) -> Result<(), Error> {
        self.crew.close()
    }

    fn submit(
        &self,
        namespace: &Namespace,
        deadline: Option<Duration>,
        what: What,
    ) -> Result<u64, Error> {
        let mut state = self.crew.lock()?;
        if state.is_closed {
            return Err(Error::Closed);
        }
        self.crew.client.check_open()?;
        if state.open.len() + state.finished.len() >= self.crew.jobs_max {
            return Err(Error::Busy);
        }
        state.last += 1;
        let (job, until) = (state.last, self.crew.client.until(deadline));
        state.open.insert(job, Open::default());
        let is_quick = matches!(what, What::Match(..) | What::Remove(_));
        let ask = Ask { job, until, namespace: namespace.clone(), what, is_asked: false };
        if is_quick { &mut state.quick } else { &mut state.bulk }.push_back(ask);
        self.crew.board.wake_mover(state);
        Ok(job)
    }
}

impl Crew {
    fn lock(&self) -> Result<MutexGuard<'_, State>, Error> {
        // In a forked child the lock may be held for ever.
        if self.pid != process_id() {
            return Err(Error::Forked);
        }
        Ok(self.board.lock())
    }

    fn close(&self) -> Result<(), Error> {
        let mut state = self.lock()?;
        state.is_closed = true;
        let asks: Vec<Ask> = state.take_asks();
        let calls = state.calls();
        let is_mover = state.movers.contains(&std::thread::current().id());
        drop(state);
        for ask in asks {
            self.board.finish(ask.job, Ok(ask.what.unanswered(&KeyError::Cancelled)));
        }
        calls.iter().for_each(Call::cancel);
        self.board.work.notify_all();
        if is_mover {
            // It would wait for itself: it closes because it let go of memory of its own job.
            return Ok(());
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // If it panicked, that was reported, and its jobs were answered.
            let _ = thread.join();
        }
        // Whoever closes at the same time may have the threads, and be waiting for them.
        self.board.await_all(self.lock()?, None);
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // In a forked child there is nothing to end.
        let _ = self.close();
    }
}
