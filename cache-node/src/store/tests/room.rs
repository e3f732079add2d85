//! Making room: objects that are being sent, sizes that change.

use super::*;

const MIB: u64 = 1 << 20;

/// The same numbers every time, for steps too long for a property test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// From 100 B to 8 MiB, each octave as likely as the next.
    fn bytes(&mut self) -> u32 {
        let top = 128u64 << self.below(17);
        100 + self.below(top.min(8 * MIB - 100)) as u32
    }
}

#[test]
fn object_in_flight_is_not_overwritten() {
    let mut bench = Bench::new(MIB);
    bench.put(b"sent", 200_000);
    let found = bench.lookup(b"sent", false).unwrap();
    bench.store.remove(bench.namespace, b"sent", 0);
    for key in 0..100u8 {
        bench.put(&[key], 100_000);
        assert_eq!(checked(&found), 1);
    }
    let before = bench.store.stats().slot_bytes;
    drop(found);
    assert!(bench.store.stats().slot_bytes <= before - 200_000, "the last clone gives it back");
    bench.empty();
}

#[test]
fn room_is_refused_while_everything_is_being_sent() {
    let mut bench = Bench::new(MIB);
    let mut sent = Vec::new();
    for key in 0..4u8 {
        bench.put(&[key], 200_000);
        sent.push(bench.lookup(&[key], true).unwrap());
    }
    assert_eq!(bench.put_with(b"k", 500_000, Extra::default()), Status::NoRoom);
    let filling = bench.reserve(b"k", 100_000, Extra::default()).unwrap();
    assert_eq!(bench.put_with(b"l", 200_000, Extra::default()), Status::NoRoom);
    assert_eq!(bench.store.stats().evicted, 0, "nothing is lost for a put that fails");
    drop(filling);
    sent.remove(1);
    bench.put(b"k", 200_000);
    for found in &sent {
        checked(found);
    }
    drop(sent);
    bench.put(b"k", 1_000_000);
    bench.empty();
}

#[test]
fn many_old_objects_that_are_leased_do_not_stand_in_the_way_of_others() {
    for sizes in [[3000, 3000], [3000, 17_000], [17_000, 3000]] {
        let mut bench = Bench::new(8 * MIB);
        let key = |number: u32| number.to_le_bytes();
        let fits = 7 * MIB as u32 / (sizes[0] + 400);
        (0..fits).for_each(|number| bench.put(&key(number), sizes[0]));
        let oldest = 0..fits / 3;
        let leased: Vec<_> =
            oldest.map(|number| bench.lookup(&key(number), false).unwrap()).collect();
        for number in 0..8 * MIB as u32 / sizes[1] {
            bench.put(&key(1_000_000 + number), sizes[1]);
        }
        for (serial, found) in leased.iter().enumerate() {
            assert_eq!(checked(found), serial as u64 + 1);
        }
        drop(leased);
        bench.empty();
    }
}

#[test]
fn number_of_a_sent_object_never_evicts_another() {
    let mut bench = Bench::new(MIB);
    bench.put(b"a", 100_000);
    let found = bench.lookup(b"a", false).unwrap();
    bench.store.remove(bench.namespace, b"a", 0);
    bench.put(b"b", 30_000);
    assert_eq!(bench.lookup(b"b", false).unwrap().entry, found.entry, "the number is reused");
    assert_eq!(bench.put_with(b"c", 1_000_000, Extra::default()), Status::NoRoom);
    assert_eq!(bench.get(b"b"), Ok(2), "nothing goes for a window that is pinned");
    assert_eq!(checked(&found), 1);
    drop(found);
    bench.empty();
}

#[test]
fn stale_memory_is_used_before_anything_alive_goes() {
    let mut bench = Bench::new(4 * MIB);
    let (alive, bumped) = (bench.namespace, bench.open("bumped"));
    for key in 0..8u8 {
        bench.namespace = if (1..4).contains(&key) { alive } else { bumped };
        bench.put(&[key], 500_000);
    }
    bench.store.bump(bumped, Generation(2));
    bench.put(b"large", 1_500_000);
    let stats = bench.store.stats();
    assert_eq!((stats.evicted, stats.stale_objects), (0, 1));
    bench.namespace = alive;
    assert!((1..4u8).all(|key| bench.get(&[key]).is_ok()));
    bench.empty();
}

/// A slot that holds a record of 64 B and an object.
fn footprint(bytes: u64) -> u64 {
    bytes.next_multiple_of(64)
}

#[test]
fn memory_of_one_size_serves_another() {
    let region = 64 * MIB;
    for (from, to) in [(MIB, 64 << 10), (64 << 10, MIB), (4 << 10, 8 * MIB), (8 * MIB, 200)] {
        let mut bench = Bench::new(region);
        for key in 0..2 * region / from {
            bench.put(&key.to_le_bytes(), footprint(from) as u32 - 64);
        }
        // One pass: as many bytes as the region has.
        let count = region / footprint(to);
        for key in 0..count {
            bench.put(&(key | 1 << 40).to_le_bytes(), footprint(to) as u32 - 64);
        }
        let found = (0..count)
            .filter(|key| bench.get(&(key | 1 << 40).to_le_bytes()).is_ok())
            .count() as u64;
        assert!(
            found * footprint(to) * 100 >= region * 95,
            "{from} -> {to}: {found} of {count} are there"
        );
        bench.empty();
    }
}

#[test]
fn mixed_sizes_keep_their_bytes_and_all_memory_comes_back() {
    let mut bench = Bench::new(64 * MIB);
    let mut dice = Dice(42);
    let mut serials = vec![0; 400];
    let mut sent = Vec::new();
    let (mut hits, mut refused) = (0, 0);
    for _ in 0..4000 {
        let key = dice.below(400) as usize;
        match dice.below(8) {
            0..4 => {
                let bytes = dice.bytes();
                match bench.put_with(&key.to_le_bytes(), bytes, Extra::default()) {
                    Status::Stored => {
                        serials[key] = bench.serial;
                        assert_eq!(bench.get(&key.to_le_bytes()), Ok(bench.serial));
                    }
                    status => {
                        assert_eq!(status, Status::NoRoom);
                        refused += 1;
                    }
                }
            }
            4..7 => {
                if let Ok(found) = bench.lookup(&key.to_le_bytes(), true) {
                    assert_eq!(checked(&found), serials[key]);
                    hits += 1;
                    sent.push(found);
                    if sent.len() > 8 {
                        checked(&sent.swap_remove(dice.below(8) as usize));
                    }
                }
            }
            _ => {
                bench.store.remove(bench.namespace, &key.to_le_bytes(), 0);
                serials[key] = 0;
            }
        }
    }
    assert!(hits > 300 && refused < 40, "{hits} hits, {refused} refused");
    drop(sent);
    bench.empty();
}
