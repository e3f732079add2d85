//! Memory of a peer, for whoever tests the other end of a simulated fabric.
//!
//! Safe to use: the fabric moves bytes under its lock, and so does the owner of this memory. What a
//! reader would get wrong: it shows what has arrived by now, not what will have.

use std::sync::Arc;

use crate::rdma::fabric::{Fabric, FabricError, Memory};
use crate::rdma::simulated::{SimulatedFabric, SimulatedMemory, lock};
use crate::registered::Registered;

/// Memory that a peer of a [`SimulatedFabric`] has exposed. It is taken back when this is dropped.
#[derive(Debug)]
pub struct PeerMemory {
    fabric: SimulatedFabric,
    memory: SimulatedMemory,
    bytes: Arc<Bytes>,
}

/// Bytes that are touched under the fabric's lock alone.
#[derive(Debug)]
struct Bytes(*mut [u8]);

// SAFETY: bytes are nobody's thread's; those who touch them hold the fabric's lock.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: it was a box. The registration kept it, so none of it is left.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl SimulatedFabric {
    /// Memory of a peer, of `bytes` bytes that all are `filled`.
    ///
    /// # Errors
    /// As [`Fabric::expose`].
    pub fn peer_memory(&self, bytes: usize, filled: u8) -> Result<PeerMemory, FabricError> {
        let bytes = Arc::new(Bytes(Box::into_raw(vec![filled; bytes].into_boxed_slice())));
        let (address, len, keepalive) = (bytes.0.cast::<u8>(), bytes.0.len(), Arc::clone(&bytes));
        // SAFETY: the box is kept by what is registered, and touched under the fabric's lock only.
        let registered = unsafe { Registered::new(address, len, Some(keepalive)) };
        let absent = |error| FabricError::new("register", std::io::Error::other(error));
        // SAFETY: its bytes are for whatever works do with them.
        let memory = unsafe { self.expose(&registered.map_err(absent)?) }?;
        Ok(PeerMemory { fabric: self.clone(), memory, bytes })
    }
}

impl PeerMemory {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.bytes.0.cast::<u8>().expose_provenance() as u64
    }

    /// What works name it by.
    pub fn key(&self) -> u32 {
        self.memory.remote_key().expect("it was exposed")
    }

    /// The `bytes` bytes from `at` on, as they are now.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn read(&self, at: usize, bytes: usize) -> Vec<u8> {
        let from = self.place(at, bytes);
        let mut copy = vec![0; bytes];
        let _still = lock(&self.fabric.world);
        // SAFETY: inside, and the fabric stands still.
        unsafe { std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), bytes) };
        copy
    }

    /// Writes `bytes` from `at` on.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.place(at, bytes.len());
        let _still = lock(&self.fabric.world);
        // SAFETY: inside, and the fabric stands still.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    fn place(&self, at: usize, bytes: usize) -> *mut u8 {
        let end = at.checked_add(bytes).filter(|&end| end <= self.bytes.0.len());
        assert!(end.is_some(), "{bytes} bytes at {at} are not inside");
        self.bytes.0.cast::<u8>().wrapping_add(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::simulated::Faults;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        let fabric = SimulatedFabric::new(1, Faults::default());
        let memory = fabric.peer_memory(100, 7).unwrap();
        memory.write(10, b"abc");
        assert_eq!(memory.read(9, 5), b"\x07abc\x07");
        let (address, key) = (memory.address(), memory.key());
        assert!(lock(&fabric.world).memory(key, address, 100, true).is_some());
        drop(memory);
        assert!(lock(&fabric.world).memory(key, address, 100, true).is_none(), "taken back");
    }
}
