//! Least recently used, with a list per namespace so that a generation goes in one step.
//!
//! What a reader would get wrong: order within a request. Whoever uses a chain of keys touches them
//! last to first, so that the head of the chain ends youngest and a chain is eaten from its tail;
//! that alone makes plain LRU equal to leaf-first LRU on a tree.
//!
//! Stale objects (of old generations) are in one list of their own and go before all others. Of
//! the namespaces, the one whose oldest object is the oldest of all gives the next victim.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::entries::{Entries, Entry};
use super::ring;
use crate::namespace::NamespaceId;

/// The order of all objects of a shard.
#[derive(Debug)]
pub(crate) struct Lru {
    /// By the number of the namespace.
    lists: Vec<List>,
    stale: u32,
    /// Namespaces by a lower bound of the stamp of their oldest object. Stamps of oldest objects
    /// only grow, so a bound that is too low is found out, and corrected, when it comes up.
    by_age: BinaryHeap<Reverse<(u64, u32)>>,
    /// Namespaces that a search took off `by_age` and found nothing in.
    passed: Vec<Reverse<(u64, u32)>>,
}

#[derive(Debug)]
struct List {
    anchor: u32,
    /// Whether `by_age` has it.
    is_queued: bool,
}

impl Lru {
    /// No objects yet.
    pub(crate) fn new(entries: &mut Entries) -> Self {
        let stale = entries.add_anchor();
        Self { lists: Vec::new(), stale, by_age: BinaryHeap::new(), passed: Vec::new() }
    }

    /// A new object, in no list yet.
    pub(crate) fn inserted(&mut self, entries: &mut Entries, number: u32) {
        let namespace = entries[number].namespace().number();
        while self.lists.len() <= namespace as usize {
            self.lists.push(List { anchor: entries.add_anchor(), is_queued: false });
        }
        let list = &mut self.lists[namespace as usize];
        ring::push_young(entries, list.anchor, number);
        if !list.is_queued {
            list.is_queued = true;
            let oldest = ring::oldest(entries, list.anchor).expect("one was just pushed");
            self.by_age.push(Reverse((entries[oldest].stamp, namespace)));
        }
    }

    /// An object of the present generation of its namespace was used.
    pub(crate) fn touched(&mut self, entries: &mut Entries, number: u32) {
        let namespace = entries[number].namespace().number();
        ring::unlink(entries, number);
        ring::push_young(entries, self.lists[namespace as usize].anchor, number);
    }

    /// An object goes, stale or not.
    pub(crate) fn removed(&mut self, entries: &mut Entries, number: u32) {
        ring::unlink(entries, number);
    }

    /// All objects of a namespace are stale now.
    pub(crate) fn bumped(&mut self, entries: &mut Entries, namespace: NamespaceId) {
        if let Some(list) = self.lists.get(namespace.number() as usize) {
            ring::splice_young(entries, list.anchor, self.stale);
        }
    }

    /// The stale object that has been so for longest.
    pub(crate) fn oldest_stale(&self, entries: &Entries) -> Option<u32> {
        ring::oldest(entries, self.stale)
    }

    /// The first stale object that is accepted, oldest first.
    pub(crate) fn search_stale(
        &self,
        entries: &Entries,
        accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        first_accepted(entries, self.stale, accept)
    }

    /// The first object that is accepted: stale ones, then the oldest of all namespaces.
    ///
    /// It looks at [`LOOKS_MAX`] objects of a list and gives up after [`LISTS_MAX`] lists.
    pub(crate) fn search(
        &mut self,
        entries: &Entries,
        mut accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        let mut found = self.search_stale(entries, &mut accept);
        while found.is_none() && self.passed.len() < LISTS_MAX {
            let Some(namespace) = self.oldest_namespace(entries) else { break };
            let anchor = self.lists[namespace as usize].anchor;
            found = first_accepted(entries, anchor, &mut accept);
            if found.is_none() {
                self.passed.extend(self.by_age.pop());
            }
        }
        self.by_age.extend(self.passed.drain(..));
        found
    }

    /// The first object of a namespace that is accepted, oldest first.
    pub(crate) fn search_in(
        &self,
        entries: &Entries,
        namespace: NamespaceId,
        accept: impl FnMut(&Entry) -> bool,
    ) -> Option<u32> {
        let list = self.lists.get(namespace.number() as usize)?;
        first_accepted(entries, list.anchor, accept)
    }

