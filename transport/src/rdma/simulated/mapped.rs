//! A device's memory, as a simulated card reaches it: by a mapping of its own.
//!
//! Where a device is made of host memory, what stands for its dma-buf is a memfd. What a reader
//! would get wrong: the device may show its memory to nobody under the address that peers name.

use std::io::{Error, ErrorKind};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

use crate::process::page_bytes;
use crate::rdma::device_memory::DeviceMemory;
use crate::rdma::fabric::FabricError;

/// A mapping, to be read and written under the fabric's lock.
#[derive(Debug)]
pub(super) struct Mapped {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: memory belongs to no thread, and those who use it hold the fabric's lock.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// # Errors
    /// [`FabricError`] if the descriptor is of nothing that can be mapped, or is too short.
    pub(super) fn new(memory: &DeviceMemory<'_>) -> Result<Self, FabricError> {
        let DeviceMemory { descriptor, offset, bytes, .. } = *memory;
        let refused = |error: Error| FabricError::new("expose_device", error);
        let stat = rustix::fs::fstat(descriptor).map_err(|error| refused(error.into()))?;
        let end = offset.checked_add(bytes).filter(|_| offset.is_multiple_of(page_bytes()));
        let there = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes == 0 || end.is_none_or(|end| end > there) {
            return Err(refused(ErrorKind::InvalidInput.into()));
        }
        let bytes = usize::try_from(bytes).map_err(|_| refused(ErrorKind::OutOfMemory.into()))?;
        let (at, rights) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
        let base =
            unsafe { rustix::mm::mmap(at, bytes, rights, MapFlags::SHARED, descriptor, offset) };
        let base = base.map_err(|error| refused(error.into()))?;
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { base, bytes })
    }

    pub(super) fn base(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is our mapping, whole, and the fabric has forgotten it before.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) } {
            tracing::error!(%error, "a device's memory is not unmapped");
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use crate::rdma::fabric::{Direction, Fabric, Memory, QueuePair, Work};
    use crate::rdma::simulated::{Faults, SimulatedFabric};
    use crate::region::Region;
    use larder_protocol::message::RemotePiece;

    use super::*;

    #[test]
    fn what_is_written_by_name_is_in_the_devices_memory_until_it_is_forgotten() {
        let fabric = SimulatedFabric::new(1, Faults::default());
        let memfd = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, 4096).unwrap();
        let address = 0xffff_8000_0000_0000;
        let memory = DeviceMemory { descriptor: memfd.as_fd(), offset: 0, bytes: 4096, address };
        // SAFETY: memory of a memfd is there for as long as it is mapped.
        let device = unsafe { fabric.expose_device(&memory, Box::new(())) }.unwrap();
        let region = Arc::new(Region::heap(4096).unwrap());
        let own = fabric.register(&region).unwrap();
        let pairs = || {
            let (mut one, mut other) = (fabric.pair(4).unwrap(), fabric.pair(4).unwrap());
            one.connect(&other.address()).unwrap();
            other.connect(&one.address()).unwrap();
            (one, other)
        };
        let key = device.remote_key().unwrap();
        let write = |pair: &mut crate::rdma::simulated::SimulatedPair, at| {
            let work = Work {
                number: 1,
                direction: Direction::Write,
                local_address: region.base().as_ptr().expose_provenance() as u64,
                local_key: own.local_key(),
                remote: RemotePiece { address: address + at, rkey: key, bytes: 9 },
                is_signalled: true,
            };
            // SAFETY: the region is registered, stays, and nobody writes it.
            unsafe { pair.post(&[work]) }.unwrap();
            while fabric.step() {}
            let mut told = Vec::new();
            pair.poll(&mut told).unwrap();
            told[0].outcome
        };
        let file = std::fs::File::from(memfd.try_clone().unwrap());
        let seen = || {
            let mut bytes = [0; 12];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 4084).unwrap();
            bytes
        };
        std::os::unix::fs::FileExt::write_all_at(&file, &[5; 12], 4084).unwrap();
        let (mut one, _other) = pairs();
        assert!(write(&mut one, 4087).is_ok());
        assert_eq!(seen(), [5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(write(&mut one, 4088).is_err(), "not past its end");
        fabric.spoil_writes(1);
        let (mut one, _other) = pairs();
        assert!(write(&mut one, 4087).is_ok());
        assert_eq!(seen().iter().filter(|&&byte| byte == 1).count(), 1, "a bit is another one");
        drop(device);
        let (mut one, _other) = pairs();
        assert!(write(&mut one, 4087).is_err(), "it is forgotten");
    }
}
