//! `gpu`: objects into paged caches of a device and out of them, verified and measured.
//!
//! What a reader would get wrong: it ends well where there is no device, after it has verified what
//! can be on the host. Only a wrong byte, or a device that fails, ends it badly.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder_benches::gpu::aboard::{Voyage, Voyager};
use larder_benches::gpu::aims::{Aim, aims};
use larder_benches::gpu::beside::{Beside, Loss};
use larder_benches::gpu::cases::Case;
use larder_benches::gpu::pace::{Pace, Plain, Race};
use larder_benches::gpu::truth::Sides;
use larder_benches::node_process::{NodeProcess, NodeShape};
use larder_benches::random::Random;
use larder_benches::report::{Output, Table};
use larder_benches::units::{format_bytes, parse_seconds};
use larder_client::PathChoice;
use larder_gpu_bridge::cuda::{CudaDevice, device_count};
use larder_gpu_bridge::{Bay, Device, DeviceError, Direction, HostDevice, Movers};
use serde::Serialize;

use super::Failure;

/// Objects into paged caches of a device and out of them, every byte verified
///
/// Each layout goes each way by each mover, against one plain pinned copy of as many bytes in the
/// same run; then from a node on this host, lease to last byte. Without a device the same is
/// verified with one of the host's memory, and nothing is measured.
#[derive(Debug, clap::Args)]
pub(super) struct Gpu {
    /// Which device, as the driver numbers them
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    device: u32,
    /// Objects of a round
    #[arg(long, value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    objects: u32,
    /// Rounds; the median is told
    #[arg(long, value_name = "COUNT", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Multiprocessors that the kernel may take
    #[arg(long, value_name = "COUNT", default_value_t = Movers::default().sms_max,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    gpu_sms_max: u32,
    /// Begin nothing more after this long
    #[arg(long, value_name = "S", default_value = "150", value_parser = parse_seconds)]
    seconds_max: Duration,
    #[command(flatten)]
    output: Output,
}

/// Whether bytes were right.
#[derive(Debug, Serialize)]
struct Verified {
    layout: String,
    direction: &'static str,
    mover: &'static str,
    wrong_at: Option<usize>,
}

#[derive(Debug, Default, Serialize)]
struct Results {
    /// None: the host's memory stood in for one.
    device: Option<Described>,
    verified: Vec<Verified>,
    paces: Vec<Pace>,
    voyages: Vec<Voyage>,
    losses: Vec<Loss>,
    /// Why there are none, if there are none.
    no_losses: Option<String>,
    /// What is aimed at on a device, and what was found of it.
    aims: Vec<Aim>,
    errors: Errors,
    /// What was left out for want of time.
    skipped: usize,
}

/// What failed, each with what was tried.
#[derive(Debug, Default, Serialize)]
struct Errors(Vec<String>);

