//! Memory that a simulated fabric knows: by which key and name, where it is, and what keeps it.
//!
//! What a reader would get wrong: the name is where it is, but for memory of another device.

use std::sync::{Arc, Mutex};

use crate::rdma::device_memory::Home as DeviceHome;
use crate::rdma::fabric::Memory;
use crate::rdma::simulated::mapped::Mapped;
use crate::rdma::simulated::{World, lock};
use crate::region::Region;
use crate::registered::Registered;

/// Registered memory of a [`SimulatedFabric`](crate::rdma::simulated::SimulatedFabric).
#[derive(Debug, Clone)]
pub struct SimulatedMemory {
    pub(super) entry: Arc<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) key: u32,
    pub(super) span: Span,
    /// Keeps the memory where it is.
    pub(super) _home: Home,
}

#[derive(Debug)]
pub(super) enum Home {
    Region(#[expect(dead_code, reason = "is dropped")] Arc<Region>),
    Registered(#[expect(dead_code, reason = "is dropped")] Registered),
    Device(Mapped, #[expect(dead_code, reason = "is dropped")] DeviceHome),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// By which it is named, and where it is: the same but for another device's.
    pub(super) address: u64,
    pub(super) base: u64,
    pub(super) bytes: u64,
    pub(super) for_peers: bool,
}

impl Memory for SimulatedMemory {
    fn local_key(&self) -> u32 {
        self.entry.key
    }

    fn remote_key(&self) -> Option<u32> {
        self.entry.span.for_peers.then_some(self.entry.key)
    }

    fn contains(&self, address: u64, bytes: u64) -> bool {
        self.entry.span.contains(address, bytes)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.world).memories.remove(&self.key);
    }
}

impl Span {
    /// Of what is kept by `home`.
    pub(super) fn new(address: u64, bytes: u64, home: &Home) -> Self {
        let for_peers = !matches!(home, Home::Region(_));
        let base = if let Home::Device(mapped, _) = home { mapped.base() } else { address };
        Self { address, base, bytes, for_peers }
    }

    pub(super) fn contains(&self, address: u64, bytes: u64) -> bool {
        let inside = address.checked_sub(self.address);
        inside.and_then(|inside| inside.checked_add(bytes)).is_some_and(|end| end <= self.bytes)
    }

    /// Where it is what is inside under this name.
    pub(super) fn place(&self, address: u64) -> Option<usize> {
        usize::try_from(self.base + (address - self.address)).ok()
    }
}
