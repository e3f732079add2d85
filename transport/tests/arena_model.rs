//! The arena against a naive model: whatever is taken, filled, cloned and dropped in whatever
//! order, live slots never overlap, keep their bytes, and are counted exactly.

use larder_transport::{Arena, Region, Slot, SlotMut};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::Arc;

const REGION_BYTES: u64 = 8 << 20;

#[derive(Clone, Debug)]
enum Step {
    Take { bytes: u32 },
    Fill { which: usize, bytes: u32 },
    Freeze { which: usize },
    GiveUp { which: usize },
    Clone { which: usize },
    Drop { which: usize },
}

fn sizes() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..300,
        3 => 300u32..20_000,
        2 => 20_000u32..600_000,
        1 => 600_000u32..3_000_000,
        2 => prop::sample::select(vec![64, 4096, 4097, 65_536, 262_144, 1 << 20]),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<usize>();
    let step = prop_oneof![
        5 => sizes().prop_map(|bytes| Step::Take { bytes }),
        5 => (which, sizes()).prop_map(|(which, bytes)| Step::Fill { which, bytes }),
        4 => which.prop_map(|which| Step::Freeze { which }),
        1 => which.prop_map(|which| Step::GiveUp { which }),
        2 => which.prop_map(|which| Step::Clone { which }),
        4 => which.prop_map(|which| Step::Drop { which }),
    ];
    proptest::collection::vec(step, 1..if cfg!(miri) { 20 } else { 300 })
}

/// A handle and the byte that its slot is filled with.
struct Filled {
    slot: Slot,
    pattern: u8,
}

#[derive(Default)]
struct Model {
    filling: Vec<(SlotMut, u8)>,
    filled: Vec<Filled>,
    patterns: u8,
}

impl Model {
    fn run(&mut self, arena: &Arena, step: &Step) {
        match *step {
            Step::Take { bytes } => {
                let largest = arena.stats().largest_free_run;
                let taken = arena.take(bytes);
                assert!(taken.is_some() || u64::from(bytes) > largest, "{bytes} of {largest}");
                self.patterns = self.patterns.wrapping_add(1);
                self.filling.extend(taken.map(|slot| (slot, self.patterns)));
            }
            Step::Fill { which, bytes } => {
                if let Some((slot, pattern)) = pick_mut(&mut self.filling, which) {
                    let room = slot.unfilled();
                    let n = (bytes as usize).min(room.len());
                    room[..n].fill(*pattern);
                    slot.advance(n);
                }
            }
            Step::Freeze { which } => {
                if let Some((slot, pattern)) = take_one(&mut self.filling, which) {
                    let (filled, len) = (slot.filled(), slot.len());
                    match slot.freeze() {
                        Ok(slot) => {
                            assert_eq!(filled, len);
                            assert!(!slot.is_shared());
                            self.filled.push(Filled { slot, pattern });
                        }
                        Err(unfilled) => assert!(unfilled.filled == filled && filled < len),
                    }
                }
            }
            Step::GiveUp { which } => drop(take_one(&mut self.filling, which)),
            Step::Clone { which } => {
                if let Some(Filled { slot, pattern }) = pick_mut(&mut self.filled, which) {
                    let (slot, pattern) = (slot.clone(), *pattern);
                    assert!(slot.is_shared());
                    self.filled.push(Filled { slot, pattern });
                }
            }
            Step::Drop { which } => drop(take_one(&mut self.filled, which)),
        }
    }

    fn check(&self, arena: &Arena) {
        for (slot, pattern) in &self.filling {
            assert!(slot.filled_bytes().iter().all(|byte| byte == pattern));
        }
        for Filled { slot, pattern } in &self.filled {
            assert!(slot.iter().all(|byte| byte == pattern));
        }
        let mut spans: Vec<Range<u64>> = self.filled.iter().map(|f| f.slot.region_span()).collect();
        spans.extend(self.filling.iter().map(|(s, _)| s.offset()..s.offset() + u64::from(s.len())));
        spans.sort_by_key(|span| (span.start, span.end));
        spans.dedup();
        let rounded = |span: &Range<u64>| (span.end - span.start).div_ceil(64).max(1) * 64;
        assert!(spans.iter().all(|span| span.start % 64 == 0));
        assert!(spans.windows(2).all(|pair| pair[0].start + rounded(&pair[0]) <= pair[1].start));
        assert!(spans.last().is_none_or(|span| span.start + rounded(span) <= REGION_BYTES));
        let stats = arena.stats();
        assert_eq!(stats.slot_bytes, spans.iter().map(rounded).sum::<u64>());
        assert_eq!(stats.object_bytes, spans.iter().map(|s| s.end - s.start).sum::<u64>());
        assert!(stats.slot_bytes + stats.free_run_bytes <= REGION_BYTES);
        assert_eq!(stats.slab_count == 0, spans.is_empty());
    }
}

fn pick_mut<T>(from: &mut [T], which: usize) -> Option<&mut T> {
    let count = from.len();
    (count > 0).then(|| &mut from[which % count])
}

fn take_one<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(which % from.len()))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn live_slots_never_overlap_and_everything_comes_back(steps in steps()) {
        let region = Arc::new(Region::heap(REGION_BYTES).unwrap());
        let arena = Arena::new(Arc::clone(&region));
        let empty = arena.stats();
        let mut model = Model::default();
        for (n, step) in steps.iter().enumerate() {
            model.run(&arena, step);
            if n % 16 == 0 {
                model.check(&arena);
            }
        }
        model.check(&arena);
        drop(model);
        prop_assert_eq!(arena.stats(), empty);
        prop_assert_eq!(empty.largest_free_run, REGION_BYTES);
        drop(arena);
        Arena::new(region);
    }
}

#[test]
#[should_panic(expected = "a region has one arena")]
fn a_region_has_one_arena() {
    let region = Arc::new(Region::heap(1 << 20).unwrap());
    let _first = Arena::new(Arc::clone(&region));
    Arena::new(region);
}

#[test]
fn a_slot_outlives_every_handle_of_its_arena() {
    let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
    let mut slot = arena.take(5).unwrap();
    drop(arena);
    slot.write(b"hello");
    assert_eq!(&*slot.freeze().unwrap(), b"hello");
}

#[test]
fn a_slot_of_no_bytes_is_a_slot() {
    let arena = Arena::new(Arc::new(Region::heap(4096).unwrap()));
    let slot = arena.take(0).unwrap().freeze().unwrap();
    assert!(slot.is_empty());
    assert_eq!(arena.stats().slot_bytes, 64);
}

#[test]
fn no_size_is_too_large_to_be_refused() {
    let arena = Arena::new(Arc::new(Region::heap(1 << 20).unwrap()));
    assert!(arena.take(u32::MAX).is_none());
    assert!(arena.take((1 << 20) + 1).is_none());
    assert!(arena.take(1 << 20).is_some());
}

#[test]
fn what_a_slot_held_before_does_not_leave_it() {
    let arena = Arena::new(Arc::new(Region::heap(4096).unwrap()));
    let mut slot = arena.take(64).unwrap();
    slot.write(&[7; 64]);
    drop(slot.freeze().unwrap());
    let mut slot = arena.take(64).unwrap();
    slot.write(&[8; 63]);
    assert_eq!(slot.filled_bytes(), [8; 63]);
    assert_eq!(slot.freeze().unwrap_err().filled, 63);
}

#[test]
#[should_panic(expected = "no more is filled than the slot has room for")]
fn a_slot_is_not_filled_past_its_end() {
    let arena = Arena::new(Arc::new(Region::heap(4096).unwrap()));
    arena.take(100).unwrap().advance(101);
}
