//! Slots of one exact size in slabs, slabs in runs: the bookkeeping of an arena, without memory.
//!
//! A class is one size, rounded up to 64 B. It exists while it has slabs, and a slab exists while
//! it has live slots: the last one to go gives the run back, so memory that one size has used is
//! free for every other. What a reader would get wrong: a slab keeps the records of its slots in
//! one list whether they are live or free, so that all of them can be visited, and all of them
//! leave in one step.

use super::pool::{Linked, NONE, Pool};
use super::runs::{Run, Runs};
use super::size::{Size, UNIT_GRAINS};
use std::collections::HashMap;

/// The tag of a slot that nobody tagged.
pub const UNTAGGED: u32 = u32::MAX;

/// In `SlotRecord::refs`: the slot is being filled.
const FILLING: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
pub(super) struct SlotRecord {
    /// Clones of a frozen slot, `FILLING`, or 0 when free.
    refs: u32,
    pub(super) slab: u32,
    pub(super) offset_grains: u32,
    /// The owner's; of a free record, the next free one of its slab.
    pub(super) tag: u32,
    /// The next record of the slab, live or free.
    next: u32,
}

impl SlotRecord {
    pub(super) fn is_live(&self) -> bool {
        self.refs != 0
    }

    pub(super) fn is_shared(&self) -> bool {
        self.refs > 1
    }

    /// Whether evicting what the tag names would not free it: it is being filled, somebody else
    /// holds it too, or no tag names it.
    pub(super) fn is_pinned(&self) -> bool {
        self.refs > 1 || (self.refs == 1 && self.tag == UNTAGGED)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slab {
    pub(super) start: u32,
    pub(super) class: u32,
    slots_max: u32,
    /// Records made so far; slots past them were never used.
    records: u32,
    pub(super) live: u32,
    records_head: u32,
    records_tail: u32,
    free_head: u32,
    /// Neighbours in the class's list of slabs with room. `next` is also the pool's link.
    next: u32,
    prev: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) size: Size,
    /// The first slab with room.
    roomy_head: u32,
    slab_count: u32,
    slab_units: u32,
    link: u32,
}

/// A slot just taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: u32,
    pub(super) offset_grains: u32,
}

/// Exact figures, kept as slots come and go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) slot_bytes: u64,
    pub(super) object_bytes: u64,
    pub(super) slab_count: u32,
}

#[derive(Debug)]
pub(super) struct Slabs {
    pub(super) runs: Runs,
    pub(super) slots: Pool<SlotRecord>,
    pub(super) slabs: Pool<Slab>,
    pub(super) classes: Pool<Class>,
    class_of: HashMap<Size, u32, ahash::RandomState>,
    pub(super) counts: Counts,
}

