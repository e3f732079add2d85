//! The objects of one shard: found by key, kept in order of use, dropped to make room.
//!
//! Plain `&mut` code on one core; time comes as an argument. What a reader would get wrong: to
//! drop an object here is to forget it, not to free it. A sender may hold a clone of its slot; the
//! memory comes back when the last clone goes, and until then the bytes stay what they were.
//!
//! A put has two steps: [`Store::reserve`] makes room and gives a [`Pending`], which the caller
//! fills while other requests run, and [`Store::insert`] makes it findable. Nothing in between is
//! visible or needs undoing.

mod accounts;
mod budgets;
mod entries;
mod hash;
mod index;
mod lookup;
mod pins;
mod policy;
mod record;
mod room;
mod shadow;
mod stats;
mod sweep;
mod tags;
#[cfg(test)]
mod tests;
mod wanting;

use larder_protocol::{Generation, Status};
use larder_transport::{Arena, Slot, SlotMut, UNTAGGED, prefetch};

pub(crate) use budgets::Assigned;
pub use budgets::{Owner, Share};
pub use entries::EntryId;
pub use hash::KeyHash;
pub use lookup::{Ask, Dead, Found, GROUP_KEYS, Place, Seen, Use};
pub use policy::{Evidence, Policy, Told, Worth};
pub use record::{RECORD_BYTES_MAX, RECORD_UNIT_BYTES, Record, RecordSpec};
pub use shadow::ShadowCounts;
pub use stats::StoreStats;
pub use tags::REMOVED_TAGS_MAX;

use crate::account::{Account, CLASSES};
use crate::namespace::{NamespaceId, Namespaces, OpenError};
use budgets::{Shares, owner_of, slot_bytes};
use entries::{Entries, Entry, OBJECTS_MAX};
use index::Index;
use lookup::{Verdict, prefetch_front};
use pins::Pins;
use policy::{GHOST_BYTES, Order};
use room::Scratch;
use shadow::Shadow;
use stats::Counts;
use sweep::Sweep;
use tags::RemovedTags;
use wanting::Fullness;

/// Bounds of a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Most objects, whatever their size: bounds the memory of the index.
    pub objects_max: u64,
    /// Who goes first.
    pub policy: Policy,
    /// Most objects that are remembered after they went.
    pub ghosts_max: u32,
}

impl StoreConfig {
    /// For a region of this size: as many objects as it could hold of the smallest.
    pub fn for_region(region_bytes: u64) -> Self {
        Self {
            objects_max: (region_bytes / OBJECT_FOOTPRINT_BYTES_MIN).clamp(1, OBJECTS_MAX),
            policy: Policy::Lru,
            ghosts_max: ghosts_max(region_bytes),
        }
    }
}

/// A slot on its way to become an object, its record already written.
///
/// It is independent of the store: dropping it gives the memory back, and that is all there is to
/// undo.
#[derive(Debug)]
pub struct Pending {
    /// Takes the object's bytes, behind the record.
    pub slot: SlotMut,
    /// What [`Store::insert`] wants back with the frozen slot.
    pub ticket: Ticket,
}

/// The moment at which a slot was reserved, as far as it matters later.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    namespace: NamespaceId,
    era: u32,
    hash: u32,
}

/// The objects of one shard.
#[derive(Debug)]
pub struct Store {
    arena: Arena,
    config: StoreConfig,
    hash: KeyHash,
    namespaces: Namespaces,
    index: Index,
    entries: Entries,
    order: Order,
    fullness: Fullness,
    shares: Shares,
    shadow: Shadow,
    pins: Pins,
    removed_tags: RemovedTags,
    sweep: Sweep,
    /// Counts inserts, uses and removals of tags: the store's own time.
    events: u64,
    counts: Counts,
    /// By class hint.
    classes: Box<[Account; CLASSES]>,
    scratch: Scratch,
}

/// Why an object goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Room,
    Expired,
    Removed,
    Replaced,
    Stale,
}

