//! Objects into a device and out of it. The device is one of ordinary memory, which is as late as a
//! real one may be.

use larder_client::{
    Berth, Crossed, Ferry, FerryConfig, FerryError, GetOptions, Key, KeyError, PathChoice, Pieces,
    PutObject, PutOptions, Stat, Status,
};
use larder_gpu_bridge::{Device, HostDevice, Layout, Order, PagedCache, Plan, Shape};
use larder_node::config::Config as NodeConfig;

use crate::host::Host;

/// Two pages of it are an object of 96 KiB.
const SHAPE: Shape = Shape { layers: 3, planes: 2, page_tokens: 16, heads: 4, head_bytes: 128 };
const PAGES: u32 = 64;

struct Aboard {
    ferry: Ferry<HostDevice>,
    memory: <HostDevice as Device>::Memory,
    plan: Plan,
    learnt: <HostDevice as Device>::Learnt,
}

impl Aboard {
    fn new(host: &Host, bay_bytes: u64) -> Self {
        let device = HostDevice;
        let cache = PagedCache::dense(SHAPE, PAGES, Order::PLANES_PAGES_HND).unwrap();
        let memory = device.allocate(cache.bytes().unwrap()).unwrap();
        let layout = Layout::new(cache, Order::PAGES_PLANES_NHD).unwrap();
        let plan = layout.plan(2, 0..3).unwrap();
        let learnt = device.learn(plan.clone()).unwrap();
        let stream = device.stream().unwrap();
        let config = FerryConfig { bay_bytes, verify: true, ..FerryConfig::default() };
        let ferry = Ferry::new(&host.client, device, stream, &config).unwrap();
        Self { ferry, memory, plan, learnt }
    }

    fn get(&mut self, host: &Host, objects: &[(Key, &[u32])]) -> Vec<Result<(), KeyError>> {
        self.memory.bytes().fill(0xee);
        let berth = Berth { memory: &self.memory, plan: &self.learnt };
        let options = GetOptions::default();
        let crossing = self.ferry.get(&host.namespace, &berth, objects, &options).unwrap();
        HostDevice.wait(&crossing.event).unwrap();
        crossing.keys
    }

    /// What the object has in its pages.
    fn read(&self, pages: &[u32]) -> Vec<u8> {
        let mut object = vec![0; self.plan.object_span() as usize];
        let memory = self.memory.bytes();
        for piece in self.plan.pieces(pages) {
            let (at, from) = (piece.object_offset as usize, piece.device_offset as usize);
            let bytes = piece.bytes as usize;
            object[at..at + bytes].copy_from_slice(&memory[from..from + bytes]);
        }
        object
    }
}

fn key(number: usize) -> Key {
    Key::new(format!("page {number}").as_bytes()).unwrap()
}

fn object(number: usize) -> Vec<u8> {
    (0..96 << 10).map(|at: usize| (at * 131 + number * 17 + at / 256) as u8).collect()
}

fn put(host: &Host, number: usize, bytes: &[u8]) {
    let object: PutObject<Pieces<'_>> = PutObject::new(key(number), bytes);
    let stored = host.client.put(&host.namespace, &[object], &PutOptions::default());
    assert_eq!(stored.unwrap(), [Ok(())]);
}

fn pages(number: usize) -> [u32; 2] {
    let at = number as u32 * 2;
    [(at * 7 + 3) % PAGES, ((at + 1) * 7 + 3) % PAGES]
}

fn check_all(device: &mut Aboard, host: &Host, count: usize) {
    let pages: Vec<_> = (0..count).map(pages).collect();
    let objects: Vec<_> = (0..count).map(|n| (key(n), &pages[n][..])).collect();
    assert_eq!(device.get(host, &objects), vec![Ok(()); count]);
    for (number, pages) in pages.iter().enumerate() {
        assert!(device.read(pages) == object(number), "object {number}");
    }
}

#[test]
fn objects_of_this_host_are_read_by_the_device_itself_once_their_memory_is_pinned() {
    let host = Host::new("ferry-near", 2, 64 << 20);
    (0..20).for_each(|number| put(&host, number, &object(number)));
    // Room for 4 objects a leg.
    let mut device = Aboard::new(&host, 400 << 10);
    check_all(&mut device, &host, 20);
    let before = device.ferry.crossed();
    assert_eq!((before.direct + before.staged, before.received), (20, 0));
    device.ferry.settle();
    check_all(&mut device, &host, 20);
    let after = device.ferry.crossed();
    assert_eq!(after, Crossed { direct: before.direct + 20, ..before });
}

