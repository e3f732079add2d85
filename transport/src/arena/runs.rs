//! Runs of 4 KiB units: which are free, and who owns the others. Pure numbers, no memory.
//!
//! Boundary tags, as in Knuth's allocator: the first and the last unit of every run say how long
//! it is and whether it is free, so a run that comes back finds its neighbours in O(1). What a
//! reader would get wrong: units inside a run have tag 0, always. A stale tag there would make
//! [`Runs::at`] believe a run begins where none does, and memory would be handed out twice.

use super::bins::{Bins, LEN_BITS_MAX};
use super::pool::NONE;

const FREE: u32 = 1 << 31;
const FIRST: u32 = 1 << 30;
const LAST: u32 = 1 << 29;
const LEN: u32 = LAST - 1;

/// Looked at in a bin that mixes lengths, before the next bin is tried (guessed).
const BIN_WALK_MAX: u32 = 32;

const _: () = assert!(1 << LEN_BITS_MAX <= LEN);

/// One run, free when it has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) units: u32,
    pub(super) owner: Option<u32>,
}

impl Run {
    pub(super) fn end(&self) -> u32 {
        self.start + self.units
    }
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    tag: u32,
    /// First unit of a free run: the next one in its bin. First unit of a used run: the owner.
    next: u32,
    /// First unit of a free run: the previous one in its bin.
    prev: u32,
}

#[derive(Debug)]
pub(super) struct Runs {
    units: Box<[Unit]>,
    bins: Bins,
    free_units: u32,
}

impl Runs {
    /// One free run of `units` units.
    pub(super) fn new(units: u32) -> Self {
        assert!(units > 0 && units <= 1 << LEN_BITS_MAX, "the region checked its size");
        let blank = Unit { tag: 0, next: NONE, prev: NONE };
        let mut runs = Self {
            units: vec![blank; units as usize].into_boxed_slice(),
            bins: Bins::new(),
            free_units: 0,
        };
        runs.insert(0, units);
        runs
    }

    pub(super) fn unit_count(&self) -> u32 {
        u32::try_from(self.units.len()).expect("made from a u32")
    }

    pub(super) fn free_units(&self) -> u32 {
        self.free_units
    }

    /// A free run of at least `units`, the shortest there is up to the width of a bin.
    pub(super) fn find(&self, units: u32) -> Option<Run> {
        if units > self.unit_count() {
            return None;
        }
        let bin = Bins::of(units);
        let mut start = self.bins.head(bin);
        for _ in 0..BIN_WALK_MAX {
            if start == NONE {
                break;
            }
            let run = self.free_at(start);
            if run.units >= units {
                return Some(run);
            }
            start = self.units[start as usize].next;
        }
        self.bins.at_least(bin + 1).map(|bin| self.free_at(self.bins.head(bin)))
    }

    /// One of the longest free runs, exact up to the width of a bin.
    pub(super) fn long(&self) -> Option<Run> {
        self.bins.highest().map(|bin| self.free_at(self.bins.head(bin)))
    }

    /// The length of the longest free run. Walks one bin: for statistics only.
    pub(super) fn longest_units(&self) -> u32 {
        let Some(bin) = self.bins.highest() else { return 0 };
        let mut start = self.bins.head(bin);
        let mut longest = 0;
        while start != NONE {
            longest = longest.max(self.units[start as usize].tag & LEN);
            start = self.units[start as usize].next;
        }
        longest
    }

    /// The run that begins at `start`, if one does.
    pub(super) fn at(&self, start: u32) -> Option<Run> {
        let unit = self.units.get(start as usize)?;
        let owner = if unit.tag & FREE == 0 { Some(unit.next) } else { None };
        (unit.tag & FIRST != 0).then_some(Run { start, units: unit.tag & LEN, owner })
    }

    /// The run that ends where another one starts.
    pub(super) fn before(&self, start: u32) -> Option<Run> {
        let last = start.checked_sub(1)?;
        let tag = self.units[last as usize].tag;
        debug_assert!(tag & LAST != 0, "asked at a border");
        self.at(start - (tag & LEN))
    }

    /// Takes `units` units from `at` on out of a free run; what is left on both sides stays free.
    pub(super) fn carve(&mut self, run: Run, at: u32, units: u32, owner: u32) {
        assert!(
            self.at(run.start) == Some(run) && run.owner.is_none(),
            "only a free run can be carved"
        );
        assert!(units > 0 && at >= run.start && at + units <= run.end(), "carved inside the run");
        self.remove(run);
        if at > run.start {
            self.insert(run.start, at - run.start);
        }
        if at + units < run.end() {
            self.insert(at + units, run.end() - at - units);
        }
        self.tag(at, units, 0);
        self.units[at as usize].next = owner;
    }

