//! What a matrix product loses while copies run beside it.
//!
//! What a reader would get wrong: copies run for as long as the products do, with no pause, which
//! no cache asks for. It is the most that a model can lose.

use std::time::Instant;

use larder_gpu_bridge::cuda::CudaDevice;
use larder_gpu_bridge::cuda::product::Product;
use larder_gpu_bridge::{Bay, Device, DeviceError, Direction};
use serde::Serialize;

use crate::gpu::cases::{Case, some_pages};
use crate::gpu::truth::placed;
use crate::random::Random;
use crate::report::median;

/// What products lost: medians.
#[derive(Debug, Clone, Serialize)]
pub struct Loss {
    /// What a runtime calls the cache.
    pub layout: String,
    /// How long a piece is.
    pub piece_bytes: u64,
    /// `to` the device or `from` it.
    pub direction: &'static str,
    /// Bytes a second that were copied meanwhile.
    pub bytes_per_s: f64,
    /// Floating-point operations a second without copies.
    pub flops_alone: f64,
    /// The share of them that is gone while copies run.
    pub loss: f64,
}

/// Matrices, and a device to copy beside them.
#[derive(Debug)]
pub struct Beside {
    device: CudaDevice,
    product: Product,
    random: Random,
}

impl Beside {
    /// Square matrices of 8,192.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where cuBLAS is not installed.
    pub fn new(device: &CudaDevice) -> Result<Self, DeviceError> {
        let mut random = Random::new(7);
        // 16-bit floats from 0.5 to 1: zeros are multiplied faster than anything real.
        let element = |_| (0x3f00 | (random.next() & 0x7f) as u16).to_le_bytes();
        let fill: Vec<u8> = (0..EXTENT * EXTENT).flat_map(element).collect();
        let product = Product::new(device, EXTENT, &fill)?;
        Ok(Self { device: device.clone(), product, random })
    }

    /// Runs products with and without copies by turns.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(
        &mut self,
        case: &Case,
        direction: Direction,
        objects: usize,
        rounds: usize,
    ) -> Result<Loss, DeviceError> {
        let layout = &case.layout;
        let object_bytes = layout.object_bytes(1);
        let bytes = objects as u64 * object_bytes;
        let page_count = (case.cache_bytes / object_bytes) as u32;
        let plan = layout.plan(1, 0..layout.layers())?;
        let piece_bytes = plan.piece_bytes();
        let learnt = self.device.learn(plan)?;
        let memory = self.device.allocate(case.cache_bytes)?;
        let mut bay = Bay::new(self.device.clone(), bytes)?;
        let mut stream = self.device.stream()?;
        let pages = some_pages(&mut self.random, objects, page_count);
        let placed = placed(&pages, object_bytes);
        let mut measured = Vec::new();
        for number in 0..=rounds {
            let alone = self.products(|_| Ok(()), false)?;
            let mut copied = 0;
            let with = self.products(
                |device| {
                    bay.submit(&mut stream, direction, &memory, &learnt, &placed)?;
                    device.finish(&mut stream)?;
                    copied += bytes;
                    Ok(())
                },
                true,
            )?;
            if number > 0 {
                measured.push([alone, 1.0 - alone / with, copied as f64 / with]);
            }
        }
        let of = |at: usize| median(&measured.iter().map(|round| round[at]).collect::<Vec<_>>());
        let operations = 2.0 * f64::from(EXTENT).powi(3) * f64::from(PRODUCTS);
        Ok(Loss {
            layout: case.name.clone(),
            piece_bytes,
            direction: if direction == Direction::ToDevice { "to" } else { "from" },
            bytes_per_s: of(2),
            flops_alone: operations / of(0),
            loss: of(1),
        })
    }

    /// Seconds that the products take; `copy` is repeated meanwhile if it is wanted.
    fn products(
        &mut self,
        mut copy: impl FnMut(&CudaDevice) -> Result<(), DeviceError>,
        is_wanted: bool,
    ) -> Result<f64, DeviceError> {
        let (product, device) = (&mut self.product, &self.device);
        let start = Instant::now();
        for _ in 0..PRODUCTS {
            product.submit()?;
        }
        std::thread::scope(|scope| {
            let products = scope.spawn(move || {
                let ended = product.finish();
                ended.map(|()| start.elapsed().as_secs_f64())
            });
            while is_wanted && !products.is_finished() {
                copy(device)?;
            }
            products.join().expect("waiting does not panic")
        })
    }
}

const EXTENT: u32 = 8192;
/// Products of a round: some 0.2 s, many times as long as one of the copies that run beside.
const PRODUCTS: u32 = 150;
