//! Floors and ceilings: what namespaces are sure of, and what they may have.
//!
//! Between the two the policy alone decides: it evicts what is worth least in all the shard, so
//! memory goes to whose hits pay for it. What a reader would get wrong: what is counted is slots,
//! records and rounding included, of all that the store still holds, stale objects too. Those go
//! before anything else, floor or not.

use larder_protocol::Status;
use larder_transport::{Arena, Window};

use super::entries::{Entries, Entry};
use super::{Store, Why};
use crate::namespace::NamespaceId;

/// A budget on one shard, and what its namespaces take.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Others never push them below this.
    pub floor_bytes: u64,
    /// They never take more.
    pub ceiling_bytes: u64,
    /// What they take now.
    pub bytes: u64,
}

impl Share {
    fn can_spare(&self, bytes: u64) -> bool {
        self.bytes.saturating_sub(bytes) >= self.floor_bytes
    }
}

/// The budgets of a store.
#[derive(Debug, Default)]
pub(super) struct Shares {
    shares: Vec<Share>,
    /// By the number of the namespace.
    of: Vec<Option<u16>>,
    has_floors: bool,
}

impl Shares {
    /// Namespace `id` has the budget with this number, or none; it has no objects yet.
    fn assign(&mut self, id: NamespaceId, share: Option<u16>) {
        let at = id.number() as usize;
        if self.of.len() <= at {
            self.of.resize(at + 1, None);
        }
        self.of[at] = share;
    }

    fn share(&self, id: NamespaceId) -> Option<&Share> {
        self.number(id).map(|number| &self.shares[usize::from(number)])
    }

    fn number(&self, id: NamespaceId) -> Option<u16> {
        *self.of.get(id.number() as usize)?
    }

    /// A slot of so many bytes was taken.
    pub(super) fn taken(&mut self, id: NamespaceId, bytes: u64) {
        if let Some(number) = self.number(id) {
            self.shares[usize::from(number)].bytes += bytes;
        }
    }

    /// A slot of so many bytes was let go.
    pub(super) fn dropped(&mut self, id: NamespaceId, bytes: u64) {
        if let Some(number) = self.number(id) {
            self.shares[usize::from(number)].bytes -= bytes;
        }
    }

    /// Whether evicting so many bytes of `victim` for `asker` breaks no promise.
    fn may_evict(&self, victim: NamespaceId, bytes: u64, asker: NamespaceId) -> bool {
        self.number(victim) == self.number(asker)
            || self.share(victim).is_none_or(|share| share.can_spare(bytes))
    }

    /// Whether evicting a whole window for `asker` breaks no promise.
    pub(super) fn may_lose(
        &self,
        arena: &Arena,
        entries: &Entries,
        window: Window,
        asker: NamespaceId,
    ) -> bool {
        if !self.has_floors {
            return true;
        }
        let (mut slots, mut lost) = (Vec::new(), vec![0; self.shares.len()]);
        arena.live_slots_in(window, &mut slots);
        for entry in slots.iter().filter_map(|slot| entries.object(slot.tag)) {
            if let Some(number) = self.number(entry.namespace()) {
                lost[usize::from(number)] += slot_bytes(entry);
            }
        }
        let own = self.number(asker).map(usize::from);
        let mut shares = self.shares.iter().zip(&lost).enumerate();
        shares.all(|(number, (share, &lost))| {
            lost == 0 || own == Some(number) || share.can_spare(lost)
        })
    }

    /// Whether there are floors at all.
    pub(super) const fn has_floors(&self) -> bool {
        self.has_floors
    }

    /// Whether namespaces of this budget are below their floor.
    pub(super) fn is_below_floor(&self, id: NamespaceId) -> bool {
        self.share(id).is_some_and(|share| share.bytes < share.floor_bytes)
    }

    /// Whether an object may go to make room for one of `asker`.
    pub(super) fn spares(&self, entry: &Entry, asker: NamespaceId) -> bool {
        self.has_floors && !self.may_evict(entry.namespace(), slot_bytes(entry), asker)
    }
}

impl Store {
    /// Has namespaces keep to budgets from now on; `budget_of` says which of `shares` is that of a
    /// description.
    ///
    /// # Panics
    /// If namespaces were opened before.
    pub(crate) fn keep_to(&mut self, shares: Vec<Share>) {
        assert!(self.namespaces().is_empty(), "budgets come first");
        let has_floors = shares.iter().any(|share| share.floor_bytes > 0);
        self.shares = Shares { shares, of: Vec::new(), has_floors };
    }

    /// Gives a namespace that was opened its budget, unless it has objects: then it has it.
    ///
    /// # Panics
    /// If there is no such budget.
    pub(crate) fn assign(&mut self, id: NamespaceId, share: Option<u16>) {
        assert!(share.is_none_or(|number| usize::from(number) < self.shares.shares.len()));
        let namespace = &self.namespaces[id];
        if namespace.objects == 0 && namespace.stale_objects == 0 {
            self.shares.assign(id, share);
        }
    }

    /// The budgets, and what is taken of each.
    pub fn shares(&self) -> &[Share] {
        &self.shares.shares
    }

    /// Makes room below a ceiling for a slot of so many bytes, by evicting of the same budget.
    ///
    /// # Errors
    /// [`Status::NoRoom`] if the ceiling is lower than that, or all that is below it is in use.
    pub(super) fn stay_below_ceiling(&mut self, id: NamespaceId, bytes: u64) -> Result<(), Status> {
        let Some(number) = self.shares.number(id) else { return Ok(()) };
        loop {
            let share = &self.shares.shares[usize::from(number)];
            if share.bytes + bytes <= share.ceiling_bytes {
                return Ok(());
            }
            if bytes > share.ceiling_bytes {
                return Err(Status::NoRoom);
            }
            let shares = &self.shares;
            let is_ours = |entry: &Entry| {
                shares.number(entry.namespace()) == Some(number) && !entry.slot().is_shared()
            };
            let victim = self.order.search(&self.entries, is_ours);
            let count = self.namespaces.len();
            let victim =
                victim.or_else(|| self.order.search_lists(&self.entries, id, count, is_ours));
            self.drop_entry(victim.ok_or(Status::NoRoom)?, Why::Room);
        }
    }
}

/// What an object takes of its budget.
pub(super) fn slot_bytes(entry: &Entry) -> u64 {
    Arena::slot_bytes(entry.slot().len() as u32)
}
