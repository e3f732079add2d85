//! Floors and ceilings: what namespaces are sure of, and what they may have.
//!
//! Between the two the policy alone decides: it evicts what is worth least in all the shard, so
//! memory goes to whose hits pay for it. What a reader would get wrong: what is counted is slots,
//! records and rounding included, of all that the store still holds, stale objects too. Those go
//! before anything else, floor or not.

use larder_protocol::Status;
use larder_transport::{Arena, Window};

use super::entries::{Entries, Entry};
use super::{Record, Store, Why};
use crate::namespace::NamespaceId;

/// A budget on one shard, and what is taken of it.
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

/// Whose an object is, as budgets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Of which namespace.
    pub namespace: NamespaceId,
    /// Its class hint.
    pub class: u8,
}

impl From<NamespaceId> for Owner {
    /// Objects without a class hint.
    fn from(namespace: NamespaceId) -> Self {
        Self { namespace, class: 0 }
    }
}

/// Which budgets a namespace has, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// That of objects of these classes.
    pub(crate) classes: Vec<(u8, u16)>,
    /// That of all others.
    pub(crate) rest: Option<u16>,
}

/// The budgets of a store.
#[derive(Debug, Default)]
pub(super) struct Shares {
    shares: Vec<Share>,
    /// By the number of the namespace.
    of: Vec<Assigned>,
    has_floors: bool,
}

impl Shares {
    /// Namespace `id` has these budgets; it has no objects yet.
    fn assign(&mut self, id: NamespaceId, assigned: Assigned) {
        let at = id.number() as usize;
        if self.of.len() <= at {
            self.of.resize(at + 1, Assigned::default());
        }
        self.of[at] = assigned;
    }

    fn number(&self, owner: Owner) -> Option<u16> {
        let assigned = self.of.get(owner.namespace.number() as usize)?;
        let of_class = assigned.classes.iter().find(|(class, _)| *class == owner.class);
        of_class.map(|(_, number)| *number).or(assigned.rest)
    }

    /// The number of the budget of an object.
    fn number_of(&self, entry: &Entry) -> Option<u16> {
        let assigned = self.of.get(entry.namespace().number() as usize)?;
        // Its record is another line of memory, which is read only for whom classes matter.
        if assigned.classes.is_empty() { assigned.rest } else { self.number(owner_of(entry)) }
    }

    /// A slot of so many bytes was taken.
    pub(super) fn taken(&mut self, owner: Owner, bytes: u64) {
        if let Some(number) = self.number(owner) {
            self.shares[usize::from(number)].bytes += bytes;
        }
    }

    /// A slot of so many bytes was let go.
    pub(super) fn dropped(&mut self, owner: Owner, bytes: u64) {
        if let Some(number) = self.number(owner) {
            self.shares[usize::from(number)].bytes -= bytes;
        }
    }

    /// Whether evicting a whole window for `asker` breaks no promise.
    pub(super) fn may_lose(
        &self,
        arena: &Arena,
        entries: &Entries,
        window: Window,
        asker: Owner,
    ) -> bool {
        if !self.has_floors {
            return true;
        }
        let (mut slots, mut lost) = (Vec::new(), vec![0; self.shares.len()]);
        arena.live_slots_in(window, &mut slots);
        for entry in slots.iter().filter_map(|slot| entries.object(slot.tag)) {
            if let Some(number) = self.number_of(entry) {
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

    /// Whether those of this budget are below their floor.
    pub(super) fn is_below_floor(&self, owner: Owner) -> bool {
        let share = self.number(owner).map(|number| &self.shares[usize::from(number)]);
        share.is_some_and(|share| share.bytes < share.floor_bytes)
    }

    /// Whether some of a namespace's are below theirs: those of a class that nobody names yet.
    pub(super) fn has_floor_to_fill(&self, id: NamespaceId) -> bool {
        let assigned = self.of.get(id.number() as usize);
        let numbers = assigned.into_iter().flat_map(|assigned| {
            assigned.classes.iter().map(|(_, number)| *number).chain(assigned.rest)
        });
        let mut shares = numbers.map(|number| &self.shares[usize::from(number)]);
        shares.any(|share| share.bytes < share.floor_bytes)
    }

    /// Whether an object must stay although room is looked for for one of `asker`.
    pub(super) fn spares(&self, entry: &Entry, asker: Owner) -> bool {
        if !self.has_floors {
            return false;
        }
        let victim = self.number_of(entry);
        let share = victim.map(|number| &self.shares[usize::from(number)]);
        let is_floor_kept = share.is_none_or(|share| share.can_spare(slot_bytes(entry)));
        victim != self.number(asker) && !is_floor_kept
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

    /// Gives a namespace that was opened its budgets, unless it has objects: then it has them.
    ///
    /// # Panics
    /// If there is no such budget.
    pub(crate) fn assign(&mut self, id: NamespaceId, assigned: Assigned) {
        let mut numbers = assigned.classes.iter().map(|(_, number)| *number).chain(assigned.rest);
        assert!(numbers.all(|number| usize::from(number) < self.shares.shares.len()));
        let namespace = &self.namespaces[id];
        if namespace.objects == 0 && namespace.stale_objects == 0 {
            self.shares.assign(id, assigned);
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
    pub(super) fn stay_below_ceiling(&mut self, owner: Owner, bytes: u64) -> Result<(), Status> {
        let Some(number) = self.shares.number(owner) else { return Ok(()) };
        loop {
            let share = &self.shares.shares[usize::from(number)];
            if share.bytes + bytes <= share.ceiling_bytes {
                return Ok(());
            }
            if bytes > share.ceiling_bytes {
                return Err(Status::NoRoom);
            }
            let victim = self.victim(owner, |entry, shares| {
                shares.number_of(entry) == Some(number) && !entry.slot().is_shared()
            });
            self.drop_entry(victim.ok_or(Status::NoRoom)?, Why::Room);
        }
    }
}

/// Whose an object is.
pub(super) fn owner_of(entry: &Entry) -> Owner {
    Owner { namespace: entry.namespace(), class: Record::class_hint_of(entry.slot()) }
}

/// What an object takes of its budget.
pub(super) fn slot_bytes(entry: &Entry) -> u64 {
    Arena::slot_bytes(entry.slot().len() as u32)
}
