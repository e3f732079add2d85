//! Which slots to evict together, so that an object of another size gets one contiguous place.
//!
//! Evicting a victim of the same size frees a slot that fits. A victim of another size frees, at
//! best, its slab's run; a window says which slots around it must go as well. What a reader would
//! get wrong: taking whatever lies next to the victim is not enough. When big objects replace small
//! ones in random order, they end up with gaps between them that are each a little too short, and
//! a seventh of the region is lost. So a window prefers a cell: the region cut into equal parts of
//! the wanted size. Cells meet without gaps, if the size is not a rare one.

use super::runs::Run;
use super::size::{Size, UNIT_GRAINS};
use super::slabs::{Slabs, UNTAGGED};

/// A part of an arena that holds one slot of the wanted size once its live slots are freed.
///
/// It is advice about one moment: use it before anything else is taken or dropped. A stale window
/// does no harm, it only makes [`Arena::take_in`](super::Arena::take_in) answer `None` more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    extent: Extent,
    live_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// The victim's own slot fits.
    Slot { id: u32, offset_grains: u32, grains: u32 },
    /// Whole runs; the slot shall begin at `at`, if that matters.
    Runs { start: u32, end: u32, at: Option<u32> },
}

impl Window {
    /// Where it begins in the region, in bytes.
    pub fn start_offset(&self) -> u64 {
        match self.extent {
            Extent::Slot { offset_grains, .. } => Size::grains_to_bytes(offset_grains),
            Extent::Runs { start, .. } => Size::units_to_bytes(start),
        }
    }

    /// Where it ends in the region, in bytes.
    pub fn end_offset(&self) -> u64 {
        match self.extent {
            Extent::Slot { grains, .. } => self.start_offset() + Size::grains_to_bytes(grains),
            Extent::Runs { end, .. } => Size::units_to_bytes(end),
        }
    }

    /// Bytes of the slots that must go: the price of this window.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
}

/// A live slot in a window, named by what its owner tagged it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// What [`Slot::set_tag`](super::slot::Slot::set_tag) said.
    pub tag: u32,
    /// Where the slot begins in the region, in bytes.
    pub offset: u64,
    /// Whether dropping the tagged owner's handle would not free it.
    pub pinned: bool,
}

/// Runs that lie next to each other, none of them pinned.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
    live_bytes: u64,
}

impl Span {
    fn units(&self) -> u32 {
        self.end - self.start
    }
}

/// A run next to a span and the bytes of its live slots.
type Side = Option<(Run, u64)>;

impl Slabs {
    /// The cheapest window around the slot `id` for an object of `len` bytes.
    pub(super) fn window_for(&self, id: u32, len: u32) -> Option<Window> {
        let record = self.slots[id];
        let slab = self.slabs[record.slab];
        let wanted = Size::of(len);
        if self.classes[slab.class].size == wanted {
            return (!record.is_pinned()).then(|| Window {
                extent: Extent::Slot {
                    id,
                    offset_grains: record.offset_grains,
                    grains: wanted.grains(),
                },
                live_bytes: wanted.bytes(),
            });
        }
        let need = wanted.units_min();
        let run = self.runs.at(slab.start).expect("a slab has a run");
        let (own, live_bytes) = self.unpinned(run)?;
        let own = Span { start: own.start, end: own.end(), live_bytes };
        let alone = self.with_free_sides(own);
        if alone.units() >= need {
            return Some(window(
                alone,
                wanted.is_lone().then(|| first_cell(alone, need)).flatten(),
            ));
        }
        let cell_at = record.offset_grains / UNIT_GRAINS / need * need;
        let cell = if self.has_cells(wanted) { self.cover(own, cell_at, need) } else { None };
        let cell = cell.map(|span| self.with_free_sides(span));
        let near = self.grow(own, need).map(|span| self.with_free_sides(span));
        match (cell, near) {
            // Half as much again is a fair price for leaving no gap (guessed).
            (Some(cell), Some(near)) if cell.live_bytes * 2 > near.live_bytes * 3 => {
                Some(window(near, None))
            }
            (Some(cell), _) => Some(window(cell, Some(cell_at))),
            (None, near) => Some(window(near?, None)),
        }
    }

    /// Whether slots of a size meet each other often enough for cells to leave no gaps. A long size
    /// that few have meets others, whose cells it would cut.
    fn has_cells(&self, size: Size) -> bool {
        !size.is_lone() || self.units_of(size) >= self.runs.unit_count() / CELL_REGION_PART
    }