    /// Frees the used run that begins at `start` and joins it with its free neighbours.
    pub(super) fn free(&mut self, start: u32) {
        let run = self.at(start).expect("a used run begins here");
        assert!(run.owner.is_some(), "a run is freed once");
        self.untag(run);
        let (mut start, mut end) = (run.start, run.end());
        if let Some(left) = self.before(start).filter(|left| left.owner.is_none()) {
            self.remove(left);
            start = left.start;
        }
        if let Some(right) = self.at(end).filter(|right| right.owner.is_none()) {
            self.remove(right);
            end = right.end();
        }
        self.insert(start, end - start);
    }

    fn free_at(&self, start: u32) -> Run {
        Run { start, units: self.units[start as usize].tag & LEN, owner: None }
    }

    fn insert(&mut self, start: u32, units: u32) {
        self.tag(start, units, FREE);
        let bin = Bins::of(units);
        let head = self.bins.head(bin);
        self.units[start as usize].next = head;
        self.units[start as usize].prev = NONE;
        if head != NONE {
            self.units[head as usize].prev = start;
        }
        self.bins.set_head(bin, start);
        self.free_units += units;
    }

    fn remove(&mut self, run: Run) {
        let Unit { next, prev, .. } = self.units[run.start as usize];
        if next != NONE {
            self.units[next as usize].prev = prev;
        }
        if prev == NONE {
            self.bins.set_head(Bins::of(run.units), next);
        } else {
            self.units[prev as usize].next = next;
        }
        self.untag(run);
        self.free_units -= run.units;
    }

    fn tag(&mut self, start: u32, units: u32, free: u32) {
        let last = start + units - 1;
        self.units[last as usize].tag = free | LAST | units;
        let both = if units == 1 { LAST } else { 0 };
        self.units[start as usize].tag = free | FIRST | both | units;
    }

    fn untag(&mut self, run: Run) {
        self.units[run.start as usize].tag = 0;
        self.units[run.end() as usize - 1].tag = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every unit's owner, one by one: the slowest allocator that cannot be wrong.
    struct Model(Vec<Option<u32>>);

    impl Model {
        fn longest_free(&self) -> u32 {
            let lens = self.0.split(Option::is_some).map(<[_]>::len);
            u32::try_from(lens.max().unwrap()).unwrap()
        }
    }

    /// Walks all runs from unit 0: they tile the region and no two free ones touch.
    fn check(runs: &Runs, model: &Model) {
        let (mut at, mut free, mut last_free) = (0, 0, false);
        while at < runs.unit_count() {
            let run = runs.at(at).expect("runs tile the region");
            for unit in run.start..run.end() {
                assert_eq!(model.0[unit as usize], run.owner);
                assert_eq!(runs.at(unit).is_some(), unit == run.start);
            }
            assert!(!(last_free && run.owner.is_none()), "free neighbours are one run");
            last_free = run.owner.is_none();
            free += if last_free { run.units } else { 0 };
            at = run.end();
            assert_eq!(runs.before(at), Some(run));
        }
        assert_eq!(free, runs.free_units());
        assert_eq!(runs.longest_units(), model.longest_free());
    }

    proptest! {
        #[test]
        fn runs_agree_with_a_unit_by_unit_model(
            total in 1u32..if cfg!(miri) { 60 } else { 3_000 },
            steps in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 1..120),
        ) {
            let mut runs = Runs::new(total);
            let mut model = Model(vec![None; total as usize]);
            let mut taken: Vec<Run> = Vec::new();
            for (owner, (size, pick, give)) in (0u32..).zip(steps) {
                if give && !taken.is_empty() {
                    let run = taken.swap_remove(pick as usize % taken.len());
                    runs.free(run.start);
                    model.0[run.start as usize..run.end() as usize].fill(None);
                } else {
                    let units = 1 + size % (total / 4 + 1);
                    let found = runs.find(units);
                    prop_assert_eq!(found.is_some(), units <= model.longest_free());
                    if let Some(run) = found {
                        let start = run.start + pick % (run.units - units + 1);
                        runs.carve(run, start, units, owner);
                        taken.push(Run { start, units, owner: Some(owner) });
                        model.0[start as usize..(start + units) as usize].fill(Some(owner));
                    }
                }
                check(&runs, &model);
            }
            for run in taken {
                runs.free(run.start);
            }
            prop_assert_eq!(runs.at(0), Some(Run { start: 0, units: total, owner: None }));
        }
    }

    #[test]
    #[should_panic(expected = "a used run begins here")]
    fn a_run_is_not_freed_from_its_middle() {
        let mut runs = Runs::new(64);
        let run = runs.find(8).unwrap();
        runs.carve(run, 0, 8, 1);
        runs.free(3);
    }
}
