//! Device memory, and what host and device share for the lists of a kernel.
//!
//! What a reader would get wrong: neither waits for copies when it is dropped. Streams keep clones
//! of all that is under way, so the last one goes when nothing uses it.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;

use crate::cuda::driver::{Context, check, log};
use crate::cuda::stream::CudaStream;
use crate::device::DeviceError;

/// Memory of a device: allocated here, or somebody else's that was adopted.
#[derive(Debug, Clone)]
pub struct CudaMemory {
    owned: Arc<Owned>,
    address: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Owned {
    address: u64,
    origin: Origin,
    context: Arc<Context>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Allocated,
    Adopted,
    /// Mapped from another process.
    Opened,
}

impl CudaMemory {
    /// Memory that is 0.
    pub(crate) fn allocate(context: &Arc<Context>, bytes: u64) -> Result<Self, DeviceError> {
        let memory = Self::allocate_unset(context, bytes)?;
        let (address, length) = (memory.address, length(bytes)?);
        apart(context, |stream| {
            // SAFETY: the memory was just allocated, and has this length.
            let code = unsafe { sys::cuMemsetD8Async(address, 0, length, stream) };
            check("cuMemsetD8Async", bytes, code)
        })?;
        Ok(memory)
    }

    /// Memory that is anything, for who writes it before it is read.
    pub(crate) fn allocate_unset(context: &Arc<Context>, bytes: u64) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let mut address = 0;
        // SAFETY: the context is current, and the place to write is ours.
        let code = unsafe { sys::cuMemAlloc_v2(&raw mut address, length(bytes)?) };
        check("cuMemAlloc", bytes, code)?;
        Ok(Self::new(context, address, bytes, Origin::Allocated))
    }

    pub(crate) fn new(context: &Arc<Context>, address: u64, bytes: u64, origin: Origin) -> Self {
        let context = Arc::clone(context);
        Self { owned: Arc::new(Owned { address, origin, context }), address, bytes }
    }

    /// Where it begins, on the device.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// How long it is.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.owned.context
    }

    /// Whether both are of one allocation.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owned, &other.owned)
    }

    /// The `bytes` bytes from `offset` on of the allocation, which the caller knows to be there.
    pub(crate) fn part(&self, offset: u64, bytes: u64) -> Self {
        Self { owned: Arc::clone(&self.owned), address: self.address + offset, bytes }
    }

    /// Copies from the host, and waits for it: for what is set up once.
    pub(crate) fn write(&self, from: &[u8]) -> Result<(), DeviceError> {
        assert!(from.len() as u64 <= self.bytes(), "what is written was allocated for it");
        let staged = HostAllocation::new(self.context(), from.len() as u64)?;
        // SAFETY: the room is as long, was allocated just now, and nobody else knows it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), staged.base().cast(), from.len()) };
        apart(self.context(), |stream| {
            let (target, source) = (self.address(), staged.base());
            // SAFETY: both sides are that long, and stay until this is done.
            let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target, source, from.len(), stream) };
            check("cuMemcpyHtoDAsync", from.len() as u64, code)
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.origin == Origin::Adopted {
            return;
        }
        let Ok(_current) = self.context.enter() else { return };
        if self.origin == Origin::Opened {
            // SAFETY: it was opened once, and nothing uses it any more.
            let code = unsafe { sys::cuIpcCloseMemHandle(self.address) };
            log("cuIpcCloseMemHandle", code);
        } else {
            // SAFETY: it was allocated here, and nothing uses it any more: copies hold a clone.
            let code = unsafe { sys::cuMemFree_v2(self.address) };
            log("cuMemFree", code);
        }
    }
}

/// Memory that host and device share, for the lists of a kernel. Pinned by the driver.
#[derive(Debug)]
pub(crate) struct HostAllocation {
    base: *mut c_void,
    context: Arc<Context>,
}

// SAFETY: it is memory like any other, and owned by this value alone.
unsafe impl Send for HostAllocation {}

impl HostAllocation {
    pub(crate) fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let mut base = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the context is current, and the place to write is ours.
        let code = unsafe { sys::cuMemHostAlloc(&raw mut base, length(bytes)?, flags) };
        check("cuMemHostAlloc", bytes, code)?;
        Ok(Self { base, context: Arc::clone(context) })
    }

    pub(crate) const fn base(&self) -> *mut c_void {
        self.base
    }
}

impl Drop for HostAllocation {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter() else { return };
        // SAFETY: it was allocated here, and nothing uses it any more.
        let code = unsafe { sys::cuMemFreeHost(self.base) };
        log("cuMemFreeHost", code);
    }
}

pub(crate) fn length(bytes: u64) -> Result<usize, DeviceError> {
    let too_long = DeviceError::Unsupported { what: "no memory is that long" };
    usize::try_from(bytes).map_err(|_| too_long)
}

/// Does something on a stream of its own and waits for it: the default stream, on which a model may
/// compute for long, is not waited for.
fn apart(
    context: &Arc<Context>,
    queue: impl FnOnce(sys::CUstream) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let stream = CudaStream::new(context)?;
    let _current = context.enter()?;
    queue(stream.raw())?;
    stream.finish()
}
