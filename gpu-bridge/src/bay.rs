//! Host memory where bytes wait for the device, or for who takes them from it.
//!
//! What a reader would get wrong: a bay is either the caller's or the device's. To look at its
//! bytes waits for the device, so a caller who wants both at work has two bays.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use larder_transport::SharedMemory;

use crate::device::{Batch, Device, DeviceError, DeviceRange, Direction, Placed};
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
        Self::over(device, memory)
    }

    /// Pins memory that others were told of before: a network card, for one.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if the device refuses it.
    pub fn over(device: D, memory: SharedMemory) -> Result<Self, DeviceError> {
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

    /// Waits until the device is done with it, no longer than `until`. Whether it is: then its
    /// bytes are the caller's at once, until the next submission.
    ///
    /// # Errors
    /// As [`Bay::bytes`].
    pub fn settle_by(&mut self, until: Instant) -> Result<bool, DeviceError> {
        if let Some(event) = &self.busy
            && !self.device.wait_until(event, until)?
        {
            return Ok(false);
        }
        self.busy = None;
        Ok(true)
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
        self.after(stream, submitted)
    }

    /// As [`Device::submit_pieces`], for pieces at offsets in here: where in here, and where and
    /// how long on the device.
    ///
    /// # Errors
    /// As [`Device::submit_pieces`].
    pub fn submit_pieces<'a>(
        &mut self,
        stream: &mut D::Stream,
        direction: Direction,
        pieces: impl Iterator<Item = (u64, DeviceRange<'a, D>)>,
    ) -> Result<(), DeviceError> {
        let pinned = &self.pinned;
        let pieces: Vec<_> = pieces.map(|(offset, range)| range.placed(pinned, offset)).collect();
        let submitted = self.device.submit_pieces(stream, direction, &pieces);
        self.after(stream, submitted)
    }

    /// What was just submitted uses it, also after an error: some of it may be under way.
    fn after(
        &mut self,
        stream: &mut D::Stream,
        submitted: Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
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
    fn pieces_of_several_memories_come_and_go_and_one_that_leaves_its_memory_stops_them_all() {
        let device = HostDevice;
        let memories = [300, 100].map(|bytes| device.allocate(bytes).unwrap());
        let mut stream = device.stream().unwrap();
        let mut bay = Bay::new(device, 4096).unwrap();
        for (at, byte) in bay.bytes_mut().unwrap().iter_mut().enumerate() {
            *byte = at as u8;
        }
        let range =
            |which: usize, offset, bytes| DeviceRange { memory: &memories[which], offset, bytes };
        let pieces = [(7, range(0, 290, 10)), (200, range(1, 0, 100)), (0, range(0, 3, 0))];
        bay.submit_pieces(&mut stream, Direction::ToDevice, pieces.into_iter()).unwrap();
        assert_eq!(*memories[1].bytes(), [0; 100], "the device is late");
        assert!(bay.settle_by(Instant::now() + std::time::Duration::from_secs(5)).unwrap());
        let expected: Vec<u8> = (200..300).map(|at| at as u8).collect();
        assert_eq!(*memories[1].bytes(), expected);
        assert_eq!(memories[0].bytes()[289..], [0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

        for wrong in [(0, range(0, 291, 10)), (4090, range(1, 0, 7)), (0, range(1, u64::MAX, 2))] {
            let pieces = [(0, range(1, 0, 100)), wrong];
            let result = bay.submit_pieces(&mut stream, Direction::FromDevice, pieces.into_iter());
            assert!(matches!(result, Err(DeviceError::Bounds { .. })), "{result:?}");
        }
        assert_eq!(bay.bytes().unwrap()[..3], [0, 1, 2], "nothing was copied");
        let pieces = [(1, range(1, 99, 1))];
        bay.submit_pieces(&mut stream, Direction::FromDevice, pieces.into_iter()).unwrap();
        assert_eq!(bay.bytes().unwrap()[..3], [0, expected[99], 2]);
    }

    #[test]
    fn bay_that_the_device_does_not_give_back_in_time_stays_its() {
        let device = HostDevice;
        let mut bay = Bay::new(device, 4096).unwrap();
        let mut stream = device.stream().unwrap();
        (0..3).for_each(|_| device.keep(&mut stream, Box::new(())).unwrap());
        bay.busy = Some(device.record(&mut stream).unwrap());
        assert!(!bay.settle_by(Instant::now()).unwrap());
        assert!(bay.busy.is_some());
        assert!(bay.settle_by(Instant::now() + std::time::Duration::from_secs(5)).unwrap());
        assert!(bay.busy.is_none());
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
