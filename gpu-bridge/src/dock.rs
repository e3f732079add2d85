//! Device memory that network cards write, and from which objects go on to their pages.
//!
//! An object is written here by a card, checked here by the device, and copied from here within
//! the device: no byte of it crosses the bus twice. What a reader would get wrong: a dock is the
//! cards', or the device's, as a bay is the caller's or the device's. While a landing of it is away
//! nothing here may be used, and none is given out before the copies have happened.

use std::any::Any;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use larder_transport::rdma::{AnyFabric, DeviceMemory, Exposed, FabricError};
use larder_transport::{Landing, SharedMemory};

use crate::device::{Device, DeviceError};

/// Device memory that a card knows.
#[derive(Debug)]
pub struct Dock<D: Device> {
    /// Dropped before the memory. `None` if no card knows it.
    exposed: Option<Exposed>,
    memory: D::Pinned,
    address: u64,
    bytes: u64,
    /// For checksums, which wait for nothing that a caller's stream has.
    stream: D::Stream,
    device: D,
    /// Points behind what uses it.
    busy: Vec<D::Event>,
    /// Each landing that is away has a clone.
    away: Arc<()>,
}

/// Memory of a device as network cards are shown it.
#[derive(Debug)]
pub struct Shown(Kind);

#[derive(Debug)]
enum Kind {
    /// Of a device that is made of it.
    Host(SharedMemory),
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "made by devices alone"))]
    DmaBuf { descriptor: OwnedFd, address: u64, bytes: u64, home: Arc<dyn Any + Send + Sync> },
}

/// Why there is no dock.
#[derive(Debug, thiserror::Error)]
pub enum DockError {
    /// The device has none.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The card does not take it.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

impl<D: Device> Dock<D> {
    /// Takes memory of the device, at least `bytes` bytes, and has the card know it.
    ///
    /// # Errors
    /// [`DockError`] if either refuses.
    pub fn new(device: D, bytes: u64, fabric: &AnyFabric) -> Result<Self, DockError> {
        let (memory, shown) = device.dock(bytes)?;
        let exposed = Some(shown.expose(fabric)?);
        let (address, stream) = (shown.address(), device.stream()?);
        let (busy, away) = (Vec::new(), Arc::default());
        Ok(Self { exposed, memory, address, bytes, stream, device, busy, away })
    }

    /// As [`Dock::new`], and no card knows it: for what the device does with one.
    #[cfg(all(test, feature = "cuda"))]
    pub(crate) fn apart(device: D, bytes: u64) -> Result<Self, DeviceError> {
        let (memory, shown) = device.dock(bytes)?;
        let (address, stream) = (shown.address(), device.stream()?);
        let (busy, away) = (Vec::new(), Arc::default());
        Ok(Self { exposed: None, memory, address, bytes, stream, device, busy, away })
    }

    /// Waits until the device is done with it, no longer than `until`. Whether it is: then landings
    /// may be given out.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    pub fn settle_by(&mut self, until: Instant) -> Result<bool, DeviceError> {
        while let Some(event) = self.busy.last() {
            if !self.device.wait_until(event, until)? {
                return Ok(false);
            }
            self.busy.pop();
        }
        Ok(true)
    }

    /// Has cards write a landing here, from `offset` on. What comes another way comes to where it
    /// came before.
    ///
    /// # Panics
    /// If it does not end here, or the device is not known to be done with this.
    #[must_use]
    pub fn take(&mut self, landing: Landing, offset: u64) -> Landing {
        assert!(self.busy.is_empty(), "it was waited for");
        let end = offset.checked_add(landing.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "it ends in the dock");
        let Some(exposed) = &self.exposed else { return landing };
        let (address, away) = (self.address + offset, Arc::clone(&self.away));
        // SAFETY: the memory is used by `checksums` and `copy` alone, which see to it that nothing
        // is away, and what they began has happened.
        unsafe { landing.or_aboard(exposed, address, away) }
    }

    /// The checksums of what lies here, once made; `None` if that took longer than `until`.
    ///
    /// # Errors
    /// As [`Device::checksums`].
    ///
    /// # Panics
    /// If a landing is away.
    pub fn checksums(
        &mut self,
        ranges: &[Range<u64>],
        until: Instant,
    ) -> Result<Option<Vec<u64>>, DeviceError> {
        self.assert_ashore();
        let made = self.device.checksums(&mut self.stream, &self.memory, ranges, until);
        if !matches!(made, Ok(Some(_))) {
            let event = self.device.record(&mut self.stream)?;
            self.busy.push(event);
        }
        made
    }

    /// Has copies made that begin here, by what is told the stream and the memory.
    ///
    /// # Errors
    /// Those of the copies.
    ///
    /// # Panics
    /// If a landing is away.
    pub fn copy(
        &mut self,
        stream: &mut D::Stream,
        submit: impl FnOnce(&mut D::Stream, &D::Pinned) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.assert_ashore();
        let submitted = submit(stream, &self.memory);
        // Also after an error: some of it may be under way.
        match self.device.record(stream) {
            Ok(event) => self.busy.push(event),
            Err(error) => {
                self.device.finish(stream)?;
                return Err(error);
            }
        }
        submitted
    }

    fn assert_ashore(&self) {
        assert_eq!(Arc::strong_count(&self.away), 1, "no landing is away");
    }
}

impl Shown {
    pub(crate) const fn host(memory: SharedMemory) -> Self {
        Self(Kind::Host(memory))
    }

    /// What a dma-buf stands for, from its start on.
    #[cfg(feature = "cuda")]
    pub(crate) fn dma_buf(
        descriptor: OwnedFd,
        address: u64,
        bytes: u64,
        home: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self(Kind::DmaBuf { descriptor, address, bytes, home })
    }

    /// By which peers name it.
    fn address(&self) -> u64 {
        match &self.0 {
            Kind::Host(memory) => memory.base_address() as u64,
            Kind::DmaBuf { address, .. } => *address,
        }
    }

    fn expose(&self, fabric: &AnyFabric) -> Result<Exposed, FabricError> {
        match &self.0 {
            Kind::Host(memory) => Exposed::of_shared(fabric, memory),
            Kind::DmaBuf { descriptor, address, bytes, home } => {
                let (descriptor, offset) = (descriptor.as_fd(), 0);
                let memory = DeviceMemory { descriptor, offset, bytes: *bytes, address: *address };
                // SAFETY: the device's memory stays for as long as its home is there.
                unsafe { Exposed::of_device(fabric, &memory, Box::new(Arc::clone(home))) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
