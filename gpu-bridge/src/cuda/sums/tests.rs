//! The kernel without a device: its threads run by the host, against the protocol's checksum.

use std::path::Path;

use larder_protocol::checksum::crc64;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::cuda::module::tests::{build, feed};

/// The checksums of ranges of `memory`, as a device with so many blocks makes them.
fn sums(program: &Path, blocks: u64, memory: &[u8], ranges: &[Range<u64>]) -> Vec<u64> {
    let mut remainders = vec![0; ranges.len()];
    for launch in Launch::all(ranges) {
        assert!(launch.words().len() * 8 <= LIST_BYTES);
        let head = [blocks, launch.count as u64, launch.tiles.len() as u64, memory.len() as u64];
        let numbers = head.into_iter().chain(launch.words()).chain(tables());
        let mut input: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        input.extend_from_slice(memory);
        let output = feed(program, input);
        let made = output.chunks(8).map(|sum| u64::from_le_bytes(sum.try_into().unwrap()));
        remainders[launch.first..].iter_mut().zip(made).for_each(|(to, made)| *to ^= made);
    }
    finish(ranges, &remainders)
}

fn expected(memory: &[u8], ranges: &[Range<u64>]) -> Vec<u64> {
    let of = |range: &Range<u64>| crc64(&memory[range.start as usize..range.end as usize]);
    ranges.iter().map(of).collect()
}

/// Bytes that look like nothing else here.
fn random(seed: u64, count: usize) -> Vec<u8> {
    let next = |at: &u64| Some(at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1));
    std::iter::successors(Some(seed), next).map(|at| (at >> 56) as u8).take(count).collect()
}

#[test]
fn kernel_makes_the_checksums_of_the_protocol() {
    let program = build(&SOURCE, include_str!("on_host.c"));
    // As long as some tiles, beginning and ending anywhere.
    let memory = random(3, 100_000);
    let edge = TILE_BYTES;
    let length =
        prop_oneof![0..40_u64, edge - 9..edge + 9, 2 * edge - 9..2 * edge + 9, 0..50_000_u64];
    let ranges = prop::collection::vec((0..50_000_u64, length), 0..12);
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let case = (ranges, 1..9_u64);
    let ran = runner.run(&case, |(ranges, blocks)| {
        let ranges: Vec<_> = ranges.iter().map(|&(at, bytes)| at..at + bytes).collect();
        let made = sums(&program, blocks, &memory, &ranges);
        prop_assert_eq!(made, expected(&memory, &ranges));
        Ok(())
    });
    ran.unwrap();
    // More tiles than a launch has, and one object of the longest kind.
    let memory = random(5, (RANGE_BYTES_MAX + 8) as usize);
    let mut ranges: Vec<_> = (0..3000_u64).map(|at| at * 1001..at * 1001 + 100 + at).collect();
    ranges.push(7..RANGE_BYTES_MAX + 7);
    assert!(Launch::all(&ranges).len() > 3);
    assert_eq!(sums(&program, 8, &memory, &ranges), expected(&memory, &ranges));
    // Ranges of nothing, which have a sum each and no tile.
    let mut ranges = vec![5..5; 10_000];
    (ranges[0], ranges[9_999]) = (0..9, 3..90);
    assert_eq!(sums(&program, 1, &memory, &ranges), expected(&memory, &ranges));
    std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
}
