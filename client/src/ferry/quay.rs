//! A bay that nodes reach by themselves: those on this host read puts from it, and those on others
//! reach it through network cards. One copy less, and none through a socket. Beside it lies a dock
//! where device and card have one: what cards write there never comes to the bay.
//!
//! What a reader would get wrong: a node may still read here when a put's deadline has passed. What
//! it reads is checked against what the put said, so bytes that changed meanwhile are not stored.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use larder_gpu_bridge::{Bay, Device, DeviceError, Dock};
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
    /// None where there is no card, or it or the device refuses; or once it brought wrong bytes.
    pub(super) dock: Option<Dock<D>>,
    /// Until when it is not used.
    pub(super) dock_rests_until: Option<Instant>,
    /// None where the client has as many as it may: puts are sent then.
    known: Option<Arc<Known>>,
    memories: Arc<Memories>,
}

impl<D: Device> Quay<D> {
    pub(super) fn new(
        memories: &Arc<Memories>,
        device: D,
        bytes: u64,
        docks: bool,
    ) -> Result<Self, DeviceError> {
        let fabric = memories.card.fabric().filter(|_| docks);
        let dock = fabric.and_then(|fabric| {
            Dock::new(device.clone(), bytes, fabric)
                .inspect_err(|error| tracing::info!(%error, "cards write no memory of the device"))
                .ok()
        });
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
        let (_exposed, dock_rests_until) = (exposed.ok(), None);
        Ok(Self { _exposed, bay, dock, dock_rests_until, known, memories })
    }
}

impl<D: Device> Quay<D> {
    /// The bay and the dock, if there is one.
    pub(super) fn sides(&mut self) -> (&mut Bay<D>, Option<&mut Dock<D>>) {
        (&mut self.bay, self.dock.as_mut())
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
        let bays = [0, 1].map(|_| Quay::new(&memories, HostDevice, 1 << 20, true).unwrap());
        assert_eq!(memories.card.exposed().len(), 2);
        assert!(bays.iter().all(|bay| bay.dock.is_some()));
        assert!(Quay::new(&memories, HostDevice, 4096, false).unwrap().dock.is_none());
        drop(bays);
        assert!(memories.card.exposed().is_empty());
        // Without a card they are bays all the same.
        let memories = Arc::default();
        let bay = Quay::new(&memories, HostDevice, 1 << 20, true).unwrap();
        assert!(bay.known.is_some() && bay.dock.is_none());
    }
}
