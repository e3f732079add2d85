//! A device made of ordinary memory, for tests and for machines without one.
//!
//! It is as late as a real device may be: a copy happens no sooner than somebody waits or asks for
//! it, so code that looks at a landing before its event sees old bytes here too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::{Access, Copies, Device, DeviceError, Direction};

/// A device whose memory is the host's.
///
/// Copies happen in [`Device::finish`], and one batch for each time that an event is asked for in
/// vain, so that a loop that polls gets on.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDevice;

/// Bytes that a handle and the copies under way share.
#[derive(Debug, Clone)]
pub struct HostMemory {
    bytes: Arc<Mutex<Vec<u8>>>,
    access: Access,
}

impl HostMemory {
    fn new(bytes: Vec<u8>, access: Access) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), access }
    }

    /// Its bytes, to look at or to fill. Copies wait while the guard lives.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.bytes)
    }
}

/// Batches that wait, in order.
#[derive(Debug)]
pub struct HostStream(Arc<Mutex<Queue>>);

/// A number of batches of a stream.
#[derive(Debug)]
pub struct HostEvent {
    queue: Arc<Mutex<Queue>>,
    batches: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Batch>,
    submitted: u64,
    done: u64,
}

#[derive(Debug)]
struct Batch {
    direction: Direction,
    memory: HostMemory,
    pinned: HostMemory,
    /// Offset in the pinned memory, offset in the device's, length; checked by `submit`.
    moves: Vec<(usize, usize, usize)>,
}

impl Device for HostDevice {
    type Host = Vec<u8>;
    type Memory = HostMemory;
    type Pinned = HostMemory;
    type Stream = HostStream;
    type Event = HostEvent;

    fn allocate(&self, bytes: u64) -> Result<HostMemory, DeviceError> {
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX))
            .map_err(|e| DeviceError::Call { call: "allocate", bytes, reason: e.to_string() })?;
        memory.resize(bytes as usize, 0);
        Ok(HostMemory::new(memory, Access::ReadWrite))
    }

    fn pin(&self, host: Vec<u8>, access: Access) -> Result<HostMemory, DeviceError> {
        Ok(HostMemory::new(host, access))
    }

    fn stream(&self) -> Result<HostStream, DeviceError> {
        Ok(HostStream(Arc::default()))
    }

    fn submit(
        &self,
        stream: &mut HostStream,
        copies: &Copies<'_, Self>,
    ) -> Result<(), DeviceError> {
        let (memory, pinned) = (copies.memory.clone(), copies.pinned.clone());
        if copies.direction == Direction::FromDevice && pinned.access == Access::ReadOnly {
            return Err(DeviceError::ReadOnly(copies.pieces.len()));
        }
        let memory_bytes = memory.bytes().len() as u64;
        copies.check(memory_bytes, pinned.bytes().len() as u64)?;
        let place = |piece| {
            let at = copies.pinned_at(piece).expect("checked to lie inside the pinned memory");
            (at as usize, piece.device_offset as usize, piece.bytes as usize)
        };
        let moves = copies.pieces.iter().map(place).collect();
        let mut queue = lock(&stream.0);
        queue.waiting.push_back(Batch { direction: copies.direction, memory, pinned, moves });
        queue.submitted += 1;
        Ok(())
    }

    fn record(&self, stream: &mut HostStream) -> Result<HostEvent, DeviceError> {
        let batches = lock(&stream.0).submitted;
        Ok(HostEvent { queue: Arc::clone(&stream.0), batches })
    }

    fn has_happened(&self, event: &HostEvent) -> Result<bool, DeviceError> {
        let mut queue = lock(&event.queue);
        let happened = queue.done >= event.batches;
        if !happened {
            queue.advance();
        }
        Ok(happened)
    }

    fn finish(&self, stream: &mut HostStream) -> Result<(), DeviceError> {
        let mut queue = lock(&stream.0);
        while queue.advance() {}
        Ok(())
    }
}

impl Drop for HostStream {
    /// Cancels what has not begun; an event behind it never happens.
    fn drop(&mut self) {
        lock(&self.0).waiting.clear();
    }
}

