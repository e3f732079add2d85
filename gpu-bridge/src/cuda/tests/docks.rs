//! Checksums and docks of a device, which no card has written to.

use std::time::Duration;

use larder_protocol::checksum::crc64;
use larder_transport::rdma::AnyFabric;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric};

use super::*;
use crate::dock::{Dock, DockError};

/// A dock, and whether cards may write to it. A simulated card needs the memory mapped, which
/// drivers of discrete GPUs refuse; `None` of a device that exports nothing.
fn dock(device: &CudaDevice, bytes: u64) -> Option<Dock<CudaDevice>> {
    let fabric = SimulatedFabric::new(1, Faults::default());
    match Dock::new(device.clone(), bytes, &AnyFabric::Simulated(fabric)) {
        Ok(dock) => Some(dock),
        Err(DockError::Fabric(_)) => Some(Dock::apart(device.clone(), bytes).unwrap()),
        Err(DockError::Device(error)) => {
            assert!(!device.properties().exports_dma_buf, "{error}");
            None
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn checksums_of_pinned_memory_are_the_protocols() {
    let device = device(Movers::default());
    let mut stream = device.stream().unwrap();
    let memory = Arc::new(std::sync::Mutex::new(random(17, 9 << 20)));
    let bytes = memory.lock().unwrap().clone();
    let base = NonNull::new(memory.lock().unwrap().as_mut_ptr()).unwrap();
    // SAFETY: the vector is kept, never grows, and is not touched meanwhile.
    let range = unsafe { HostRange::from_raw(base, 9 << 20, Access::ReadWrite, memory) };
    let pinned = device.pin(range).unwrap();
    // As long as a few tiles, none, and more than a launch has; beginning and ending anywhere.
    let mut ranges: Vec<_> =
        (0..2500_u64).map(|at| at * 3001..at * 3001 + at * 7 % 20_000).collect();
    ranges.extend([0..9 << 20, 1..(9 << 20) - 1, 5..5, 13..14, (9 << 20) - 3..9 << 20]);
    let made = device.checksums(&mut stream, &pinned, &ranges, soon()).unwrap().unwrap();
    for (range, made) in ranges.iter().zip(made) {
        let expected = crc64(&bytes[range.start as usize..range.end as usize]);
        assert_eq!(made, expected, "{range:?}");
    }
    let beyond = device.checksums(&mut stream, &pinned, &[0..9, 1..(9 << 20) + 1], soon());
    assert!(matches!(beyond, Err(DeviceError::Bounds { .. })), "{beyond:?}");
    // Once more, with lists that were used before; and too late.
    let again = device.checksums(&mut stream, &pinned, &ranges[..9], soon()).unwrap().unwrap();
    assert_eq!(again[8], crc64(&bytes[8 * 3001..8 * 3001 + 56]));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn objects_go_from_a_dock_to_pages_and_ranges_within_the_device() {
    for movers in all_movers() {
        let device = device(movers);
        let object_bytes = 3 * 2 * 16 * 4 * 128_u64;
        let Some(mut dock) = dock(&device, 1 << 20) else { return };
        let mut stream = device.stream().unwrap();
        let shape = Shape { layers: 3, planes: 2, page_tokens: 16, heads: 4, head_bytes: 128 };
        let cache = PagedCache::dense(shape, 8, vllm_order("LBNHC").unwrap()).unwrap();
        let layout = Layout::new(cache, Order::PAGES_PLANES_NHD).unwrap();
        let learnt = device.learn(layout.plan(1, 0..3).unwrap()).unwrap();
        let (there, pages) =
            (device.allocate(1 << 20).unwrap(), device.allocate(8 * object_bytes).unwrap());
        let source = random(23, 1 << 20);
        let mut bay = Bay::new(device.clone(), 1 << 20).unwrap();
        bay.bytes_mut().unwrap().copy_from_slice(&source);
        let whole = |memory| DeviceRange::<CudaDevice> { memory, offset: 0, bytes: 1 << 20 };
        let (to, from) = (Direction::ToDevice, Direction::FromDevice);
        bay.submit_pieces(&mut stream, to, [(0, whole(&there))].into_iter()).unwrap();
        let brought = dock.copy(&mut stream, |stream, dock| {
            device.submit_pieces(stream, from, &[whole(&there).placed(dock, 0)])
        });
        brought.unwrap();
        assert!(dock.settle_by(soon()).unwrap());

        let start = 4096 + 256;
        let ranges = [start..start + object_bytes, 11..100_000];
        let expected: Vec<u64> = ranges
            .iter()
            .map(|range| crc64(&source[range.start as usize..range.end as usize]))
            .collect();
        assert_eq!(dock.checksums(&ranges, soon()).unwrap().unwrap(), expected);
        let other = device.allocate(1 << 20).unwrap();
        let went = dock.copy(&mut stream, |stream, pinned| {
            let objects = [Placed { pinned, offset: start, pages: &[5] }];
            let batch = Batch { direction: to, memory: &pages, plan: &learnt, objects: &objects };
            device.submit(stream, &batch)?;
            let range = |offset, bytes| DeviceRange { memory: &other, offset, bytes };
            let pieces = [range(3, 77).placed(pinned, 11), range(200, 9000).placed(pinned, 999)];
            device.submit_pieces(stream, to, &pieces)
        });
        went.unwrap();
        drop(dock);
        bay.bytes_mut().unwrap().fill(0xee);
        bay.submit(&mut stream, from, &pages, &learnt, &[(0, &[5])]).unwrap();
        let back = DeviceRange { memory: &other, offset: 0, bytes: 10_000 };
        bay.submit_pieces(&mut stream, from, [(500_000, back)].into_iter()).unwrap();
        let found = bay.bytes().unwrap();
        let object = start as usize..(start + object_bytes) as usize;
        assert!(found[..object_bytes as usize] == source[object], "{movers:?}");
        let found = &found[500_000..];
        assert!(found[3..80] == source[11..88] && found[200..9200] == source[999..9999]);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn checksums_that_take_too_long_are_none_and_the_dock_stays_the_devices() {
    let device = device(Movers::default());
    let Some(mut dock) = dock(&device, 64 << 20) else { return };
    let made = dock.checksums(&[0..64 << 20, 0..64 << 20], Instant::now()).unwrap();
    // A device that is fast enough has made them.
    assert!(made.is_none_or(|made| made[0] == made[1]));
    assert!(dock.settle_by(soon()).unwrap());
}
