//! NVIDIA devices, through the driver, which is loaded when the first one is opened.
//!
//! What a reader would get wrong: a pointer of torch or of the CUDA runtime is good here, since the
//! context is the device's primary one; memory of another device, or of another context, is not.

mod copies;
mod driver;
mod export;
mod kernel;
mod list;
mod memory;
mod module;
mod pinned;
mod polynomial;
#[cfg(feature = "product")]
pub mod product;
mod stream;
mod sums;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys;

use crate::device::{Batch, Device, DeviceError, Direction, PlacedPiece};
use crate::dock::Shown;
use crate::host_range::{Access, HostRange};
use crate::movers::Movers;
use crate::plan::Plan;
use copies::{Copies, Engines};
use driver::{Context, check};
use kernel::{Kernel, Launch, Place, Tiles};
use memory::Origin;
use stream::Held;
use sums::Summing;

pub use driver::{Properties, device_count};
pub use export::IpcHandle;
pub use memory::CudaMemory;
pub use module::KernelOrigin;
pub use pinned::CudaPinned;
pub use stream::{CudaEvent, CudaStream};

/// An NVIDIA device. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CudaDevice {
    shared: Arc<Shared>,
    engines: Engines,
    movers: Movers,
}

#[derive(Debug)]
struct Shared {
    /// None where it could not be loaded: all is left to the copy engines then.
    kernel: Option<Kernel>,
    /// None where it could not be loaded: there are no docks then.
    summing: Option<Summing>,
    properties: Properties,
    context: Arc<Context>,
    ordinal: u32,
}

/// A plan, and its tiles in the device's memory.
#[derive(Debug, Clone)]
pub struct CudaLearnt {
    plan: Arc<Plan>,
    tiles: Option<Tiles>,
}

impl CudaDevice {
    /// The device of this number, with the movers that are the default.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where no driver is installed, [`DeviceError::Call`] where there
    /// is no such device.
    pub fn open(ordinal: u32) -> Result<Self, DeviceError> {
        let context = Arc::new(Context::open(ordinal)?);
        let properties = context.properties()?;
        let kernel = Kernel::load(&context, properties.capability)
            .inspect_err(|error| {
                tracing::warn!(%error, "no kernel was loaded; small pieces are copied one by one");
            })
            .ok();
        let summing = Summing::load(&context, properties.capability)
            .inspect_err(|error| tracing::warn!(%error, "the device makes no checksums"))
            .ok();
        let movers = Movers::default();
        let may_batch = movers.batches && properties.same_addresses;
        let engines = Engines::new(&context, may_batch)?;
        let shared = Arc::new(Shared { kernel, summing, properties, context, ordinal });
        Ok(Self { shared, engines, movers })
    }

    /// The same device with other movers.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if the driver does not answer.
    pub fn with_movers(&self, movers: Movers) -> Result<Self, DeviceError> {
        let may_batch = movers.batches && self.shared.properties.same_addresses;
        let engines = Engines::new(&self.shared.context, may_batch)?;
        Ok(Self { shared: Arc::clone(&self.shared), engines, movers })
    }

    /// What moves what.
    pub const fn movers(&self) -> &Movers {
        &self.movers
    }

    /// What the device is and can do.
    pub fn properties(&self) -> &Properties {
        &self.shared.properties
    }

    /// Who compiled the kernel; none if it could not be loaded.
    pub fn kernel_origin(&self) -> Option<KernelOrigin> {
        self.shared.kernel.as_ref().map(Kernel::origin)
    }

    /// Whether the driver takes copies by batches.
    pub const fn batches(&self) -> bool {
        self.engines.batches()
    }

    fn context(&self) -> &Arc<Context> {
        &self.shared.context
    }

