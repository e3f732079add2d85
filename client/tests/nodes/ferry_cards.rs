//! Objects that network cards write into a device's memory. Cards are simulated; a thread is what
//! is between them, and while it rests nothing moves.
//!
//! What a reader would get wrong: what did not come by card came another way and is right, too, so
//! each test looks at which way it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_client::{
    Client, Config, Crossed, Ferry, FerryConfig, GetOptions, Key, KeyError, Namespace,
    NamespaceSpec, PathChoice, Pieces, PutObject, PutOptions, Status,
};
use larder_gpu_bridge::{Bay, Device, DeviceRange, Direction, HostDevice};
use larder_node::config::Config as NodeConfig;
use larder_node::node::Node;
use larder_transport::rdma::AnyFabric;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric};

use crate::device::{Held, Sums};

/// A node with a card, and a client with one that carries to a device.
struct World<D: Device> {
    ferry: Ferry<D>,
    device: D,
    memory: D::Memory,
    bay: Bay<D>,
    stream: D::Stream,
    client: Client,
    namespace: Namespace,
    node: Option<Node>,
    /// Of cards that are simulated.
    fabric: Option<SimulatedFabric>,
    rests: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    between: Option<JoinHandle<()>>,
}

impl<D: Device> World<D> {
    fn new(device: D, path: PathChoice, config: &FerryConfig) -> Self {
        Self::between(SimulatedFabric::new(11, Faults::default()), device, path, config)
    }

    /// Over cards that are simulated.
    fn between(fabric: SimulatedFabric, device: D, path: PathChoice, config: &FerryConfig) -> Self {
        let mut world = Self::over(AnyFabric::Simulated(fabric.clone()), device, path, config);
        let (moves, fabric) = (fabric.clone(), fabric);
        let (has_rest, is_over) = (Arc::clone(&world.rests), Arc::clone(&world.ends));
        world.fabric = Some(fabric);
        world.between = Some(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                if has_rest.load(Ordering::Relaxed) || !moves.step() {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }));
        (0..COUNT).for_each(|number| world.put(number));
        world
    }

    fn over(card: AnyFabric, device: D, path: PathChoice, config: &FerryConfig) -> Self {
        let memory_bytes = 64 << 20;
        // Two, so that answers come in any order.
        let node = NodeConfig { shards: 2, memory_bytes, ..NodeConfig::default() };
        let node = Node::start_over(node, Some(card.clone())).unwrap();
        let seed = Config::seed(node.address().to_string());
        let deadline = Duration::from_secs(20);
        let client = Client::connect_over(Config { path, deadline, ..seed }, Some(card)).unwrap();
        let namespace = NamespaceSpec { part_bytes: 64 << 10, ..NamespaceSpec::new("t", "m") };
        let namespace = client.namespace(namespace).unwrap();
        let stream = device.stream().unwrap();
        let ferry = Ferry::new(&client, device.clone(), device.stream().unwrap(), config).unwrap();
        let bytes = COUNT as u64 * STRIDE;
        let memory = device.allocate(bytes).unwrap();
        let bay = Bay::new(device.clone(), bytes).unwrap();
        Self {
            ferry,
            device,
            memory,
            bay,
            stream,
            client,
            namespace,
            node: Some(node),
            fabric: None,
            rests: Arc::default(),
            ends: Arc::default(),
            between: None,
        }
    }

    fn spoil_writes(&self, packets: u32) {
        self.fabric.as_ref().unwrap().spoil_writes(packets);
    }

    fn put(&self, number: usize) {
        let bytes = object(number);
        let object: PutObject<Pieces<'_>> = PutObject::new(key(number), &bytes);
        let stored = self.client.put(&self.namespace, &[object], &PutOptions::default());
        assert_eq!(stored.unwrap(), [Ok(())]);
    }

    /// Gets all objects, and looks at what is where each belongs: all of it, or nothing.
    fn get(&mut self, deadline: Duration) -> Vec<Result<u32, KeyError>> {
        self.bay.bytes_mut().unwrap().fill(CANARY);
        self.carry(Direction::ToDevice);
        let ranges: Vec<_> = (0..COUNT)
            .map(|number| {
                let (start, bytes) = (number as u64 * STRIDE, object(number).len() as u64);
                let range = |offset, bytes| DeviceRange { memory: &self.memory, offset, bytes };
                [range(start + 7, bytes / 2), range(start + 15 + bytes / 2, bytes - bytes / 2)]
            })
            .collect();
        let wanted: Vec<_> =
            ranges.iter().enumerate().map(|(number, ranges)| (key(number), &ranges[..])).collect();
        let options = GetOptions { deadline: Some(deadline), ..GetOptions::default() };
        let crossing = self.ferry.get_ranges(&self.namespace, &wanted, &options).unwrap();
        self.device.wait(&crossing.event).unwrap();
        self.look(&crossing.keys);
        crossing.keys
    }

    fn carry(&mut self, direction: Direction) {
        let (memory, bytes) = (&self.memory, COUNT as u64 * STRIDE);
        let whole = [(0, DeviceRange { memory, offset: 0, bytes })];
        self.bay.submit_pieces(&mut self.stream, direction, whole.into_iter()).unwrap();
        self.device.finish(&mut self.stream).unwrap();
    }

    fn look(&mut self, answers: &[Result<u32, KeyError>]) {
        self.bay.bytes_mut().unwrap().fill(0);
        self.carry(Direction::FromDevice);
        let found = self.bay.bytes().unwrap();
        for (number, answer) in answers.iter().enumerate() {
            let (start, mut expected) = (number * STRIDE as usize, vec![CANARY; STRIDE as usize]);
            if answer.is_ok() {
                let bytes = object(number);
                let half = bytes.len() / 2;
                expected[7..7 + half].copy_from_slice(&bytes[..half]);
                expected[15 + half..15 + bytes.len()].copy_from_slice(&bytes[half..]);
            }
            assert!(found[start..start + STRIDE as usize] == expected, "{number}, {answer:?}");
        }
    }

    /// Gets all objects again and again until `is_so` of what crossed since.
    fn get_until(&mut self, what: &str, is_so: impl Fn(Crossed) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut before = self.ferry.crossed();
        loop {
            let answers = self.get(PATIENCE);
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            let after = self.ferry.crossed();
            let (direct, staged) = (after.direct - before.direct, after.staged - before.staged);
            let (received, landed) =
                (after.received - before.received, after.landed - before.landed);
            assert_eq!(direct + staged + received + landed, COUNT as u64, "{after:?}");
            if is_so(Crossed { direct, staged, received, landed }) {
                return;
            }
            assert!(Instant::now() < until, "{what}: {after:?}");
            before = after;
        }
    }

    fn get_until_landed(&mut self) {
        // The shortest is sent with the answer.
        self.get_until("cards bring objects to the device", |crossed| {
            crossed.landed == COUNT as u64 - 1 && crossed.received == 1
        });
    }
}

