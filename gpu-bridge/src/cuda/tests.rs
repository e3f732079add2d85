//! What only a device can show. Each makes its own data and poisons what it writes to.

use std::process::Command;
use std::ptr::NonNull;
use std::sync::Arc;

use larder_transport::{HugePages, MappedRegion, Region};

mod docks;

use super::*;
use crate::bay::Bay;
use crate::device::{DeviceRange, Placed};
use crate::layout::{Layout, Order, PagedCache, Shape};
use crate::runtimes::{VLLM_NAMES, vllm_order};

fn device(movers: Movers) -> CudaDevice {
    CudaDevice::open(0).unwrap().with_movers(movers).unwrap()
}

/// The kernel always, batches of copies, one copy each.
fn all_movers() -> [Movers; 3] {
    let copies = Movers { kernel_piece_bytes_max: 0, ..Movers::default() };
    [
        Movers { kernel_piece_bytes_max: u64::MAX, ..copies },
        copies,
        Movers { batches: false, ..copies },
    ]
}

fn random(seed: u64, count: usize) -> Vec<u8> {
    let next = |at: &u64| Some(at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1));
    std::iter::successors(Some(seed), next).map(|at| (at >> 56) as u8).take(count).collect()
}

/// A plan that copies `bytes` bytes to the start of the memory or from there.
fn whole(device: &CudaDevice, bytes: u32) -> CudaLearnt {
    let shape = Shape { layers: 1, planes: 1, page_tokens: 1, heads: 1, head_bytes: bytes };
    let order = Order::PAGE_FIRST_NHD;
    let layout = Layout::new(PagedCache::dense(shape, 1, order).unwrap(), order).unwrap();
    device.learn(layout.plan(1, 0..1).unwrap()).unwrap()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_layout_and_mover_puts_every_byte_in_its_place_both_ways() {
    for movers in all_movers() {
        let device = device(movers);
        let mut stream = device.stream().unwrap();
        for (name, head_bytes) in VLLM_NAMES.into_iter().zip([256, 256, 512, 300, 7, 16]) {
            let shape = Shape { layers: 4, planes: 1, page_tokens: 16, heads: 8, head_bytes };
            let cache = PagedCache::dense(shape, 20, vllm_order(name).unwrap()).unwrap();
            let cache_bytes = cache.bytes().unwrap();
            let layout = Layout::new(cache, Order::PAGES_PLANES_NHD).unwrap();
            let plan = layout.plan(3, 1..4).unwrap();
            let span = plan.object_span();
            let objects = [(0, [19, 0, 7]), (span + 16, [8, 9, 10]), (2 * span + 32, [3, 2, 1])];
            let placed: Vec<_> = objects.iter().map(|(at, p)| (*at, p.as_slice())).collect();
            let learnt = device.learn(plan.clone()).unwrap();

            let memory = device.allocate(cache_bytes).unwrap();
            let all = whole(&device, cache_bytes as u32);
            let before = random(5, cache_bytes as usize);
            let mut cache_bay = Bay::new(device.clone(), cache_bytes).unwrap();
            cache_bay.bytes_mut().unwrap()[..before.len()].copy_from_slice(&before);
            let (to, from) = (Direction::ToDevice, Direction::FromDevice);
            cache_bay.submit(&mut stream, to, &memory, &all, &[(0, &[0])]).unwrap();
            let mut bay = Bay::new(device.clone(), 3 * span + 48).unwrap();
            let source = random(9, bay.bytes().unwrap().len());
            bay.bytes_mut().unwrap().copy_from_slice(&source);
            bay.submit(&mut stream, to, &memory, &learnt, &placed).unwrap();
            cache_bay.bytes_mut().unwrap().fill(0xee);
            cache_bay.submit(&mut stream, from, &memory, &all, &[(0, &[0])]).unwrap();

            let (mut expected, first) = (before, plan.object_range().start);
            for (at, pages) in &placed {
                for piece in plan.pieces(pages) {
                    let from = (at + piece.object_offset - first) as usize;
                    let (to, bytes) = (piece.device_offset as usize, piece.bytes as usize);
                    expected[to..to + bytes].copy_from_slice(&source[from..from + bytes]);
                }
            }
            let found = &cache_bay.bytes().unwrap()[..expected.len()];
            assert!(found == expected, "to the device, {name}, {movers:?}");

            bay.bytes_mut().unwrap().fill(0xee);
            bay.submit(&mut stream, from, &memory, &learnt, &placed).unwrap();
            let mut expected = vec![0xee; source.len()];
            for (at, pages) in &placed {
                for piece in plan.pieces(pages) {
                    let from = (at + piece.object_offset - first) as usize;
                    let range = from..from + piece.bytes as usize;
                    expected[range.clone()].copy_from_slice(&source[range]);
                }
            }
            assert!(bay.bytes().unwrap() == expected, "from the device, {name}, {movers:?}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn pieces_without_a_plan_reach_memory_that_others_allocated_and_come_back() {
    for movers in all_movers() {
        let device = device(movers);
        let memories = [1 << 20, 3 << 20].map(|bytes| device.allocate(bytes).unwrap());
        // SAFETY: the memories outlive what is adopted, and only this test uses them.
        let adopted = memories
            .each_ref()
            .map(|memory| unsafe { device.adopt(memory.address(), memory.bytes()) }.unwrap());
        let mut stream = device.stream().unwrap();
        let mut bay = Bay::new(device.clone(), 4 << 20).unwrap();
        let source = random(21, 4 << 20);
        bay.bytes_mut().unwrap().copy_from_slice(&source);
        // Odd lengths, at odd places, in an order of their own.
        let pieces: Vec<(u64, usize, u64, u64)> = (0..60)
            .map(|at| (at * 50_001 + 3, (at % 2) as usize, at / 2 * 30_000 + 1, 29_000 + at))
            .collect();
        let placed = |&(offset, which, at, bytes): &(u64, usize, u64, u64)| {
            (offset, DeviceRange { memory: &adopted[which], offset: at, bytes })
        };
        bay.submit_pieces(&mut stream, Direction::ToDevice, pieces.iter().map(placed)).unwrap();
        bay.bytes_mut().unwrap().fill(0xee);
        bay.submit_pieces(&mut stream, Direction::FromDevice, pieces.iter().map(placed)).unwrap();
        let mut expected = vec![0xee; source.len()];
        for &(offset, _, _, bytes) in &pieces {
            let range = offset as usize..(offset + bytes) as usize;
            expected[range.clone()].copy_from_slice(&source[range]);
        }
        assert!(bay.bytes().unwrap() == expected, "{movers:?}");
        let long = DeviceRange { memory: &adopted[0], offset: (1 << 20) - 1, bytes: 2 };
        let refused = bay.submit_pieces(&mut stream, Direction::ToDevice, [(0, long)].into_iter());
        assert!(matches!(refused, Err(DeviceError::Bounds { .. })), "{refused:?}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn what_is_dropped_early_is_used_to_the_end() {
    for movers in all_movers() {
        let device = device(movers);
        let bytes = 32 << 20;
        let source = random(3, bytes as usize);
        let memory = device.allocate(u64::from(bytes)).unwrap();
        let mut stream = device.stream().unwrap();
        let mut bay = Bay::new(device.clone(), u64::from(bytes)).unwrap();
        bay.bytes_mut().unwrap().copy_from_slice(&source);
        for _ in 0..20 {
            let plan = whole(&device, bytes);
            let other = device.allocate(u64::from(bytes)).unwrap();
            bay.submit(&mut stream, Direction::ToDevice, &other, &plan, &[(0, &[0])]).unwrap();
        }
        let plan = whole(&device, bytes);
        bay.submit(&mut stream, Direction::ToDevice, &memory, &plan, &[(0, &[0])]).unwrap();
        let lease = Arc::new(());
        device.keep(&mut stream, Box::new(Arc::clone(&lease))).unwrap();
        drop(bay);
        drop(stream);
        assert_eq!(Arc::strong_count(&lease), 1);
        let mut stream = device.stream().unwrap();
        let mut back = Bay::new(device.clone(), u64::from(bytes)).unwrap();
        back.submit(&mut stream, Direction::FromDevice, &memory, &plan, &[(0, &[0])]).unwrap();
        drop(device);
        assert!(back.bytes().unwrap() == source, "{movers:?}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn what_a_device_refuses_is_an_error_that_says_what() {
    let device = device(Movers::default());
    let error = device.allocate(1 << 50).unwrap_err().to_string();
    assert!(error.contains("cuMemAlloc of 1125899906842624 bytes"), "{error}");
    assert!(error.contains("CUDA_ERROR_OUT_OF_MEMORY (2)"), "{error}");
    let here = [0_u8; 64];
    for (address, bytes) in [(here.as_ptr().addr() as u64, 64), (0, 64), (4096, 0), (u64::MAX, 2)] {
        // SAFETY: nothing is copied; what is asked is whether it is refused.
        let refused = unsafe { device.adopt(address, bytes) };
        assert_eq!(refused.unwrap_err(), NOT_OURS);
    }
    let memory = device.allocate(4096).unwrap();
    // SAFETY: it lies in what was allocated, which nobody else uses.
    let adopted = unsafe { device.adopt(memory.address() + 256, 1024) }.unwrap();
    assert_eq!(adopted.bytes(), 1024);
    assert!(CudaDevice::open(1000).is_err());
    // After all this the device still works.
    let mut stream = device.stream().unwrap();
    let event = device.record(&mut stream).unwrap();
    device.wait(&event).unwrap();
    assert!(device.has_happened(&event).unwrap());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn region_of_a_node_is_read_by_the_device_and_never_written() {
    for movers in all_movers() {
        let device = device(movers);
        if !device.properties().pins_read_only {
            eprintln!("not shown: this driver pins no memory that is mapped for reading");
            return;
        }
        let region = Region::memfd("larder-test", 8 << 20, HugePages::No).unwrap();
        let fd = region.descriptor().unwrap().try_clone_to_owned().unwrap();
        let mapped = Arc::new(MappedRegion::of_node(fd, region.bytes()).unwrap());
        let pinned = device.pin(HostRange::of_region(&mapped)).unwrap();
        drop(mapped);
        let plan = whole(&device, 1 << 20);
        let memory = device.allocate(1 << 20).unwrap();
        let mut stream = device.stream().unwrap();
        let object = Placed { pinned: &pinned, offset: 3 << 20, pages: &[0] };
        let batch = |direction| Batch {
            direction,
            memory: &memory,
            plan: &plan,
            objects: std::slice::from_ref(&object),
        };
        device.submit(&mut stream, &batch(Direction::ToDevice)).unwrap();
        device.finish(&mut stream).unwrap();
        let refused = device.submit(&mut stream, &batch(Direction::FromDevice));
        assert_eq!(refused, Err(DeviceError::ReadOnly { bytes: 1 << 20 }));
        // What was read are the zeros of the region, and not what was there before.
        let mut back = Bay::new(device.clone(), 1 << 20).unwrap();
        back.bytes_mut().unwrap().fill(0xee);
        back.submit(&mut stream, Direction::FromDevice, &memory, &plan, &[(0, &[0])]).unwrap();
        assert!(back.bytes().unwrap().iter().all(|&byte| byte == 0));
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn memory_that_is_pinned_twice_is_pinned_once() {
    let device = device(Movers::default());
    // As another ferry of the process has it.
    let other = CudaDevice::open(0).unwrap();
    let memory = Arc::new(std::sync::Mutex::new(vec![0_u8; 1 << 20]));
    let base = NonNull::new(memory.lock().unwrap().as_mut_ptr()).unwrap();
    // SAFETY: the vector is kept, never grows, and nothing is copied.
    let range = unsafe { HostRange::from_raw(base, 1 << 20, Access::ReadWrite, memory) };
    let first = device.pin(range.clone()).unwrap();
    let second = other.pin(range).unwrap();
    assert!(first.is_same(&second));
    drop(first);
    // It is still pinned, and the driver takes no part of it again.
    let kept = Arc::new(());
    // SAFETY: as above.
    let part = unsafe { HostRange::from_raw(base, 4096, Access::ReadWrite, kept) };
    let error = device.pin(part.clone()).unwrap_err().to_string();
    assert!(error.contains("cuMemHostRegister of 4096 bytes"), "{error}");
    drop(second);
    device.pin(part).unwrap();
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn memory_that_many_pin_and_unpin_at_once_is_pinned_for_each() {
    let device = device(Movers::default());
    let memory = Arc::new(std::sync::Mutex::new(vec![0_u8; 1 << 20]));
    let base = NonNull::new(memory.lock().unwrap().as_mut_ptr()).unwrap();
    // SAFETY: the vector is kept, never grows, and nothing is copied.
    let range = unsafe { HostRange::from_raw(base, 1 << 20, Access::ReadWrite, memory) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| drop(device.pin(range.clone()).unwrap())));
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_stream_that_a_graph_is_captured_of_is_left_alone() {
    let device = device(Movers::default());
    let (mut ours, theirs) = (device.stream().unwrap(), device.stream().unwrap());
    let event = ours.record().unwrap();
    let raw = theirs.raw().expose_provenance() as u64;
    // SAFETY: it is a stream of this device.
    unsafe { ours.follow(raw) }.unwrap();
    {
        let _current = device.context().enter().unwrap();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: the stream is ours.
        let code = unsafe { sys::cuStreamBeginCapture_v2(theirs.raw(), mode) };
        assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    }
    // SAFETY: as above.
    let followed = unsafe { ours.follow(raw) };
    assert!(matches!(followed, Err(DeviceError::Unsupported { .. })), "{followed:?}");
    // SAFETY: as above.
    let held = unsafe { event.hold_back(raw) };
    assert!(matches!(held, Err(DeviceError::Unsupported { .. })), "{held:?}");
    // Questions about what is ours do not spoil it, nor does memory that is made meanwhile.
    assert!(event.has_happened().is_ok());
    drop(device.allocate(1 << 20).unwrap());
    let mut graph = std::ptr::null_mut();
    let _current = device.context().enter().unwrap();
    // SAFETY: the stream is ours, and the place to write.
    let code = unsafe { sys::cuStreamEndCapture(theirs.raw(), &raw mut graph) };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn memory_is_exported_where_the_device_can() {
    let device = device(Movers::default());
    let memory = device.allocate(2 << 20).unwrap();
    let handle = memory.export_ipc().unwrap();
    assert_eq!((handle.offset, handle.bytes), (0, 2 << 20));
    assert!(device.open_ipc(&handle).is_err(), "a process does not open its own");
    let dma_buf = memory.export_dma_buf(&device);
    if device.properties().exports_dma_buf {
        dma_buf.unwrap();
    } else {
        assert!(matches!(dma_buf, Err(DeviceError::Unsupported { .. })));
    }
    assert!(memory.part(16, 4096).export_dma_buf(&device).is_err());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn text_that_came_with_us_loads_too() {
    let device = device(Movers::default());
    for source in [kernel::SOURCE, sums::SOURCE] {
        let (context, origin) = (device.context(), KernelOrigin::Text);
        module::Module::load_text(context, source.name, source.text, origin).unwrap();
    }
}

/// Where a GPU is, the driver is the one that is first in the path all the same.
#[test]
fn stand_in_driver_shows_what_a_device_would() {
    let folder = std::env::temp_dir().join(format!("larder-stand-in-{}", std::process::id()));
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(here.join("stand_in/build.sh")).arg(&folder).status();
    assert!(built.expect("a shell").success(), "a C compiler is needed");
    let run = |settings: &[(&str, &str)], arguments: &[&str]| {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", &folder).envs(settings.iter().copied());
        let output = command.args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{settings:?}: {told}{error}");
        assert!(!told.contains(" 0 passed"), "nothing was run: {told}");
    };
    let all = ["--ignored", "--skip", "text_is_what", "--test-threads", "1"];
    run(&[], &all);
    let lesser =
        ["--ignored", "every_layout", "region_of", "refuses", "docks", "--test-threads", "1"];
    run(&[("STAND_IN_NO_BATCHES", "1"), ("STAND_IN_NO_READ_ONLY", "1")], &lesser);
    run(&[("STAND_IN_NO_DMA_BUF", "1")], &lesser);
    run(&[("STAND_IN_VERSION", "11000")], &lesser);
    run(&[("STAND_IN_DEVICES", "0")], &["--ignored", "--exact", "cuda::tests::no_device"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "needs a driver without a device"]
fn no_device() {
    if std::env::var_os("STAND_IN_DEVICES").is_none() {
        return;
    }
    assert_eq!(device_count(), Ok(0), "which is no failure");
    let error = CudaDevice::open(0).unwrap_err();
    assert!(error.to_string().contains("no device of this number"), "{error}");
}

#[test]
fn without_a_driver_opening_a_device_says_so() {
    match device_count() {
        Ok(_) => {}
        Err(DeviceError::Unsupported { what }) => assert!(what.contains("no NVIDIA driver")),
        Err(error) => assert!(matches!(error, DeviceError::Call { call: "cuInit", .. }), "{error}"),
    }
}
