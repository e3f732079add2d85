//! Finds room for an object, evicting if it must.
//!
//! What a reader would get wrong: evicting the oldest object often frees nothing of use. If it has
//! another size, its whole neighbourhood must go (a window of the arena); if it is still being
//! sent, nothing comes back yet. So victims are searched by what evicting them gives, oldest first,
//! and the cost is in proportion to the bytes evicted.

use larder_protocol::Status;
use larder_transport::{Arena, SlotMut, SlotRef, Window};

use super::budgets::{Owner, Shares, slot_bytes};
use super::entries::Entry;
use super::record::RecordSpec;
use super::{Pending, Store, Ticket, Why};

/// Memory that is used again from request to request.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    record: Vec<u8>,
    in_window: Vec<SlotRef>,
    /// Where windows of another size were looked for, as offsets in the region.
    tried: Vec<u64>,
    /// Numbers of objects that were met although others hold their slots, or they are pinned.
    held: Vec<u32>,
    /// Numbers of the next victims.
    victims: Vec<u32>,
}

impl Store {
    /// Makes room for an object and writes its record.
    ///
    /// # Errors
    /// [`Status::MissGeneration`] if the record is of another generation than the present one,
    /// [`Status::TooLarge`] if the namespace or the region could never hold it, [`Status::NoRoom`]
    /// if too much is being sent or filled at this moment.
    ///
    /// # Panics
    /// If a list of the record is longer than its limit; what a message carried is not.
    pub fn reserve(&mut self, record: &RecordSpec<'_>) -> Result<Pending, Status> {
        let namespace = &self.namespaces[record.namespace];
        if record.generation != namespace.generation() {
            return Err(Status::MissGeneration);
        }
        let era = namespace.era();
        let is_allowed = record.object_bytes <= namespace.object_bytes_max();
        if !is_allowed || !record.is_within_limits() {
            return Err(Status::TooLarge);
        }
        let bytes = record.bytes() + record.object_bytes;
        if Arena::slot_bytes(bytes) > self.arena.region().bytes() {
            return Err(Status::TooLarge);
        }
        let owner = Owner { namespace: record.namespace, class: record.class_hint };
        self.stay_below_ceiling(owner, Arena::slot_bytes(bytes))?;
        let mut slot = self.room_for(bytes, owner).ok_or(Status::NoRoom)?;
        self.scratch.record.clear();
        record.write_into(&mut self.scratch.record);
        slot.write(&self.scratch.record);
        let hash = self.hash.of(record.namespace, record.key);
        Ok(Pending { slot, ticket: Ticket { namespace: record.namespace, era, hash } })
    }

    /// Writes the record of a slot anew, once more is known of its object. It is as long as the one
    /// before.
    ///
    /// # Panics
    /// If it is not.
    pub fn rewrite(&mut self, pending: &mut Pending, record: &RecordSpec<'_>) {
        let slot_bytes = pending.slot.len();
        assert_eq!(record.bytes() + record.object_bytes, slot_bytes, "a record of the same shape");
        self.scratch.record.clear();
        record.write_into(&mut self.scratch.record);
        pending.slot.rewrite(&self.scratch.record);
    }

    /// Drops the oldest objects until one more may be added, whether or not that frees memory.
    pub(super) fn stay_below_objects_max(&mut self, asker: Owner) {
        while self.counts.objects >= self.config.objects_max {
            let victim = self.victim(asker, |entry, shares| !shares.spares(entry, asker));
            let Some(victim) = victim else { return };
            self.drop_entry(victim, Why::Room);
        }
    }

    /// The first object that may go, as the policy says or then in order of use: one that is
    /// pinned only if no other is found.
    pub(super) fn victim(
        &mut self,
        asker: Owner,
        accept: impl Fn(&Entry, &Shares) -> bool,
    ) -> Option<u32> {
        for _ in 0..HELD_SEARCHES_MAX {
            let mut pinned = std::mem::take(&mut self.scratch.held);
            pinned.clear();
            let found = self.first(asker, |entry, shares| {
                if entry.is_pinned() {
                    pinned.push(entry.slot().tag());
                }
                !entry.is_pinned() && accept(entry, shares)
            });
            let is_over = found.is_some() || pinned.is_empty();
            self.scratch.held = pinned;
            if is_over {
                return found;
            }
            self.pass_over_held();
        }
        self.first(asker, accept)
    }

