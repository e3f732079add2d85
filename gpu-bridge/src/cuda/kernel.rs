//! The kernel that gathers and scatters pieces too small for the copy engines.
//!
//! It reads and writes pinned memory itself, on a few multiprocessors. What a reader would get
//! wrong: it does not follow a list of pieces. Tiles of one page and a place for each page are all
//! it is told, so what is sent for a batch does not grow with the number of pieces.

use std::ffi::c_void;
use std::sync::Arc;

use crate::cuda::driver::Context;
use crate::cuda::list::{LIST_BYTES, List};
use crate::cuda::memory::CudaMemory;
use crate::cuda::module::{KernelOrigin, Module, Source, blocks};
use crate::cuda::stream::CudaStream;
use crate::device::{DeviceError, Direction};
use crate::plan::Plan;

/// The kernel, loaded on a device.
#[derive(Debug)]
pub(crate) struct Kernel(Module);

/// The tiles of a plan, in the device's memory.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    memory: CudaMemory,
    count: u32,
}

/// What one launch does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) direction: Direction,
    /// How much it moves, for the words of an error.
    pub(crate) bytes: u64,
    pub(crate) tiles: &'a Tiles,
    /// At most as many as the tiles allow.
    pub(crate) places: &'a [Place],
    /// In use until the launch has happened.
    pub(crate) list: &'a List,
}

/// What to add to the tiles for one page: an address on each side.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Place {
    pub(crate) object: u64,
    pub(crate) device: u64,
}

impl Kernel {
    /// Compiles and loads it.
    pub(crate) fn load(context: &Arc<Context>, capability: [u32; 2]) -> Result<Self, DeviceError> {
        Module::load(context, &SOURCE, capability).map(Self)
    }

    pub(crate) const fn origin(&self) -> KernelOrigin {
        self.0.origin()
    }

    /// Queues the tiles of every place, on at most `sms_max` multiprocessors.
    pub(crate) fn launch(
        &self,
        stream: &CudaStream,
        launch: &Launch<'_>,
        sms_max: u32,
    ) -> Result<(), DeviceError> {
        let Launch { direction, bytes, tiles, places, list } = *launch;
        assert!(places.len() <= tiles.places_max(), "the caller splits what is longer");
        list.send(stream, places)?;
        let place_count = places.len() as u32;
        let blocks = blocks(tiles.count * place_count, sms_max);
        let (mut tiles_at, mut tile_count) = (tiles.memory.address(), tiles.count);
        let (mut places_at, mut place_count) = (list.address(), place_count);
        let mut to_device = u32::from(direction == Direction::ToDevice);
        let mut arguments: [*mut c_void; 5] = [
            (&raw mut tiles_at).cast(),
            (&raw mut tile_count).cast(),
            (&raw mut places_at).cast(),
            (&raw mut place_count).cast(),
            (&raw mut to_device).cast(),
        ];
        // SAFETY: these are the kernel's, in its order. Tiles and places stay inside memory that
        // was checked and that the stream keeps.
        unsafe { self.0.launch(stream, blocks, &mut arguments, bytes) }
    }
}

impl Tiles {
    /// Cuts the pieces of a page and sends them to the device; none if there are no pieces.
    pub(crate) fn new(context: &Arc<Context>, plan: &Plan) -> Result<Option<Self>, DeviceError> {
        let words = tile_words(plan);
        let count = u32::try_from(words.len() / TILE_WORDS).unwrap_or(u32::MAX);
        if count == 0 || count > TILES_MAX {
            return Ok(None);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = CudaMemory::allocate(context, bytes.len() as u64)?;
        memory.write(&bytes)?;
        Ok(Some(Self { memory, count }))
    }

    /// How many places one launch takes.
    pub(crate) fn places_max(&self) -> usize {
        PLACES_MAX.min((u32::MAX / self.count) as usize)
    }
}

/// The tiles of a page, as the kernel reads them.
pub(crate) fn tile_words(plan: &Plan) -> Vec<u64> {
    let start = plan.object_range().start;
    let cut = |piece: &crate::pieces::Piece| {
        let (object, device, bytes) =
            (piece.object_offset - start, piece.device_offset, piece.bytes);
        (0..bytes.div_ceil(TILE_BYTES)).flat_map(move |number| {
            let at = number * TILE_BYTES;
            [object + at, device + at, TILE_BYTES.min(bytes - at)]
        })
    };
    plan.page_pieces().iter().flat_map(cut).collect()
}

/// A test says how to make the text anew.
pub(crate) const SOURCE: Source = Source {
    name: c"larder_pages",
    file: "pages.cu",
    source: include_str!("pages.cu"),
    text: include_str!("pages.ptx"),
};

/// What a warp copies at a time: 8 loads of 16 bytes for each of its threads.
const TILE_BYTES: u64 = 4096;
const TILE_WORDS: usize = 3;
/// An object of the longest kind, all in whole tiles; more pieces are left to the copy engines.
const TILES_MAX: u32 = 1 << 20;
/// Pages of one launch, as the list has room for: a launch moves megabytes.
const PLACES_MAX: usize = LIST_BYTES / size_of::<Place>();

#[cfg(test)]
mod tests;
