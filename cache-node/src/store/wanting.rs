//! Whether a put would be welcome.
//!
//! Where there is room everything is. Else an object must be worth no less for its bytes than
//! whoever would have to go for it, or, where cost counts, no less by that. What no request has
//! named is stored. What a reader would get wrong: whether there is room is not a matter of bytes
//! alone. Slots of one size may leave gaps that another size cannot use, so the store remembers
//! with how many bytes it was full when it last had to evict.

use larder_transport::Arena;

use super::lookup::Place;
use super::policy::Missing;
use super::{Owner, Store};
use crate::namespace::NamespaceId;

/// With how many bytes of slots the arena is full.
#[derive(Debug)]
pub(super) struct Fullness {
    slot_bytes: u64,
}

impl Fullness {
    /// As nothing is known yet.
    pub(super) const fn of_region(region_bytes: u64) -> Self {
        Self { slot_bytes: region_bytes }
    }

    /// There was room for a slot: with it there are `slot_bytes`.
    pub(super) fn had_room(&mut self, slot_bytes: u64) {
        self.slot_bytes = self.slot_bytes.max(slot_bytes);
    }

    /// With these there was no room for one more.
    pub(super) const fn was_full(&mut self, slot_bytes: u64) {
        self.slot_bytes = slot_bytes;
    }
}

impl Store {
    /// Whether an object of so many bytes, so deep in its chain, should be stored, that a request
    /// named just now and that is not here: there is room, or it is worth no less than who would
    /// have to go.
    pub fn wants(&mut self, owner: impl Into<Owner>, place: Place, depth: u16, bytes: u32) -> bool {
        let owner = owner.into();
        if !self.is_full(bytes) || self.shares.is_below_floor(owner) {
            return true;
        }
        let front = self.order.front(&self.entries);
        let missing = Missing { namespace: owner.namespace, hash: place.hash, depth, bytes };
        self.order.wants(&missing, front)
    }

    /// As [`Store::wants`], for each of several, with its depth. They are as long as this, or as
    /// the last one of their namespace if that is 0. All are held against the one who would have to
    /// go first. Of what class they will be nobody knows yet: if one of the namespace is below its
    /// floor all are welcome, and their put decides.
    pub fn wants_each(
        &mut self,
        namespace: NamespaceId,
        places: impl Iterator<Item = (Place, u16)>,
        bytes: u32,
        mut answer: impl FnMut(usize, bool),
    ) {
        let bytes = if bytes == 0 { self.object_bytes_guess(namespace) } else { bytes };
        let is_full = self.is_full(bytes) && !self.shares.has_floor_to_fill(namespace);
        let front = if is_full { self.order.front(&self.entries) } else { None };
        for (at, (place, depth)) in places.enumerate() {
            let missing = Missing { namespace, hash: place.hash, depth, bytes };
            answer(at, !is_full || self.order.wants(&missing, front));
        }
    }

    /// Whether somebody would have to go: stale objects cost nothing to lose.
    fn is_full(&self, bytes: u32) -> bool {
        if self.order.oldest_stale(&self.entries).is_some() {
            return false;
        }
        self.counts.objects >= self.config.objects_max
            || self.arena.live_bytes() + Arena::slot_bytes(bytes) > self.fullness.slot_bytes
    }

    /// As long as the last one of the namespace, or as the mean of all where it has none.
    fn object_bytes_guess(&self, namespace: NamespaceId) -> u32 {
        let last = self.namespaces[namespace].last_object_bytes();
        if last > 0 {
            return last;
        }
        let mean = self.counts.object_bytes.checked_div(self.counts.objects).unwrap_or(0);
        u32::try_from(mean).unwrap_or(u32::MAX)
    }
}
