//! A bay that nodes on this host read puts from: one copy less, and none through a socket.
//!
//! What a reader would get wrong: a node may still read here when a put's deadline has passed. What
//! it reads is checked against what the put said, so bytes that changed meanwhile are not stored.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use larder_gpu_bridge::{Bay, Device, DeviceError};
use larder_transport::process_id;

use crate::client::Client;
use crate::shared::{Known, Memories};

/// A bay that a client knows.
#[derive(Debug)]
pub(super) struct Quay<D: Device> {
    bay: Bay<D>,
    /// None where the client has as many as it may: puts are sent then.
    known: Option<Arc<Known>>,
    memories: Arc<Memories>,
}

impl<D: Device> Quay<D> {
    pub(super) fn new(client: &Client, device: D, bytes: u64) -> Result<Self, DeviceError> {
        let bay = Bay::new(device, bytes)?;
        let memories = Arc::clone(&client.shared.memories);
        let known = memories.add(bay.descriptor(), bay.base_address(), bay.len());
        let known = known
            .inspect_err(|error| tracing::debug!(%error, "a bay is not shared with nodes"))
            .ok();
        Ok(Self { bay, known, memories })
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