impl<D: Device> Drop for World<D> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.between.take() {
            thread.join().unwrap();
        }
    }
}

fn key(number: usize) -> Key {
    Key::new(format!("object {number}").as_bytes()).unwrap()
}

/// Of some parts, of which the last is a short one. The first is short as a whole.
fn object(number: usize) -> Vec<u8> {
    let bytes = if number == 0 { 1000 } else { 90_000 + number * 7_001 };
    (0..bytes).map(|at| (at * 131 + number * 17 + at / 256) as u8).collect()
}

fn config() -> FerryConfig {
    // Room for three a leg, or four.
    FerryConfig { bay_bytes: 600 << 10, docks: true, ..FerryConfig::default() }
}

fn on_host(path: PathChoice) -> World<HostDevice> {
    World::new(HostDevice, path, &config())
}

fn objects_land_and_are_copied_within_the_device(device: impl Device) {
    let mut world = World::new(device, PathChoice::Rdma, &config());
    world.get_until_landed();
    world.get_until_landed();
}

fn what_a_card_spoils_comes_another_way_and_the_dock_is_given_up(device: impl Device) {
    let mut world = World::new(device, PathChoice::Rdma, &config());
    world.get_until_landed();
    let before = world.ferry.crossed();
    world.spoil_writes(1);
    let answers = world.get(PATIENCE);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let after = world.ferry.crossed();
    assert!(after.received > before.received + 1 && after.landed > before.landed, "{after:?}");
    // Its legs go through the bay from now on, those of the other one as ever.
    world.get_until("one dock is used", |crossed| crossed.received > 1 && crossed.landed > 0);
    // It may be a bay that is written first, and then an object is a miss; and now and then leases
    // are asked for, and nothing lands.
    let (until, mut quiet) = (Instant::now() + PATIENCE, 0);
    while quiet < 3 {
        assert!(Instant::now() < until, "the other dock is given up");
        let before = world.ferry.crossed().landed;
        world.spoil_writes(1);
        world.get(PATIENCE);
        quiet = if world.ferry.crossed().landed == before { quiet + 1 } else { 0 };
    }
    world.spoil_writes(0);
    // Longer than one rests that is only doubted.
    std::thread::sleep(Duration::from_millis(1200));
    world.get_until("no dock is used", |crossed| crossed.received == COUNT as u64);
}

