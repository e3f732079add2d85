//! Objects in ranges of device memory, and a device that is too late.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_client::{
    Berth, Ferry, FerryConfig, GetOptions, Key, KeyError, PathChoice, PutObject, PutOptions, Status,
};
use larder_gpu_bridge::{Device, DeviceRange, HostDevice, Layout, Order, PagedCache, Shape};

use crate::device::Held;
use crate::host::Host;

type Memory = <HostDevice as Device>::Memory;

fn key(number: usize) -> Key {
    Key::new(format!("range {number}").as_bytes()).unwrap()
}

fn object(number: usize) -> Vec<u8> {
    (0..20_000 + number * 3_001).map(|at| (at * 131 + number * 17 + at / 256) as u8).collect()
}

/// Ranges of two memories by turns, one more than `number` of them, which have `bytes` together.
fn ranges(memories: &[Memory; 2], number: usize, bytes: usize) -> Vec<DeviceRange<'_, HostDevice>> {
    let count = number + 1;
    let each = bytes / count;
    (0..count)
        .map(|at| DeviceRange {
            memory: &memories[(number + at) % 2],
            offset: (number * 80_000 + at * (each + 16)) as u64,
            bytes: (if at + 1 == count { bytes - each * at } else { each }) as u64,
        })
        .collect()
}

fn read(ranges: &[DeviceRange<'_, HostDevice>], bytes: usize) -> Vec<u8> {
    let of = |range: &DeviceRange<'_, HostDevice>| {
        let start = range.offset as usize;
        range.memory.bytes()[start..start + range.bytes as usize].to_vec()
    };
    let mut all: Vec<u8> = ranges.iter().flat_map(of).collect();
    all.truncate(bytes);
    all
}

#[test]
fn objects_in_ranges_are_stored_and_come_back_to_others() {
    for path in [PathChoice::Shm, PathChoice::Tcp] {
        let host = Host::on_path(&format!("ranges-{path:?}"), 2, 64 << 20, path);
        let device = HostDevice;
        let memories = [0, 1].map(|_| device.allocate(1 << 20).unwrap());
        let config = FerryConfig { bay_bytes: 100_000, verify: true, ..FerryConfig::default() };
        let stream = device.stream().unwrap();
        let mut ferry = Ferry::new(&host.client, device, stream, &config).unwrap();
        let all: Vec<_> =
            (0..10).map(|number| ranges(&memories, number, object(number).len())).collect();
        for (number, ranges) in all.iter().enumerate() {
            let object = object(number);
            let mut at = 0;
            for range in ranges {
                let (start, bytes) = (range.offset as usize, range.bytes as usize);
                range.memory.bytes()[start..start + bytes].copy_from_slice(&object[at..at + bytes]);
                at += bytes;
            }
        }
        let objects: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(at, ranges)| PutObject::new(key(at), &ranges[..]))
            .collect();
        let options = PutOptions::default();
        let stored = ferry.put_ranges(&host.namespace, &objects, &options).unwrap();
        assert_eq!(stored, vec![Ok(()); 10]);

        for round in 0..3 {
            memories.iter().for_each(|memory| memory.bytes().fill(0xee));
            // Other places, with room for 100 bytes more; one has room for too few.
            let mut rooms: Vec<_> = (0..10)
                .map(|number| ranges(&memories, 9 - number, object(number).len() + 100))
                .collect();
            rooms[4] = ranges(&memories, 5, object(4).len() - 1);
            let mut wanted: Vec<_> =
                rooms.iter().enumerate().map(|(at, ranges)| (key(at), &ranges[..])).collect();
            wanted[7].0 = key(99);
            let options = GetOptions::default();
            let crossing = ferry.get_ranges(&host.namespace, &wanted, &options).unwrap();
            device.wait(&crossing.event).unwrap();
            for (number, (answer, ranges)) in crossing.keys.iter().zip(&rooms).enumerate() {
                let expected = object(number);
                match number {
                    4 => assert_eq!(*answer, Err(KeyError::Status(Status::MissSize))),
                    7 => assert_eq!(*answer, Err(KeyError::Status(Status::Miss))),
                    _ => {
                        assert_eq!(*answer, Ok(expected.len() as u32), "{number}, {path:?}");
                        let found = read(ranges, expected.len());
                        assert!(found == expected, "{number}, {path:?}, {round}");
                    }
                }
                if matches!(number, 4 | 7) {
                    let found = read(ranges, usize::MAX);
                    assert!(found.iter().all(|&byte| byte == 0xee), "{number} is left alone");
                }
                let rest = read(ranges, usize::MAX);
                let rest = &rest[expected.len().min(rest.len())..];
                assert!(rest.iter().all(|&byte| byte == 0xee), "nothing behind {number}");
            }
            ferry.settle();
        }
        assert_eq!(ferry.crossed().direct > 0, path == PathChoice::Shm);
    }
}