    /// Memory that somebody else allocated, such as a tensor's.
    ///
    /// A cache of several tensors is adopted as one range, from the start of the first to the end
    /// of the last, with offsets from there; what lies between is not touched.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if either end is no memory of this device.
    ///
    /// # Safety
    /// What plans of this memory name is memory of this device until the last clone is dropped, and
    /// nobody else uses what a copy under way names.
    pub unsafe fn adopt(&self, address: u64, bytes: u64) -> Result<CudaMemory, DeviceError> {
        let _current = self.context().enter()?;
        let last = bytes.checked_sub(1).and_then(|before| address.checked_add(before));
        let last = last.ok_or(NOT_OURS)?;
        for end in [address, last] {
            if owner(end)? != Some(self.shared.ordinal) {
                return Err(NOT_OURS);
            }
        }
        Ok(CudaMemory::new(self.context(), address, bytes, Origin::Adopted))
    }

    /// A stream that somebody else made, such as torch's current one.
    ///
    /// # Safety
    /// It is a `CUstream` or `cudaStream_t` of this device's primary context, and outlives this.
    pub unsafe fn adopt_stream(&self, stream: u64) -> CudaStream {
        let raw = std::ptr::with_exposed_provenance_mut(stream as usize);
        CudaStream::adopted(self.context(), raw)
    }