impl Queue {
    fn advance(&mut self) -> bool {
        let Some(batch) = self.waiting.pop_front() else { return false };
        let (mut memory, mut pinned) = (batch.memory.bytes(), batch.pinned.bytes());
        for (at, offset, bytes) in batch.moves {
            let device = &mut memory[offset..offset + bytes];
            let host = &mut pinned[at..at + bytes];
            match batch.direction {
                Direction::ToDevice => device.copy_from_slice(host),
                Direction::FromDevice => host.copy_from_slice(device),
            }
        }
        self.done += 1;
        true
    }
}

/// A panic elsewhere leaves bytes half copied at worst, so its poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Layout, Order, PagedCache, Shape};
    use crate::pieces::Piece;

    const SHAPE: Shape = Shape { layers: 2, planes: 2, page_tokens: 4, heads: 2, head_bytes: 8 };

    #[test]
    fn object_goes_through_a_paged_cache_and_comes_back() {
        let device = HostDevice;
        let cache = PagedCache::dense(SHAPE, 8, Order::PLANES_PAGES_HND).unwrap();
        let memory = device.allocate(cache.bytes().unwrap()).unwrap();
        let layout = Layout::new(cache, Order::PLANES_PAGES_NHD).unwrap();
        let object: Vec<u8> = (0..layout.object_bytes(3)).map(|n| (n % 251) as u8).collect();
        let pieces: Vec<_> = layout.pieces(&[6, 1, 2], 0..2).unwrap().collect();
        let source = device.pin(object.clone(), Access::ReadOnly).unwrap();
        let mut stream = device.stream().unwrap();
        let into = Copies {
            direction: Direction::ToDevice,
            memory: &memory,
            pinned: &source,
            pinned_offset: 0,
            object_first: 0,
            pieces: &pieces,
        };
        device.submit(&mut stream, &into).unwrap();
        let refused = Copies { direction: Direction::FromDevice, ..into };
        let error = device.submit(&mut stream, &refused);
        assert_eq!(error, Err(DeviceError::ReadOnly(pieces.len())));

        // Only the second layer is read back, into a landing that holds nothing else.
        let half = object.len() / 2;
        let later: Vec<_> = layout.pieces(&[6, 1, 2], 1..2).unwrap().collect();
        let landing = device.pin(vec![0; half + 5], Access::ReadWrite).unwrap();
        let back = Copies {
            direction: Direction::FromDevice,
            pinned: &landing,
            pinned_offset: 5,
            object_first: half as u64,
            pieces: &later,
            ..into
        };
        device.submit(&mut stream, &back).unwrap();
        let event = device.record(&mut stream).unwrap();
        assert_eq!(*landing.bytes(), vec![0; half + 5], "nothing happens before it is waited for");
        let polls = (0..9).take_while(|_| !device.has_happened(&event).unwrap()).count();
        assert_eq!(polls, 2, "one for each batch");
        assert_eq!(landing.bytes()[5..], object[half..]);
    }

    #[test]
    fn batch_that_leaves_its_memory_copies_nothing() {
        let device = HostDevice;
        let (memory, mut stream) = (device.allocate(10).unwrap(), device.stream().unwrap());
        let pinned = device.pin(vec![1; 10], Access::ReadOnly).unwrap();
        let good = Piece { object_offset: 2, device_offset: 0, bytes: 4 };
        let others = [
            Piece { device_offset: 7, ..good },
            Piece { device_offset: u64::MAX, ..good },
            Piece { object_offset: 9, ..good },
            Piece { object_offset: 1, ..good },
        ];
        for bad in others {
            let copies = Copies {
                direction: Direction::ToDevice,
                memory: &memory,
                pinned: &pinned,
                pinned_offset: 0,
                object_first: 2,
                pieces: &[good, bad],
            };
            let result = device.submit(&mut stream, &copies);
            assert!(matches!(result, Err(DeviceError::Bounds { bytes: 4, .. })), "{result:?}");
        }
        device.finish(&mut stream).unwrap();
        assert_eq!(*memory.bytes(), [0; 10]);
        assert!(device.allocate(u64::MAX).is_err());
    }
}
