//! The kernel that gathers and scatters pieces too small for the copy engines.
//!
//! It reads and writes pinned memory itself, on a few multiprocessors. What a reader would get
//! wrong: it does not follow a list of pieces. Tiles of one page and a place for each page are all
//! it is told, so what is sent for a batch does not grow with the number of pieces.

use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys;
use cudarc::nvrtc;

use crate::cuda::driver::{Context, check, log};
use crate::cuda::memory::{CudaMemory, HostAllocation};
use crate::cuda::stream::CudaStream;
use crate::device::{DeviceError, Direction};
use crate::plan::Plan;

/// The kernel, loaded on a device.
#[derive(Debug)]
pub(crate) struct Kernel {
    module: sys::CUmodule,
    function: sys::CUfunction,
    origin: KernelOrigin,
    context: Arc<Context>,
}

// SAFETY: the driver's modules belong to no thread.
unsafe impl Send for Kernel {}
// SAFETY: as above, and the driver's calls may be made from several threads at once.
unsafe impl Sync for Kernel {}

/// Who compiled the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelOrigin {
    /// NVRTC, as the device was opened.
    Nvrtc,
    /// NVRTC, before; the text in this crate.
    Text,
}

/// The tiles of a plan, in the device's memory.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    memory: CudaMemory,
    count: u32,
}

/// Room for the places of one launch, on both sides. Used by one launch at a time.
#[derive(Debug)]
pub(crate) struct List {
    host: HostAllocation,
    device: CudaMemory,
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
    /// Compiles and loads it: by NVRTC where there is one that works, else from the text.
    pub(crate) fn load(context: &Arc<Context>, capability: [u32; 2]) -> Result<Self, DeviceError> {
        let compiled = match compile(capability) {
            Ok(text) => Self::load_text(context, &text, KernelOrigin::Nvrtc),
            Err(error) => Err(error),
        };
        compiled.or_else(|error| {
            tracing::debug!(%error, "NVRTC is not used; the kernel is the text that came with us");
            Self::load_text(context, TEXT, KernelOrigin::Text)
        })
    }

    pub(crate) fn load_text(
        context: &Arc<Context>,
        text: &str,
        origin: KernelOrigin,
    ) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let bytes = text.len() as u64;
        let zero_inside = DeviceError::Unsupported { what: "a kernel's text has a zero inside" };
        let text = CString::new(text).map_err(|_| zero_inside)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and the place to write is ours.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast()) };
        check("cuModuleLoadData", bytes, code)?;
        let function = std::ptr::null_mut();
        let mut kernel = Self { module, function, origin, context: Arc::clone(context) };
        let name = c"larder_pages".as_ptr();
        // SAFETY: the module is loaded, and the place to write is ours.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut kernel.function, module, name) };
        check("cuModuleGetFunction", 0, code)?;
        Ok(kernel)
    }

    pub(crate) const fn origin(&self) -> KernelOrigin {
        self.origin
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
        let total = tiles.count * place_count;
        let blocks = total.div_ceil(BLOCK_THREADS / LANES).clamp(1, sms_max.max(1));
        let (mut tiles_at, mut tile_count) = (tiles.memory.address(), tiles.count);
        let (mut places_at, mut place_count) = (list.device.address(), place_count);
        let mut to_device = u32::from(direction == Direction::ToDevice);
        let mut arguments: [*mut c_void; 5] = [
            (&raw mut tiles_at).cast(),
            (&raw mut tile_count).cast(),
            (&raw mut places_at).cast(),
            (&raw mut place_count).cast(),
            (&raw mut to_device).cast(),
        ];
        let (arguments, extra) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        let (function, raw) = (self.function, stream.raw());
        // SAFETY: the arguments are those of the kernel, in its order, and are read during the
        // call. Tiles and places stay inside memory that was checked and that the stream keeps.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                BLOCK_THREADS,
                1,
                1,
                0,
                raw,
                arguments,
                extra,
            )
        };
        check("cuLaunchKernel", bytes, code)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter() else { return };
        // SAFETY: it was loaded here; no stream of this device is left, so nothing runs of it.
        let code = unsafe { sys::cuModuleUnload(self.module) };
        log("cuModuleUnload", code);
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

impl List {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let bytes = (PLACES_MAX * size_of::<Place>()) as u64;
        let host = HostAllocation::new(context, bytes)?;
        Ok(Self { host, device: CudaMemory::allocate(context, bytes)? })
    }

    fn send(&self, stream: &CudaStream, places: &[Place]) -> Result<(), DeviceError> {
        let room: *mut Place = self.host.base().cast();
        // SAFETY: the room is as long as the longest list, is aligned for anything, and no launch
        // uses it now.
        unsafe { std::ptr::copy_nonoverlapping(places.as_ptr(), room, places.len()) };
        let (target, source, bytes) =
            (self.device.address(), self.host.base(), size_of_val(places));
        // SAFETY: both sides have room for the longest list, and stay until the launch is done.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target, source, bytes, stream.raw()) };
        check("cuMemcpyHtoDAsync", bytes as u64, code)
    }
}

/// The kernel as text for any device of this capability and later ones.
fn compile([major, minor]: [u32; 2]) -> Result<String, DeviceError> {
    let failed = |reason: String| DeviceError::Call {
        call: "nvrtcCompileProgram",
        bytes: SOURCE.len() as u64,
        reason,
    };
    // SAFETY: runs what the library does when it is loaded, which any CUDA program trusts.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(DeviceError::Unsupported { what: "NVRTC is not installed" });
    }
    let options = nvrtc::CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some("pages.cu".into()),
        ..nvrtc::CompileOptions::default()
    };
    let compiled = nvrtc::compile_ptx_with_opts(SOURCE, options);
    compiled.map(|text| text.to_src()).map_err(|error| failed(error.to_string()))
}

impl fmt::Display for KernelOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvrtc => "nvrtc",
            Self::Text => "text",
        })
    }
}

const SOURCE: &str = include_str!("pages.cu");
/// What NVRTC of CUDA 12.0 makes of the source for capability 7.0; a test says how to make it anew.
pub(crate) const TEXT: &str = include_str!("pages.ptx");

/// What a warp copies at a time: 8 loads of 16 bytes for each of its threads.
const TILE_BYTES: u64 = 4096;
const TILE_WORDS: usize = 3;
/// An object of the longest kind, all in whole tiles; more pieces are left to the copy engines.
const TILES_MAX: u32 = 1 << 20;
/// Pages of one launch. A guess: the list is then 64 KiB, and a launch moves megabytes.
const PLACES_MAX: usize = 4096;
const LANES: u32 = 32;
/// As many as a multiprocessor has room for with the registers that the kernel takes.
const BLOCK_THREADS: u32 = 1024;

#[cfg(test)]
mod tests;
