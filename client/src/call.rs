//! One call of a caller: its answers so far, who waits for them, and how they are told.
//!
//! A call is cut into legs, one for each shard. Legs are answered one by one at the helm; the call
//! is answered when no leg is left. Whatever arrives after that is dropped here.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use larder_protocol::Generation;
use larder_protocol::stats::Stat;
use larder_transport::process_id;

use crate::account::AccountInfo;
use crate::completion::Sink;
use crate::connected::ClientInfo;
#[cfg(feature = "gpu")]
use crate::copying::Aboard;
use crate::copying::Copying;
use crate::error::{Error, KeyError, KeyResult};
use crate::inbox::Remote;
use crate::lease::Lease;
use crate::leg::Leg;
use crate::matched::MatchResult;
use crate::namespace::Namespace;
use crate::object::{Landed, Object};

/// The answer to a call, as a completion queue hands it out.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// To a get, by key.
    Get(Vec<KeyResult<Object>>),
    /// To a get into landings, by key.
    GetInto(Vec<KeyResult<Landed>>),
    /// To a lease, by key.
    Lease(Vec<KeyResult<Lease>>),
    /// To a put, by object: `Ok` means that a reader finds it now.
    Put(Vec<KeyResult<()>>),
    /// To a remove, by key: `Ok` means that it was there and is gone.
    Remove(Vec<KeyResult<()>>),
    /// To a match.
    Match(MatchResult),
    /// To whatever asks every shard of every node.
    Shards(Vec<ShardAnswer>),
}

/// What one shard answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardAnswer {
    /// Address of the node.
    pub peer: Arc<str>,
    /// The node's id in the view.
    pub node_id: u64,
    /// Which of its shards.
    pub shard: u16,
    /// What it said.
    pub answer: KeyResult<ShardValue>,
}

/// What a shard can say of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardValue {
    /// The generation that it has of the namespace asked about.
    Generation(Generation),
    /// Its counters.
    Stats(Vec<(Stat, u64)>),
    /// Who is connected to it.
    Clients(Vec<ClientInfo>),
    /// What it counts of each namespace and of each class of objects.
    Accounts(Vec<AccountInfo>),
    /// Whether it removed anything. A shard that does not count what it removes says so always.
    Removed(bool),
}

/// A call under way. It is a future, and it can be waited for by blocking.
///
/// Objects in the memory of a node on this host are copied by whoever takes the answer. Who began
/// to wait before the deadline is not kept past it: what is not copied by then is
/// [`KeyError::DeadlineExceeded`]. Who comes only after it gets all that was answered in time.
///
/// Dropping it lets the call run to its end unobserved; [`Pending::cancel`] ends it early.
#[must_use = "a call that nobody waits for ends unobserved"]
pub struct Pending<T> {
    call: Arc<Call>,
    /// Legs that go out when somebody waits for them.
    unsent: Vec<Box<Leg>>,
    /// When somebody began to wait for it.
    awaited_since: Option<Instant>,
    finish: Finish<T>,
}

enum Finish<T> {
    Call(fn(&Call, Outcome) -> Result<T, Error>),
    Shards(fn(&Call, Vec<ShardAnswer>) -> Result<T, Error>),
}

/// State shared by the caller and whoever is at the helm.
pub(crate) struct Call {
    /// When it ends, answered or not.
    pub(crate) deadline: Instant,
    /// The namespace it is about, for calls that answer with one.
    pub(crate) namespace: Option<Namespace>,
    pid: u32,
    remote: Remote,
    state: Mutex<State>,
    answered: Condvar,
    /// Hits that whoever takes the answer has to copy first.
    copies: Mutex<Vec<Copying>>,
}

struct State {
    outcome: Option<Outcome>,
    legs_left: usize,
    waker: Option<Waker>,
    queue: Option<(Arc<dyn Sink>, u64)>,
    /// Whether somebody sleeps until it is answered.
    is_awaited: bool,
    /// Whether memory of the caller's is with the I/O until the legs have ended.
    holds_memory: bool,
}

impl Call {
    pub(crate) fn new(
        outcome: Outcome,
        deadline: Instant,
        namespace: Option<Namespace>,
        remote: Remote,
    ) -> Arc<Self> {
        let state = State {
            outcome: Some(outcome),
            // One for whoever sets the legs up, so that it cannot end before that is done.
            legs_left: 1,
            waker: None,
            queue: None,
            is_awaited: false,
            holds_memory: false,
        };
        Arc::new(Self {
            deadline,
            namespace,
            pid: process_id(),
            remote,
            state: Mutex::new(state),
            answered: Condvar::new(),
            copies: Mutex::default(),
        })
    }

    /// Writes answers, unless the call has ended meanwhile.
    pub(crate) fn answer(&self, write: impl FnOnce(&mut Outcome)) {
        if let Some(outcome) = &mut self.lock().outcome {
            write(outcome);
        }
    }

    /// As [`Call::answer`], for an object that lies in the node's memory and may have to be copied.
    pub(crate) fn answer_shared(&self, write: impl FnOnce(&mut Outcome) -> Option<Copying>) {
        self.answer(|outcome| self.copies().extend(write(outcome)));
    }

