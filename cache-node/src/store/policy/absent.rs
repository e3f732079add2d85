//! What is known of objects that are not here: those that were evicted, and those that were asked
//! for in vain.
//!
//! A table of lines of eight, each as large as a cache line; a key has one line, and the newest of
//! a full line takes the place of the one that was used longest ago. One is eight bytes: 23 bits of
//! a hash, the last use in ticks of 128 ms, class and tally. (A list in order of leaving, with the
//! whole hash, took 20 bytes each, and gave no more hits.)
//!
//! What a reader would get wrong: of where it stood in its chain only this is kept, that it was the
//! head or not. And one in some million is taken for another, which costs a little of the policy's
//! judgement and never a wrong byte.

use larder_transport::prefetch;

use super::ages::TICK_MS;
use super::class::Class;
use super::past::{Past, untallied};

/// The objects that are known and not here.
#[derive(Debug)]
pub(super) struct Absent {
    /// [`WAYS`] to a line; 0 where nobody is.
    places: Vec<u64>,
    /// The first that begins a cache line; those before it have nobody.
    first: usize,
    lines: usize,
}

impl Absent {
    /// Room for about as many as this.
    pub(super) fn new(count_max: u32) -> Self {
        let lines = (count_max.clamp(1, COUNT_MAX) as usize).div_ceil(WAYS);
        // Zeroed memory, which the kernel hands out as it is touched.
        let places = vec![0u64; (lines + 1) * WAYS];
        let first = places.as_ptr().align_offset(LINE_BYTES).min(WAYS);
        Self { places, first, lines }
    }

    /// Remembers one, in place of what was known of its key; answers who had to go for it.
    pub(super) fn put(&mut self, hash: u32, past: &Past, now_ms: u32) -> Option<Past> {
        let packed = pack(hash, past);
        let line = self.line(hash);
        let line = &mut self.places[line..line + WAYS];
        let own = line.iter().position(|&place| is_of(place, hash));
        if let Some(at) = own.or_else(|| line.iter().position(|&place| place == 0)) {
            line[at] = packed;
            return None;
        }
        let age = |place: &u64| age_ticks(*place, now_ms);
        let oldest = line.iter_mut().max_by_key(|place| age(place))?;
        Some(unpack(std::mem::replace(oldest, packed), now_ms))
    }

    /// Forgets the one with this hash, and answers what was known.
    pub(super) fn take(&mut self, hash: u32, now_ms: u32) -> Option<Past> {
        let at = self.place_of(hash)?;
        Some(unpack(std::mem::take(&mut self.places[at]), now_ms))
    }

    /// What is known of the one with this hash.
    pub(super) fn find(&self, hash: u32, now_ms: u32) -> Option<Past> {
        self.place_of(hash).map(|at| unpack(self.places[at], now_ms))
    }

    /// Memory of the table, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.places.len() * size_of::<u64>()) as u64
    }

    /// Loads what [`Absent::find`] will look at.
    pub(super) fn prefetch(&self, hash: u32) {
        prefetch(&self.places[self.line(hash)]);
    }

    fn line(&self, hash: u32) -> usize {
        // The high bits choose the line, the low ones tell keys apart in it.
        self.first + ((u64::from(hash) * self.lines as u64) >> u32::BITS) as usize * WAYS
    }

    fn place_of(&self, hash: u32) -> Option<usize> {
        let line = self.line(hash);
        let places = self.places[line..].first_chunk::<WAYS>()?;
        Some(line + first_of(places, hash)?)
    }
}

/// Which of a line has this hash: all are looked at, as nobody can guess where to stop.
fn first_of(places: &[u64; WAYS], hash: u32) -> Option<usize> {
    let bits = (0..WAYS).map(|at| u32::from(is_of(places[at], hash)) << at);
    let bits = bits.fold(0, |all, bit| all | bit);
    (bits != 0).then_some(bits.trailing_zeros() as usize)
}

fn is_of(place: u64, hash: u32) -> bool {
    (place != 0) & ((place ^ u64::from(hash)) & TAG_MASK == 0)
}

fn pack(hash: u32, past: &Past) -> u64 {
    let ticks = u64::from(past.last_ms / TICK_MS) & TICKS_MASK;
    (u64::from(hash) & TAG_MASK)
        | u64::from(past.depth > 0) << DEPTH_SHIFT
        | ticks << TICKS_SHIFT
        | u64::from(past.tally()) << TALLY_SHIFT
        // From 1 on, so that nobody is 0.
        | u64::from(past.class.number() + 1) << CLASS_SHIFT
}

