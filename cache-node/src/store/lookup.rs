//! Who is found, and what counts as a use.
//!
//! What a reader would get wrong: a lookup may drop. Whatever it finds dead (expired, of an old
//! generation, with a removed tag) goes at once, so that the reason of a miss is told once and the
//! memory is back.

use std::sync::Arc;

use larder_protocol::message::Freshness;
use larder_protocol::{Generation, Status};
use larder_transport::{Slot, prefetch};

use super::entries::{Entry, EntryId};
use super::record::{RECORD_UNIT_BYTES, Record};
use super::{Evidence, Store, Told, Why, Worth};
use crate::namespace::NamespaceId;

/// What all lookups of one request have in common.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Where to look.
    pub namespace: NamespaceId,
    /// The generation that the reader wants; any other than the present one is a miss.
    pub generation: Generation,
    /// How fresh the object must be.
    pub freshness: Freshness,
    /// Now, in milliseconds since the process started.
    pub now_ms: u64,
}

/// An object that was found; its bytes stay readable for as long as this lives.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its number, to touch it with.
    pub entry: EntryId,
    /// Its record and its bytes.
    pub slot: Slot,
}

impl Found {
    /// What it is.
    pub fn record(&self) -> Record<'_> {
        Record::read(&self.slot).expect("the lookup read it, and slots do not change")
    }
}

/// An object that was found, for as long as nothing changes.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Its number, to touch it with.
    pub entry: EntryId,
    /// Its record and its bytes.
    pub slot: &'a Slot,
    /// What it is.
    pub record: Record<'a>,
}

/// Why there is no object for a reader.
#[derive(Debug)]
#[must_use = "what is dead is still there until it is buried"]
pub struct Dead {
    status: Status,
    /// What was found dead, if it was.
    entry: Option<(u32, Why)>,
}

/// Where a key may be, at the moment of [`Store::locate`]. A stale one finds less, never another's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    pub(super) hash: u32,
    /// The first entry with this hash.
    candidate: Option<u32>,
}

/// One key of a request, as it was when the request came.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    hash: u32,
    entry: Option<EntryId>,
}

impl Use {
    /// A key that was located, and what was found there, if anything was.
    pub fn of(place: Place, entry: Option<EntryId>) -> Self {
        Self { hash: place.hash, entry }
    }

    /// Whether its object was there.
    pub fn is_hit(&self) -> bool {
        self.entry.is_some()
    }

    /// Its hash, and the number of its entry.
    pub(super) fn key(&self) -> (u32, Option<u32>) {
        (self.hash, self.entry.map(|entry| entry.0))
    }
}

impl Dead {
    /// Nothing was found dead, but there is nothing for the reader.
    pub fn nobody(status: Status) -> Self {
        Self { status, entry: None }
    }
}

/// What a lookup makes of an object with the right key.
pub(super) enum Verdict<'a> {
    Alive(Record<'a>),
    NotFresh,
    Gone(Why, Status),
}

impl Store {
    /// Where each of up to [`GROUP_KEYS`] keys is, if it is anywhere, to look it up with.
    ///
    /// A lookup is four loads, each at an address that the one before it gave. Done key by key a
    /// batch waits for memory four times a key; here each step is taken for all keys before the
    /// next, so that the memory answers them side by side.
    pub fn locate<K: AsRef<[u8]>>(
        &self,
        namespace: NamespaceId,
        keys: &[K],
    ) -> [Place; GROUP_KEYS] {
        let mut places = [Place::default(); GROUP_KEYS];
        for (place, key) in places.iter_mut().zip(keys) {
            place.hash = self.hash.of(namespace, key.as_ref());
            prefetch(self.index.home(place.hash));
        }
        for place in &mut places[..keys.len()] {
            place.candidate = self.index.find(place.hash, |_| true);
            place.candidate.iter().for_each(|&number| prefetch(&self.entries[number]));
        }
        let candidates = places.iter().filter_map(|place| place.candidate);
        let entries = candidates.filter_map(|number| self.entries.object(number));
        entries.clone().for_each(|entry| entry.slot().prefetch_record());
        entries.for_each(|entry| prefetch_front(entry, RECORD_UNIT_BYTES));
        places
    }

