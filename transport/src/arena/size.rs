//! The size of a class, and how long its slabs shall be.
//!
//! Sizes count in grains of 64 B, runs in units of 4 KiB. What a reader would get wrong: slabs are
//! not all of one length. A size that few objects have starts with a slab for one of them and
//! doubles; otherwise every odd size would cost half a megabyte for a single object.

use crate::region::UNIT_BYTES;

/// Slots begin at, and have, multiples of this many bytes: one cache line.
pub(super) const GRAIN_BYTES: u64 = 64;
pub(super) const UNIT_GRAINS: u32 = (UNIT_BYTES / GRAIN_BYTES) as u32;

/// A slab of this many bytes or more wastes less than 1% on its last unit.
const SLAB_BYTES: u64 = 512 << 10;
/// A slot of this many bytes wastes at most 1% if it has its slab to itself: 4,095 of 409,600.
const LONE_BYTES: u64 = 400 << 10;
/// Of a small region, no slab of several slots takes more than this part.
const REGION_PART: u32 = 64;
/// A slab that swallows the rest of a run may waste this part of itself.
const WASTE_PART: u64 = 64;

/// A slot size in grains; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Size(u32);

impl Size {
    /// The size of a slot for `len` bytes.
    pub(super) fn of(len: u32) -> Self {
        Self(len.div_ceil(GRAIN_BYTES as u32).max(1))
    }

    pub(super) fn grains(self) -> u32 {
        self.0
    }

    pub(super) fn bytes(self) -> u64 {
        u64::from(self.0) * GRAIN_BYTES
    }

    pub(super) fn grains_to_bytes(grains: u32) -> u64 {
        u64::from(grains) * GRAIN_BYTES
    }

    pub(super) fn units_to_bytes(units: u32) -> u64 {
        u64::from(units) * UNIT_BYTES
    }

    /// Units that hold one slot.
    pub(super) fn units_min(self) -> u32 {
        self.0.div_ceil(UNIT_GRAINS)
    }

    /// Slots in a slab of so many units.
    pub(super) fn slots_in(self, units: u32) -> u32 {
        let slots = u64::from(units) * u64::from(UNIT_GRAINS) / u64::from(self.0);
        u32::try_from(slots).expect("a region has at most 2^32 grains, and a slab is not all of it")
    }

    /// Whether its slots have their slabs to themselves.
    pub(super) fn is_lone(self) -> bool {
        self.bytes() >= LONE_BYTES
    }

    /// Units of the next slab of a class that has `class_units` already.
    pub(super) fn units_wanted(self, class_units: u32, region_units: u32) -> u32 {
        if self.is_lone() {
            return self.units_min();
        }
        let most = (u64::from(region_units / REGION_PART) * UNIT_BYTES).min(SLAB_BYTES);
        let bytes = (u64::from(class_units) * UNIT_BYTES).min(most);
        self.units_for(bytes.div_ceil(self.bytes()).max(1))
    }

    /// Units a slab takes of a free run: those `wanted`, or as many slots as the run holds if it
    /// has no room for two such slabs, or all of it if next to nothing is wasted so. `None` if no
    /// slot fits.
    pub(super) fn units_of_run(self, run_units: u32, wanted: u32) -> Option<u32> {
        let is_short = run_units / 2 < wanted;
        let slots = u64::from(self.slots_in(if is_short { run_units } else { wanted }));
        if slots == 0 {
            return None;
        }
        let run_bytes = u64::from(run_units) * UNIT_BYTES;
        let is_filled = run_bytes % self.bytes() <= run_bytes / WASTE_PART;
        Some(if is_short && is_filled { run_units } else { self.units_for(slots) })
    }

    fn units_for(self, slots: u64) -> u32 {
        let units = (slots * self.bytes()).div_ceil(UNIT_BYTES);
        u32::try_from(units).expect("a slab is one slot, or about 1 MiB at most")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REGION_UNITS: u32 = 1 << 24;

    proptest! {
        #[test]
        fn a_slab_of_a_grown_class_wastes_at_most_a_hundredth(len in 1u32..=(65 << 20)) {
            let size = Size::of(len);
            let units = size.units_wanted(1 << 20, REGION_UNITS);
            let used = u64::from(size.slots_in(units)) * size.bytes();
            let whole = u64::from(units) * UNIT_BYTES;
            prop_assert!(used <= whole && (whole - used) * 100 <= whole);
        }

        #[test]
        fn a_slab_fits_its_run_and_holds_a_slot(
            len in 0u32..=(65 << 20), run in 1u32..40_000, have in 0u32..1_000,
        ) {
            let size = Size::of(len);
            let wanted = size.units_wanted(have, REGION_UNITS);
            match size.units_of_run(run, wanted) {
                Some(units) => {
                    prop_assert!(units <= run && size.slots_in(units) >= 1);
                    let rest = run - units;
                    prop_assert!(rest < size.units_min() || rest >= wanted);
                }
                None => prop_assert!(size.units_min() > run),
            }
        }
    }

    #[test]
    fn a_rare_size_starts_with_one_slot_and_doubles() {
        let size = Size::of(100 << 10);
        let mut have = 0;
        let slots: Vec<u32> = (0..6)
            .map(|_| {
                let units = size.units_wanted(have, REGION_UNITS);
                have += units;
                size.slots_in(units)
            })
            .collect();
        assert_eq!(slots, [1, 1, 2, 4, 6, 6]);
    }
}
