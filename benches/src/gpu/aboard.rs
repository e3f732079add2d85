//! Objects from a node into a device, and back: what a runtime that uses a ferry gets.
//!
//! What a reader would get wrong: bytes are looked at on the device's side, read back from its
//! pages, and the pages are overwritten before each round.

use std::time::{Duration, Instant};

use larder_client::{
    Berth, Client, Config, Crossed, Ferry, FerryConfig, GetOptions, Key, Namespace, NamespaceSpec,
    PathChoice, PutObject, PutOptions,
};
use larder_gpu_bridge::{Bay, Device, Direction};
use serde::Serialize;

use crate::gpu::cases::{Case, some_pages};
use crate::gpu::pace::Plain;
use crate::gpu::truth::{fill, placed};
use crate::random::Random;
use crate::report::median;

/// Why it ended early.
pub type Failure = Box<dyn std::error::Error>;

/// What gets from a node came to: medians.
#[derive(Debug, Clone, Serialize)]
pub struct Voyage {
    /// Which way to the node.
    pub path: &'static str,
    /// What a runtime calls the cache.
    pub layout: String,
    /// Objects of a round.
    pub objects: usize,
    /// From before the call to the last byte in the device.
    pub bytes_per_s: f64,
    /// The same over one plain copy of as many bytes.
    pub ratio: f64,
    /// Until the call returned.
    pub call_us: f64,
    /// Objects that the device read where the node has them, of all.
    pub direct: u64,
    /// All objects that were moved.
    pub moved: u64,
    /// Whether every byte of every round was right.
    pub is_right: bool,
}

/// A client of a node, and a device beside it.
#[derive(Debug)]
pub struct Voyager<'a, D: Device> {
    /// The device.
    pub device: &'a D,
    /// The cache.
    pub case: &'a Case,
    /// Objects of a round.
    pub objects: usize,
    /// Rounds; one more goes ahead, unmeasured.
    pub rounds: usize,
    /// Where the node listens.
    pub node: String,
}

impl<D: Device> Voyager<'_, D> {
    /// Stores objects from the device, and gets them to other pages.
    ///
    /// # Errors
    /// If the node or the device does not do what it should. A wrong byte is no error here.
    pub fn run(
        &self,
        path: (&'static str, PathChoice),
        plain: &mut Plain<D>,
        random: &mut Random,
    ) -> Result<Voyage, Failure> {
        let Self { device, case, objects: count, .. } = *self;
        let deadline = Duration::from_secs(20);
        let client =
            Client::connect(Config { path: path.1, deadline, ..Config::seed(&*self.node) })?;
        let namespace =
            client.namespace(NamespaceSpec::new("bench", &format!("gpu {}", path.0)))?;
        let layout = &case.layout;
        let object_bytes = layout.object_bytes(1);
        let bytes = count as u64 * object_bytes;
        let page_count = (case.cache_bytes / object_bytes) as u32;
        let memory = device.allocate(case.cache_bytes)?;
        let plan = device.learn(layout.plan(1, 0..layout.layers())?)?;
        let berth = Berth { memory: &memory, plan: &plan };
        let config = FerryConfig::default();
        let mut ferry = Ferry::new(&client, device.clone(), device.stream()?, &config)?;
        let mut bay = Bay::new(device.clone(), bytes)?;
        let mut stream = device.stream()?;

        let keys: Vec<Key> = (0..count).map(key).collect::<Result<_, _>>()?;
        fill(bay.bytes_mut()?, random);
        let truth = bay.bytes()?.to_vec();
        let pages = some_pages(random, count, page_count);
        let all = placed(&pages, object_bytes);
        bay.submit(&mut stream, Direction::ToDevice, &memory, &plan, &all)?;
        device.finish(&mut stream)?;
        self.store(&mut ferry, &namespace, &berth, (&keys, &pages))?;

        let (mut rounds, mut is_right, mut before) = (Vec::new(), true, Crossed::default());
        for number in 0..=self.rounds {
            // Other pages, and other bytes in them before.
            let pages = some_pages(random, count, page_count);
            let all = placed(&pages, object_bytes);
            bay.bytes_mut()?.fill(0xee);
            bay.submit(&mut stream, Direction::ToDevice, &memory, &plan, &all)?;
            device.finish(&mut stream)?;
            let wanted: Vec<_> = keys.iter().copied().zip(pages.chunks(1)).collect();
            let start = Instant::now();
            let crossing = ferry.get(&namespace, &berth, &wanted, &GetOptions::default())?;
            let call = start.elapsed();
            device.wait(&crossing.event)?;
            let took = start.elapsed();
            if let Some(missing) = crossing.keys.iter().find_map(|key| key.as_ref().err()) {
                return Err(format!("an object that was stored is not there: {missing}").into());
            }
            bay.bytes_mut()?.fill(0x11);
            bay.submit(&mut stream, Direction::FromDevice, &memory, &plan, &all)?;
            is_right &= bay.bytes()?[..truth.len()] == truth[..];
            let plain = plain.round(Direction::ToDevice, bytes)?;
            if number == 0 {
                // What the node has was met, and is pinned from here on.
                ferry.settle();
                before = ferry.crossed();
            } else {
                let ours = bytes as f64 / took.as_secs_f64();
                rounds.push([ours, ours / plain.bytes_per_s, call.as_secs_f64() * 1e6]);
            }
        }
        let after = ferry.crossed();
        let of = |at: usize| median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>());
        Ok(Voyage {
            path: path.0,
            layout: case.name.clone(),
            objects: count,
            bytes_per_s: of(0),
            ratio: of(1),
            call_us: of(2),
            direct: after.direct - before.direct,
            moved: (self.rounds * count) as u64,
            is_right,
        })
    }

    fn store(
        &self,
        ferry: &mut Ferry<D>,
        namespace: &Namespace,
        berth: &Berth<'_, D>,
        (keys, pages): (&[Key], &[u32]),
    ) -> Result<(), Failure> {
        let objects = keys.iter().zip(pages.chunks(1));
        let objects: Vec<PutObject<&[u32]>> =
            objects.map(|(key, page)| PutObject::new(*key, page)).collect();
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        for stored in ferry.put(namespace, berth, &objects, &insist)? {
            stored?;
        }
        Ok(())
    }
}

fn key(number: usize) -> Result<Key, Failure> {
    Key::new(format!("gpu {number}").as_bytes()).map_err(|error| error.to_string().into())
}
