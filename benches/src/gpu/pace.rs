//! How fast objects go, against one plain copy of as many bytes.
//!
//! Rounds of both are interleaved, and the median of the ratios of neighbours is told, so that a
//! slow second of the machine hits both.

use std::time::Instant;

use larder_gpu_bridge::{Bay, Device, DeviceError, Direction};
use serde::Serialize;

use crate::gpu::cases::{Case, some_pages};
use crate::gpu::truth::placed;
use crate::random::Random;
use crate::report::median;

/// What one way of moving one case came to: medians.
#[derive(Debug, Clone, Serialize)]
pub struct Pace {
    /// What a runtime calls the cache.
    pub layout: String,
    /// How long a piece is, and how many an object has.
    pub piece_bytes: u64,
    /// How many pieces an object has.
    pub pieces: usize,
    /// `to` the device or `from` it.
    pub direction: &'static str,
    /// What moved them.
    pub mover: &'static str,
    /// Objects of a round.
    pub objects: usize,
    /// From before the call to the last byte.
    pub bytes_per_s: f64,
    /// The same of one plain copy.
    pub plain_bytes_per_s: f64,
    /// One over the other.
    pub ratio: f64,
    /// What the call took of the host's time.
    pub submit_us: f64,
}

/// One copy of a row of bytes, the fastest that a device does.
#[derive(Debug)]
pub struct Plain<D: Device> {
    device: D,
    memory: D::Memory,
    bay: Bay<D>,
    stream: D::Stream,
}

/// What was measured at once: bytes a second, and microseconds to submit.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// From before the call to the last byte.
    pub bytes_per_s: f64,
    /// What the call took of the host's time.
    pub submit_us: f64,
}

impl<D: Device> Plain<D> {
    /// Of up to `bytes` bytes, moved by `device` as it moves long pieces.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(device: &D, bytes: u64) -> Result<Self, DeviceError> {
        let mut bay = Bay::new(device.clone(), bytes)?;
        bay.bytes_mut()?.fill(1);
        let (memory, stream) = (device.allocate(bytes)?, device.stream()?);
        Ok(Self { device: device.clone(), memory, bay, stream })
    }

    /// One copy of `bytes` bytes.
    ///
    /// # Errors
    /// What the device says.
    pub fn round(&mut self, direction: Direction, bytes: u64) -> Result<Round, DeviceError> {
        let plan = self.device.learn(Case::plain(bytes)?.plan(1, 0..1)?)?;
        let objects: [(u64, &[u32]); 1] = [(0, &[0])];
        let Self { device, memory, bay, stream } = self;
        round(device, stream, bytes, |stream| {
            bay.submit(stream, direction, memory, &plan, &objects)
        })
    }
}

/// Times one submission and its end.
///
/// # Errors
/// What the device says.
pub fn round<D: Device>(
    device: &D,
    stream: &mut D::Stream,
    bytes: u64,
    submit: impl FnOnce(&mut D::Stream) -> Result<(), DeviceError>,
) -> Result<Round, DeviceError> {
    let start = Instant::now();
    submit(stream)?;
    let submitted = start.elapsed();
    device.finish(stream)?;
    let took = start.elapsed();
    let bytes_per_s = bytes as f64 / took.as_secs_f64();
    Ok(Round { bytes_per_s, submit_us: submitted.as_secs_f64() * 1e6 })
}

/// What is measured: a case, a way, a mover and how often.
#[derive(Debug, Clone, Copy)]
pub struct Race<'a, D: Device> {
    /// The cache.
    pub case: &'a Case,
    /// Which way.
    pub direction: Direction,
    /// The device, and what its mover is called.
    pub mover: (&'static str, &'a D),
    /// Objects of a round.
    pub objects: usize,
    /// Rounds; one more goes ahead, unmeasured.
    pub rounds: usize,
}

impl<D: Device> Race<'_, D> {
    /// Runs it. Other random pages each round.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(
        &self,
        memory: &D::Memory,
        bay: &mut Bay<D>,
        plain: &mut Plain<D>,
        random: &mut Random,
    ) -> Result<Pace, DeviceError> {
        let Self { case, direction, mover: (mover, device), .. } = *self;
        let layout = &case.layout;
        let (object_bytes, count) = (layout.object_bytes(1), self.objects);
        let page_count = (case.cache_bytes / object_bytes) as u32;
        let plan = layout.plan(1, 0..layout.layers())?;
        let (piece_bytes, pieces) = (plan.piece_bytes(), plan.page_pieces().len());
        let learnt = device.learn(plan)?;
        let (bytes, mut stream) = (count as u64 * object_bytes, device.stream()?);
        bay.through(device);
        let mut rounds = Vec::new();
        for number in 0..=self.rounds {
            let pages = some_pages(random, count, page_count);
            let objects = placed(&pages, object_bytes);
            let ours = round(device, &mut stream, bytes, |stream| {
                bay.submit(stream, direction, memory, &learnt, &objects)
            })?;
            let plain = plain.round(direction, bytes)?;
            if number > 0 {
                rounds.push((ours, plain));
            }
        }
        let of = |value: fn(&(Round, Round)) -> f64| {
            median(&rounds.iter().map(value).collect::<Vec<_>>())
        };
        Ok(Pace {
            layout: case.name.clone(),
            piece_bytes,
            pieces,
            direction: if direction == Direction::ToDevice { "to" } else { "from" },
            mover,
            objects: count,
            bytes_per_s: of(|(ours, _)| ours.bytes_per_s),
            plain_bytes_per_s: of(|(_, plain)| plain.bytes_per_s),
            ratio: of(|(ours, plain)| ours.bytes_per_s / plain.bytes_per_s),
            submit_us: of(|(ours, _)| ours.submit_us),
        })
    }
}
