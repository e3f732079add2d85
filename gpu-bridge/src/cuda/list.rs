//! What a kernel is told for one launch, and what it answers.
//!
//! What a reader would get wrong: a list is pinned memory and as much of the device's. It is used
//! by one launch at a time, and goes back to its stream when that has happened.

use std::sync::Arc;

use cudarc::driver::sys;

use crate::cuda::driver::{Context, check};
use crate::cuda::memory::{CudaMemory, HostAllocation};
use crate::cuda::stream::CudaStream;
use crate::device::DeviceError;

/// Room for one launch, on both sides.
#[derive(Debug)]
pub(crate) struct List {
    host: HostAllocation,
    device: CudaMemory,
}

impl List {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let host = HostAllocation::new(context, LIST_BYTES as u64)?;
        Ok(Self { host, device: CudaMemory::allocate_unset(context, LIST_BYTES as u64)? })
    }

    /// Where the device finds it.
    pub(crate) const fn address(&self) -> u64 {
        self.device.address()
    }

    /// Queues that the device has these, plain numbers all, from the start of it.
    ///
    /// # Panics
    /// If there is no room for so many.
    pub(crate) fn send<T: Copy>(
        &self,
        stream: &CudaStream,
        items: &[T],
    ) -> Result<(), DeviceError> {
        let (room, bytes) = (self.host.base(), size_of_val(items));
        assert!(bytes <= LIST_BYTES, "the caller splits what is longer");
        // SAFETY: the room is long enough, is aligned for anything, and no launch uses it now.
        unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), room.cast(), items.len()) };
        let target = self.device.address();
        // SAFETY: both sides have room for the longest list, and stay until the launch is done.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target, room, bytes, stream.raw()) };
        check("cuMemcpyHtoDAsync", bytes as u64, code)
    }

    /// Queues that the host has the first `count` numbers of it as the device left them.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn fetch(&self, stream: &CudaStream, count: usize) -> Result<(), DeviceError> {
        let bytes = count * size_of::<u64>();
        assert!(bytes <= LIST_BYTES, "there are as many as were sent");
        let (source, room) = (self.device.address(), self.host.base());
        // SAFETY: both sides are that long, and stay until this is done.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(room, source, bytes, stream.raw()) };
        check("cuMemcpyDtoHAsync", bytes as u64, code)
    }

    /// The first `count` numbers of it, once what was queued has happened.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn numbers(&self, count: usize) -> Vec<u64> {
        assert!(count * size_of::<u64>() <= LIST_BYTES, "there are as many as were sent");
        let room: *const u64 = self.host.base().cast_const().cast();
        // SAFETY: the room is that long and aligned for anything; numbers were written there by
        // `send` first, and whoever calls this has waited for what was queued since.
        unsafe { std::slice::from_raw_parts(room, count) }.to_vec()
    }
}

/// A guess: what is sent for a launch is then little beside the megabytes that it is about.
pub(crate) const LIST_BYTES: usize = 64 << 10;
