//! Who goes first when room is needed.
//!
//! Every object is in the list of its namespace in order of use ([`Lru`]), which knows what is
//! stale; policies that judge better keep their own order in notes beside the entries. The store
//! tells what happens and asks for victims, always with the pool of entries as an argument:
//!
//! * `inserted`, `touched`, `removed`: one object; its stamp is set already. All O(1).
//! * `used`: a request, with all keys that it named here, those that are missing included.
//! * `bumped`: every object of a namespace is stale now. O(1), whatever their number.
//! * `search`: the objects in the order in which they should go, until one is accepted.
//!
//! What a reader would get wrong: a policy frees nothing and counts no bytes. It orders numbers;
//! the store decides whether evicting one would free memory, and drops it.

mod absent;
mod ages;
mod chances;
mod class;
mod cohort;
mod cost;
mod evidence;
mod floor;
mod fronts;
mod ghosts;
mod hazard;
mod known;
mod lru;
mod notes;
mod past;
mod ring;
mod s3fifo;
mod waiting;
mod weight;
mod worth;

use std::sync::Arc;

pub use evidence::Evidence;
pub(super) use ghosts::GHOST_BYTES;
pub use worth::Worth;

use larder_transport::Arena;

use super::budgets::slot_bytes;
use super::entries::{Entries, Entry};
use super::lookup::Use;
use super::record::Record;
use crate::namespace::NamespaceId;
use class::Gap;
use cost::Costs;
use hazard::{Asked, Gone, Hazard, Newcomer};
use lru::Lru;
use notes::Notes;
use s3fifo::S3Fifo;

/// How a store chooses whom to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The least recently used first, chains from their tail.
    Lru,
    /// Two queues that weed out what is used once.
    S3Fifo,
    /// What is worth least to keep, as past requests of its class tell. Objects of fewer than
    /// `small_bytes_end` that stand alone have the two queues.
    Hazard {
        /// Counts what it would cost to make an object again, too.
        by_cost: bool,
        /// See above.
        small_bytes_end: u32,
    },
}

impl Policy {
    /// Reuse hazard, and two queues for objects of at most 16 KiB that stand alone.
    pub const HAZARD: Self = Self::hazard(false);
    /// The same, by cost.
    pub const HAZARD_BY_COST: Self = Self::hazard(true);

    const fn hazard(by_cost: bool) -> Self {
        Self::Hazard { by_cost, small_bytes_end: SMALL_BYTES_MAX + 1 }
    }
}

/// What a request says of itself beside its keys. What nobody says is as by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// What kind of request it is, in the client's own numbers; 0 if that is not known.
    pub hint: u8,
    /// Whether its last key is the end of a chain, and names less than a whole object would hold:
    /// a longer chain will have another key there.
    pub ends_partly: bool,
}

/// The order of all objects of a shard.
#[derive(Debug)]
pub(super) struct Order {
    policy: Policy,
    recency: Lru,
    notes: Notes,
    small: S3Fifo,
    chains: Hazard,
    costs: Costs,
    /// Objects of fewer bytes that stand alone are of the two queues.
    small_bytes_end: u32,
    /// Objects with this stamp or a younger one are of the request at hand.
    running: u64,
}

impl Order {
    /// No objects yet.
    pub(super) fn new(entries: &mut Entries, policy: Policy, ghosts_max: u32) -> Self {
        let is_hazard = matches!(policy, Policy::Hazard { .. });
        let by_cost = matches!(policy, Policy::Hazard { by_cost: true, .. });
        let small_bytes_end = match policy {
            Policy::Lru => 0,
            Policy::S3Fifo => u32::MAX,
            Policy::Hazard { small_bytes_end, .. } => small_bytes_end,
        };
        Self {
            policy,
            recency: Lru::new(entries),
            notes: Notes::new(u8::MAX),
            small: S3Fifo::new(ghosts_max),
            chains: Hazard::new(if is_hazard { ghosts_max } else { 0 }),
            costs: Costs::new(by_cost),
            small_bytes_end,
            running: u64::MAX,
        }
    }

    /// A new object, in no list yet; `is_alone` if its namespace never had a chain.
    pub(super) fn inserted(
        &mut self,
        entries: &mut Entries,
        number: u32,
        is_alone: bool,
        now_ms: u64,
    ) {
        self.recency.inserted(entries, number);
        let hash = entries[number].hash;
        let Some(record) = Record::read(entries[number].slot()) else { return };
        let bytes = record.object_bytes();
        let is_small = match self.policy {
            Policy::Lru => return,
            Policy::S3Fifo => true,
            Policy::Hazard { .. } => is_alone && bytes < self.small_bytes_end,
        };
        if is_small {
            self.chains.dismiss(hash);
            let now_ms = self.chains.move_on(now_ms);
            self.small.inserted(&mut self.notes, number, hash, now_ms);
            self.chains.follow(hash, None, Some(&self.notes[number]));
        } else {
            let (depth, hint) = (record.depth(), record.class_hint());
            let alone = is_alone.then(|| Gap::alone(bytes));
            let new = Newcomer { number, hash, depth, hint, alone };
            self.chains.inserted(&mut self.notes, &new, now_ms);
            self.costs.came(entries[number].namespace(), depth);
        }
    }