    /// An answer, with what is left to be done for it. Copies that nobody makes are dropped with
    /// the call.
    fn left(&self, outcome: Outcome) -> Uncopied {
        let copies = std::mem::take(&mut *self.copies());
        Uncopied { outcome, copies, deadline: self.deadline }
    }

    fn copies(&self) -> MutexGuard<'_, Vec<Copying>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives key `index` an error.
    pub(crate) fn fail(&self, index: usize, error: &KeyError) {
        self.answer(|outcome| outcome.fail(index, error));
    }

    pub(crate) fn leg_began(&self) {
        self.lock().legs_left += 1;
    }

    /// Counts a leg as answered; the last one answers the call. Nothing of the leg may still refer
    /// to the caller's memory.
    pub(crate) fn leg_ended(&self) {
        let mut state = self.lock();
        state.legs_left -= 1;
        if state.legs_left > 0 {
            return;
        }
        let (waker, queue) = (state.waker.take(), state.queue.take());
        let outcome = if queue.is_some() { state.take_answer() } else { None };
        let is_awaited = state.is_awaited;
        drop(state);
        if is_awaited {
            self.answered.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        if let (Some((queue, token)), Some(outcome)) = (queue, outcome) {
            queue.push(token, outcome.map(|outcome| self.left(outcome)));
        }
    }

    /// Says that landings or sources of the caller's go with the legs: no answer before they ended.
    pub(crate) fn hold_memory(&self) {
        self.lock().holds_memory = true;
    }

    /// Whether no leg is under way any more.
    pub(crate) fn is_answered(&self) -> bool {
        self.lock().legs_left == 0
    }

    /// Has it end soon: keys without an answer get [`KeyError::Cancelled`].
    pub(crate) fn cancel(self: &Arc<Self>) {
        self.remote.cancel(self);
    }

    fn wait(&self) -> Result<Outcome, Error> {
        let mut state = self.lock();
        state.is_awaited = true;
        loop {
            if state.legs_left == 0 {
                return state.take_answer().unwrap_or(Err(Error::Closed));
            }
            let left = (self.deadline + BACKSTOP).saturating_duration_since(Instant::now());
            if state.holds_memory {
                // The I/O lets go at the deadline; until it did, the memory is not free.
                state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if left.is_zero() {
                // The helm ends calls at their deadline; this is for when its thread gets no CPU.
                let outcome = state.outcome.take().ok_or(Error::Closed);
                return outcome.map(Outcome::cut_short);
            }
            state =
                self.answered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn poll(&self, waker: &Waker) -> Poll<Result<Outcome, Error>> {
        let mut state = self.lock();
        if state.legs_left == 0 {
            return Poll::Ready(state.take_answer().unwrap_or(Err(Error::Closed)));
        }
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer whose objects lie, some of them, in the node's memory still.
#[derive(Debug)]
pub(crate) struct Uncopied {
    outcome: Outcome,
    copies: Vec<Copying>,
    deadline: Instant,
}

impl Uncopied {
    /// Whether objects have to be copied still.
    pub(crate) const fn has_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Makes the copies, on the thread that takes the answer and has waited for it since
    /// `awaited_since`, `None` for the start of the call. No landing is written any more when this
    /// returns.
    pub(crate) fn complete(self, awaited_since: Option<Instant>) -> Outcome {
        let Self { mut outcome, copies, deadline } = self;
        // Who comes late is not in a hurry; who waits is not kept past the deadline.
        let is_late = awaited_since.is_some_and(|since| since >= deadline);
        for copy in copies {
            if !is_late && Instant::now() >= deadline {
                break;
            }
            copy.finish(&mut outcome);
        }
        outcome
    }
}

#[cfg(feature = "gpu")]
impl Uncopied {
    /// As [`Uncopied::complete`], but for what is in memory of a device, which has no answer yet.
    fn complete_ashore(self, awaited_since: Option<Instant>) -> (Outcome, Vec<Aboard>) {
        let (mut ashore, mut aboard) = (Vec::new(), Vec::new());
        for copy in self.copies {
            match copy.ashore_or_aboard() {
                Ok(copy) => ashore.push(copy),
                Err(object) => aboard.push(object),
            }
        }
        (Self { copies: ashore, ..self }.complete(awaited_since), aboard)
    }
}

#[cfg(feature = "gpu")]
impl Pending<Vec<KeyResult<Landed>>> {
    /// As [`Pending::wait`]. What cards have written to memory of a device is told apart, and says
    /// until it was checked that the deadline passed.
    pub(crate) fn wait_ashore(mut self) -> Result<(Vec<KeyResult<Landed>>, Vec<Aboard>), Error> {
        let (outcome, awaited_since) = self.outcome()?;
        match self.call.left(outcome).complete_ashore(awaited_since) {
            (Outcome::GetInto(keys), aboard) => Ok((keys, aboard)),
            (other, _) => unreachable!("gets have gets' outcomes: {other:?}"),
        }
    }
}

impl State {
    fn take_answer(&mut self) -> Option<Result<Outcome, Error>> {
        self.outcome.take().map(Ok)
    }
}

impl Outcome {
    pub(crate) fn fail(&mut self, index: usize, error: &KeyError) {
        match self {
            Self::Get(keys) => keys[index] = Err(error.clone()),
            Self::GetInto(keys) => keys[index] = Err(error.clone()),
            Self::Lease(keys) => keys[index] = Err(error.clone()),
            Self::Put(keys) => keys[index] = Err(error.clone()),
            Self::Remove(keys) => merge_removed(&mut keys[index], Err(error.clone())),
            Self::Match(result) => result.set_error(index..index + 1, error.clone()),
            Self::Shards(shards) => shards[index].answer = Err(error.clone()),
        }
    }

    /// What is known of a call that nobody waits for any longer. Keys without an answer have said
    /// from the start that the deadline passed, but for removes, which ask about a key twice.
    fn cut_short(mut self) -> Self {
        if let Self::Remove(keys) = &mut self {
            keys.fill(Err(KeyError::DeadlineExceeded));
        }
        self
    }

    pub(crate) fn removed(&mut self, index: usize, answer: KeyResult<()>) {
        if let Self::Remove(keys) = self {
            merge_removed(&mut keys[index], answer);
        }
    }
}

/// A key may lie with two nodes. It is removed if one had it, unless another could not be asked.
fn merge_removed(known: &mut KeyResult<()>, answer: KeyResult<()>) {
    let rank = |answer: &KeyResult<()>| match answer {
        Err(error) if error.is_miss() => 0,
        Ok(()) => 1,
        Err(_) => 2,
    };
    if rank(&answer) > rank(known) {
        *known = answer;
    }
}

impl<T> Pending<T> {
    pub(crate) const fn new(
        call: Arc<Call>,
        unsent: Vec<Box<Leg>>,
        finish: fn(&Call, Outcome) -> Result<T, Error>,
    ) -> Self {
        Self { call, unsent, awaited_since: None, finish: Finish::Call(finish) }
    }

    pub(crate) const fn of_shards(
        call: Arc<Call>,
        finish: fn(&Call, Vec<ShardAnswer>) -> Result<T, Error>,
    ) -> Self {
        Self { call, unsent: Vec::new(), awaited_since: None, finish: Finish::Shards(finish) }
    }

    fn finish(&self, outcome: Outcome, awaited_since: Option<Instant>) -> Result<T, Error> {
        match (&self.finish, self.call.left(outcome).complete(awaited_since)) {
            (Finish::Call(finish), outcome) => finish(&self.call, outcome),
            (Finish::Shards(finish), Outcome::Shards(answers)) => finish(&self.call, answers),
            (Finish::Shards(_), other) => unreachable!("asked every shard, got {other:?}"),
        }
    }

    /// Sends it, without anybody waiting for it yet.
    pub(crate) fn launch(mut self) -> Self {
        self.call.remote.submit(std::mem::take(&mut self.unsent));
        self
    }

    /// Blocks until the answer is there, at most a few milliseconds past the deadline.
    ///
    /// # Errors
    /// What concerns the call as a whole; what concerns one key is in its own result.
    pub fn wait(mut self) -> Result<T, Error> {
        let (outcome, awaited_since) = self.outcome()?;
        self.finish(outcome, awaited_since)
    }

    /// Waits for the outcome; and since when somebody has.
    fn outcome(&mut self) -> Result<(Outcome, Option<Instant>), Error> {
        if self.call.pid != process_id() {
            return Err(Error::Forked);
        }
        let is_sent = self.unsent.is_empty();
        let awaited_since = is_sent.then(|| self.awaited_since.unwrap_or_else(Instant::now));
        if !is_sent {
            let remote = &self.call.remote;
            remote.helm().steer(remote, &self.call, std::mem::take(&mut self.unsent));
        }
        Ok((self.call.wait()?, awaited_since))
    }

    /// Ends the call early: keys without an answer get [`KeyError::Cancelled`].
    ///
    /// The call still has to be waited for: only its answer says that nothing touches its landings
    /// and sources any more. That comes within microseconds.
    pub fn cancel(&self) {
        if self.call.pid == process_id() {
            self.call.cancel();
        }
    }

    pub(crate) const fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Lets `queue` have the answer, under `token`.
    pub(crate) fn deliver(self, queue: Arc<dyn Sink>, token: u64) {
        let mut state = self.call.lock();
        if state.legs_left > 0 {
            state.queue = Some((queue, token));
            return;
        }
        let answer = state.take_answer();
        drop(state);
        if let Some(answer) = answer {
            queue.push(token, answer.map(|outcome| self.call.left(outcome)));
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        if self.call.pid != process_id() {
            return Poll::Ready(Err(Error::Forked));
        }
        let this = self.get_mut();
        let awaited_since = *this.awaited_since.get_or_insert_with(Instant::now);
        this.call.poll(context.waker()).map(|outcome| this.finish(outcome?, Some(awaited_since)))
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("deadline", &self.call.deadline).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// How far past its deadline a waiting caller gives whoever is at the helm before it leaves by
/// itself. A guess: a few turns of a busy machine's scheduler.
const BACKSTOP: Duration = Duration::from_millis(4);
