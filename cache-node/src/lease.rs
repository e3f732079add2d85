//! What one connection reads in place: slots that are not given back before it says so.
//!
//! A lease is known by the place that the get was answered with, and the same place may be leased
//! several times. What a reader would get wrong: an object that was removed or evicted stays here,
//! invisible to everybody else, until its last lease ends.

use larder_protocol::message::LeasedPlace;
use larder_transport::{Arena, Slot};

use crate::gauge::Gauge;

/// The leases of one connection.
#[derive(Debug)]
pub(crate) struct Leases {
    slots: ahash::HashMap<LeasedPlace, Lease>,
    bytes: u64,
    bytes_max: u64,
    totals: Totals,
}

#[derive(Debug)]
struct Lease {
    slot: Slot,
    count: u32,
}

/// What all connections of a shard hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// Leases.
    pub(crate) count: Gauge,
    /// Bytes of slots, counted once for each place of each connection.
    pub(crate) bytes: Gauge,
}

impl Leases {
    /// No leases; room for slots of `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64, totals: Totals) -> Self {
        Self { slots: ahash::HashMap::default(), bytes: 0, bytes_max, totals }
    }

    /// Leases `place`, which is in `slot`; false if that is more than the connection may hold.
    ///
    /// The whole slot is charged, however little of it is read, and once for each place.
    pub(crate) fn take(&mut self, place: LeasedPlace, slot: &Slot) -> bool {
        if let Some(lease) = self.slots.get_mut(&place) {
            let Some(count) = lease.count.checked_add(1) else { return false };
            lease.count = count;
        } else {
            let bytes = charge(slot);
            if bytes > self.bytes_max - self.bytes {
                return false;
            }
            self.slots.insert(place, Lease { slot: slot.clone(), count: 1 });
            self.bytes += bytes;
            self.totals.bytes.raise(bytes);
        }
        self.totals.count.raise(1);
        true
    }

    /// Ends one lease of `place`; false if there is none.
    pub(crate) fn release(&mut self, place: LeasedPlace) -> bool {
        let Some(lease) = self.slots.get_mut(&place) else { return false };
        lease.count -= 1;
        self.totals.count.lower(1);
        if lease.count == 0 {
            let bytes = charge(&lease.slot);
            self.bytes -= bytes;
            self.totals.bytes.lower(bytes);
            self.slots.remove(&place);
            self.slots.shrink_to(PLACES_KEPT.max(2 * self.slots.len()));
        }
        true
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let count = self.slots.values().map(|lease| u64::from(lease.count)).sum();
        self.totals.count.lower(count);
        self.totals.bytes.lower(self.bytes);
    }
}

fn charge(slot: &Slot) -> u64 {
    Arena::slot_bytes(u32::try_from(slot.len()).expect("slots are u32-sized"))
}

/// Room for this many places stays; one that held very many gives the rest back.
const PLACES_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use larder_transport::Region;
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: u64 = 4096;

    #[derive(Debug, Clone)]
    enum Step {
        /// Of which object, and which of three places in it.
        Take(usize, u64),
        Release(usize, u64),
        /// The connection ends, and another one begins.
        End,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let place = || (0..10usize, 0..3u64);
        let step = prop_oneof![
            12 => place().prop_map(|(object, part)| Step::Take(object, part)),
            10 => place().prop_map(|(object, part)| Step::Release(object, part)),
            1 => Just(Step::End),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn table_holds_what_a_list_of_leases_does(steps in steps()) {
            let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
            let slot = |object: u32| {
                let mut slot = arena.take(64 + object * 300).unwrap();
                slot.unfilled().fill(object as u8);
                slot.advance(64 + object as usize * 300);
                slot.freeze().unwrap()
            };
            // The objects themselves were evicted: only leases keep the slots of some.
            let mut slots: Vec<_> = (0..10).map(|object| Some(slot(object))).collect();
            let totals = Totals::default();
            let mut leases = Leases::new(BYTES_MAX, totals.clone());
            let mut model: Vec<(LeasedPlace, u64)> = Vec::new();
            for step in steps {
                let place = |object: usize, part: u64, slots: &[Option<Slot>]| LeasedPlace {
                    region: 0,
                    offset: slots[object].as_ref().map_or(7, Slot::offset) + part * 20,
                };
                match step {
                    Step::Take(object, part) => {
                        let place = place(object, part, &slots);
                        let Some(slot) = &slots[object] else { continue };
                        let bytes = charge(slot);
                        let mut places = model.clone();
                        places.sort_unstable_by_key(|(place, _)| place.offset);
                        places.dedup();
                        let held: u64 = places.iter().map(|(_, bytes)| bytes).sum();
                        let may = places.contains(&(place, bytes)) || held + bytes <= BYTES_MAX;
                        prop_assert_eq!(leases.take(place, slot), may);
                        if may {
                            model.push((place, bytes));
                        }
                    }
                    Step::Release(object, part) => {
                        let place = place(object, part, &slots);
                        let at = model.iter().position(|(leased, _)| *leased == place);
                        prop_assert_eq!(leases.release(place), at.is_some());
                        at.map(|at| model.swap_remove(at));
                    }
                    Step::End => {
                        leases = Leases::new(BYTES_MAX, totals.clone());
                        model.clear();
                        slots[0] = None;
                    }
                }
                prop_assert_eq!(totals.count.value(), model.len() as u64);
                prop_assert_eq!(leases.is_empty(), model.is_empty());
            }
            let kept: Vec<_> = slots.iter_mut().filter_map(Option::take).collect();
            let places: Vec<_> = kept.iter().map(|slot| (slot.offset(), charge(slot))).collect();
            drop(kept);
            let is_held =
                |at: u64| model.iter().any(|(place, _)| (at..at + 64).contains(&place.offset));
            let held = places.iter().filter(|(at, _)| is_held(*at)).map(|(_, bytes)| bytes);
            let held: u64 = held.sum();
            prop_assert_eq!(arena.stats().slot_bytes, held);
            drop(leases);
            prop_assert_eq!((totals.count.value(), totals.bytes.value()), (0, 0));
            prop_assert_eq!(arena.stats().slot_bytes, 0);
        }
    }

    #[test]
    fn one_that_is_too_large_alone_is_refused() {
        let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
        let slot = {
            let mut slot = arena.take(1000).unwrap();
            slot.advance(1000);
            slot.freeze().unwrap()
        };
        let place = LeasedPlace { region: 0, offset: slot.offset() };
        assert!(!Leases::new(1023, Totals::default()).take(place, &slot));
        assert!(Leases::new(1024, Totals::default()).take(place, &slot), "rounded up to 64");
        assert!(!Leases::new(1024, Totals::default()).release(place));
    }
}
