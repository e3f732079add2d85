//! Copies by the copy engines: one call for a whole batch where the driver has it, else one each.
//!
//! What a reader would get wrong: the call for a batch changed its arguments between CUDA 12.8 and
//! 13. It is asked for by the version of its first form, which later drivers still hand out.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys;

use crate::cuda::driver::{Context, check, driver_version};
use crate::cuda::memory::length;
use crate::cuda::stream::CudaStream;
use crate::device::{DeviceError, Direction};

/// How a device's copy engines are given work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engines {
    batch: Option<BatchCall>,
}

/// Copies to be made: parallel lists, as the driver wants them.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    targets: Vec<u64>,
    sources: Vec<u64>,
    sizes: Vec<usize>,
    /// Whether both sides are the device's.
    within: Vec<bool>,
}

/// `cuMemcpyBatchAsync` as of CUDA 12.8.
type BatchCall = unsafe extern "C" fn(
    targets: *mut u64,
    sources: *mut u64,
    sizes: *mut usize,
    count: usize,
    attributes: *mut sys::CUmemcpyAttributes,
    attribute_starts: *mut usize,
    attribute_count: usize,
    failed: *mut usize,
    stream: sys::CUstream,
) -> sys::CUresult;

impl Copies {
    pub(crate) fn with_capacity(count: usize) -> Self {
        let (targets, sources) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (sizes, within) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { targets, sources, sizes, within }
    }

    pub(crate) fn push(
        &mut self,
        target: u64,
        source: u64,
        bytes: u64,
        is_within: bool,
    ) -> Result<(), DeviceError> {
        self.within.push(is_within);
        self.targets.push(target);
        self.sources.push(source);
        self.sizes.push(length(bytes)?);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&bytes| bytes as u64).sum()
    }
}

impl Engines {
    /// Those of a context's device. `may_batch` is false to measure what one call each costs, and
    /// where devices have other addresses for memory of the host, which a batch must not name.
    pub(crate) fn new(context: &Context, may_batch: bool) -> Result<Self, DeviceError> {
        let batch = if may_batch { batch_call(context)? } else { None };
        Ok(Self { batch })
    }

    pub(crate) const fn batches(&self) -> bool {
        self.batch.is_some()
    }

    /// Queues copies whose addresses were checked. Those of the host are its own addresses.
    pub(crate) fn submit(
        &self,
        stream: &CudaStream,
        direction: Direction,
        copies: &mut Copies,
    ) -> Result<(), DeviceError> {
        // The call refuses the default streams, which an adopted one may be.
        if let Some(call) = self.batch
            && copies.sizes.len() > 1
            && !is_default(stream.raw())
            && batched(call, stream, copies)?
        {
            return Ok(());
        }
        one_by_one(stream, direction, copies)
    }
}

fn is_default(stream: sys::CUstream) -> bool {
    // Null, and the names of the legacy and of the thread's own default stream.
    stream.addr() <= 2
}

/// Queues all of them; `false`, and nothing, if the driver has the call but not for this device.
fn batched(call: BatchCall, stream: &CudaStream, copies: &mut Copies) -> Result<bool, DeviceError> {
    let nowhere =
        sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID, id: 0 };
    let mut attributes = sys::CUmemcpyAttributes {
        srcAccessOrder: sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
        srcLocHint: nowhere,
        dstLocHint: nowhere,
        flags: sys::CUmemcpyFlags::CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE as u32,
    };
    let (mut first, mut failed) = (0, usize::MAX);
    let bytes = copies.bytes();
    // SAFETY: the lists have the same length, all places to write are ours, and the copies stay
    // inside memory that the stream keeps.
    let code = unsafe {
        call(
            copies.targets.as_mut_ptr(),
            copies.sources.as_mut_ptr(),
            copies.sizes.as_mut_ptr(),
            copies.sizes.len(),
            &raw mut attributes,
            &raw mut first,
            1,
            &raw mut failed,
            stream.raw(),
        )
    };
    if code == sys::CUresult::CUDA_ERROR_NOT_SUPPORTED {
        return Ok(false);
    }
    check("cuMemcpyBatchAsync", bytes, code).map(|()| true).map_err(|error| match error {
        // Which one, if it says so, and how long that is.
        DeviceError::Call { call, bytes, reason } if failed < copies.sizes.len() => {
            let (count, length) = (copies.sizes.len(), copies.sizes[failed]);
            let reason = format!("{reason}; copy {failed} of {count}, {length} bytes");
            DeviceError::Call { call, bytes, reason }
        }
        error => error,
    })
}

fn one_by_one(
    stream: &CudaStream,
    direction: Direction,
    copies: &Copies,
) -> Result<(), DeviceError> {
    let sides = copies.targets.iter().zip(&copies.sources);
    let whats = copies.sizes.iter().zip(&copies.within);
    for ((&target, &source), (&bytes, &is_within)) in sides.zip(whats) {
        let stream = stream.raw();
        if is_within {
            // SAFETY: both sides are inside memory that the stream keeps.
            let code = unsafe { sys::cuMemcpyDtoDAsync_v2(target, source, bytes, stream) };
            check("cuMemcpyDtoDAsync", bytes as u64, code)?;
            continue;
        }
        match direction {
            Direction::ToDevice => {
                let source: *const c_void = std::ptr::with_exposed_provenance(source as usize);
                // SAFETY: both sides are inside memory that the stream keeps.
                let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target, source, bytes, stream) };
                check("cuMemcpyHtoDAsync", bytes as u64, code)?;
            }
            Direction::FromDevice => {
                let target: *mut c_void = std::ptr::with_exposed_provenance_mut(target as usize);
                // SAFETY: both sides are inside memory that the stream keeps.
                let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target, source, bytes, stream) };
                check("cuMemcpyDtoHAsync", bytes as u64, code)?;
            }
        }
    }
    Ok(())
}

/// The call, if the driver has it.
fn batch_call(context: &Context) -> Result<Option<BatchCall>, DeviceError> {
    // Before CUDA 12 a driver cannot even be asked.
    if driver_version()? < BATCH_VERSION.unsigned_abs() {
        return Ok(None);
    }
    let _current = context.enter()?;
    let mut found: *mut c_void = std::ptr::null_mut();
    let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    // SAFETY: the name ends with a zero, and the places to write are ours.
    let code = unsafe {
        sys::cuGetProcAddress_v2(
            c"cuMemcpyBatchAsync".as_ptr(),
            &raw mut found,
            BATCH_VERSION,
            0,
            &raw mut status,
        )
    };
    let is_found = status == sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
    if code != sys::CUresult::CUDA_SUCCESS || !is_found || found.is_null() {
        return Ok(None);
    }
    // SAFETY: the driver says that this is the function of that name as of that version, whose
    // arguments are those of the type.
    Ok(Some(unsafe { std::mem::transmute::<*mut c_void, BatchCall>(found) }))
}

/// CUDA 12.8, which had it first.
const BATCH_VERSION: c_int = 12080;