    /// An object of the present generation of its namespace was used. Whether [`Order::used`] would
    /// have nothing to add.
    pub(super) fn touched(&mut self, entries: &mut Entries, number: u32, now_ms: u64) -> bool {
        self.recency.touched(entries, number);
        let Some(note) = self.notes.find_mut(number).filter(|note| S3Fifo::has(note)) else {
            return false;
        };
        let before = *note;
        if S3Fifo::waits_in(&before).is_none() {
            S3Fifo::used(note, 0);
            return true;
        }
        S3Fifo::used(note, self.chains.move_on(now_ms));
        self.chains.follow(entries[number].hash, Some(&before), Some(note));
        true
    }

    /// An object that was looked at as a victim is in use, and was touched for it.
    pub(super) fn held(&mut self, number: u32) {
        if let Some(note) = self.notes.find(number) {
            self.notes.refile(number, note.list);
            if Hazard::has(&note) {
                self.chains.held(&note);
            }
        }
    }

    /// A request used these keys, whose objects were touched; `running` is its first stamp. Where
    /// objects stand alone, `alone_bytes` is how long they mostly are.
    pub(super) fn used(
        &mut self,
        uses: &[Use],
        told: Told,
        alone_bytes: Option<u32>,
        now_ms: u64,
        running: u64,
    ) {
        let is_small = alone_bytes.is_some_and(|bytes| bytes < self.small_bytes_end);
        if matches!(self.policy, Policy::Hazard { .. }) && !is_small {
            let (alone, by_cost) = (alone_bytes.map(Gap::alone), self.costs.are_of_all());
            let asked = Asked { told, alone, by_cost };
            if self.chains.used(&mut self.notes, uses.iter().map(Use::key), &asked, now_ms) {
                self.running = running;
            }
        }
    }

    /// Loads what [`Order::removed`] will look at.
    pub(super) fn prefetch(&self, hash: u32, number: u32) {
        self.chains.prefetch(hash);
        self.notes.prefetch_neighbours(number);
    }

    /// An object goes, stale or not; `is_evicted` if it would still be good.
    pub(super) fn removed(&mut self, entries: &mut Entries, number: u32, is_evicted: bool) {
        self.recency.removed(entries, number);
        let Some(note) = self.notes.remove(number) else { return };
        let hash = entries[number].hash;
        if Hazard::has(&note) {
            self.costs.went(entries[number].namespace(), note.depth);
            self.chains.removed(&Gone { hash, note }, is_evicted);
        } else {
            self.chains.follow(hash, Some(&note), None);
            if is_evicted {
                self.small.evicted(&self.notes, &note, hash);
            }
        }
    }

    /// All objects of a namespace are stale now.
    pub(super) fn bumped(&mut self, entries: &mut Entries, namespace: NamespaceId) {
        self.recency.bumped(entries, namespace);
    }

    /// The stale object that has been so for longest.
    pub(super) fn oldest_stale(&self, entries: &Entries) -> Option<u32> {
        self.recency.oldest_stale(entries)
    }

    /// The first stale object that is accepted, oldest first.
    pub(super) fn search_stale(
        &self,
        entries: &Entries,
        accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        self.recency.search_stale(entries, accept)
    }

    /// The first object that is accepted: stale ones, then in the order of the policy, and where
    /// that has nobody, in order of use.
    ///
    /// It looks at a bounded number of objects.
    pub(super) fn search(
        &mut self,
        entries: &Entries,
        mut accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        if let Some(stale) = self.recency.search_stale(entries, &mut accept) {
            return Some(stale);
        }
        if self.is_outdone() {
            return self.recency.search(entries, accept);
        }
        let is_small = self.front(entries).is_some_and(|front| front.is_small);
        let mut accept_number = |number: u32| accept(&entries[number]);
        let found = if is_small {
            self.search_small(entries, &mut accept_number)
        } else {
            self.search_chains(entries, &mut accept_number)
        };
        found.or_else(|| self.recency.search(entries, accept))
    }

    /// As [`Order::search`], of those objects alone that are judged by their worth, and only if it
    /// is their turn.
    pub(super) fn search_judged(&mut self, entries: &Entries, accept: impl FnMut(u32) -> bool) {
        let is_theirs = matches!(self.policy, Policy::Hazard { .. })
            && !self.is_outdone()
            && self.recency.oldest_stale(entries).is_none()
            && self.front(entries).is_some_and(|front| !front.is_small);
        if is_theirs {
            self.search_chains(entries, accept);
        }
    }

    /// Whether objects of a namespace, which has none yet, are weighed by cost.
    pub(super) fn weigh_by_cost(&mut self, namespace: NamespaceId, is_weighed: bool) {
        self.costs.weigh(namespace, is_weighed);
    }

    /// What an object is worth as a whole; nothing if nobody judges it.
    pub(super) fn worth_of(&self, number: u32) -> f32 {
        self.notes.find(number).map_or(0.0, |note| self.chains.worth_of(&note))
    }

