//! Who goes first when room is needed.
//!
//! Every object is in the list of its namespace in order of use ([`Lru`]), which knows what is
//! stale; policies that judge better keep their own order in notes beside the entries. The store
//! tells what happens and asks for victims, always with the pool of entries as an argument:
//!
//! * `inserted`, `used`, `removed`: one object; its stamp is set already. All O(1).
//! * `bumped`: every object of a namespace is stale now. O(1), whatever their number.
//! * `search`: the objects in the order in which they should go, until one is accepted.
//!
//! What a reader would get wrong: a policy frees nothing and counts no bytes. It orders numbers; the
//! store decides whether evicting one would free memory, and drops it.

mod ghosts;
mod lru;
#[expect(dead_code, reason = "class lists, which come next, need more")]
mod notes;
mod ring;
mod s3fifo;

pub(super) use ghosts::GHOST_BYTES;

use super::entries::{Entries, Entry};
use crate::namespace::NamespaceId;
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
}

/// The order of all objects of a shard.
#[derive(Debug)]
pub(super) struct Order {
    policy: Policy,
    recency: Lru,
    notes: Notes,
    small: S3Fifo,
}

impl Order {
    /// No objects yet.
    pub(super) fn new(entries: &mut Entries, policy: Policy, ghosts_max: u32) -> Self {
        let (recency, notes) = (Lru::new(entries), Notes::new(u8::MAX));
        Self { policy, recency, notes, small: S3Fifo::new(ghosts_max) }
    }

    /// A new object, in no list yet.
    pub(super) fn inserted(&mut self, entries: &mut Entries, number: u32, now_ms: u64) {
        self.recency.inserted(entries, number);
        match self.policy {
            Policy::Lru => {}
            Policy::S3Fifo => {
                self.small.inserted(&mut self.notes, number, entries[number].hash, now_ms);
            }
        }
    }

    /// An object of the present generation of its namespace was used.
    pub(super) fn used(&mut self, entries: &mut Entries, number: u32) {
        self.recency.touched(entries, number);
        if self.notes.find(number).is_some_and(|note| S3Fifo::has(&note)) {
            S3Fifo::used(&mut self.notes, number);
        }
    }

    /// An object goes, stale or not; `is_evicted` if it would still be good.
    pub(super) fn removed(&mut self, entries: &mut Entries, number: u32, is_evicted: bool) {
        self.recency.removed(entries, number);
        let Some(note) = self.notes.remove(number) else { return };
        if is_evicted && S3Fifo::has(&note) {
            self.small.evicted(&self.notes, &note, entries[number].hash);
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

    /// The first object that is accepted: stale ones, then in the order of the policy.
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
        let found = match self.policy {
            Policy::Lru => None,
            Policy::S3Fifo => S3Fifo::search(&mut self.notes, |number| accept(&entries[number])),
        };
        found.or_else(|| self.recency.search(entries, accept))
    }

    /// Memory of the policy beside the entries, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.notes.bytes() + self.small.bytes()
    }
}