    /// The kernel and the tiles, if they are what moves this plan.
    fn by_kernel<'a>(&'a self, learnt: &'a CudaLearnt) -> Option<(&'a Kernel, &'a Tiles)> {
        let is_small = learnt.plan.piece_bytes() <= self.movers.kernel_piece_bytes_max;
        let both = self.shared.kernel.as_ref().zip(learnt.tiles.as_ref());
        both.filter(|_| is_small)
    }

    fn launch(
        &self,
        stream: &CudaStream,
        batch: &Batch<'_, Self>,
        kernel: &Kernel,
        tiles: &Tiles,
    ) -> Result<(), DeviceError> {
        let steps = batch.plan.plan.steps();
        let memory = batch.memory.address();
        let places = batch.objects.iter().flat_map(|object| {
            let start = object.pinned.device_address() + object.offset;
            object.pages.iter().zip(0_u64..).map(move |(&page, number)| Place {
                object: start + number * steps.object,
                device: memory + u64::from(page) * steps.device,
            })
        });
        let places: Vec<_> = places.collect();
        for places in places.chunks(tiles.places_max()) {
            let list = stream.list()?;
            let sms_max = self.movers.sms_max;
            let bytes = batch.plan.plan.bytes() * batch.objects.len() as u64;
            let launch = Launch { direction: batch.direction, bytes, tiles, places, list: &list };
            let launched = kernel.launch(stream, &launch, sms_max);
            stream.keep([Held::List(list)])?;
            launched?;
        }
        Ok(())
    }

    fn copy(&self, stream: &CudaStream, batch: &Batch<'_, Self>) -> Result<(), DeviceError> {
        let plan = &batch.plan.plan;
        let first = plan.object_range().start;
        let pages: usize = batch.objects.iter().map(|object| object.pages.len()).sum();
        let mut copies = Copies::with_capacity(plan.page_pieces().len() * pages);
        for object in batch.objects {
            let start = object.pinned.copy_address() + object.offset;
            for piece in plan.pieces(object.pages) {
                let host = start + (piece.object_offset - first);
                let device = batch.memory.address() + piece.device_offset;
                let (target, source) = match batch.direction {
                    Direction::ToDevice => (device, host),
                    Direction::FromDevice => (host, device),
                };
                copies.push(target, source, piece.bytes, object.pinned.is_on_device())?;
            }
        }
        self.engines.submit(stream, batch.direction, &mut copies)
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Pinned = CudaPinned;
    type Learnt = CudaLearnt;
    type Stream = CudaStream;
    type Event = CudaEvent;

    fn allocate(&self, bytes: u64) -> Result<CudaMemory, DeviceError> {
        CudaMemory::allocate(self.context(), bytes)
    }

    fn pin(&self, range: HostRange) -> Result<CudaPinned, DeviceError> {
        CudaPinned::new(self.context(), &range, self.shared.properties.pins_read_only)
    }

    fn dock(&self, bytes: u64) -> Result<(CudaPinned, Shown), DeviceError> {
        if self.shared.summing.is_none() {
            return Err(NO_CHECKSUMS);
        }
        // What a driver maps at a time, so that it begins and ends where pages do.
        let memory = self.allocate(bytes.next_multiple_of(DOCK_UNIT_BYTES))?;
        let (address, bytes) = (memory.address(), memory.bytes());
        let dma_buf = memory.export_dma_buf(self)?;
        let shown = Shown::dma_buf(dma_buf, address, bytes, Arc::new(memory.clone()));
        Ok((CudaPinned::of_device(memory), shown))
    }

    fn checksums(
        &self,
        stream: &mut CudaStream,
        of: &CudaPinned,
        ranges: &[Range<u64>],
        until: Instant,
    ) -> Result<Option<Vec<u64>>, DeviceError> {
        let summing = self.shared.summing.as_ref().ok_or(NO_CHECKSUMS)?;
        let ranges = sums::addresses(ranges, of.device_address(), of.bytes())?;
        let launches = sums::Launch::all(&ranges);
        let mut lists = Vec::with_capacity(launches.len());
        let happened = (|| {
            let _current = self.context().enter()?;
            if self.shared.properties.flushes_cards {
                driver::flush_cards()?;
            }
            for launch in &launches {
                lists.push(stream.list()?);
                let list = lists.last().expect("it was pushed just now");
                summing.launch(stream, list, launch, self.movers.sms_max)?;
            }
            self.wait_until(&stream.record()?, until)
        })();
        let mut remainders = vec![0; ranges.len()];
        if happened == Ok(true) {
            launches
                .iter()
                .zip(&lists)
                .for_each(|(launch, list)| launch.take(list, &mut remainders));
        }
        // Also after an error: some of it may be under way. The device keeps code and tables.
        let used = Held::Any(Box::new((self.clone(), of.clone())));
        stream.keep(lists.into_iter().map(Held::List).chain([used]))?;
        Ok(happened?.then(|| sums::finish(&ranges, &remainders)))
    }

    fn learn(&self, plan: Plan) -> Result<CudaLearnt, DeviceError> {
        let has_kernel = self.shared.kernel.is_some();
        let tiles = has_kernel.then(|| Tiles::new(self.context(), &plan)).transpose()?.flatten();
        Ok(CudaLearnt { plan: Arc::new(plan), tiles })
    }

    fn plan(learnt: &CudaLearnt) -> &Plan {
        &learnt.plan
    }

    fn stream(&self) -> Result<CudaStream, DeviceError> {
        let stream = CudaStream::new(self.context())?;
        if self.shared.kernel.is_some() || self.shared.summing.is_some() {
            stream.prepare()?;
        }
        Ok(stream)
    }

    fn submit(&self, stream: &mut CudaStream, batch: &Batch<'_, Self>) -> Result<(), DeviceError> {
        let plan = &batch.plan.plan;
        for object in batch.objects {
            object.check(plan, batch.memory.bytes(), object.pinned.bytes())?;
            let is_read_only = object.pinned.access() == Access::ReadOnly;
            if batch.direction == Direction::FromDevice && is_read_only {
                return Err(DeviceError::ReadOnly { bytes: plan.bytes() });
            }
        }
        if batch.objects.is_empty() || plan.bytes() == 0 {
            return Ok(());
        }
        let submitted = {
            let _current = self.context().enter()?;
            match self.by_kernel(batch.plan) {
                Some((kernel, tiles)) => self.launch(stream, batch, kernel, tiles),
                None => self.copy(stream, batch),
            }
        };
        // Also after an error: some of it may be under way. The device keeps the kernel's code.
        let pinned =
            once_each(batch.objects.iter().map(|object| object.pinned), CudaPinned::is_same);
        let used = (self.clone(), batch.memory.clone(), batch.plan.clone(), pinned);
        stream.keep([Held::Any(Box::new(used))])?;
        submitted
    }

    fn submit_pieces(
        &self,
        stream: &mut CudaStream,
        direction: Direction,
        pieces: &[PlacedPiece<'_, Self>],
    ) -> Result<(), DeviceError> {
        let mut copies = Copies::with_capacity(pieces.len());
        for piece in pieces {
            let (pinned, device) = (piece.pinned, &piece.device);
            piece.check(device.memory.bytes(), pinned.bytes())?;
            if direction == Direction::FromDevice && pinned.access() == Access::ReadOnly {
                return Err(DeviceError::ReadOnly { bytes: device.bytes });
            }
            let host = pinned.copy_address() + piece.offset;
            let device_at = device.memory.address() + device.offset;
            let (target, source) = match direction {
                Direction::ToDevice => (device_at, host),
                Direction::FromDevice => (host, device_at),
            };
            // The driver takes no copy of nothing.
            if device.bytes > 0 {
                copies.push(target, source, device.bytes, pinned.is_on_device())?;
            }
        }
        let submitted = {
            let _current = self.context().enter()?;
            self.engines.submit(stream, direction, &mut copies)
        };
        // Also after an error: some of it may be under way.
        let pinned = once_each(pieces.iter().map(|piece| piece.pinned), CudaPinned::is_same);
        let memories = pieces.iter().map(|piece| piece.device.memory);
        let memories = once_each(memories, CudaMemory::is_same);
        stream.keep([Held::Any(Box::new((self.clone(), memories, pinned)))])?;
        submitted
    }

    fn keep(&self, stream: &mut CudaStream, what: Box<dyn Any + Send>) -> Result<(), DeviceError> {
        stream.keep([Held::Any(what)])
    }

    fn record(&self, stream: &mut CudaStream) -> Result<CudaEvent, DeviceError> {
        stream.record()
    }

    fn has_happened(&self, event: &CudaEvent) -> Result<bool, DeviceError> {
        event.has_happened()
    }

    fn wait(&self, event: &CudaEvent) -> Result<(), DeviceError> {
        event.wait()
    }

    fn finish(&self, stream: &mut CudaStream) -> Result<(), DeviceError> {
        stream.finish()
    }
}

/// Clones of `all`, one of those in a row that are the same.
fn once_each<'a, T: Clone + 'a>(
    all: impl Iterator<Item = &'a T>,
    is_same: fn(&T, &T) -> bool,
) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for one in all {
        if !kept.last().is_some_and(|last| is_same(last, one)) {
            kept.push(one.clone());
        }
    }
    kept
}

