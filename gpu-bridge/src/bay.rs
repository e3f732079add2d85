//! Host memory where bytes wait for the device, or for who takes them from it.
//!
//! What a reader would get wrong: a bay is either the caller's or the device's. To look at its
//! bytes waits for the device, so a caller who wants both at work has two bays.

use std::os::fd::BorrowedFd;

use larder_transport::SharedMemory;

use crate::device::{Batch, Device, DeviceError, Direction, Placed};
use crate::host_range::HostRange;

/// Pinned memory of this process, lent to a device batch by batch.
#[derive(Debug)]
pub struct Bay<D: Device> {
    memory: SharedMemory,
    pinned: D::Pinned,
    device: D,
    /// The point behind the last batch that uses it.
    busy: Option<D::Event>,
}

impl<D: Device> Bay<D> {
    /// Takes `bytes` bytes, zeroed, and pins them.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if there is no memory, or the device refuses it.
    pub fn new(device: D, bytes: u64) -> Result<Self, DeviceError> {
        let memory = SharedMemory::new(bytes).map_err(|error| DeviceError::Call {
            call: "SharedMemory::new",
            bytes,
            reason: error.to_string(),
        })?;
        // SAFETY: references to the bytes are given out by `bytes` and `bytes_mut` alone, which
        // borrow the bay and wait first, and copies are made by `submit` alone, for which the bay
        // is borrowed mutably, so that no reference is left.
        let range = unsafe { HostRange::of_shared(&memory) };
        let pinned = device.pin(range)?;
        Ok(Self { memory, pinned, device, busy: None })
    }

    /// Its bytes, once the device is done with them.
    ///
    /// # Errors
    /// What went wrong on the device meanwhile.
    pub fn bytes(&mut self) -> Result<&[u8], DeviceError> {
        self.settle()?;
        Ok(&self.memory)
    }

    /// As [`Bay::bytes`], to be written.
    ///
    /// # Errors
    /// As [`Bay::bytes`].
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], DeviceError> {
        self.settle()?;
        Ok(&mut self.memory)
    }

    /// Has copies go through `device` from here on: the same one, set to move pieces otherwise.
    pub fn through(&mut self, device: &D) {
        self.device = device.clone();
    }

    /// The memory, for a node on this host that reads puts from it. Nobody can write it by this.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.descriptor()
    }

    /// Where it begins, for those who compare addresses.
    pub fn base_address(&self) -> usize {
        self.memory.base_address()
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.memory.bytes()
    }

    /// Whether it is 0 bytes long, which no bay is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`Device::submit`], for objects at offsets in here.
    ///
    /// # Errors
    /// As [`Device::submit`].
    pub fn submit(
        &mut self,
        stream: &mut D::Stream,
        direction: Direction,
        memory: &D::Memory,
        plan: &D::Learnt,
        objects: &[(u64, &[u32])],
    ) -> Result<(), DeviceError> {
        let placed = |&(offset, pages)| Placed { pinned: &self.pinned, offset, pages };
        let objects: Vec<_> = objects.iter().map(placed).collect();
        let batch = Batch { direction, memory, plan, objects: &objects };
        let submitted = self.device.submit(stream, &batch);
        // Also after an error: some of it may be under way.
        match self.device.record(stream) {
            Ok(event) => self.busy = Some(event),
            // No point to wait for, so wait here.
            Err(error) => {
                self.device.finish(stream)?;
                return Err(error);
            }
        }
        submitted
    }

    /// Waits until the device is done with it. A bay that the device never gives back stays its.
    fn settle(&mut self) -> Result<(), DeviceError> {
        if let Some(event) = &self.busy {
            self.device.wait(event)?;
        }
        self.busy = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostDevice;
    use crate::layout::{Layout, Order, PagedCache, Shape};

    #[test]
    fn bytes_are_the_callers_only_when_the_device_is_done() {
        let device = HostDevice;
        let shape = Shape { layers: 1, planes: 1, page_tokens: 1, heads: 1, head_bytes: 100 };
        let order = Order::PLANES_PAGES_NHD;
        let layout = Layout::new(PagedCache::dense(shape, 2, order).unwrap(), order).unwrap();
        let plan = device.learn(layout.plan(1, 0..1).unwrap()).unwrap();
        let memory = device.allocate(200).unwrap();
        let mut stream = device.stream().unwrap();
        let mut bay = Bay::new(device, 4096).unwrap();
        bay.bytes_mut().unwrap()[..100].fill(3);
        bay.submit(&mut stream, Direction::ToDevice, &memory, &plan, &[(0, &[1])]).unwrap();
        assert_eq!(*memory.bytes(), [0; 200], "the device is late");
        // To write it again waits, so the first batch sees what was there before.
        bay.bytes_mut().unwrap().fill(4);
        assert_eq!(memory.bytes()[99..101], [0, 3]);
        let back = Direction::FromDevice;
        bay.submit(&mut stream, back, &memory, &plan, &[(7, &[1])]).unwrap();
        assert_eq!(bay.bytes().unwrap()[6..9], [4, 3, 3]);
    }

    #[test]
    fn bay_of_a_stream_that_was_dropped_is_not_given_out() {
        let device = HostDevice;
        let mut bay = Bay::new(device, 4096).unwrap();
        let mut stream = device.stream().unwrap();
        device.keep(&mut stream, Box::new(())).unwrap();
        bay.busy = Some(device.record(&mut stream).unwrap());
        drop(stream);
        assert!(bay.bytes().is_err() && bay.bytes_mut().is_err());
    }
}