#[test]
fn objects_land_in_the_device() {
    objects_land_and_are_copied_within_the_device(HostDevice);
}

#[test]
fn spoilt_writes_come_another_way() {
    what_a_card_spoils_comes_another_way_and_the_dock_is_given_up(HostDevice);
}

#[test]
fn some_parts_of_objects_land_and_are_checked_as_such() {
    let mut world = on_host(PathChoice::Rdma);
    world.get_until_landed();
    let before = world.ferry.crossed().landed;
    let wanted = DeviceRange { memory: &world.memory, offset: 100, bytes: 80 << 10 };
    let options = GetOptions { parts: Some(1..2), ..GetOptions::default() };
    let wanted = [(key(3), &[wanted][..])];
    let part = &object(3)[64 << 10..];
    // Now and then leases are asked for, and nothing lands.
    for _ in 0..2 {
        world.memory.bytes().fill(CANARY);
        let crossing = world.ferry.get_ranges(&world.namespace, &wanted, &options).unwrap();
        world.device.wait(&crossing.event).unwrap();
        assert_eq!(crossing.keys, [Ok(part.len() as u32)]);
        assert!(world.memory.bytes()[100..100 + part.len()] == *part);
    }
    assert!(world.ferry.crossed().landed > before);
}

#[test]
fn what_the_device_does_not_check_in_time_or_at_all_comes_another_way() {
    let device = Held::default();
    let mut world = World::new(device.clone(), PathChoice::Rdma, &config());
    world.get_until_landed();
    *device.sums.lock().unwrap() = Sums::Late;
    world.get_until("all is received", |crossed| crossed.received == COUNT as u64);
    *device.sums.lock().unwrap() = Sums::Made;
    world.get_until_landed();
    *device.sums.lock().unwrap() = Sums::Failed;
    world.get_until("all is received", |crossed| crossed.received == COUNT as u64);
    // Docks of a device that fails are given up.
    *device.sums.lock().unwrap() = Sums::Made;
    world.get_until("all is received", |crossed| crossed.received == COUNT as u64);
}

#[test]
fn what_is_spoilt_every_way_is_a_miss_and_never_bytes() {
    let mut world = on_host(PathChoice::Rdma);
    world.get_until_landed();
    world.spoil_writes(u32::MAX);
    let answers = world.get(PATIENCE);
    assert!(answers[0].is_ok(), "it is sent");
    let corrupt = Err(KeyError::Status(Status::MissCorrupt));
    assert_eq!(answers[1..], vec![corrupt; COUNT - 1]);
    // Nothing says that it was the dock's fault.
    world.spoil_writes(0);
    world.get_until_landed();
}

#[test]
fn whatever_the_deadline_pages_have_all_of_an_object_or_nothing() {
    let mut world = on_host(PathChoice::Rdma);
    world.get_until_landed();
    let mut late = 0;
    for round in 0..60 {
        // What was late is looked at again, when all that was under way would have come.
        let answers = world.get(Duration::from_micros(50 * round));
        std::thread::sleep(Duration::from_millis(2));
        world.look(&answers);
        late += answers.iter().filter(|answer| answer.is_err()).count();
    }
    assert!(late > 0);
    world.get_until_landed();
}

#[test]
fn cards_that_stand_still_cost_half_of_the_time() {
    let mut world = on_host(PathChoice::Rdma);
    world.get_until_landed();
    let before = world.ferry.crossed();
    world.rests.store(true, Ordering::Relaxed);
    let answers = world.get(Duration::from_secs(2));
    let landed = world.ferry.crossed().landed;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(landed, before.landed, "all came another way");
    world.rests.store(false, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(50));
    world.look(&answers);
    world.get_until_landed();
}

