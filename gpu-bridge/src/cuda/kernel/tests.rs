//! The kernel without a device: its threads run by the host, its text against its source.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;
use crate::layout::{Layout, Order, PagedCache, Shape};

/// The kernel's source compiled as C, with a `main` that runs its threads.
fn program() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let built = std::env::temp_dir().join(format!("larder-pages-{}", std::process::id()));
    std::fs::create_dir_all(&built).unwrap();
    // What is C++ alone.
    let source = SOURCE.replace("extern \"C\" ", "");
    std::fs::write(built.join("pages.c"), source).unwrap();
    let program = built.join("run");
    let compiled = Command::new("cc")
        .args([
            "-O1",
            "-std=c11",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-fsanitize=undefined",
        ])
        .args(["-fno-sanitize-recover=all", "-I"])
        .arg(&built)
        .arg(folder.join("kernel/on_host.c"))
        .arg("-o")
        .arg(&program)
        .status();
    assert!(compiled.expect("a C compiler").success());
    program
}

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
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let (first, second) = output.stdout.split_at(object.len());
    object.copy_from_slice(first);
    device.copy_from_slice(second);
}

#[test]
fn kernel_moves_what_the_plan_says_and_nothing_else() {
    let program = program();
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

#[test]
fn text_has_the_entry_that_is_looked_for() {
    assert!(TEXT.contains(".visible .entry larder_pages("));
    assert!(TEXT.contains(".target sm_70"));
    assert_eq!(TEXT.matches(".param .u64 larder_pages_param").count(), 2);
    assert_eq!(TEXT.matches(".param .u32 larder_pages_param").count(), 3);
}

/// With `LARDER_WRITE_TEXT=1` it is written anew. Lines that begin with `//` say which compiler.
#[test]
#[ignore = "needs libnvrtc.so.12 of CUDA 12.0 on LD_LIBRARY_PATH"]
fn text_is_what_the_compiler_makes_of_the_source() {
    let made = compile([7, 0]).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/pages.ptx");
    if std::env::var_os("LARDER_WRITE_TEXT").is_some() {
        std::fs::write(path, &made).unwrap();
        return;
    }
    let code = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("//")).map(str::to_owned).collect()
    };
    assert_eq!(code(&made), code(TEXT));
}