    /// The namespace on top of `by_age`, once its bound is exact.
    fn oldest_namespace(&mut self, entries: &Entries) -> Option<u32> {
        loop {
            let mut top = self.by_age.peek_mut()?;
            let Reverse((bound, namespace)) = *top;
            let list = &mut self.lists[namespace as usize];
            let Some(oldest) = ring::oldest(entries, list.anchor) else {
                list.is_queued = false;
                std::collections::binary_heap::PeekMut::pop(top);
                continue;
            };
            let stamp = entries[oldest].stamp;
            if stamp == bound {
                return Some(namespace);
            }
            *top = Reverse((stamp, namespace));
        }
    }
}

fn first_accepted(
    entries: &Entries,
    anchor: u32,
    mut accept: impl FnMut(&Entry) -> bool,
) -> Option<u32> {
    ring::by_age(entries, anchor).take(LOOKS_MAX).find(|&number| accept(&entries[number]))
}

/// Most objects of one list that a search looks at: those that are being sent were used just now
/// and stand at the young end, so only long leases are in its way (guessed).
const LOOKS_MAX: usize = 64;
/// Most namespaces that a search looks into (guessed).
const LISTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use larder_transport::{Arena, Region};

    use super::*;

    struct Bench {
        arena: Arena,
        entries: Entries,
        lru: Lru,
        stamp: u64,
    }

    impl Bench {
        fn new() -> Self {
            let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
            let mut entries = Entries::new();
            let lru = Lru::new(&mut entries);
            Self { arena, entries, lru, stamp: 0 }
        }

        fn insert(&mut self, namespace: u32) -> u32 {
            let mut slot = self.arena.take(64).unwrap();
            slot.write(&[0; 64]);
            let entry = Entry::new(slot.freeze().unwrap(), 0, NamespaceId(namespace), 0);
            let number = self.entries.add(entry);
            self.stamp += 1;
            self.entries[number].stamp = self.stamp;
            self.lru.inserted(&mut self.entries, number);
            number
        }

        fn touch(&mut self, number: u32) {
            self.stamp += 1;
            self.entries[number].stamp = self.stamp;
            self.lru.touched(&mut self.entries, number);
        }

        fn victim(&mut self) -> Option<u32> {
            let victim = self.lru.search(&self.entries, |entry| !entry.slot().is_shared())?;
            self.lru.removed(&mut self.entries, victim);
            self.entries.remove(victim);
            Some(victim)
        }

        fn victims(&mut self) -> Vec<u32> {
            std::iter::from_fn(|| self.victim()).collect()
        }
    }

    #[test]
    fn oldest_goes_first_over_all_namespaces() {
        let mut bench = Bench::new();
        let [a, b, c, d, e] = [0, 5, 0, 5, 2].map(|namespace| bench.insert(namespace));
        bench.touch(a);
        bench.touch(d);
        assert_eq!(bench.victims(), [b, c, e, a, d]);
        let f = bench.insert(5);
        assert_eq!(bench.victims(), [f], "a namespace that was empty is found again");
    }

    #[test]
    fn stale_objects_go_before_all_others() {
        let mut bench = Bench::new();
        let [a, b, c, d] = [1, 0, 1, 0].map(|namespace| bench.insert(namespace));
        bench.lru.bumped(&mut bench.entries, NamespaceId(0));
        bench.lru.bumped(&mut bench.entries, NamespaceId(77));
        let e = bench.insert(0);
        assert_eq!(bench.lru.oldest_stale(&bench.entries), Some(b));
        assert_eq!(bench.victims(), [b, d, a, c, e]);
    }

    #[test]
    fn pinned_objects_are_passed_and_stay_in_order() {
        let mut bench = Bench::new();
        let [a, b, c] = [0, 0, 1].map(|namespace| bench.insert(namespace));
        let sent = [a, c].map(|number| bench.entries[number].slot().clone());
        assert_eq!(bench.victim(), Some(b));
        assert_eq!(bench.victim(), None, "everything is pinned");
        drop(sent);
        assert_eq!(bench.victims(), [a, c]);
    }
}