    /// Adds every live slot of the window to `into`.
    pub(super) fn live_slots_in(&self, window: &Window, into: &mut Vec<SlotRef>) {
        match window.extent {
            Extent::Slot { id, offset_grains, .. } => {
                let record = self.slots[id];
                if record.is_live() && record.offset_grains == offset_grains {
                    into.push(record.as_ref());
                }
            }
            Extent::Runs { start, end, .. } => {
                let mut at = start;
                while let Some(run) = self.runs.at(at).filter(|run| run.start < end) {
                    if let Some(slab) = run.owner {
                        let live = self.records_of(slab).filter(|(_, record)| record.is_live());
                        into.extend(live.map(|(_, record)| record.as_ref()));
                    }
                    at = run.end();
                }
            }
        }
    }

    /// A slot in the window, if what is free there can hold one.
    pub(super) fn take_in(&mut self, window: &Window, len: u32) -> Option<super::slabs::Place> {
        match window.extent {
            Extent::Slot { .. } => self.take(len),
            Extent::Runs { start, at, .. } => {
                self.take_at(len, start, at).or_else(|| self.take(len))
            }
        }
    }

    /// The runs from `at` on that cover `need` units, found from a run inside; `None` if one is
    /// pinned, or the region ends before.
    fn cover(&self, mut span: Span, at: u32, need: u32) -> Option<Span> {
        let end = at.checked_add(need).filter(|&end| end <= self.runs.unit_count())?;
        while span.start > at {
            let (run, live_bytes) = self.unpinned(self.runs.before(span.start)?)?;
            span.start = run.start;
            span.live_bytes += live_bytes;
        }
        while span.end < end {
            let (run, live_bytes) = self.unpinned(self.runs.at(span.end)?)?;
            span.end = run.end();
            span.live_bytes += live_bytes;
        }
        Some(span)
    }

    /// Grows to `need` units by the side that costs fewer live bytes per unit, past no pinned slot.
    ///
    /// Stops at the first run that makes it long enough, so it never exceeds twice the need by more
    /// than a slab.
    fn grow(&self, mut span: Span, need: u32) -> Option<Span> {
        let mut left = self.side_before(span.start);
        let mut right = self.side_after(span.end);
        while span.units() < need {
            let go_left = match (left, right) {
                (Some(left), Some(right)) => is_cheaper(left, right),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if go_left {
                let (run, live_bytes) = left?;
                span.start = run.start;
                span.live_bytes += live_bytes;
                left = self.side_before(span.start);
            } else {
                let (run, live_bytes) = right?;
                span.end = run.end();
                span.live_bytes += live_bytes;
                right = self.side_after(span.end);
            }
        }
        Some(span)
    }

    /// Takes in free runs on both sides, so that what is freed begins where the span does.
    fn with_free_sides(&self, mut span: Span) -> Span {
        if let Some(left) = self.runs.before(span.start).filter(|run| run.owner.is_none()) {
            span.start = left.start;
        }
        if let Some(right) = self.runs.at(span.end).filter(|run| run.owner.is_none()) {
            span.end = right.end();
        }
        span
    }

    fn side_before(&self, start: u32) -> Side {
        self.unpinned(self.runs.before(start)?)
    }

    fn side_after(&self, end: u32) -> Side {
        self.unpinned(self.runs.at(end)?)
    }

    /// The run and the bytes of its live slots, unless one of them is pinned.
    fn unpinned(&self, run: Run) -> Side {
        let Some(slab) = run.owner else { return Some((run, 0)) };
        if self.records_of(slab).any(|(_, record)| record.is_pinned()) {
            return None;
        }
        let size = self.classes[self.slabs[slab].class].size;
        Some((run, u64::from(self.slabs[slab].live) * size.bytes()))
    }
}

impl super::slabs::SlotRecord {
    fn as_ref(&self) -> SlotRef {
        debug_assert!(self.tag != UNTAGGED || self.is_pinned());
        SlotRef {
            tag: self.tag,
            offset: Size::grains_to_bytes(self.offset_grains),
            pinned: self.is_pinned(),
        }
    }
}

fn window(span: Span, at: Option<u32>) -> Window {
    let extent = Extent::Runs { start: span.start, end: span.end, at };
    Window { extent, live_bytes: span.live_bytes }
}

/// The first whole cell in a span.
fn first_cell(span: Span, need: u32) -> Option<u32> {
    let at = span.start.checked_next_multiple_of(need)?;
    (span.end.checked_sub(need)? >= at).then_some(at)
}

/// A long size with less than one of so many parts of the region is a rare one (guessed).
const CELL_REGION_PART: u32 = 64;

/// Live bytes per unit, compared without dividing.
fn is_cheaper((left, left_bytes): (Run, u64), (right, right_bytes): (Run, u64)) -> bool {
    left_bytes * u64::from(right.units) <= right_bytes * u64::from(left.units)
}
