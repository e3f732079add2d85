//! One source of operations: draws them, makes the calls, looks at the answers.
//!
//! Two ways to keep many calls in flight. A *waiting* worker has one at a time and reads into its
//! own memory, which is what large objects need; many of them share a client. A *queued* worker has
//! many in flight from one thread and lets the client allocate, which is what small objects need:
//! there a thread for each call would cost more than the call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_client::{
    Client, CompletionQueue, Error, GetOptions, KeyResult, MatchOptions, MatchResult, Namespace,
    Outcome, PutOptions,
};

use super::arrivals::Arrivals;
use super::objects::Objects;
use super::score::{Live, Score};
use super::shelf::Shelf;
use super::{Op, Plan, Reads};
use crate::cold::ColdMemory;
use crate::random::Random;

/// What a worker works with.
pub(super) struct Worker {
    pub(super) client: Client,
    /// What is put, if it comes from registered memory.
    pub(super) shelf: Option<Arc<Shelf>>,
    pub(super) namespace: Namespace,
    pub(super) objects: Arc<Objects>,
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) live: Arc<Live>,
    pub(super) started: Instant,
    pub(super) score: Score,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
struct Ask {
    op: Op,
    first: u64,
    due: Instant,
}

/// What is put is measured, so it is stored also where no reader is expected.
fn insisting() -> PutOptions {
    PutOptions { insist: true, ..PutOptions::default() }
}

impl Worker {
    /// One call at a time until `until`, reading into `memory`.
    pub(super) fn wait_for_each(
        &mut self,
        mut arrivals: Option<Arrivals>,
        until: Instant,
        memory: &mut ColdMemory,
    ) {
        loop {
            let due = arrivals.as_ref().map_or_else(Instant::now, Arrivals::due);
            let now = Instant::now();
            if now >= until || due >= until {
                return self.count_unstarted(arrivals, until, now);
            }
            std::thread::sleep(due.saturating_duration_since(now));
            if let Some(arrivals) = &mut arrivals {
                arrivals.advance();
            }
            let ask = self.draw(due);
            let before = self.score.live();
            self.answer(ask, memory);
            self.end(ask, before);
            if arrivals.is_none() && self.score.live()[2] > before[2] {
                // A node that is away is not worth a core that asks for it.
                std::thread::sleep(ERROR_PAUSE);
            }
        }
    }

    /// Up to the plan's number of calls in flight until `until`.
    pub(super) fn keep_queued(
        &mut self,
        mut arrivals: Option<Arrivals>,
        until: Instant,
        queue: &CompletionQueue,
    ) {
        let mut asked: Vec<Option<Ask>> = vec![None; self.plan.inflight];
        let mut free: Vec<usize> = (0..asked.len()).rev().collect();
        loop {
            let now = Instant::now();
            while let Some(&slot) = free.last() {
                let due = arrivals.as_ref().map_or(now, Arrivals::due);
                if due > now || now >= until {
                    break;
                }
                if let Some(arrivals) = &mut arrivals {
                    arrivals.advance();
                }
                let ask = self.draw(due);
                match self.start(ask, queue, slot as u64) {
                    Ok(()) => asked[slot] = free.pop().map(|_| ask),
                    Err(error) => self.end_failed(ask, &error),
                }
            }
            let is_over = now >= until;
            if is_over && free.len() == asked.len() {
                return self.count_unstarted(arrivals, until, now);
            }
            // Every call ends by its deadline, so the wait for the last ones is bounded too.
            let due = arrivals.as_ref().filter(|_| !free.is_empty() && !is_over);
            let pause =
                due.map_or(PAUSE_MAX, |arrivals| arrivals.due().saturating_duration_since(now));
            for done in queue.wait(pause.min(PAUSE_MAX)) {
                let slot = usize::try_from(done.token).expect("tokens are slots");
                let ask = asked[slot].take().expect("a slot is answered once");
                free.push(slot);
                let before = self.score.live();
                self.take(ask, done.outcome);
                self.end(ask, before);
            }
        }
    }

    fn draw(&mut self, due: Instant) -> Ask {
        let op = match self.plan.op {
            Op::Mixed if self.random.below(100) < u64::from(self.plan.put_percent) => Op::Put,
            Op::Mixed => Op::Get,
            op => op,
        };
        Ask { op, first: self.random.below(self.objects.count()), due }
    }

    fn answer(&mut self, ask: Ask, memory: &mut ColdMemory) {
        match (ask.op, self.plan.reads) {
            (Op::Get, Reads::Leased) => return self.lease(ask),
            (Op::Get, _) => return self.get_into(ask, memory),
            _ => {}
        }
        let keys = self.objects.keys(ask.first, self.plan.batch);
        let outcome = if let (Op::Put, Some(shelf)) = (ask.op, &self.shelf) {
            let objects = shelf.to_put(&self.objects, ask.first, self.plan.batch);
            let stored = self.client.put(&self.namespace, &objects, &insisting());
            stored.map(Outcome::Put)
        } else if ask.op == Op::Put {
            let objects = self.objects.to_put(ask.first, self.plan.batch);
            let call = self.client.start_put(&self.namespace, objects, &insisting());
            call.and_then(larder_client::Pending::wait).map(Outcome::Put)
        } else {
            let options = MatchOptions::default();
            self.client.match_chain(&self.namespace, keys, &options).map(Outcome::Match)
        };
        self.take(ask, outcome);
    }

