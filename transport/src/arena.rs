//! Carves a region into slots of exact sizes, and gives every byte back to every size.
//!
//! One shard owns an arena and everything it hands out: handles are `Rc`, no call locks or waits,
//! and once warm no call allocates. What a reader would get wrong: the arena never evicts. It says
//! `None`, and then which slots around a victim stand in the way ([`Arena::window_for`]); the store
//! drops those and asks again with [`Arena::take_in`].

mod bins;
mod pool;
mod runs;
mod size;
mod slabs;
pub mod slot;
pub mod window;

pub use slabs::UNTAGGED;

use crate::region::{Region, UNIT_BYTES};
use size::Size;
use slabs::Slabs;
use slot::{Slot, SlotMut};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use window::{SlotRef, Window};

/// The slots of one region. A clone is another handle of the same arena.
#[derive(Clone, Debug)]
pub struct Arena {
    inner: Rc<Inner>,
}

/// What an arena holds right now, exact. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// The whole region.
    pub region_bytes: u64,
    /// Held by live slots, each rounded up to 64.
    pub slot_bytes: u64,
    /// Held by live slots, without the rounding.
    pub object_bytes: u64,
    /// In no slab: free for any size.
    pub free_run_bytes: u64,
    /// Slabs there are.
    pub slab_count: u32,
    /// Distinct sizes there are.
    pub class_count: u32,
    /// The largest slot that could be taken into a new slab without evicting.
    pub largest_free_run: u64,
}

#[derive(Debug)]
struct Inner {
    region: Arc<Region>,
    slabs: RefCell<Slabs>,
}

impl Arena {
    /// An empty arena over the whole region.
    ///
    /// # Panics
    ///
    /// If another arena over this region still lives, or one of its slots does.
    pub fn new(region: Arc<Region>) -> Self {
        let unit_count =
            u32::try_from(region.bytes() / UNIT_BYTES).expect("REGION_BYTES_MAX is 2^26 units");
        let slabs = RefCell::new(Slabs::new(unit_count));
        assert!(region.claim(), "a region has one arena");
        Self { inner: Rc::new(Inner { region, slabs }) }
    }

    /// The memory behind it.
    pub fn region(&self) -> &Arc<Region> {
        &self.inner.region
    }

    /// A slot for exactly `bytes` bytes, if there is room without evicting.
    pub fn take(&self, bytes: u32) -> Option<SlotMut> {
        let place = self.inner.slabs.borrow_mut().take(bytes)?;
        Some(SlotMut::new(Rc::clone(&self.inner), place, bytes))
    }

    /// What to evict around `victim` to make room for `bytes` bytes: `None` if too much of the
    /// neighbourhood is pinned (being filled, shared, or untagged, the victim included).
    ///
    /// If the sizes are equal that is the victim alone. Else the window has at most about twice
    /// the wanted bytes and two slabs, and finding it costs no more than evicting what it holds.
    ///
    /// # Panics
    ///
    /// If the victim is another arena's.
    pub fn window_for(&self, victim: &Slot, bytes: u32) -> Option<Window> {
        assert!(victim.is_in(&self.inner), "a victim is of this arena");
        self.inner.slabs.borrow().window_for(victim.id(), bytes)
    }

    /// Adds the live slots of a window to `into`, the ones to evict.
    pub fn live_slots_in(&self, window: Window, into: &mut Vec<SlotRef>) {
        self.inner.slabs.borrow().live_slots_in(&window, into);
    }

    /// As [`Arena::take`], but goes to the place the window was chosen for, if that is free now.
    ///
    /// After evicting a window use this one: taking just anywhere in it leaves gaps.
    pub fn take_in(&self, window: Window, bytes: u32) -> Option<SlotMut> {
        let place = self.inner.slabs.borrow_mut().take_in(&window, bytes)?;
        Some(SlotMut::new(Rc::clone(&self.inner), place, bytes))
    }

    /// What it holds right now. Cheap enough for every tick, not for every request.
    pub fn stats(&self) -> ArenaStats {
        let slabs = self.inner.slabs.borrow();
        ArenaStats {
            region_bytes: self.inner.region.bytes(),
            slot_bytes: slabs.counts.slot_bytes,
            object_bytes: slabs.counts.object_bytes,
            free_run_bytes: Size::units_to_bytes(slabs.runs.free_units()),
            slab_count: slabs.counts.slab_count,
            class_count: slabs.class_count(),
            largest_free_run: Size::units_to_bytes(slabs.runs.longest_units()),
        }
    }

    /// Bytes of its live slots, each rounded up to 64: that of [`Arena::stats`] which is cheap
    /// enough for every request.
    pub fn live_bytes(&self) -> u64 {
        self.inner.slabs.borrow().counts.slot_bytes
    }

    /// What a slot for `bytes` bytes costs: the length rounded up to 64.
    pub fn slot_bytes(bytes: u32) -> u64 {
        Size::of(bytes).bytes()
    }
}

impl Inner {
    /// The address of a slot that the bookkeeping handed out.
    fn at(&self, offset_grains: u32) -> *mut u8 {
        let offset = Size::grains_to_bytes(offset_grains);
        debug_assert!(offset < self.region.bytes());
        let offset = usize::try_from(offset).expect("addresses have 64 bits");
        // SAFETY: slots lie inside the runs, and the runs have the region's size.
        unsafe { self.region.base().as_ptr().add(offset) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.region.unclaim();
    }
}
