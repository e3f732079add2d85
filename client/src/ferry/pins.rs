//! Which memory of nodes the device may read.
//!
//! To pin a region takes seconds, and to unpin it too: a thread does both, and nobody waits. What a
//! reader would get wrong: what is pinned keeps a region mapped, so one that nobody else has is let
//! go of here, or a node that starts anew would leave its old memory with its readers for good.

use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use larder_gpu_bridge::{Device, HostRange};
use larder_transport::MappedRegion;

/// The regions that were met.
#[derive(Debug)]
pub(super) struct Pins<D: Device> {
    device: D,
    met: Vec<Met<D>>,
}

#[derive(Debug)]
struct Met<D: Device> {
    region: Weak<MappedRegion>,
    /// Empty while it is being pinned; `None` in there if it cannot be.
    pinned: Arc<OnceLock<Option<D::Pinned>>>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Device> Pins<D> {
    pub(super) const fn new(device: D) -> Self {
        Self { device, met: Vec::new() }
    }

    /// The region as the device knows it, if it does by now.
    pub(super) fn pinned(&mut self, region: &Arc<MappedRegion>) -> Option<D::Pinned> {
        let known = self.met.iter().find(|met| met.region.as_ptr() == Arc::as_ptr(region));
        if let Some(met) = known {
            return met.pinned.get()?.clone();
        }
        // Of what is pinned one owner is the pin.
        let is_gone = |met: &mut Met<D>| match met.pinned.get() {
            None => false,
            Some(None) => met.region.strong_count() == 0,
            Some(Some(_)) => met.region.strong_count() == 1,
        };
        let gone: Vec<_> = self.met.extract_if(.., is_gone).collect();
        let pinned: Arc<OnceLock<Option<D::Pinned>>> = Arc::default();
        let (device, range) = (self.device.clone(), HostRange::of_region(region));
        let cell = Arc::clone(&pinned);
        let pin = move || {
            // To unpin takes as long, and nobody waits for that either.
            drop(gone);
            let bytes = range.bytes();
            let pinned = device.pin(range).inspect_err(|error| {
                tracing::warn!(%error, bytes, "a node's memory is not pinned: its objects are \
                               copied by a processor first");
            });
            let _ = cell.set(pinned.ok());
        };
        let thread = std::thread::Builder::new().name("larder-pin".into()).spawn(pin).ok();
        if thread.is_none() {
            let _ = pinned.set(None);
        }
        self.met.push(Met { region: Arc::downgrade(region), pinned, thread });
        None
    }

    /// Waits for those that are being pinned.
    pub(super) fn settle(&mut self) {
        for thread in self.met.iter_mut().filter_map(|met| met.thread.take()) {
            let _ = thread.join();
        }
    }
}