    fn first(
        &mut self,
        asker: Owner,
        mut accept: impl FnMut(&Entry, &Shares) -> bool,
    ) -> Option<u32> {
        let (count, shares, entries) = (self.namespaces.len(), &self.shares, &self.entries);
        let mut accept = |entry: &Entry| accept(entry, shares);
        self.order
            .search(entries, &mut accept)
            .or_else(|| self.order.search_lists(entries, asker.namespace, count, &mut accept))
    }

    /// Has those that were met and must not go count as used: they are met again only after all
    /// others.
    fn pass_over_held(&mut self) {
        let held = std::mem::take(&mut self.scratch.held);
        for &number in &held {
            self.touch(number, 0);
            self.order.held(number);
        }
        self.scratch.held = held;
    }

    fn room_for(&mut self, bytes: u32, asker: Owner) -> Option<SlotMut> {
        if let Some(slot) = self.arena.take(bytes) {
            self.fullness.had_room(self.arena.live_bytes());
            return Some(slot);
        }
        self.fullness.was_full(self.arena.live_bytes());
        if let Some(slot) = self.room_from_stale(bytes) {
            return Some(slot);
        }
        for _ in 0..WINDOWS_MAX {
            let window = self.window(bytes, asker).or_else(|| self.pinned_window(bytes, asker))?;
            self.evict_window(window);
            if let Some(slot) = self.arena.take_in(window, bytes) {
                return Some(slot);
            }
        }
        None
    }

    /// Stale objects cost nothing to lose, so they go one by one, wherever they lie, up to a few
    /// times the bytes wanted; what they leave free is found again whatever its size.
    fn room_from_stale(&mut self, bytes: u32) -> Option<SlotMut> {
        let enough = STALE_BYTES_FACTOR * Arena::slot_bytes(bytes);
        let mut freed = 0;
        while freed < enough {
            let is_free = |entry: &Entry| !entry.slot().is_shared();
            let stale = self.order.search_stale(&self.entries, is_free)?;
            freed += Arena::slot_bytes(self.entries[stale].slot().len() as u32);
            self.drop_entry(stale, Why::Room);
            if let Some(slot) = self.arena.take(bytes) {
                return Some(slot);
            }
        }
        None
    }

    /// What to evict, past objects that are old and under lease, or pinned.
    ///
    /// A search looks at few objects, and a client may hold many for long. They are in use, so
    /// they count as used when they are in the way: each is met once until all others were.
    fn window(&mut self, bytes: u32, asker: Owner) -> Option<Window> {
        if let Some(window) = self.least_window(bytes, asker) {
            return Some(window);
        }
        for _ in 0..HELD_SEARCHES_MAX {
            let window = self.oldest_window(bytes, asker);
            if window.is_some() || self.scratch.held.is_empty() {
                return window;
            }
            self.pass_over_held();
        }
        None
    }

    /// What to evict where all that might go is pinned, or lies beside what is: the pins that would
    /// end first end.
    fn pinned_window(&mut self, bytes: u32, asker: Owner) -> Option<Window> {
        let enough = PINS_BYTES_FACTOR * Arena::slot_bytes(bytes);
        for _ in 0..PIN_ROUNDS_MAX {
            if !self.end_first_pins(enough) {
                return None;
            }
            let window = self.window(bytes, asker);
            if window.is_some() {
                return window;
            }
        }
        None
    }

    /// What to evict around one of the next victims: where one of them is not long enough, around
    /// the one whose neighbours are worth least. `None` if the policy judges nobody, or for want of
    /// victims that nobody holds.
    fn least_window(&mut self, bytes: u32, asker: Owner) -> Option<Window> {
        let wanted = Arena::slot_bytes(bytes);
        let tries_max = TRIES_MAX + (bytes / TRY_BYTES) as usize;
        let tries_max = tries_max.min(TRIES_OF_LONG_MAX);
        let mut victims = std::mem::take(&mut self.scratch.victims);
        victims.clear();
        let (shares, entries) = (&self.shares, &self.entries);
        self.order.search_judged(entries, |number| {
            let entry = &entries[number];
            if shares.spares(entry, asker) || entry.is_held() {
                return false;
            }
            victims.push(number);
            slot_bytes(entry) >= wanted || victims.len() == tries_max
        });
        let mut least: Option<(f32, Window)> = None;
        for &victim in &victims {
            let found = self.arena.window_for(self.entries[victim].slot(), bytes);
            let allowed = |&found: &Window| {
                let (arena, entries) = (&self.arena, &self.entries);
                self.shares.may_lose(arena, entries, found, asker)
                    && self.pins.may_lose(arena, entries, found)
            };
            let Some(window) = found.filter(allowed) else { continue };
            let loss = if victims.len() == 1 { 0.0 } else { self.loss(window) };
            if least.as_ref().is_none_or(|(least, _)| loss < *least) {
                least = Some((loss, window));
            }
        }
        self.scratch.victims = victims;
        least.map(|(_, window)| window)
    }