impl Slabs {
    pub(super) fn new(unit_count: u32) -> Self {
        Self {
            runs: Runs::new(unit_count),
            slots: Pool::new(),
            slabs: Pool::new(),
            classes: Pool::new(),
            class_of: HashMap::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn class_count(&self) -> u32 {
        u32::try_from(self.class_of.len()).expect("classes are numbered by u32")
    }

    /// Units that slots of a size have.
    pub(super) fn units_of(&self, size: Size) -> u32 {
        self.class_of.get(&size).map_or(0, |&class| self.classes[class].slab_units)
    }

    /// A slot for `len` bytes, in state filling; `None` if no free run can hold even one.
    pub(super) fn take(&mut self, len: u32) -> Option<Place> {
        let size = Size::of(len);
        let slab = match self.roomy(size) {
            Some(slab) => slab,
            None => {
                let (run, units) = self.room_for(size)?;
                self.open(size, run, self.start_in(run, units, size), units)
            }
        };
        Some(self.take_from(slab, len))
    }

    /// As `take`, but a new slab goes to `at` in the free run that begins at `first`. `None` if
    /// there is no such run, or it has no room there.
    pub(super) fn take_at(&mut self, len: u32, first: u32, at: Option<u32>) -> Option<Place> {
        let size = Size::of(len);
        if let Some(slab) = self.roomy(size) {
            return Some(self.take_from(slab, len));
        }
        let run = self.runs.at(first).filter(|run| run.owner.is_none())?;
        let slab = if let Some(at) = at {
            let end = at.checked_add(size.units_min())?;
            if at < run.start || end > run.end() {
                return None;
            }
            self.open(size, run, at, size.units_min())
        } else {
            let wanted = size.units_wanted(self.class_units(size), self.runs.unit_count());
            let units = size.units_of_run(run.units, wanted)?;
            self.open(size, run, self.start_in(run, units, size), units)
        };
        Some(self.take_from(slab, len))
    }

    /// A filled slot becomes readable. It has two holders until the `SlotMut` is dropped, which
    /// `SlotMut::freeze` does as it returns.
    pub(super) fn freeze(&mut self, id: u32) {
        debug_assert_eq!(self.slots[id].refs, FILLING);
        self.slots[id].refs = 2;
    }

    pub(super) fn retain(&mut self, id: u32) {
        let refs = &mut self.slots[id].refs;
        *refs += 1;
        assert!(*refs < FILLING, "fewer than 2^31 clones of one slot");
    }

    /// One holder less, or a filling given up; the last one frees the slot.
    pub(super) fn release(&mut self, id: u32, len: u32) {
        let record = &mut self.slots[id];
        if record.refs & FILLING == 0 && record.refs > 1 {
            record.refs -= 1;
            return;
        }
        record.refs = 0;
        let slab_id = record.slab;
        let slab = &mut self.slabs[slab_id];
        record.tag = slab.free_head;
        let was_full = slab.live == slab.slots_max;
        slab.free_head = id;
        slab.live -= 1;
        let (class, is_empty) = (slab.class, slab.live == 0);
        self.counts.slot_bytes -= self.classes[class].size.bytes();
        self.counts.object_bytes -= u64::from(len);
        if was_full {
            self.link_roomy(slab_id);
        }
        if is_empty {
            self.close(slab_id);
        }
    }

    /// All records of a slab, live ones and free ones.
    pub(super) fn records_of(&self, slab: u32) -> impl Iterator<Item = (u32, &SlotRecord)> {
        let mut id = self.slabs[slab].records_head;
        std::iter::from_fn(move || {
            let record = (id != NONE).then(|| (id, &self.slots[id]))?;
            id = record.1.next;
            Some(record)
        })
    }

    /// A slab of this size with room.
    fn roomy(&self, size: Size) -> Option<u32> {
        let class = *self.class_of.get(&size)?;
        Some(self.classes[class].roomy_head).filter(|&slab| slab != NONE)
    }

    fn class_units(&self, size: Size) -> u32 {
        self.class_of.get(&size).map_or(0, |&class| self.classes[class].slab_units)
    }

    /// A free run for a new slab, and how much of it the slab shall have.
    fn room_for(&self, size: Size) -> Option<(Run, u32)> {
        let wanted = size.units_wanted(self.class_units(size), self.runs.unit_count());
        let run = self.runs.find(wanted).or_else(|| {
            let long = self.runs.long().filter(|run| run.units >= size.units_min());
            long.or_else(|| self.runs.find(size.units_min()))
        })?;
        Some((run, size.units_of_run(run.units, wanted)?))
    }

    /// At which end of a free run a slab goes: next to its like, so that what is left lies next to
    /// others, which go sooner when this size is on the rise, and join it.
    fn start_in(&self, run: Run, units: u32, size: Size) -> u32 {
        let is_like = |neighbour: Option<Run>| {
            let slab = neighbour.and_then(|run| run.owner);
            slab.is_some_and(|slab| self.classes[self.slabs[slab].class].size == size)
        };
        let at_end = is_like(self.runs.at(run.end())) && !is_like(self.runs.before(run.start));
        if at_end { run.end() - units } else { run.start }
    }

    fn open(&mut self, size: Size, run: Run, at: u32, units: u32) -> u32 {
        let class = match self.class_of.get(&size) {
            Some(&class) => class,
            None => self.new_class(size),
        };
        let slab = self.slabs.take();
        self.runs.carve(run, at, units, slab);
        let (start, slots_max) = (at, size.slots_in(units));
        self.slabs[slab] = Slab { start, class, slots_max, ..Slab::default() };
        self.classes[class].slab_count += 1;
        self.classes[class].slab_units += units;
        self.counts.slab_count += 1;
        self.link_roomy(slab);
        slab
    }

    fn new_class(&mut self, size: Size) -> u32 {
        let class = self.classes.take();
        self.classes[class].size = size;
        self.class_of.insert(size, class);
        class
    }

    fn take_from(&mut self, slab_id: u32, len: u32) -> Place {
        let size = self.classes[self.slabs[slab_id].class].size;
        let id = match self.slabs[slab_id].free_head {
            NONE => self.new_record(slab_id, size),
            id => id,
        };
        let slab = &mut self.slabs[slab_id];
        let record = &mut self.slots[id];
        if slab.free_head == id {
            slab.free_head = record.tag;
        }
        record.refs = FILLING;
        record.tag = UNTAGGED;
        let offset_grains = record.offset_grains;
        slab.live += 1;
        if slab.live == slab.slots_max {
            self.unlink_roomy(slab_id);
        }
        self.counts.slot_bytes += size.bytes();
        self.counts.object_bytes += u64::from(len);
        Place { id, offset_grains }
    }

    fn new_record(&mut self, slab_id: u32, size: Size) -> u32 {
        let id = self.slots.take();
        let slab = &mut self.slabs[slab_id];
        self.slots[id] = SlotRecord {
            refs: 0,
            slab: slab_id,
            offset_grains: slab.start * UNIT_GRAINS + slab.records * size.grains(),
            tag: UNTAGGED,
            next: slab.records_head,
        };
        slab.records_head = id;
        if slab.records_tail == NONE {
            slab.records_tail = id;
        }
        slab.records += 1;
        id
    }

    /// The slab's last slot is gone: its run, its records and perhaps its class go as well.
    fn close(&mut self, slab_id: u32) {
        self.unlink_roomy(slab_id);
        let slab = self.slabs[slab_id];
        let units = self.runs.at(slab.start).expect("a slab has a run").units;
        self.runs.free(slab.start);
        self.slots.give_list(slab.records_head, slab.records_tail);
        self.slabs.give(slab_id);
        self.counts.slab_count -= 1;
        let class = &mut self.classes[slab.class];
        class.slab_count -= 1;
        class.slab_units -= units;
        if class.slab_count == 0 {
            self.class_of.remove(&class.size);
            self.classes.give(slab.class);
        }
    }

    fn link_roomy(&mut self, slab_id: u32) {
        let class = &mut self.classes[self.slabs[slab_id].class];
        let next = std::mem::replace(&mut class.roomy_head, slab_id);
        self.slabs[slab_id].next = next;
        self.slabs[slab_id].prev = NONE;
        if next != NONE {
            self.slabs[next].prev = slab_id;
        }
    }

    fn unlink_roomy(&mut self, slab_id: u32) {
        let Slab { next, prev, class, .. } = self.slabs[slab_id];
        if next != NONE {
            self.slabs[next].prev = prev;
        }
        if prev == NONE {
            self.classes[class].roomy_head = next;
        } else {
            self.slabs[prev].next = next;
        }
    }
}

impl Default for SlotRecord {
    fn default() -> Self {
        Self { refs: 0, slab: NONE, offset_grains: 0, tag: UNTAGGED, next: NONE }
    }
}

impl Default for Slab {
    fn default() -> Self {
        Self {
            start: 0,
            class: NONE,
            slots_max: 0,
            records: 0,
            live: 0,
            records_head: NONE,
            records_tail: NONE,
            free_head: NONE,
            next: NONE,
            prev: NONE,
        }
    }
}

impl Default for Class {
    fn default() -> Self {
        Self { size: Size::of(0), roomy_head: NONE, slab_count: 0, slab_units: 0, link: NONE }
    }
}

impl Linked for SlotRecord {
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, next: u32) {
        self.next = next;
    }
}

impl Linked for Slab {
    fn link(&self) -> u32 {
        self.next
    }
    fn set_link(&mut self, next: u32) {
        self.next = next;
    }
}

impl Linked for Class {
    fn link(&self) -> u32 {
        self.link
    }
    fn set_link(&mut self, next: u32) {
        self.link = next;
    }
}