#[test]
fn device_that_is_late_costs_a_call_its_deadline_and_not_more() {
    let host = Host::on_path("late", 1, 64 << 20, PathChoice::Tcp);
    let device = Held::default();
    let is_held = Arc::clone(&device.is_held);
    let shape = Shape { layers: 1, planes: 1, page_tokens: 16, heads: 4, head_bytes: 512 };
    let order = Order::PAGE_FIRST_NHD;
    let cache = PagedCache::dense(shape, 8, order).unwrap();
    let object_bytes = cache.bytes().unwrap() / 8;
    let memory = device.allocate(8 * object_bytes).unwrap();
    let layout = Layout::new(cache, order).unwrap();
    let plan = device.learn(layout.plan(1, 0..1).unwrap()).unwrap();
    // One object a leg.
    let config = FerryConfig { bay_bytes: object_bytes, ..FerryConfig::default() };
    let stream = device.stream().unwrap();
    let mut ferry = Ferry::new(&host.client, device.clone(), stream, &config).unwrap();
    let berth = Berth { memory: &memory, plan: &plan };
    memory.bytes().fill(7);
    let pages: Vec<[u32; 1]> = (0..6).map(|page| [page]).collect();
    let objects: Vec<_> =
        pages.iter().enumerate().map(|(at, page)| PutObject::new(key(at), &page[..])).collect();
    let short = Duration::from_millis(200);
    let stored = ferry.put(&host.namespace, &berth, &objects, &PutOptions::default()).unwrap();
    assert_eq!(stored, vec![Ok(()); 6]);

    memory.bytes().fill(0xee);
    is_held.store(true, Ordering::Relaxed);
    let wanted: Vec<_> = pages.iter().enumerate().map(|(at, page)| (key(at), &page[..])).collect();
    let options = GetOptions { deadline: Some(short), ..GetOptions::default() };
    let start = Instant::now();
    let crossing = ferry.get(&host.namespace, &berth, &wanted, &options).unwrap();
    assert!(start.elapsed() < 20 * short, "{:?}", start.elapsed());
    let late = Err(KeyError::DeadlineExceeded);
    // Both bays were free, and then none.
    let expected = [Ok(()), Ok(()), late.clone(), late.clone(), late.clone(), late.clone()];
    assert_eq!(crossing.keys, expected);
    let start = Instant::now();
    let options = PutOptions { deadline: Some(short), ..PutOptions::default() };
    let stored = ferry.put(&host.namespace, &berth, &objects, &options).unwrap();
    assert!(start.elapsed() < 20 * short, "{:?}", start.elapsed());
    assert_eq!(stored, vec![late; 6]);

    is_held.store(false, Ordering::Relaxed);
    device.wait(&crossing.event).unwrap();
    let seven = memory.bytes().iter().filter(|&&byte| byte == 7).count() as u64;
    assert_eq!(seven, 2 * object_bytes, "what was answered late is not written later");
    let wanted = [(key(5), &pages[0][..])];
    let crossing = ferry.get(&host.namespace, &berth, &wanted, &GetOptions::default()).unwrap();
    assert_eq!(crossing.keys, [Ok(())], "all is well again");
}