impl Store {
    /// An empty store over an empty arena; at least one object is allowed, at most as many as
    /// entries have numbers.
    pub fn new(arena: Arena, config: StoreConfig, hash: KeyHash) -> Self {
        let objects_max = config.objects_max.clamp(1, OBJECTS_MAX);
        let config = StoreConfig { objects_max, ..config };
        let mut entries = Entries::new();
        let order = Order::new(&mut entries, config.policy, config.ghosts_max);
        let fullness = Fullness::of_region(arena.region().bytes());
        Self {
            arena,
            config,
            hash,
            namespaces: Namespaces::new(),
            index: Index::new(),
            entries,
            order,
            fullness,
            shares: Shares::default(),
            shadow: Shadow::new(),
            pins: Pins::new(0),
            removed_tags: RemovedTags::new(),
            sweep: Sweep::default(),
            events: 0,
            counts: Counts::default(),
            classes: Box::new([Account::default(); CLASSES]),
            scratch: Scratch::default(),
        }
    }

    /// The namespace with this description, registered now if it is new.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&mut self, spec: &[u8]) -> Result<NamespaceId, OpenError> {
        self.namespaces.open(spec)
    }

    /// The namespaces that were opened.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The namespaces, for a connection's [`Handles`](crate::namespace::Handles).
    pub fn namespaces_mut(&mut self) -> &mut Namespaces {
        &mut self.namespaces
    }

    /// Whether hits of a namespace count by what its objects cost to make again. If it has objects
    /// that was said before, and stays.
    pub fn weigh_by_cost(&mut self, id: NamespaceId, is_weighed: bool) {
        let namespace = &self.namespaces[id];
        if namespace.objects == 0 && namespace.stale_objects == 0 {
            self.order.weigh_by_cost(id, is_weighed);
        }
    }

    /// The present generation of a namespace.
    pub fn generation(&self, namespace: NamespaceId) -> Generation {
        self.namespaces[namespace].generation()
    }

    /// Begins generation `to` unless the namespace is as far already, and answers where it is now.
    ///
    /// From here on no object of an older generation is found. O(1): their memory comes back later,
    /// before anything else has to go.
    pub fn bump(&mut self, namespace: NamespaceId, to: Generation) -> Generation {
        if let Some(stale) = self.namespaces.bump(namespace, to) {
            self.order.bumped(&mut self.entries, namespace);
            self.counts.bumped(stale);
        }
        self.generation(namespace)
    }

    /// Makes a filled slot findable, in place of what has its key.
    ///
    /// Checksums are the caller's business, before. Answers [`Status::Stored`]; or
    /// [`Status::MissGeneration`] if the namespace was bumped since the slot was reserved,
    /// [`Status::Exists`] if `if_absent` and it is there, [`Status::OlderVersion`] if it is there
    /// with a higher version (a version of 0 always replaces), [`Status::Corrupt`] if the slot is
    /// not the one that was reserved with this ticket. Then the slot is dropped.
    pub fn insert(&mut self, ticket: Ticket, slot: Slot, if_absent: bool, now_ms: u64) -> Status {
        let Ticket { namespace, era, hash } = ticket;
        if self.namespaces[namespace].era() != era {
            return Status::MissGeneration;
        }
        let Some(record) = Record::read(&slot) else { return Status::Corrupt };
        if record.namespace() != namespace.number() {
            return Status::Corrupt;
        }
        if let Some(resident) =
            self.find(namespace, record.key(), self.place_of(namespace, record.key()))
        {
            if let Some(refusal) = self.refusal(resident, record.version(), if_absent, now_ms) {
                return refusal;
            }
            self.drop_entry(resident, Why::Replaced);
        }
        let owner = Owner { namespace, class: record.class_hint() };
        self.stay_below_objects_max(owner);
        let slot_bytes = Arena::slot_bytes(slot.len() as u32);
        if let Err(refusal) = self.stay_below_ceiling(owner, slot_bytes) {
            // Puts under way together may be more than the ceiling has room for.
            return refusal;
        }

        let (object_bytes, depth) = (record.object_bytes(), record.depth());
        let expires_s = expiry_s(record.expires_ms());
        let is_tagged = record.tags().next().is_some();
        let mut entry = Entry::new(slot, hash, namespace, era);
        entry.expires_s = expires_s;
        entry.is_tagged = is_tagged;
        entry.stamp = self.next_stamp();
        self.shares.taken(owner, slot_bytes);
        self.count(owner, |account| account.stored(object_bytes.into(), slot_bytes));
        let number = self.entries.add(entry);
        self.entries[number].slot().set_tag(number);
        self.index.insert(hash, number);
        let namespace = &mut self.namespaces[namespace];
        namespace.objects += 1;
        namespace.took(depth, object_bytes);
        let is_alone = namespace.alone_bytes().is_some();
        self.order.inserted(&mut self.entries, number, is_alone, now_ms);
        self.counts.stored(u64::from(object_bytes), expires_s != 0);
        Status::Stored
    }

    /// Removes one object: [`Status::Removed`], or why there was none to remove.
    pub fn remove(&mut self, namespace: NamespaceId, key: &[u8], now_ms: u64) -> Status {
        let place = self.place_of(namespace, key);
        match self.alive(&self.any(namespace, now_ms), key, place) {
            Ok(number) => {
                self.drop_entry(number, Why::Removed);
                Status::Removed
            }
            Err(miss) => miss,
        }
    }

    /// Removes every object that carries `tag`, in O(1): [`Status::Removed`], or [`Status::Busy`]
    /// if [`REMOVED_TAGS_MAX`] tags are being cleared away already.
    pub fn remove_tag(&mut self, namespace: NamespaceId, tag: u64) -> Status {
        let stamp = self.next_stamp();
        if self.removed_tags.remove(namespace, tag, stamp) { Status::Removed } else { Status::Busy }
    }

    /// Why an object that is there must stay instead of a new one, if it must.
    fn refusal(&self, resident: u32, version: u64, if_absent: bool, now_ms: u64) -> Option<Status> {
        let entry = &self.entries[resident];
        let ask = self.any(entry.namespace(), now_ms);
        if !matches!(self.verdict(&ask, resident), Verdict::Alive(_)) {
            return None;
        }
        if if_absent {
            return Some(Status::Exists);
        }
        let is_older = version != 0
            && Record::read(entry.slot()).is_some_and(|record| record.version() > version);
        is_older.then_some(Status::OlderVersion)
    }

    /// Forgets an object; its memory comes back with the last clone of its slot.
    fn drop_entry(&mut self, number: u32, why: Why) {
        self.warm_goner(number);
        let entry = &self.entries[number];
        let (hash, is_timed) = (entry.hash, entry.expires_s != 0);
        let is_stale = self.is_stale(entry);
        let is_evicted = why == Why::Room && !is_stale;
        let (owner, slot_bytes) = (owner_of(entry), slot_bytes(entry));
        self.shares.dropped(owner, slot_bytes);
        self.count(owner, |account| account.dropped(slot_bytes, is_evicted));
        let namespace = &mut self.namespaces[owner.namespace];
        if is_stale {
            namespace.stale_objects -= 1;
        } else {
            namespace.objects -= 1;
        }
        self.unpin(number);
        self.index.remove(hash, number);
        self.order.removed(&mut self.entries, number, is_evicted);
        let slot = self.entries.remove(number);
        let object_bytes = Record::object_bytes_of(&slot);
        self.counts.dropped(why, is_stale, object_bytes, is_timed);
        if slot.is_shared() {
            // The number will be another object's; a window must not find it here.
            slot.set_tag(UNTAGGED);
        }
    }

    /// Loads what dropping an object needs: one wait for memory instead of several.
    fn warm_goner(&self, number: u32) {
        let entry = &self.entries[number];
        prefetch(self.index.home(entry.hash));
        entry.slot().prefetch_record();
        prefetch_front(entry, RECORD_UNIT_BYTES);
        self.order.prefetch(entry.hash, number);
    }

    fn next_stamp(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}

/// A time to live as entries keep it: seconds, rounded up; 0 for none.
fn expiry_s(expires_ms: Option<u64>) -> u32 {
    expires_ms.map_or(0, |ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX).max(1))
}

/// How many ghosts a region of this size pays for.
pub(crate) fn ghosts_max(region_bytes: u64) -> u32 {
    u32::try_from(region_bytes / GHOST_MEMORY_PART / GHOST_BYTES).unwrap_or(u32::MAX)
}

/// Ghosts take at most one of so many parts of the region's size: with objects of 64 KiB and more,
/// several for each object (guessed).
const GHOST_MEMORY_PART: u64 = 512;
/// A record and an object of one cache line each.
const OBJECT_FOOTPRINT_BYTES_MIN: u64 = 128;
const _: () = assert!(OBJECT_FOOTPRINT_BYTES_MIN == 2 * RECORD_UNIT_BYTES as u64);