#[derive(Debug, Serialize)]
struct Described {
    name: String,
    bus: String,
    memory_bytes: u64,
    sm_count: u32,
    capability: [u32; 2],
    driver_version: u32,
    pins_read_only: bool,
    exports_dma_buf: bool,
    takes_batches: bool,
    kernel: Option<String>,
    kernel_piece_bytes_max: u64,
    sms_max: u32,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Amount {
    objects: usize,
    rounds: usize,
    until: Instant,
    is_measured: bool,
}

impl Gpu {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let until = Instant::now() + self.seconds_max;
        let (objects, rounds) = (self.objects as usize, usize::from(self.rounds));
        let amount = Amount { objects, rounds, until, is_measured: true };
        let results = match device_count() {
            Ok(count) if count > 0 => {
                let device = CudaDevice::open(self.device)?;
                let movers = Movers { sms_max: self.gpu_sms_max, ..Movers::default() };
                let device = device.with_movers(movers)?;
                let described = described(&device);
                let (ways, sweep) = (ways(&device)?, sweep(&device)?);
                let mut results = run(&ways, &sweep, amount, Some(described))?;
                match losses(&device, amount, &mut results.skipped) {
                    Ok(losses) => results.losses = losses,
                    // Without cuBLAS there is no product to run beside.
                    Err(DeviceError::Unsupported { what }) => results.no_losses = Some(what.into()),
                    Err(error) => results.errors.0.push(format!("product: {error}")),
                }
                let Results { paces, voyages, losses, .. } = &results;
                results.aims = aims(paces, voyages, losses, SWEPT);
                results
            }
            Err(error @ DeviceError::Call { .. }) => return Err(error.into()),
            absent => {
                let why = absent.err().map_or_else(
                    || "the driver has no device".to_owned(),
                    |error| error.to_string(),
                );
                eprintln!("no NVIDIA GPU here ({why}): host memory stands in, nothing is timed");
                let few =
                    Amount { objects: objects.min(6), rounds: 1, is_measured: false, ..amount };
                run(&[("host", HostDevice)], &[], few, None)?
            }
        };
        self.output.emit("gpu", &results, &results.table())?;
        results.aims.iter().for_each(|aim| println!("{aim}"));
        println!("{}", results.verdict());
        let is_right = results.is_right();
        Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The device as it is used, and forced to each of its movers.
fn ways(device: &CudaDevice) -> Result<Vec<(&'static str, CudaDevice)>, DeviceError> {
    let auto = *device.movers();
    let copies = Movers { kernel_piece_bytes_max: 0, ..auto };
    let kernel = Movers { kernel_piece_bytes_max: u64::MAX, ..auto };
    let mut ways = vec![("auto", device.clone())];
    if device.kernel_origin().is_some() {
        ways.push(("kernel", device.with_movers(kernel)?));
    }
    if device.batches() {
        ways.push(("batch", device.with_movers(copies)?));
    }
    ways.push(("each", device.with_movers(Movers { batches: false, ..copies })?));
    Ok(ways)
}

/// The kernel on fewer multiprocessors, and on more.
fn sweep(device: &CudaDevice) -> Result<Vec<(&'static str, CudaDevice)>, DeviceError> {
    let on = |(name, sms_max)| {
        let kernel_piece_bytes_max = u64::MAX;
        let movers = Movers { kernel_piece_bytes_max, sms_max, ..*device.movers() };
        Ok((name, device.with_movers(movers)?))
    };
    let sizes =
        [("kernel on 2", 2), ("kernel on 4", 4), ("kernel on 16", 16), ("kernel on 32", 32)];
    sizes.into_iter().filter(|_| device.kernel_origin().is_some()).map(on).collect()
}

fn described(device: &CudaDevice) -> Described {
    let p = device.properties().clone();
    Described {
        name: p.name,
        bus: p.bus,
        memory_bytes: p.memory_bytes,
        sm_count: p.sm_count,
        capability: p.capability,
        driver_version: p.driver_version,
        pins_read_only: p.pins_read_only,
        exports_dma_buf: p.exports_dma_buf,
        takes_batches: device.batches(),
        kernel: device.kernel_origin().map(|origin| origin.to_string()),
        kernel_piece_bytes_max: device.movers().kernel_piece_bytes_max,
        sms_max: device.movers().sms_max,
    }
}

/// What a matrix product loses beside copies of long pieces, and of short ones.
fn losses(
    device: &CudaDevice,
    amount: Amount,
    skipped: &mut usize,
) -> Result<Vec<Loss>, DeviceError> {
    let mut beside = Beside::new(device)?;
    let cases = Case::all(page_count(amount.objects))?;
    let mut losses = Vec::new();
    for case in cases.iter().filter(|case| ["vLLM BLHNC", SWEPT].contains(&&*case.name)) {
        for direction in [Direction::ToDevice, Direction::FromDevice] {
            if Instant::now() > amount.until {
                *skipped += 1;
                continue;
            }
            losses.push(beside.run(case, direction, amount.objects, amount.rounds)?);
        }
    }
    Ok(losses)
}

/// Verifies all, then measures, then goes through a node. What fails is told, and the rest is done.
fn run<D: Device>(
    ways: &[(&'static str, D)],
    sweep: &[(&'static str, D)],
    amount: Amount,
    described: Option<Described>,
) -> Result<Results, Failure> {
    let mut results = Results { device: described, ..Results::default() };
    let mut random = Random::new(seed());
    verify(ways, amount, &mut random, &mut results)?;

    let objects = amount.objects;
    let device = &ways[0].1;
    let cases = Case::all(page_count(objects))?;
    let objects_bytes = objects as u64 * longest(&cases, |case| case.layout.object_bytes(1));
    let mut plain = Plain::new(device, objects_bytes)?;
    if amount.is_measured {
        let memory = device.allocate(longest(&cases, |case| case.cache_bytes))?;
        let mut bay = Bay::new(device.clone(), objects_bytes)?;
        eprintln!("measuring");
        for case in &cases {
            let sweep = if case.name == SWEPT { sweep } else { &[] };
            for (direction, &(mover, ref way)) in both(ways.iter().chain(sweep)) {
                if Instant::now() > amount.until {
                    results.skipped += 1;
                    continue;
                }
                let Amount { objects, rounds, .. } = amount;
                let race = Race { case, direction, mover: (mover, way), objects, rounds };
                let paced = race.run(&memory, &mut bay, &mut plain, &mut random);
                let what = || format!("{} {} by {mover}", case.name, name(direction));
                results.paces.extend(results.errors.none_if_failed(what, paced));
            }
        }
    }
    let voyages = voyages(device, &cases, amount, &mut plain, &mut random, &mut results);
    results.errors.none_if_failed(|| "a node".to_owned(), voyages);
    Ok(results)
}

/// From a node on this host, over both paths.
fn voyages<D: Device>(
    device: &D,
    cases: &[Case],
    amount: Amount,
    plain: &mut Plain<D>,
    random: &mut Random,
    results: &mut Results,
) -> Result<(), Failure> {
    eprintln!("through a node");
    let objects = amount.objects;
    let objects_bytes = objects as u64 * longest(cases, |case| case.layout.object_bytes(1));
    let directory = tempfile::tempdir()?;
    let shape = NodeShape {
        shards: 2,
        memory_bytes: (objects_bytes * 6).max(512 << 20),
        is_pinned: false,
        unix: Some(directory.path().join("node")),
    };
    let node = NodeProcess::start(None, &shape)?;
    for case in cases.iter().filter(|case| THROUGH_A_NODE.contains(&&*case.name)) {
        for path in [("shm", PathChoice::Shm), ("tcp", PathChoice::Tcp)] {
            if Instant::now() > amount.until {
                results.skipped += 1;
                continue;
            }
            let (node, rounds) = (node.address().to_string(), amount.rounds);
            let voyager = Voyager { device, case, objects, rounds, node };
            let voyage = voyager.run(path, plain, random);
            let what = || format!("{} from a node, {}", case.name, path.0);
            results.voyages.extend(results.errors.none_if_failed(what, voyage));
        }
    }
    Ok(())
}

/// Fewer objects than are measured: a wrong byte shows in a few, and all memory is looked at.
fn verify<D: Device>(
    ways: &[(&'static str, D)],
    amount: Amount,
    random: &mut Random,
    results: &mut Results,
) -> Result<(), Failure> {
    let count = amount.objects.min(VERIFIED_OBJECTS);
    let cases = Case::all(page_count(count))?;
    let objects_bytes = count as u64 * longest(&cases, |case| case.layout.object_bytes(1));
    let cache_bytes = longest(&cases, |case| case.cache_bytes);
    let mut sides = Sides::new(&ways[0].1, cache_bytes, objects_bytes)?;
    eprintln!("verifying {} layouts, both ways, by {} movers", cases.len(), ways.len());
    for case in &cases {
        for (direction, &(mover, ref way)) in both(ways.iter()) {
            if Instant::now() > amount.until {
                results.skipped += 1;
                continue;
            }
            let found = sides.verify(way, case, direction, count, random);
            let what = || format!("{} {} by {mover}", case.name, name(direction));
            if let Some(wrong_at) = results.errors.none_if_failed(what, found) {
                let (layout, direction) = (case.name.clone(), name(direction));
                results.verified.push(Verified { layout, direction, mover, wrong_at });
            }
        }
    }
    Ok(())
}

/// Both directions of each.
fn both<T: Copy>(each: impl Iterator<Item = T>) -> impl Iterator<Item = (Direction, T)> {
    each.flat_map(|one| [(Direction::ToDevice, one), (Direction::FromDevice, one)])
}

/// Half as many again as objects need, so that their pages are not all there are.
fn page_count(objects: usize) -> u32 {
    (objects + objects / 2 + 2) as u32
}

fn longest(cases: &[Case], bytes: impl Fn(&Case) -> u64) -> u64 {
    cases.iter().map(bytes).max().unwrap_or(0)
}

impl Errors {
    fn none_if_failed<T, E: Display>(
        &mut self,
        what: impl FnOnce() -> String,
        result: Result<T, E>,
    ) -> Option<T> {
        let told = result.map_err(|error| format!("{}: {error}", what()));
        told.map_err(|error| {
            eprintln!("{error}");
            self.0.push(error);
        })
        .ok()
    }
}

impl Results {
    /// A row for each layout and way; the JSON has one for each mover.
    fn table(&self) -> Table {
        if self.device.is_none() {
            return Table::default();
        }
        let headings =
            ["what", "way", "piece", "GB/s", "of plain", "submit us", "kernel", "batch", "each"];
        let mut table = Table::new(&headings);
        for pace in self.paces.iter().filter(|pace| pace.mover == "auto") {
            let by = |mover| {
                let same = |other: &&Pace| {
                    (&other.layout, other.direction, other.mover)
                        == (&pace.layout, pace.direction, mover)
                };
                let found = self.paces.iter().find(same);
                found.map_or_else(|| "-".to_owned(), |pace| format!("{:.3}", pace.ratio))
            };
            table.row(&[
                pace.layout.clone(),
                pace.direction.to_owned(),
                format_bytes(pace.piece_bytes),
                format!("{:.1}", pace.bytes_per_s / 1e9),
                format!("{:.3}", pace.ratio),
                format!("{:.0}", pace.submit_us),
                by("kernel"),
                by("batch"),
                by("each"),
            ]);
        }
        for voyage in &self.voyages {
            table.row(&[
                format!("{} from a node, {}", voyage.layout, voyage.path),
                "to".to_owned(),
                format!("{}/{} direct", voyage.direct, voyage.moved),
                format!("{:.1}", voyage.bytes_per_s / 1e9),
                format!("{:.3}", voyage.ratio),
                format!("{:.0}", voyage.call_us),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
        for loss in &self.losses {
            table.row(&[
                format!("product beside {}", loss.layout),
                loss.direction.to_owned(),
                format_bytes(loss.piece_bytes),
                format!("{:.1}", loss.bytes_per_s / 1e9),
                format!("loses {:.1} %", loss.loss * 100.0),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
        table
    }

    fn is_right(&self) -> bool {
        self.errors.0.is_empty()
            && self.verified.iter().all(|verified| verified.wrong_at.is_none())
            && self.voyages.iter().all(|voyage| voyage.is_right)
    }

    fn verdict(&self) -> String {
        let wrong: Vec<String> = self
            .verified
            .iter()
            .filter_map(|v| {
                let at = v.wrong_at?;
                Some(format!("{} {} by {} at {at}", v.layout, v.direction, v.mover))
            })
            .chain(
                self.voyages
                    .iter()
                    .filter(|voyage| !voyage.is_right)
                    .map(|voyage| format!("{} from a node by {}", voyage.layout, voyage.path)),
            )
            .collect();
        let (count, nodes) = (self.verified.len(), self.voyages.len());
        let skipped = self.skipped;
        let on = self.device.as_ref().map_or("the host's memory", |device| &device.name);
        let errors = self.errors.0.len();
        if wrong.is_empty() {
            format!(
                "every byte right on {on}: {count} moves, {nodes} voyages; {errors} failed, \
                 {skipped} skipped"
            )
        } else {
            format!("WRONG BYTES on {on}: {}", wrong.join(", "))
        }
    }
}

const fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::ToDevice => "to",
        Direction::FromDevice => "from",
    }
}

/// Other data each run; which, is of no use to know, for what was wrong is told.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
}

/// The case that the kernel is measured on by how much of a device it may take.
const SWEPT: &str = "K/V split, 16 KiB";
const THROUGH_A_NODE: [&str; 2] = ["vLLM BLHNC", "K/V split"];
/// Objects of a verification.
const VERIFIED_OBJECTS: usize = 64;
