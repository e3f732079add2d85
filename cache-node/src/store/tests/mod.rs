//! Promises of the store, each against the real arena.
//!
//! Every object that is put has its own bytes, made from a serial number, so a hit can be checked
//! against the put it must come from.

mod budgets;
mod cold;
mod cost;
mod kinds;
mod model;
mod order;
mod pins;
mod promises;
mod room;

use std::sync::Arc;

use larder_protocol::NamespaceSpec;
use larder_protocol::checksum::{crc64, encode_parts};
use larder_protocol::message::Freshness;
use larder_transport::Region;

use super::*;

/// A store with one namespace, and what a client would do to it.
struct Bench {
    store: Store,
    namespace: NamespaceId,
    now_ms: u64,
    /// Serial number of the last put, and seed of its bytes.
    serial: u64,
}

/// What a put says beside key and length.
#[derive(Debug, Clone, Copy, Default)]
struct Extra<'a> {
    version: u64,
    ttl_ms: u32,
    tags: &'a [u64],
    if_absent: bool,
    class: u8,
}

impl Bench {
    fn new(region_bytes: u64) -> Self {
        Self::with(region_bytes, StoreConfig::for_region(region_bytes), KeyHash::seeded(1))
    }

    fn with(region_bytes: u64, config: StoreConfig, hash: KeyHash) -> Self {
        let arena = Arena::new(Arc::new(Region::heap(region_bytes).unwrap()));
        let mut store = Store::new(arena, config, hash);
        let namespace = store.open(&NamespaceSpec::new("t", "m").encode().unwrap()).unwrap();
        Self { store, namespace, now_ms: 0, serial: 0 }
    }

    fn open(&mut self, model: &str) -> NamespaceId {
        self.store.open(&NamespaceSpec::new("t", model).encode().unwrap()).unwrap()
    }

    fn reserve(&mut self, key: &[u8], bytes: u32, extra: Extra<'_>) -> Result<Pending, Status> {
        self.reserve_at(key, 0, bytes, extra)
    }

    fn reserve_at(
        &mut self,
        key: &[u8],
        depth: u16,
        bytes: u32,
        extra: Extra<'_>,
    ) -> Result<Pending, Status> {
        self.serial += 1;
        let tags: Vec<u8> = extra.tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
        self.store.reserve(&RecordSpec {
            namespace: self.namespace,
            generation: self.store.generation(self.namespace),
            stored_ms: self.now_ms,
            key,
            object_bytes: bytes,
            depth,
            class_hint: extra.class,
            cost_hint: 0,
            ttl_ms: extra.ttl_ms,
            version: extra.version,
            tags: &tags,
            user_meta: &self.serial.to_le_bytes(),
            parts: &encode_parts(&[crc64(&object(self.serial, bytes))]),
            seal: 0,
        })
    }

    fn commit(&mut self, mut pending: Pending, extra: Extra<'_>) -> Status {
        let bytes = pending.slot.len() - pending.slot.filled();
        pending.slot.write(&object(self.serial, bytes));
        let slot = pending.slot.freeze().unwrap();
        self.store.insert(pending.ticket, slot, extra.if_absent, self.now_ms)
    }

    fn put_with(&mut self, key: &[u8], bytes: u32, extra: Extra<'_>) -> Status {
        match self.reserve(key, bytes, extra) {
            Ok(pending) => self.commit(pending, extra),
            Err(status) => status,
        }
    }

    fn put(&mut self, key: &[u8], bytes: u32) {
        assert_eq!(self.put_with(key, bytes, Extra::default()), Status::Stored);
    }

    /// As [`Bench::put`], so deep in a chain.
    fn put_at(&mut self, key: &[u8], depth: u16, bytes: u32) {
        let pending = self.reserve_at(key, depth, bytes, Extra::default()).unwrap();
        assert_eq!(self.commit(pending, Extra::default()), Status::Stored);
    }

    fn ask(&self, freshness: Freshness) -> Ask {
        let generation = self.store.generation(self.namespace);
        Ask { namespace: self.namespace, generation, freshness, now_ms: self.now_ms }
    }

    fn lookup(&mut self, key: &[u8], touch: bool) -> Result<Found, Status> {
        self.store.lookup(&self.ask(Freshness::Any), key, touch)
    }

    /// As [`Bench::seen`], and nothing is dropped for being dead.
    fn seen_at_all(&self, key: &[u8]) -> Use {
        let place = self.store.place_of(self.namespace, key);
        let seen = self.store.peek_at(&self.ask(Freshness::Any), key, place);
        Use::of(place, seen.ok().map(|seen| seen.entry))
    }

    /// What a request that names this key finds.
    fn seen(&mut self, key: &[u8]) -> Use {
        let place = self.store.place_of(self.namespace, key);
        Use::of(place, self.lookup(key, false).ok().map(|found| found.entry))
    }

    /// The serial number of the put that a reader finds, its bytes checked; no use.
    fn get(&mut self, key: &[u8]) -> Result<u64, Status> {
        self.lookup(key, false).map(|found| checked(&found))
    }

    /// Lets the policy judge by what it saw so far.
    fn learn(&mut self) {
        let mut seen = Evidence::new();
        self.store.add_evidence_to(&mut seen);
        self.store.judge_by(Arc::new(Worth::of(&seen)));
    }

    fn miss(&mut self, key: &[u8]) -> Status {
        self.lookup(key, false).expect_err("it is not there")
    }

    /// Drops everything that is left, and expects all memory back.
    fn empty(mut self) {
        for number in 0..self.store.entries.end() {
            if self.store.entries.object(number).is_some() {
                self.store.drop_entry(number, Why::Removed);
            }
        }
        let stats = self.store.stats();
        assert_eq!((stats.objects, stats.object_bytes, stats.slot_bytes), (0, 0, 0), "{stats:?}");
        assert_eq!((stats.stale_objects, self.store.counts.timed_objects), (0, 0));
        assert_eq!(self.store.index.len(), 0);
    }
}

/// The bytes of the put with this serial number.
fn object(serial: u64, bytes: u32) -> Vec<u8> {
    let word = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut object = word.repeat(bytes.div_ceil(8) as usize);
    object.truncate(bytes as usize);
    object
}

/// The serial number that an object says it has, once its bytes are those of that put.
fn checked(found: &Found) -> u64 {
    let record = found.record();
    let serial = u64::from_le_bytes(record.user_meta().try_into().unwrap());
    assert_eq!(record.parts(), encode_parts(&[crc64(record.object())]));
    assert!(record.object() == object(serial, record.object_bytes()), "bytes of another put");
    serial
}
