//! Device memory for others: a network card, another process.
//!
//! What a reader would get wrong: what was exported stays open for the other side when the memory
//! is freed here, and then means nothing. Whoever exports keeps the memory.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use cudarc::driver::sys;

use crate::cuda::CudaDevice;
use crate::cuda::driver::check;
use crate::cuda::memory::{CudaMemory, Origin, length};
use crate::device::DeviceError;

/// Memory of a device as another process on this host opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpcHandle {
    /// What the driver made of the allocation.
    pub allocation: [u8; 64],
    /// Where in the allocation the memory begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
}

impl CudaMemory {
    /// A dma-buf of the memory, for a network card to register. It must begin and end where pages
    /// of the host's memory do.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where device or driver have none, or the ends are off.
    pub fn export_dma_buf(&self, device: &CudaDevice) -> Result<OwnedFd, DeviceError> {
        if !device.properties().exports_dma_buf {
            return Err(DeviceError::Unsupported { what: "this device exports no dma-buf" });
        }
        let (address, bytes) = (self.address(), self.bytes());
        let page_bytes = larder_transport::process::page_bytes();
        if !address.is_multiple_of(page_bytes) || !bytes.is_multiple_of(page_bytes) {
            let what = "a dma-buf must begin and end where pages of the host's memory do";
            return Err(DeviceError::Unsupported { what });
        }
        let _current = self.context().enter()?;
        let mut fd: RawFd = -1;
        let kind = sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let place = (&raw mut fd).cast();
        // SAFETY: the memory is ours, and the place to write is that of a descriptor.
        let code =
            unsafe { sys::cuMemGetHandleForAddressRange(place, address, length(bytes)?, kind, 0) };
        check("cuMemGetHandleForAddressRange", bytes, code)?;
        // SAFETY: the driver made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A handle by which another process on this host can open the memory.
    ///
    /// # Errors
    /// [`DeviceError::Call`], for one where the memory comes from a pool that does not share.
    pub fn export_ipc(&self) -> Result<IpcHandle, DeviceError> {
        let _current = self.context().enter()?;
        let (mut base, mut length) = (0, 0);
        let address = self.address();
        // SAFETY: the places to write are ours.
        let code = unsafe { sys::cuMemGetAddressRange_v2(&raw mut base, &raw mut length, address) };
        check("cuMemGetAddressRange", self.bytes(), code)?;
        let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: the memory is allocated, and the place to write is ours.
        let code = unsafe { sys::cuIpcGetMemHandle(&raw mut handle, base) };
        check("cuIpcGetMemHandle", self.bytes(), code)?;
        let allocation = handle.reserved.map(|byte| byte.cast_unsigned());
        Ok(IpcHandle { allocation, offset: address - base, bytes: self.bytes() })
    }
}

impl CudaDevice {
    /// The memory of another process on this host. It may be gone at any time: that process frees
    /// it when it ends.
    ///
    /// # Errors
    /// [`DeviceError::Call`], for one where the handle is this process's own;
    /// [`DeviceError::Bounds`] where the handle says more than there is.
    pub fn open_ipc(&self, handle: &IpcHandle) -> Result<CudaMemory, DeviceError> {
        let context = self.context();
        let _current = context.enter()?;
        let raw = sys::CUipcMemHandle { reserved: handle.allocation.map(u8::cast_signed) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut base = 0;
        // SAFETY: the driver checks the handle, and the place to write is ours.
        let code = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut base, raw, flags) };
        check("cuIpcOpenMemHandle", handle.bytes, code)?;
        // Closed when dropped, also if it is refused here.
        let (mut start, mut length) = (0, 0);
        let opened = CudaMemory::new(context, base, 0, Origin::Opened);
        // SAFETY: the places to write are ours.
        let code = unsafe { sys::cuMemGetAddressRange_v2(&raw mut start, &raw mut length, base) };
        check("cuMemGetAddressRange", handle.bytes, code)?;
        let (offset, bytes, limit) = (handle.offset, handle.bytes, length as u64);
        if offset.checked_add(bytes).is_none_or(|end| end > limit) {
            return Err(DeviceError::Bounds { memory: "opened memory", offset, bytes, limit });
        }
        Ok(opened.part(offset, bytes))
    }
}
