//! Checksums of memory that the device reaches, made by the device.
//!
//! A range is cut into tiles from its end on, so that behind a tile there are whole tiles only and
//! what its sum is multiplied by is looked up. What a reader would get wrong: the kernel adds up
//! plain remainders. The checksum's first and last steps, and bytes that are missing to a word at
//! the end, are the host's.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::cuda::driver::Context;
use crate::cuda::list::{LIST_BYTES, List};
use crate::cuda::memory::CudaMemory;
use crate::cuda::module::{LANES, Module, Source, blocks};
use crate::cuda::polynomial::{behind, checksum, product, without};
use crate::cuda::stream::CudaStream;
use crate::device::{DeviceError, within};

/// The kernel, loaded on a device, and its tables.
#[derive(Debug)]
pub(crate) struct Summing {
    module: Module,
    tables: CudaMemory,
}

/// Some of a range, as the kernel reads it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Tile {
    address: u64,
    behind: u64,
    shape: u32,
    range: u32,
}

/// What one launch makes: remainders of some of the ranges, or of some of a range.
#[derive(Debug)]
pub(crate) struct Launch {
    tiles: Vec<Tile>,
    /// Of the first that it has a part of.
    first: usize,
    count: usize,
}

impl Summing {
    pub(crate) fn load(context: &Arc<Context>, capability: [u32; 2]) -> Result<Self, DeviceError> {
        let module = Module::load(context, &SOURCE, capability)?;
        let bytes: Vec<u8> = tables().iter().flat_map(|word| word.to_le_bytes()).collect();
        let tables = CudaMemory::allocate(context, bytes.len() as u64)?;
        tables.write(&bytes)?;
        Ok(Self { module, tables })
    }

    /// Queues a launch on at most `sms_max` multiprocessors, and that its list has the remainders.
    /// The context is current.
    pub(crate) fn launch(
        &self,
        stream: &CudaStream,
        list: &List,
        launch: &Launch,
        sms_max: u32,
    ) -> Result<(), DeviceError> {
        list.send(stream, &launch.words())?;
        let (mut sums, mut tables) = (list.address(), self.tables.address());
        let mut tiles = sums + (size_of::<u64>() * launch.count) as u64;
        let mut tile_count = launch.tiles.len() as u32;
        let mut arguments: [*mut c_void; 4] = [
            (&raw mut tiles).cast(),
            (&raw mut tile_count).cast(),
            (&raw mut tables).cast(),
            (&raw mut sums).cast(),
        ];
        let (blocks, bytes) = (blocks(tile_count, sms_max), TILE_BYTES * launch.tiles.len() as u64);
        // SAFETY: these are the kernel's, in its order. Tiles are inside memory that was checked,
        // and that the stream keeps, as it does the list; the tables are kept with the device.
        unsafe { self.module.launch(stream, blocks, &mut arguments, bytes) }?;
        list.fetch(stream, launch.count)
    }
}

impl Launch {
    /// All that is needed for ranges of addresses.
    pub(crate) fn all(ranges: &[Range<u64>]) -> Vec<Self> {
        let mut launches: Vec<Self> = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            let (start, end) = (range.start / WORD, range.end.div_ceil(WORD));
            let mut until = end;
            while until > start && !range.is_empty() {
                let from = until.saturating_sub(TILE_WORDS).max(start);
                let front = if from == start { range.start % WORD } else { 0 };
                let back = if until == end { end * WORD - range.end } else { 0 };
                let shape = (until - from) | (front << 16) | (back << 20);
                let behind = BEHIND[((end - until) / TILE_WORDS) as usize];
                // Ranges of nothing have a sum and no tile.
                let is_full = |launch: &Self| {
                    launch.tiles.len() == TILES_MAX || number - launch.first >= TILES_MAX
                };
                if launches.last().is_none_or(is_full) {
                    launches.push(Self { tiles: Vec::new(), first: number, count: 0 });
                }
                let launch = launches.last_mut().expect("one was pushed if there was none");
                let which = (number - launch.first) as u32;
                let tile = Tile { address: from * WORD, behind, shape: shape as u32, range: which };
                launch.tiles.push(tile);
                launch.count = which as usize + 1;
                until = from;
            }
        }
        launches
    }

    /// Remainders, which begin as 0, and tiles.
    fn words(&self) -> Vec<u64> {
        let tiles = self.tiles.iter().flat_map(|tile| {
            let place = u64::from(tile.shape) | (u64::from(tile.range) << 32);
            [tile.address, tile.behind, place]
        });
        std::iter::repeat_n(0, self.count).chain(tiles).collect()
    }

    /// Adds what it made to the remainders of all ranges.
    pub(crate) fn take(&self, list: &List, remainders: &mut [u64]) {
        let made = list.numbers(self.count);
        remainders[self.first..].iter_mut().zip(made).for_each(|(to, made)| *to ^= made);
    }
}