    /// What all is worth that lies in a window.
    fn loss(&mut self, window: Window) -> f32 {
        let mut in_window = std::mem::take(&mut self.scratch.in_window);
        in_window.clear();
        self.arena.live_slots_in(window, &mut in_window);
        let loss = in_window.iter().map(|slot| self.order.worth_of(slot.tag)).sum();
        self.scratch.in_window = in_window;
        loss
    }

    /// What to evict around the oldest object for which that makes room.
    ///
    /// Looking for a window costs about as much as evicting it, so it is tried in few places, each
    /// out of reach of those that were found held.
    fn oldest_window(&mut self, bytes: u32, asker: Owner) -> Option<Window> {
        let wanted = Arena::slot_bytes(bytes);
        let tried = &mut self.scratch.tried;
        let held = &mut self.scratch.held;
        held.clear();
        let (shares, pins) = (&self.shares, &self.pins);
        let (arena, entries) = (&self.arena, &self.entries);
        // Where those must stay whom the policy looks at, those of `asker` are looked at.
        let passes = if shares.has_floors() { 2 } else { 1 };
        let tries_max = if shares.has_floors() { TRIES_BESIDE_FLOORS_MAX } else { TRIES_MAX };
        for pass in 0..passes {
            tried.clear();
            let mut window = None;
            let accept = |entry: &Entry| {
                let slot = entry.slot();
                if shares.spares(entry, asker) {
                    return false;
                }
                if entry.is_held() {
                    held.push(slot.tag());
                    return false;
                }
                if Arena::slot_bytes(slot.len() as u32) != wanted {
                    let at = slot.offset();
                    if tried.len() == tries_max || tried.iter().any(|t| t.abs_diff(at) < wanted) {
                        return false;
                    }
                    tried.push(at);
                }
                let found = arena.window_for(slot, bytes);
                window = found.filter(|&found| {
                    shares.may_lose(arena, entries, found, asker)
                        && pins.may_lose(arena, entries, found)
                });
                window.is_some()
            };
            if pass == 0 {
                self.order.search(entries, accept);
            } else {
                self.order.search_lists(entries, asker.namespace, self.namespaces.len(), accept);
            }
            if window.is_some() {
                return window;
            }
        }
        None
    }

    fn evict_window(&mut self, window: Window) {
        let mut in_window = std::mem::take(&mut self.scratch.in_window);
        in_window.clear();
        self.arena.live_slots_in(window, &mut in_window);
        for slot in &in_window {
            // Our tags name entries of exactly these slots; an entry of another is left alone.
            let is_named = |entry: &Entry| entry.slot().offset() == slot.offset;
            if self.entries.object(slot.tag).is_some_and(is_named) {
                self.drop_entry(slot.tag, Why::Room);
            }
        }
        self.scratch.in_window = in_window;
    }
}

/// One window is enough by construction; this bounds what a fault would evict.
const WINDOWS_MAX: usize = 4;
/// Most places in which a window is looked for (guessed).
const TRIES_MAX: usize = 8;
/// One more place for so many bytes of the object, and the most in all: looking at one takes less
/// than a tenth of the time in which so many are copied, and what is left of the objects that went
/// for others' long ones, too short by itself, is passed over (2 MiB chains beside media: 8 places
/// find 20.0 % of the chains, 32 find 20.5, 64 find 20.8).
const TRY_BYTES: u32 = 64 << 10;
const TRIES_OF_LONG_MAX: usize = 64;
/// The same where objects that must stay may lie in every window, and the oldest of the others do
/// so for long (guessed).
const TRIES_BESIDE_FLOORS_MAX: usize = 32;
/// Most searches of one put for something that is not under lease; the next put goes on from there
/// (guessed).
const HELD_SEARCHES_MAX: usize = 16;
/// How many times the wanted bytes a put reclaims of stale objects before it also evicts others:
/// enough for them to leave whole slabs free, little enough to bound one put (guessed).
const STALE_BYTES_FACTOR: u64 = 4;
/// How many times the wanted bytes of pins end where there is no room beside them, and how often:
/// enough for a window between what they are of, little enough to bound one put (guessed).
const PINS_BYTES_FACTOR: u64 = 4;
const PIN_ROUNDS_MAX: usize = 8;
