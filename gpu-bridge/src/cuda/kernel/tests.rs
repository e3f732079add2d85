//! The kernel without a device: its threads run by the host.

use std::path::Path;

use super::*;
use crate::cuda::module::tests::{build, feed};
use crate::layout::{Layout, Order, PagedCache, Shape};

/// Bytes that look like nothing else here.
fn random(seed: u64, count: usize) -> Vec<u8> {
    let next = |at: &u64| Some(at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1));
    std::iter::successors(Some(seed), next).map(|at| (at >> 56) as u8).take(count).collect()
}

/// Runs the kernel over both sides, as `blocks` blocks would.
fn run(
    program: &Path,
    blocks: u64,
    direction: Direction,
    (words, places): (&[u64], &[Place]),
    (object, device): (&mut Vec<u8>, &mut Vec<u8>),
) {
    let to_device = u64::from(direction == Direction::ToDevice);
    let (tiles, count) = ((words.len() / TILE_WORDS) as u64, places.len() as u64);
    let head = [blocks, tiles, count, object.len() as u64, device.len() as u64, to_device];
    let places = places.iter().flat_map(|place| [place.object, place.device]);
    let numbers = head.into_iter().chain(words.iter().copied()).chain(places);
    let mut input: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    input.extend_from_slice(object);
    input.extend_from_slice(device);
    let output = feed(program, input);
    let (first, second) = output.split_at(object.len());
    object.copy_from_slice(first);
    device.copy_from_slice(second);
}

#[test]
fn kernel_moves_what_the_plan_says_and_nothing_else() {
    let program = build(&SOURCE, include_str!("on_host.c"));
    let shape = |page_tokens, heads, head_bytes| Shape {
        layers: 3,
        planes: 2,
        page_tokens,
        heads,
        head_bytes,
    };
    // Pieces of many tiles, of one, shorter than a lane's share, and of odd lengths.
    let cases = [
        (shape(16, 2, 256), Order::PLANES_PAGES_NHD, Order::PAGE_FIRST_NHD),
        (shape(16, 4, 300), Order::PAGE_FIRST_NHD, Order::PAGE_FIRST_NHD),
        (shape(4, 2, 16), Order::PLANES_PAGES_HND, Order::PLANES_PAGES_NHD),
        (shape(3, 2, 7), Order::PAGES_PLANES_HND, Order::PLANES_PAGES_NHD),
    ];
    for (number, (shape, order, object_order)) in (0..).zip(cases) {
        let cache = PagedCache::dense(shape, 9, order).unwrap();
        let cache_bytes = cache.bytes().unwrap() as usize;
        let layout = Layout::new(cache, object_order).unwrap();
        let (objects, layers) = ([[5, 2], [8, 0]], number % 2..3);
        let plan = layout.plan(2, layers).unwrap();
        let span = plan.object_span().next_multiple_of(16);
        let object_before = random(u64::from(number) + 1, 2 * span as usize + 64);
        let device_before = random(u64::from(number) + 99, cache_bytes + 64);
        let steps = plan.steps();
        let places: Vec<_> = objects
            .iter()
            .zip(0_u64..)
            .flat_map(|(pages, which)| {
                pages.iter().zip(0_u64..).map(move |(&page, at)| Place {
                    object: which * span + at * steps.object,
                    device: u64::from(page) * steps.device,
                })
            })
            .collect();
        let words = tile_words(&plan);
        for (direction, blocks) in [(Direction::ToDevice, 1), (Direction::FromDevice, 7)] {
            let (mut object, mut device) = (object_before.clone(), device_before.clone());
            let (mut object_expected, mut device_expected) = (object.clone(), device.clone());
            for (pages, which) in objects.iter().zip(0_u64..) {
                for piece in plan.pieces(pages) {
                    let from = piece.object_offset - plan.object_range().start + which * span;
                    let from = from as usize..(from + piece.bytes) as usize;
                    let to = piece.device_offset as usize;
                    let to = to..to + piece.bytes as usize;
                    match direction {
                        Direction::ToDevice => {
                            device_expected[to].copy_from_slice(&object_before[from]);
                        }
                        Direction::FromDevice => {
                            object_expected[from].copy_from_slice(&device_before[to]);
                        }
                    }
                }
            }
            let sides = (&mut object, &mut device);
            run(&program, blocks, direction, (&words, &places), sides);
            assert!(object == object_expected, "object, case {number}, {direction:?}");
            assert!(device == device_expected, "device, case {number}, {direction:?}");
        }
    }
    std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
}
