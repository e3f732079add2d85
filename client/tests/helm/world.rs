//! What is around the helm, as small as it can be: calls of one leg, an I/O without sockets.
//!
//! What a reader would get wrong: a leg's answer is readable at once, but somebody has to come and
//! read it. So whoever sends it and goes must leave the helm to somebody, or its caller waits for
//! ever, which loom reports as a deadlock.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use larder_client::{KeyError, Spin};
use larder_transport::Luck;

use crate::inbox::{Job, Remote};
use crate::sync::{Condvar, Mutex, MutexGuard, Waker};

/// When a leg is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// As it is sent.
    AtOnce,
    /// When the I/O next looks.
    Next,
    /// If its call is cancelled.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) deadline: Instant,
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
}

#[derive(Debug)]
pub(crate) struct Leg {
    call: Arc<Call>,
    when: When,
    pub(crate) payload_bytes: u64,
}

/// Routes are nobody's business here.
#[derive(Debug)]
pub(crate) struct Routes;

#[derive(Debug)]
pub(crate) struct Ended;

pub(crate) struct Io {
    pub(crate) luck: Luck,
    remote: Remote,
    waker: Waker,
    jobs: Vec<Job>,
    flights: Vec<Box<Leg>>,
    /// Calls whose legs are still to come.
    cancelled: Vec<Arc<Call>>,
}

impl Call {
    pub(crate) fn new() -> Arc<Self> {
        // The model has no clock: nothing waits for so long.
        let deadline = Instant::now() + Duration::from_secs(3600);
        Arc::new(Self { deadline, answer: Mutex::default(), answered: Condvar::new() })
    }

    pub(crate) fn legs(self: &Arc<Self>, when: When) -> Vec<Box<Leg>> {
        vec![Box::new(Leg { call: Arc::clone(self), when, payload_bytes: 0 })]
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.lock().is_some()
    }

    pub(crate) fn wait(&self) -> Answer {
        let mut answer = self.lock();
        loop {
            if let Some(answer) = *answer {
                return answer;
            }
            answer = self.answered.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, answer: Answer) {
        assert_eq!(self.lock().replace(answer), None, "answered twice");
        self.answered.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leg {
    /// No bytes, no checksums.
    pub(crate) const fn state_sums(&mut self) {}

    fn succeed(self) {
        self.call.end(Answer::Done);
    }

    pub(crate) fn fail(self, error: &KeyError) {
        assert_eq!(*error, KeyError::Closed);
    }
}

/// However it ends, its caller learns of it.
impl Drop for Leg {
    fn drop(&mut self) {
        if !self.call.is_answered() {
            self.call.end(Answer::Closed);
        }
    }
}

impl Io {
    /// One without sockets has nothing to look for: `spin` must not ask for any time.
    pub(crate) fn new(remote: Remote, waker: Waker, spin: Spin) -> Self {
        let luck = Luck::new(spin);
        Self { luck, remote, waker, jobs: Vec::new(), flights: Vec::new(), cancelled: Vec::new() }
    }

    /// In the order of the real one: sleeps, takes jobs, reads replies.
    pub(crate) fn turn(&mut self) -> Result<(), Ended> {
        let may_sleep = self.remote.may_sleep();
        let is_readable = self.flights.iter().any(|leg| leg.when == When::Next);
        self.waker.listen(may_sleep && !is_readable);
        self.remote.awake();
        let replies = self.flights.extract_if(.., |leg| leg.when == When::Next);
        let replies: Vec<_> = replies.collect();
        let taken = self.take_jobs();
        replies.into_iter().for_each(|leg| leg.succeed());
        taken
    }

    /// For callers that look again and again, which the model's do not.
    pub(crate) fn glance(&mut self, _now: Instant) -> Result<bool, Ended> {
        if self.remote.has_jobs() {
            self.take_jobs()?;
        }
        Ok(false)
    }

    fn take_jobs(&mut self) -> Result<(), Ended> {
        let mut jobs = std::mem::take(&mut self.jobs);
        self.remote.take(&mut jobs);
        let taken = jobs.drain(..).try_for_each(|job| self.take_job(job));
        self.jobs = jobs;
        taken
    }

    fn take_job(&mut self, job: Job) -> Result<(), Ended> {
        match job {
            Job::Leg(leg) => self.dispatch(leg, Instant::now()),
            Job::Cancel(call) => {
                let at = self.flights.iter().position(|leg| Arc::ptr_eq(&leg.call, &call));
                match at {
                    Some(at) => self.flights.remove(at).succeed(),
                    None => self.cancelled.push(call),
                }
            }
            Job::Close => return Err(Ended),
            other => unreachable!("nobody asks for {other:?}"),
        }
        Ok(())
    }

    pub(crate) fn dispatch(&mut self, leg: Box<Leg>, _now: Instant) {
        let is_cancelled = self.cancelled.iter().any(|call| Arc::ptr_eq(call, &leg.call));
        if is_cancelled || leg.when == When::AtOnce {
            leg.succeed();
        } else {
            self.flights.push(leg);
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(crate) const fn awaits_room(&self) -> bool {
        false
    }

    pub(crate) fn flush_all(&mut self, _now: Instant) {}

    /// For callers that look again and again.
    pub(crate) fn turn_at_once(&mut self) -> Result<(), Ended> {
        self.turn()
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.remote.shut();
        self.flights.drain(..).for_each(|leg| leg.fail(&KeyError::Closed));
    }
}