fn unpack(place: u64, now_ms: u32) -> Past {
    let (uses, weight) = untallied((place >> TALLY_SHIFT) as u8);
    Past {
        last_ms: (now_ms / TICK_MS * TICK_MS).wrapping_sub(age_ticks(place, now_ms) * TICK_MS),
        depth: (place >> DEPTH_SHIFT) as u16 & 1,
        class: Class::numbered((place >> CLASS_SHIFT) as u8 - 1),
        uses,
        weight,
    }
}

/// How long ago one was used last; 24 days and more look younger.
fn age_ticks(place: u64, now_ms: u32) -> u32 {
    let last = (place >> TICKS_SHIFT & TICKS_MASK) as u32;
    (now_ms / TICK_MS).wrapping_sub(last) & TICKS_MASK as u32
}

/// Eight of eight bytes are a cache line.
const WAYS: usize = 8;
const LINE_BYTES: usize = WAYS * size_of::<u64>();
/// Most of a shard: 8 GiB of table.
const COUNT_MAX: u32 = 1 << 30;

const TAG_MASK: u64 = (1 << DEPTH_SHIFT) - 1;
const DEPTH_SHIFT: u32 = 23;
const TICKS_SHIFT: u32 = 24;
const TICKS_MASK: u64 = (1 << 24) - 1;
const TALLY_SHIFT: u32 = 48;
const CLASS_SHIFT: u32 = 56;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::class::{Gap, Uses};
    use super::super::weight::Weight;
    use super::*;

    fn past(now_ms: u32, some: u8) -> Past {
        Past {
            last_ms: now_ms / TICK_MS * TICK_MS,
            depth: u16::from(some % 2),
            class: Class::of(Gap::NEW, Uses::numbered(some % 8), some % 3),
            uses: Uses::numbered(some % 8),
            weight: Weight::numbered(some % 32),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u32, u8),
        Take(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Four lines, eight keys and more for each.
        let hash = (0u32..48).prop_map(|key| ((key % 4) << 30) | (key << 4));
        prop_oneof![
            3 => (hash.clone(), any::<u8>()).prop_map(|(hash, some)| Step::Put(hash, some)),
            1 => hash.prop_map(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn a_line_keeps_who_was_used_last(steps in prop::collection::vec(step(), 1..300)) {
            let mut absent = Absent::new(32);
            prop_assert_eq!(absent.bytes(), 320);
            let mut naive: HashMap<u32, Past> = HashMap::new();
            for (serial, step) in (1u32..).zip(steps) {
                // A use a tick, so that no two are of one age; the clock comes round meanwhile.
                let now_ms = serial.wrapping_mul(TICK_MS).wrapping_sub(100 * TICK_MS);
                match step {
                    Step::Put(hash, some) => {
                        let of_line = |key: &u32| key >> 30 == hash >> 30;
                        let is_full = naive.keys().filter(|key| of_line(key)).count() == WAYS;
                        let mut gone = None;
                        if is_full && !naive.contains_key(&hash) {
                            let line = naive.iter().filter(|(key, _)| of_line(key));
                            let age = |past: &Past| now_ms.wrapping_sub(past.last_ms);
                            let oldest = line.max_by_key(|(_, past)| age(past));
                            let oldest = oldest.map(|(&key, _)| key);
                            gone = oldest.and_then(|key| naive.remove(&key));
                        }
                        naive.insert(hash, past(now_ms, some));
                        prop_assert_eq!(absent.put(hash, &past(now_ms, some), now_ms), gone);
                    }
                    Step::Take(hash) => {
                        prop_assert_eq!(absent.take(hash, now_ms), naive.remove(&hash));
                    }
                }
                for key in 0..48 {
                    let hash = ((key % 4) << 30) | (key << 4);
                    prop_assert_eq!(absent.find(hash, now_ms), naive.get(&hash).copied());
                }
            }
        }
    }

    #[test]
    fn of_depth_it_stays_known_who_was_the_head() {
        let mut absent = Absent::new(1);
        for (depth, kept) in [(0, 0), (1, 1), (256, 1), (u16::MAX, 1)] {
            absent.put(7, &Past { depth, ..past(0, 1) }, 0);
            assert_eq!(absent.take(7, 500).map(|past| past.depth), Some(kept));
        }
        assert_eq!(absent.take(7, 500), None);
    }
}