/// Ranges of memory of `bytes` bytes as the device finds them.
///
/// # Errors
/// [`DeviceError::Bounds`], [`DeviceError::Unsupported`] for one that is too long.
pub(crate) fn addresses(
    ranges: &[Range<u64>],
    address: u64,
    bytes: u64,
) -> Result<Vec<Range<u64>>, DeviceError> {
    let place = |range: &Range<u64>| {
        let length = range.end.saturating_sub(range.start);
        within("memory of objects", range.start, length, bytes)?;
        if length > RANGE_BYTES_MAX {
            return Err(DeviceError::Unsupported { what: "no object is that long" });
        }
        Ok(address + range.start..address + range.start + length)
    };
    ranges.iter().map(place).collect()
}

/// The checksums of ranges, of which these are the remainders.
pub(crate) fn finish(ranges: &[Range<u64>], remainders: &[u64]) -> Vec<u64> {
    // Most are of one length.
    let mut known = (0, behind(0));
    let each = ranges.iter().zip(remainders).map(|(range, &remainder)| {
        let bytes = range.end - range.start;
        if known.0 != bytes {
            known = (bytes, behind(bytes));
        }
        let missing = range.end.next_multiple_of(WORD) - range.end;
        checksum(without(remainder, missing), known.1)
    });
    each.collect()
}

/// Most bytes of a range: an object of the longest kind has fewer tiles than the table.
pub(crate) const RANGE_BYTES_MAX: u64 = 64 << 20;

/// What the kernel looks up, as it lies there.
fn tables() -> Vec<u64> {
    let step = behind(WORD * u64::from(LANES));
    let steps =
        (0..64).step_by(4).flat_map(|at| (0..16).map(move |bits| product(bits << at, step)));
    let lanes = (1..=u64::from(LANES)).map(|words| behind(WORD * words));
    steps.chain(lanes).collect()
}

/// For so many whole tiles.
static BEHIND: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let step = behind(TILE_BYTES);
    let next = |power: &u64| Some(product(*power, step));
    std::iter::successors(Some(behind(0)), next).take(TILES_OF_RANGE).collect()
});

/// A test says how to make the text anew.
pub(crate) const SOURCE: Source = Source {
    name: c"larder_sums",
    file: "sums.cu",
    source: include_str!("sums.cu"),
    text: include_str!("sums.ptx"),
};

const WORD: u64 = 8;
/// What a warp takes at a time: 64 steps of each of its threads, against 4 for its two products. A
/// guess.
const TILE_BYTES: u64 = 16 << 10;
const TILE_WORDS: u64 = TILE_BYTES / WORD;
/// One more than whole tiles: a range may begin and end amid words.
const TILES_OF_RANGE: usize = (RANGE_BYTES_MAX / TILE_BYTES) as usize + 1;
/// Tiles of a launch, each with a sum of its own at most.
const TILES_MAX: usize = LIST_BYTES / (size_of::<Tile>() + size_of::<u64>());
const _: () = assert!(size_of::<Tile>() == 24 && TILE_WORDS < 1 << 16);

#[cfg(test)]
mod tests;