    /// The first object that is accepted: of `first`, then of the other namespaces below `count`,
    /// each in order of use. For when those must stay whom the policy would evict.
    pub(super) fn search_lists(
        &self,
        entries: &Entries,
        first: NamespaceId,
        count: usize,
        mut accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        let others = (0..count as u32).map(NamespaceId).filter(|&id| id != first);
        let all = std::iter::once(first).chain(others);
        all.into_iter().find_map(|id| self.recency.search_in(entries, id, &mut accept))
    }

    /// Whether an object whose key a request named, and that is not here, is worth no less than the
    /// one that would have to go for it, as [`Order::front`] says: of equals the older goes. Of one
    /// namespace that is weighed by cost either measure will do.
    pub(super) fn wants(&self, missing: &Missing, front: Option<Front>) -> bool {
        if self.is_outdone() {
            return true;
        }
        // Without anybody to go, everything is of the request itself.
        let Some(front) = front else { return !matches!(self.policy, Policy::Hazard { .. }) };
        let Some(worth) = self.chains.worth_of_absent(missing.hash) else { return true };
        let worth = worth / Arena::slot_bytes(missing.bytes).max(1) as f32;
        let cost = self.costs.factor(missing.namespace, missing.depth);
        // By hits alone who is dear would be kept out by whom only his cheapness let go first; by
        // cost alone the cheap heads of new chains would be.
        let is_alike = self.costs.are_of_all() || front.namespace == missing.namespace;
        let is_dear = is_alike && !front.is_small && worth * cost >= front.worth_by_cost;
        worth >= front.worth || is_dear
    }

    #[cfg(test)]
    pub(in crate::store) fn chain_objects(&self) -> u32 {
        self.chains.objects
    }

    /// Adds what was seen of chains here.
    pub(super) fn add_to(&self, sum: &mut Evidence) {
        self.chains.add_to(sum);
    }

    /// Judges chains by what all shards saw.
    pub(super) fn judge_by(&mut self, worth: Arc<Worth>) {
        self.costs.settle();
        self.chains.judge_by(worth);
    }

    /// Memory of the policy beside the entries, ghosts apart, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.notes.bytes()
    }

    /// Memory of what is known of objects that are not here, in bytes.
    pub(super) fn ghost_bytes(&self) -> u64 {
        self.small.bytes() + self.chains.bytes()
    }

    /// Whose turn it is: of the next small victim and the next other one the one that is worth
    /// least for its bytes, of equals the one that was used longest ago.
    pub(super) fn front(&mut self, entries: &Entries) -> Option<Front> {
        let small = self.search_small(entries, |_| true);
        let other = self.search_chains(entries, |_| true);
        let front = |number: u32, is_small| {
            let (entry, note) = (&entries[number], &self.notes[number]);
            let worth = self.chains.worth_of(note) / slot_bytes(entry) as f32;
            let cost = match is_small {
                true => 1.0,
                false => self.costs.factor(entry.namespace(), note.depth),
            };
            let namespace = entry.namespace();
            (Front { is_small, namespace, worth, worth_by_cost: worth * cost }, entry.stamp)
        };
        let small = small.map(|number| front(number, true));
        let other = other.map(|number| front(number, false));
        let both = small.into_iter().chain(other);
        // What is relative to a mean can be held against hits, what is not cannot.
        let rank = |front: &Front| {
            if self.costs.are_of_all() { front.worth } else { front.worth_by_cost }
        };
        let least = both.min_by(|a, b| rank(&a.0).total_cmp(&rank(&b.0)).then(a.1.cmp(&b.1)));
        least.map(|(front, _)| front)
    }

    /// Whether LRU does better at this time: by hits, so not where these are not all that counts.
    fn is_outdone(&self) -> bool {
        self.chains.is_outdone() && !self.costs.are_of_all()
    }

    fn search_small(&mut self, entries: &Entries, accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let Self { notes, chains, .. } = self;
        let now_ms = chains.now_ms();
        S3Fifo::search(notes, now_ms, accept, |number, note| {
            chains.follow(entries[number].hash, None, Some(note));
        })
    }

    fn search_chains(&mut self, entries: &Entries, accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let running = self.running;
        let Self { notes, chains, costs, .. } = self;
        let weigh = |number: u32, worth: f32| {
            let entry = &entries[number];
            let cost = costs.factor(entry.namespace(), notes[number].depth);
            worth * cost / slot_bytes(entry) as f32
        };
        let is_running = |number: u32| entries[number].stamp >= running;
        chains.search(notes, weigh, is_running, accept)
    }
}

/// Features and embeddings are smaller, attention KV of a few tokens is larger.
const SMALL_BYTES_MAX: u32 = 16 << 10;

/// Who is to go next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    is_small: bool,
    namespace: NamespaceId,
    /// Expected uses for the time it takes room, for each byte.
    worth: f32,
    /// The same, where costs count.
    worth_by_cost: f32,
}

/// An object that is not here and could be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) namespace: NamespaceId,
    pub(super) hash: u32,
    /// Its place in its chain, as near as that is known.
    pub(super) depth: u16,
    pub(super) bytes: u32,
}
