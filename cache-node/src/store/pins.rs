//! Pins: objects that are evicted last until a moment that their reader named.
//!
//! A tenant may have so many bytes pinned, and all tenants together twice that. What a reader
//! would get wrong: a pin is of an object, not of its key, so it goes with it when it is replaced,
//! removed or stale; and it is soft: an object for which there is no room otherwise takes its
//! place.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use larder_protocol::Status;
use larder_transport::{Arena, Window};

use super::Store;
use super::budgets::slot_bytes;
use super::entries::{Entries, Entry};
use super::lookup::Ask;

/// What is pinned of a store.
#[derive(Debug)]
pub(super) struct Pins {
    pins: AHashMap<u32, Pin>,
    /// When they end, and the numbers of their entries.
    ends: BTreeSet<(u64, u32)>,
    tenants: AHashMap<Arc<str>, u64>,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Pin {
    until_ms: u64,
    bytes: u64,
    tenant: Arc<str>,
}

impl Pins {
    /// None yet; a tenant may have so many bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            pins: AHashMap::new(),
            ends: BTreeSet::new(),
            tenants: AHashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether another object of a tenant may be pinned.
    fn has_room(&self, tenant: &str, bytes: u64) -> bool {
        let taken = self.tenants.get(tenant).copied().unwrap_or_default();
        taken + bytes <= self.bytes_max && self.bytes + bytes <= 2 * self.bytes_max
    }

    /// Whether nothing in a window is pinned.
    pub(super) fn may_lose(&self, arena: &Arena, entries: &Entries, window: Window) -> bool {
        if self.pins.is_empty() {
            return true;
        }
        let mut slots = Vec::new();
        arena.live_slots_in(window, &mut slots);
        !slots.iter().filter_map(|slot| entries.object(slot.tag)).any(Entry::is_pinned)
    }

    fn add(&mut self, number: u32, pin: Pin) {
        self.bytes += pin.bytes;
        *self.tenants.entry(Arc::clone(&pin.tenant)).or_default() += pin.bytes;
        self.ends.insert((pin.until_ms, number));
        self.pins.insert(number, pin);
    }

    pub(super) fn remove(&mut self, number: u32) {
        let Some(pin) = self.pins.remove(&number) else { return };
        self.ends.remove(&(pin.until_ms, number));
        self.bytes -= pin.bytes;
        if let Some(taken) = self.tenants.get_mut(&pin.tenant) {
            *taken -= pin.bytes;
            if *taken == 0 {
                self.tenants.remove(&pin.tenant);
            }
        }
    }
}

impl Store {
    /// Lets a tenant have so many bytes of slots pinned, and all of them twice that.
    pub(crate) fn pin_at_most(&mut self, bytes_max: u64) {
        self.pins.bytes_max = bytes_max;
    }

    /// Has an object evicted last for so long from now, or as any other if that is 0:
    /// [`Status::Pinned`], a miss, or [`Status::NoRoom`] if its tenant has as much pinned as it
    /// may. A pin that there is ends when the new one does.
    pub fn pin(&mut self, ask: &Ask, key: &[u8], keep_ms: u32) -> Status {
        let place = self.place_of(ask.namespace, key);
        let number = match self.alive(ask, key, place) {
            Ok(number) => number,
            Err(miss) => return miss,
        };
        self.unpin(number);
        if keep_ms == 0 {
            return Status::Pinned;
        }
        // Of many that end at one moment some may be there still.
        self.end_some_pins(ENDED_PER_PIN, ask.now_ms);
        let tenant = Arc::clone(self.namespaces[ask.namespace].tenant());
        let bytes = slot_bytes(&self.entries[number]);
        if !self.pins.has_room(&tenant, bytes) {
            return Status::NoRoom;
        }
        let until_ms = ask.now_ms.saturating_add(keep_ms.into());
        self.pins.add(number, Pin { until_ms, bytes, tenant });
        self.entries[number].pin(true);
        Status::Pinned
    }

    /// Bytes of slots whose objects are pinned.
    pub fn pinned_bytes(&self) -> u64 {
        self.pins.bytes()
    }

    /// Ends some of the pins whose time has passed; to be called about ten times a second.
    pub(super) fn end_pins(&mut self, now_ms: u64) {
        self.end_some_pins(ENDED_PER_TICK, now_ms);
    }

    fn end_some_pins(&mut self, most: usize, now_ms: u64) {
        for _ in 0..most {
            match self.pins.ends.first() {
                Some(&(until_ms, number)) if until_ms <= now_ms => self.unpin(number),
                _ => return,
            }
        }
    }

    pub(super) fn unpin(&mut self, number: u32) {
        if self.entries[number].is_pinned() {
            self.entries[number].pin(false);
            self.pins.remove(number);
        }
    }

    /// Ends the pins that would end first, of so many bytes; whether there was one.
    pub(super) fn end_first_pins(&mut self, bytes: u64) -> bool {
        let before = self.pins.bytes;
        while before - self.pins.bytes < bytes
            && let Some(&(_, number)) = self.pins.ends.first()
        {
            self.unpin(number);
        }
        self.pins.bytes < before
    }
}

/// About 100 µs of cache misses.
const ENDED_PER_TICK: usize = 512;
/// More than come by one pin, so that those that have ended never keep others from being pinned
/// for long.
const ENDED_PER_PIN: usize = 4;
