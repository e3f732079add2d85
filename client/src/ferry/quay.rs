//! A bay that nodes reach by themselves: those on this host read puts from it, and those on others
//! reach it through network cards. One copy less, and none through a socket.
//!
//! What a reader would get wrong: a node may still read here when a put's deadline has passed. What
//! it reads is checked against what the put said, so bytes that changed meanwhile are not stored.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use larder_gpu_bridge::{Bay, Device, DeviceError};
use larder_transport::rdma::Exposed;
use larder_transport::{SharedMemory, process_id};

use crate::card::ExposedMemory;
use crate::shared::{Known, Memories};

/// A bay that a client knows.
#[derive(Debug)]
pub(super) struct Quay<D: Device> {
    /// None if the card refuses: what is for others goes by TCP then. Dropped before the memory.
    _exposed: Option<ExposedMemory>,
    bay: Bay<D>,
    /// None where the client has as many as it may: puts are sent then.
    known: Option<Arc<Known>>,
    memories: Arc<Memories>,
}

impl<D: Device> Quay<D> {
    pub(super) fn new(
        memories: &Arc<Memories>,
        device: D,
        bytes: u64,
    ) -> Result<Self, DeviceError> {
        let memory = SharedMemory::new(bytes).map_err(|error| DeviceError::Call {
            call: "SharedMemory::new",
            bytes,
            reason: error.to_string(),
        })?;
        let exposed = ExposedMemory::new(memories, |fabric| Exposed::of_shared(fabric, &memory));
        let bay = Bay::over(device, memory)?;
        let known = memories.add(bay.descriptor(), bay.base_address(), bay.len());
        let known = known
            .inspect_err(|error| tracing::debug!(%error, "a bay is not shared with nodes"))
            .ok();
        let memories = Arc::clone(memories);
        Ok(Self { _exposed: exposed.ok(), bay, known, memories })
    }
}

impl<D: Device> Deref for Quay<D> {
    type Target = Bay<D>;

    fn deref(&self) -> &Bay<D> {
        &self.bay
    }
}

impl<D: Device> DerefMut for Quay<D> {
    fn deref_mut(&mut self) -> &mut Bay<D> {
        &mut self.bay
    }
}

impl<D: Device> Drop for Quay<D> {
    fn drop(&mut self) {
        // In a forked child locks may be held for ever, and the connections are the parent's.
        if let Some(known) = self.known.take()
            && self.memories.is_own_process(process_id())
        {
            self.memories.remove(&known);
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_gpu_bridge::HostDevice;
    use larder_transport::rdma::AnyFabric;
    use larder_transport::rdma::simulated::{Faults, SimulatedFabric};

    use super::*;

    #[test]
    fn card_of_a_client_knows_its_bays_for_as_long_as_they_are() {
        let fabric = AnyFabric::Simulated(SimulatedFabric::new(7, Faults::default()));
        let memories = Arc::new(Memories::with_card(Some(fabric), crate::config::PathChoice::Auto));
        let bays = [0, 1].map(|_| Quay::new(&memories, HostDevice, 1 << 20).unwrap());
        assert_eq!(memories.card.exposed().len(), 2);
        drop(bays);
        assert!(memories.card.exposed().is_empty());
        // Without a card they are bays all the same.
        let memories = Arc::default();
        assert!(Quay::new(&memories, HostDevice, 1 << 20).unwrap().known.is_some());
    }
}