#[test]
fn node_that_goes_amid_a_transfer_leaves_pages_alone() {
    let mut world = on_host(PathChoice::Rdma);
    world.get_until_landed();
    world.rests.store(true, Ordering::Relaxed);
    let node = world.node.take();
    let goes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(node);
    });
    let answers = world.get(Duration::from_millis(600));
    assert!(answers[1..].iter().all(Result::is_err), "{answers:?}");
    world.rests.store(false, Ordering::Relaxed);
    goes.join().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    world.look(&answers);
}

#[test]
fn card_that_refuses_the_devices_memory_writes_to_bays_or_nothing() {
    let fabric = SimulatedFabric::new(3, Faults::default());
    fabric.refuse_memory();
    let mut world = World::between(fabric, HostDevice, PathChoice::Auto, &config());
    world.get_until("by TCP", |crossed| crossed.received == COUNT as u64);
    let none = FerryConfig { docks: false, ..config() };
    cards_write_to_bays(World::new(HostDevice, PathChoice::Rdma, &none));
}

#[test]
fn device_that_shows_no_memory_has_cards_write_to_bays() {
    let device = Held::default();
    *device.sums.lock().unwrap() = Sums::Failed;
    cards_write_to_bays(World::new(device, PathChoice::Rdma, &config()));
}

fn cards_write_to_bays(mut world: World<impl Device>) {
    world.get_until("into bays", |crossed| crossed.received == COUNT as u64);
    // What is sent is not spoilt.
    world.spoil_writes(u32::MAX);
    let until = Instant::now() + PATIENCE;
    while world.get(PATIENCE).iter().all(Result::is_ok) {
        assert!(Instant::now() < until, "by card");
    }
    assert_eq!(world.ferry.crossed().landed, 0);
}

/// With `LD_LIBRARY_PATH` naming the stand-in's folder they run without a GPU, as below.
#[cfg(feature = "cuda")]
mod nvidia {
    use std::path::Path;
    use std::process::Command;

    use larder_gpu_bridge::cuda::CudaDevice;

    use super::*;

    fn device() -> Option<CudaDevice> {
        let device = CudaDevice::open(0).unwrap();
        let exports = device.properties().exports_dma_buf;
        if !exports {
            eprintln!("not shown: this device exports no memory");
        }
        exports.then_some(device)
    }

    #[test]
    #[ignore = "needs a driver of host memory: a real dma-buf is not mapped by a simulated card"]
    fn objects_land_in_a_device_that_shows_its_memory_to_cards_alone() {
        objects_land_and_are_copied_within_the_device(device().unwrap());
    }

    #[test]
    #[ignore = "needs a driver of host memory: a real dma-buf is not mapped by a simulated card"]
    fn what_a_card_spoils_is_found_by_the_device() {
        what_a_card_spoils_comes_another_way_and_the_dock_is_given_up(device().unwrap());
    }

    #[test]
    fn stand_in_driver_shows_what_a_device_would() {
        let folder = std::env::temp_dir().join(format!("larder-cards-{}", std::process::id()));
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu-bridge/stand_in/build.sh");
        let built = Command::new(build).arg(&folder).status();
        assert!(built.expect("a shell").success(), "a C compiler is needed");
        let mut command = Command::new(std::env::current_exe().unwrap());
        let tests = ["ferry_cards::nvidia", "--skip", "network_card", "--ignored"];
        let output = command.env("LD_LIBRARY_PATH", &folder).args(tests).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.contains(" 2 passed"), "{told}{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(feature = "rdma")]
    #[test]
    #[ignore = "needs an RDMA NIC and a GPU"]
    fn objects_land_in_a_gpu_by_a_network_card() {
        let Some(device) = device() else { return };
        let card = AnyFabric::open(None).unwrap();
        // What drivers map at a time.
        let config = FerryConfig { bay_bytes: 2 << 20, docks: true, ..FerryConfig::default() };
        let mut world = World::over(card, device, PathChoice::Rdma, &config);
        (0..COUNT).for_each(|number| world.put(number));
        world.get_until_landed();
        world.get_until_landed();
    }
}

const COUNT: usize = 9;
const STRIDE: u64 = 256 << 10;
const CANARY: u8 = 0x5a;
const PATIENCE: Duration = Duration::from_secs(20);