    /// Loads what reading and touching the objects of these names will need, for up to
    /// [`GROUP_KEYS`] of them, as [`Store::locate`] does and for the same reason.
    ///
    /// It tells nothing: what is there now may be gone when it is asked for.
    pub fn warm(&self, names: &[(NamespaceId, &[u8])]) {
        let names = &names[..names.len().min(GROUP_KEYS)];
        let mut hashes = [0; GROUP_KEYS];
        for (hash, &(namespace, key)) in hashes.iter_mut().zip(names) {
            *hash = self.hash.of(namespace, key);
            prefetch(self.index.home(*hash));
        }
        let mut numbers = [0; GROUP_KEYS];
        let mut count = 0;
        for &hash in &hashes[..names.len()] {
            if let Some(number) = self.index.find(hash, |_| true) {
                numbers[count] = number;
                count += 1;
                prefetch(&self.entries[number]);
            }
        }
        let entries = numbers[..count].iter().filter_map(|&number| self.entries.object(number));
        for entry in entries.clone() {
            entry.slot().prefetch_record();
            prefetch(&self.entries[entry.prev]);
            prefetch(&self.entries[entry.next]);
        }
        for entry in entries {
            prefetch_front(entry, WARM_BYTES);
        }
    }

    /// Finds an object without changing the order of eviction.
    ///
    /// # Errors
    /// The status that says why there is none for this reader.
    pub fn probe(&mut self, ask: &Ask, key: &[u8]) -> Result<(EntryId, Record<'_>), Status> {
        let place = self.place_of(ask.namespace, key);
        let number = self.alive(ask, key, place)?;
        let record = Record::read(self.entries[number].slot()).ok_or(Status::MissCorrupt)?;
        Ok((EntryId(number), record))
    }

    /// Finds an object and holds its bytes. With `touch` that is a use.
    ///
    /// # Errors
    /// The status that says why there is none for this reader.
    pub fn lookup(&mut self, ask: &Ask, key: &[u8], touch: bool) -> Result<Found, Status> {
        let found = self.lookup_at(ask, key, self.place_of(ask.namespace, key))?;
        if touch {
            self.touch(found.entry.0, ask.now_ms);
        }
        Ok(found)
    }