#[test]
fn objects_of_other_hosts_are_received_in_bays() {
    let host = Host::on_path("ferry-far", 2, 64 << 20, PathChoice::Tcp);
    (0..20).for_each(|number| put(&host, number, &object(number)));
    let mut device = Aboard::new(&host, 400 << 10);
    for _ in 0..2 {
        check_all(&mut device, &host, 20);
    }
    // The first leg asked for leases, which there are none of on this path.
    assert_eq!(device.ferry.crossed(), Crossed { staged: 4, received: 36, ..Crossed::default() });
}

#[test]
fn leases_are_given_back_when_the_device_has_read_them() {
    let one_at_a_time = NodeConfig {
        shards: 1,
        memory_bytes: 64 << 20,
        lease_bytes_max: Some(100 << 10),
        ..NodeConfig::default()
    };
    let host = Host::with("ferry-lent", one_at_a_time, PathChoice::Shm);
    (0..12).for_each(|number| put(&host, number, &object(number)));
    // One object a leg.
    let mut device = Aboard::new(&host, 100 << 10);
    check_all(&mut device, &host, 1);
    device.ferry.settle();
    check_all(&mut device, &host, 12);
    assert!(device.ferry.crossed().direct >= 12);
}

#[test]
fn what_is_missing_or_of_another_length_is_answered_and_nothing_else_is_harmed() {
    for path in [PathChoice::Shm, PathChoice::Tcp] {
        let host = Host::on_path(&format!("ferry-gaps-{path:?}"), 1, 64 << 20, path);
        put(&host, 0, &object(0));
        put(&host, 1, &object(1)[..50_000]);
        put(&host, 3, &object(3));
        let mut device = Aboard::new(&host, 400 << 10);
        for _ in 0..3 {
            let pages: Vec<_> = (0..4).map(pages).collect();
            let objects: Vec<_> = (0..4).map(|n| (key(n), &pages[n][..])).collect();
            let answers = device.get(&host, &objects);
            let statuses = answers.iter().map(|answer| answer.as_ref().map_err(KeyError::status));
            let statuses: Vec<_> = statuses.collect();
            let (size, miss) = (Some(Status::MissSize), Some(Status::Miss));
            assert_eq!(statuses, [Ok(&()), Err(size), Err(miss), Ok(&())], "{path:?}");
            for number in [0, 3] {
                assert!(device.read(&pages[number]) == object(number), "{number}, {path:?}");
            }
            device.ferry.settle();
        }
    }
}

#[test]
fn pages_are_stored_as_objects_that_anybody_reads() {
    let host = Host::new("ferry-put", 2, 64 << 20);
    let mut device = Aboard::new(&host, 400 << 10);
    for (at, byte) in device.memory.bytes().iter_mut().enumerate() {
        *byte = (at * 7 + at / 251) as u8;
    }
    let pages: Vec<_> = (0..10).map(pages).collect();
    let objects: Vec<PutObject<&[u32]>> = pages
        .iter()
        .zip(0..)
        .map(|(pages, number)| PutObject { depth: 3, ..PutObject::new(key(number), &pages[..]) })
        .collect();
    let berth = Berth { memory: &device.memory, plan: &device.learnt };
    let options = PutOptions::default();
    let stored = device.ferry.put(&host.namespace, &berth, &objects, &options).unwrap();
    assert_eq!(stored, vec![Ok(()); 10]);
    assert!(host.stat(Stat::PulledBytes) > 0, "the node has read them from a bay");
    let keys: Vec<_> = (0..10).map(key).collect();
    let found = host.client.get(&host.namespace, &keys, &GetOptions::default()).unwrap();
    for (found, pages) in found.into_iter().zip(&pages) {
        assert!(found.unwrap().bytes == device.read(pages));
    }
}

#[test]
fn impossible_calls_are_errors() {
    let host = Host::new("ferry-wrong", 1, 64 << 20);
    put(&host, 0, &object(0));
    let mut device = Aboard::new(&host, 4096);
    let berth = Berth { memory: &device.memory, plan: &device.learnt };
    let options = GetOptions::default();
    let objects = [(key(0), &[0, 1][..])];
    let result = device.ferry.get(&host.namespace, &berth, &objects, &options);
    assert!(matches!(result, Err(FerryError::Client(_))), "no bay has room: {result:?}");
    let mut device = Aboard::new(&host, 400 << 10);
    let berth = Berth { memory: &device.memory, plan: &device.learnt };
    let objects = [(key(0), &[0, PAGES][..])];
    let result = device.ferry.get(&host.namespace, &berth, &objects, &options);
    assert!(matches!(result, Err(FerryError::Device(_))), "there is no such page: {result:?}");
}