/// Which device has memory at an address; none if it is no device's.
fn owner(address: u64) -> Result<Option<u32>, DeviceError> {
    use sys::CUpointer_attribute as Attribute;
    let mut kind = 0_u32;
    let (attribute, place) = (Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (&raw mut kind).cast());
    // SAFETY: the driver checks the address, and the place has the length of this attribute.
    let code = unsafe { sys::cuPointerGetAttribute(place, attribute, address) };
    if code == sys::CUresult::CUDA_ERROR_INVALID_VALUE {
        return Ok(None);
    }
    check("cuPointerGetAttribute", 0, code)?;
    if kind != sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32 {
        return Ok(None);
    }
    let mut ordinal = 0_i32;
    let attribute = Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
    let place = (&raw mut ordinal).cast();
    // SAFETY: as above.
    let code = unsafe { sys::cuPointerGetAttribute(place, attribute, address) };
    check("cuPointerGetAttribute", 0, code)?;
    Ok(u32::try_from(ordinal).ok())
}

const NOT_OURS: DeviceError =
    DeviceError::Unsupported { what: "what was to be adopted is no memory of this device" };
const NO_CHECKSUMS: DeviceError =
    DeviceError::Unsupported { what: "this device makes no checksums: its kernel was not loaded" };
const DOCK_UNIT_BYTES: u64 = 2 << 20;