    /// As [`Store::lookup`], for a key that was located. It counts as a use only once
    /// [`Store::used`] is called with all that the request named.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn lookup_at(&mut self, ask: &Ask, key: &[u8], place: Place) -> Result<Found, Status> {
        let number = self.alive(ask, key, place)?;
        Ok(Found { entry: EntryId(number), slot: self.entries[number].slot().clone() })
    }

    /// As [`Store::lookup_at`], for a reader that is done with the bytes before it asks again.
    ///
    /// # Errors
    /// What was found instead, to be given to [`Store::bury`].
    pub fn peek_at(&self, ask: &Ask, key: &[u8], place: Place) -> Result<Seen<'_>, Dead> {
        if ask.generation != self.generation(ask.namespace) {
            return Err(Dead::nobody(Status::MissGeneration));
        }
        let number =
            self.find(ask.namespace, key, place).ok_or_else(|| Dead::nobody(Status::Miss))?;
        let slot = self.entries[number].slot();
        match self.verdict(ask, number) {
            Verdict::Alive(record) => Ok(Seen { entry: EntryId(number), slot, record }),
            Verdict::NotFresh => Err(Dead::nobody(Status::MissStale)),
            Verdict::Gone(why, status) => Err(Dead { status, entry: Some((number, why)) }),
        }
    }

    /// Drops what was found dead, and answers why there is nothing.
    pub fn bury(&mut self, dead: Dead) -> Status {
        if let Some((number, why)) = dead.entry {
            self.drop_entry(number, why);
        }
        dead.status
    }

    /// A request used these keys: all that it named on this shard, in its order, what is missing
    /// too. What was there is touched last to first, so that the head of a chain ends youngest.
    /// What is gone by now is passed over.
    ///
    /// `told` is what the request says of itself.
    pub fn used(&mut self, namespace: NamespaceId, uses: &[Use], told: Told, now_ms: u64) {
        let running = self.events + 1;
        let mut is_of_chains = false;
        for a_use in uses.iter().rev() {
            is_of_chains |= a_use.entry.is_none_or(|entry| !self.touch(entry.0, now_ms));
        }
        // Most requests for small objects end here.
        if is_of_chains {
            let alone_bytes = self.namespaces[namespace].alone_bytes();
            self.order.used(uses, told, alone_bytes, now_ms, running);
        }
        uses.iter().for_each(|a_use| self.shadow.used(a_use.hash, a_use.is_hit(), now_ms));
    }

    /// Adds what was seen of chains here to the sum over shards.
    pub fn add_evidence_to(&self, sum: &mut Evidence) {
        self.order.add_to(sum);
    }

    /// Judges chains by what all shards saw, from now on.
    pub fn judge_by(&mut self, worth: Arc<Worth>) {
        self.order.judge_by(worth);
    }

    /// The entry of an object that this reader may have; whatever is found dead goes at once.
    pub(super) fn alive(&mut self, ask: &Ask, key: &[u8], place: Place) -> Result<u32, Status> {
        let seen = self.peek_at(ask, key, place).map(|seen| seen.entry.0);
        seen.map_err(|dead| self.bury(dead))
    }

    /// The entry with this key, whatever its state.
    pub(super) fn find(&self, namespace: NamespaceId, key: &[u8], place: Place) -> Option<u32> {
        // The candidate has the key's hash, and other keys may have that too.
        place.candidate.filter(|&number| self.is_named(number, namespace, key)).or_else(|| {
            place.candidate?;
            self.index.find(place.hash, |number| self.is_named(number, namespace, key))
        })
    }

    fn is_named(&self, number: u32, namespace: NamespaceId, key: &[u8]) -> bool {
        self.entries.object(number).is_some_and(|entry| {
            entry.namespace() == namespace && Record::has_key(entry.slot(), key)
        })
    }

    /// Where one key is, if it is anywhere, to look it up with.
    pub fn place_of(&self, namespace: NamespaceId, key: &[u8]) -> Place {
        let hash = self.hash.of(namespace, key);
        Place { hash, candidate: self.index.find(hash, |_| true) }
    }

    pub(super) fn verdict(&self, ask: &Ask, number: u32) -> Verdict<'_> {
        let entry = &self.entries[number];
        let Some(record) = Record::read(entry.slot()) else {
            return Verdict::Gone(Why::Removed, Status::MissCorrupt);
        };
        if self.is_stale(entry) || record.generation() != ask.generation {
            return Verdict::Gone(Why::Stale, Status::MissGeneration);
        }
        if self.removed_tags.is_dead(ask.namespace, record.tags(), entry.stamp) {
            return Verdict::Gone(Why::Removed, Status::Miss);
        }
        if record.expires_ms().is_some_and(|expires_ms| expires_ms <= ask.now_ms) {
            return Verdict::Gone(Why::Expired, Status::MissExpired);
        }
        let is_fresh = match ask.freshness {
            Freshness::Any => true,
            Freshness::Exact(version) => record.version() == version,
            Freshness::AtLeast(version) => record.version() >= version,
            Freshness::MaxAgeMs(ms) => ask.now_ms.saturating_sub(record.stored_ms()) <= ms,
        };
        if is_fresh { Verdict::Alive(record) } else { Verdict::NotFresh }
    }

    /// A reader who takes whatever the namespace has now.
    pub(super) fn any(&self, namespace: NamespaceId, now_ms: u64) -> Ask {
        let generation = self.generation(namespace);
        Ask { namespace, generation, freshness: Freshness::Any, now_ms }
    }

    pub(super) fn is_stale(&self, entry: &Entry) -> bool {
        entry.era != self.namespaces[entry.namespace()].era()
    }

    pub(super) fn is_dead_by_tag(&self, entry: &Entry) -> bool {
        entry.is_tagged
            && !self.removed_tags.is_empty()
            && Record::read(entry.slot()).is_none_or(|record| {
                self.removed_tags.is_dead(entry.namespace(), record.tags(), entry.stamp)
            })
    }

    /// Notes that an object is used. Whether that is all there is to say, as of small objects; of
    /// others the policy hears with the whole request.
    pub(super) fn touch(&mut self, number: u32, now_ms: u64) -> bool {
        let Some(entry) = self.entries.object(number) else { return false };
        if self.is_stale(entry) || self.is_dead_by_tag(entry) {
            return false;
        }
        self.entries[number].stamp = self.next_stamp();
        self.order.touched(&mut self.entries, number, now_ms)
    }
}

/// Loads the first so many bytes of an object's slot.
pub(super) fn prefetch_front(entry: &Entry, bytes: usize) {
    let slot = &entry.slot()[..];
    prefetch(&slot[..slot.len().min(bytes)]);
}

/// Keys that are located together: about as many loads as a core keeps in flight.
pub const GROUP_KEYS: usize = 16;
/// What is loaded of a slot ahead of its turn: the processor sees by itself that more is read.
const WARM_BYTES: usize = 256;