    fn get_into(&mut self, ask: Ask, memory: &mut ColdMemory) {
        let batch = self.plan.batch;
        let object_bytes = self.objects.object_bytes() as usize;
        let keys = self.objects.keys(ask.first, batch);
        let memory = memory.next((batch * object_bytes) as u64);
        let verify = self.verifies_next();
        if verify {
            // What an earlier call left there may be the very bytes that are to come.
            memory.fill(POISON);
        }
        let places = keys.iter().copied().zip(memory.chunks_exact_mut(object_bytes));
        let mut places: Vec<_> = places.collect();
        let answer = self.client.get_into(&self.namespace, &mut places, &GetOptions::default());
        let landed = match answer {
            Ok(landed) => landed,
            Err(error) => return self.score.failed(batch, &error),
        };
        for ((index, landed), (_, place)) in (ask.first..).zip(landed).zip(places) {
            let came = landed.map(|landed| place.get(..landed.bytes as usize).unwrap_or(place));
            came_or_not(&mut self.score, &self.objects, verify, index, came);
        }
    }

    fn lease(&mut self, ask: Ask) {
        let keys = self.objects.keys(ask.first, self.plan.batch);
        let options = GetOptions::default();
        let leases = match self.client.lease(&self.namespace, keys, &options) {
            Ok(leases) => leases,
            Err(error) => return self.score.failed(self.plan.batch, &error),
        };
        let verify = self.verifies_next();
        for (index, lease) in (ask.first..).zip(&leases) {
            let came = lease.as_ref().map(|lease| &lease[..]).map_err(Clone::clone);
            came_or_not(&mut self.score, &self.objects, verify, index, came);
        }
    }

    fn start(&self, ask: Ask, queue: &CompletionQueue, token: u64) -> Result<(), Error> {
        let keys = self.objects.keys(ask.first, self.plan.batch);
        let (client, namespace) = (&self.client, &self.namespace);
        match ask.op {
            Op::Put => {
                let objects = self.objects.to_put(ask.first, self.plan.batch);
                let call = client.start_put(namespace, objects, &insisting())?;
                queue.watch(token, call);
            }
            Op::Match => {
                queue.watch(token, client.start_match(namespace, keys, &MatchOptions::default())?);
            }
            Op::Get | Op::Mixed => {
                queue.watch(token, client.start_get(namespace, keys, &GetOptions::default())?);
            }
        }
        Ok(())
    }

    fn take(&mut self, ask: Ask, outcome: Result<Outcome, Error>) {
        let object_bytes = u64::from(self.objects.object_bytes());
        match outcome {
            Ok(Outcome::Get(objects)) => {
                let verify = self.verifies_next();
                for (index, object) in (ask.first..).zip(objects) {
                    let came = object.as_ref().map(|o| &o.bytes[..]).map_err(Clone::clone);
                    came_or_not(&mut self.score, &self.objects, verify, index, came);
                }
            }
            Ok(Outcome::Put(stored)) => stored.into_iter().for_each(|stored| match stored {
                Ok(()) => self.score.bytes += object_bytes,
                Err(error) => self.score.refused(&error),
            }),
            Ok(Outcome::Match(found)) => self.take_match(&found),
            Ok(other) => unreachable!("no call has such an answer: {other:?}"),
            Err(error) => self.score.failed(self.plan.batch, &error),
        }
    }

    fn take_match(&mut self, found: &MatchResult) {
        for index in 0..found.len() {
            match found.error(index) {
                Some(error) => self.score.refused(error),
                None => self.score.misses += u64::from(!found.is_hit(index)),
            }
        }
    }

    fn verifies_next(&self) -> bool {
        let one_in = self.plan.verify_one_in;
        one_in > 0 && self.score.ops.is_multiple_of(one_in)
    }

    fn end(&mut self, ask: Ask, before: [u64; 3]) {
        self.score.ops += 1;
        self.score.objects += self.plan.batch as u64;
        let now = Instant::now();
        self.score.latency.record(now.saturating_duration_since(ask.due));
        let has_failed = self.score.live()[2] > before[2];
        let last =
            if has_failed { &mut self.score.last_error } else { &mut self.score.last_answer };
        *last = Some(now.saturating_duration_since(self.started));
        self.live.add(before, &self.score);
    }

    fn end_failed(&mut self, ask: Ask, error: &Error) {
        let before = self.score.live();
        self.score.failed(self.plan.batch, error);
        self.end(ask, before);
    }

    /// What was due and never begun waited at least until now: to leave it out would flatter.
    fn count_unstarted(&mut self, arrivals: Option<Arrivals>, until: Instant, now: Instant) {
        let Some(mut arrivals) = arrivals else { return };
        while arrivals.due() < until {
            self.score.unstarted += 1;
            self.score.latency.record(now.saturating_duration_since(arrivals.due()));
            arrivals.advance();
        }
    }
}

fn came_or_not(
    score: &mut Score,
    objects: &Objects,
    verify: bool,
    index: u64,
    object: KeyResult<&[u8]>,
) {
    match object {
        Ok(bytes) => {
            score.came(bytes.len() as u64, objects.check_or_measure(index, bytes, verify));
        }
        Err(error) => score.refused(&error),
    }
}

/// How long a closed loop waits after an operation with an error; guessed.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// What memory holds before a get that is to be checked.
const POISON: u8 = 0xa5;
/// Longest wait for answers before the clock is read again.
const PAUSE_MAX: Duration = Duration::from_millis(20);
