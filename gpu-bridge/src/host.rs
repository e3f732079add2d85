//! A device made of ordinary memory, for tests and for machines without one.
//!
//! It is as late as a real device may be: a copy happens no sooner than somebody waits or asks for
//! it, so code that looks at a landing before its event sees old bytes here too.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use larder_protocol::checksum::crc64;
use larder_transport::SharedMemory;

use crate::device::{Batch, Device, DeviceError, DeviceRange, Direction, PlacedPiece, within};
use crate::dock::Shown;
use crate::host_range::{Access, HostRange};
use crate::pieces::Piece;
use crate::plan::Plan;

/// A device whose memory is the host's.
///
/// Copies happen in [`Device::wait`] and [`Device::finish`], and one batch for each time that an
/// event is asked for in vain, so that a loop that polls gets on.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDevice;

/// Bytes that a handle and the copies under way share.
#[derive(Debug, Clone)]
pub struct HostMemory(Arc<Mutex<Vec<u8>>>);

impl HostMemory {
    /// Its bytes, to look at or to fill. Copies wait while the guard lives.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.0)
    }
}

/// What waits, in order.
#[derive(Debug)]
pub struct HostStream(Arc<Mutex<Queue>>);

/// A number of steps of a stream.
#[derive(Debug)]
pub struct HostEvent {
    queue: Arc<Mutex<Queue>>,
    steps: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Step>,
    submitted: u64,
    done: u64,
}

#[derive(Debug)]
enum Step {
    Copies { direction: Direction, moves: Vec<Move> },
    LetGo(#[expect(dead_code, reason = "it is here to be dropped")] Box<dyn Any + Send>),
}

/// Checked by `submit`.
#[derive(Debug)]
struct Move {
    pinned: HostRange,
    pinned_offset: u64,
    memory: HostMemory,
    device_offset: usize,
    bytes: usize,
}

impl Device for HostDevice {
    type Memory = HostMemory;
    type Pinned = HostRange;
    type Learnt = Arc<Plan>;
    type Stream = HostStream;
    type Event = HostEvent;

    fn allocate(&self, bytes: u64) -> Result<HostMemory, DeviceError> {
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX))
            .map_err(|e| DeviceError::Call { call: "allocate", bytes, reason: e.to_string() })?;
        memory.resize(bytes as usize, 0);
        Ok(HostMemory(Arc::new(Mutex::new(memory))))
    }

    fn pin(&self, range: HostRange) -> Result<HostRange, DeviceError> {
        Ok(range)
    }

    fn dock(&self, bytes: u64) -> Result<(HostRange, Shown), DeviceError> {
        let memory = SharedMemory::new(bytes).map_err(|error| DeviceError::Call {
            call: "SharedMemory::new",
            bytes,
            reason: error.to_string(),
        })?;
        // SAFETY: nobody has a reference to the bytes: what is shown is shown to cards alone.
        let range = unsafe { HostRange::of_shared(&memory) };
        Ok((range, Shown::host(memory)))
    }

    fn checksums(
        &self,
        _: &mut HostStream,
        of: &HostRange,
        ranges: &[Range<u64>],
        _: Instant,
    ) -> Result<Option<Vec<u64>>, DeviceError> {
        let sum = |range: &Range<u64>| {
            let bytes = range.end.saturating_sub(range.start);
            within("memory of objects", range.start, bytes, of.bytes())?;
            let mut copy = vec![0; bytes as usize];
            of.copy_to(range.start, &mut copy);
            Ok(crc64(&copy))
        };
        ranges.iter().map(sum).collect::<Result<_, _>>().map(Some)
    }

    fn learn(&self, plan: Plan) -> Result<Arc<Plan>, DeviceError> {
        Ok(Arc::new(plan))
    }

    fn plan(learnt: &Arc<Plan>) -> &Plan {
        learnt
    }

    fn stream(&self) -> Result<HostStream, DeviceError> {
        Ok(HostStream(Arc::default()))
    }

    fn submit(&self, stream: &mut HostStream, batch: &Batch<'_, Self>) -> Result<(), DeviceError> {
        let (memory, plan, direction) = (batch.memory, batch.plan, batch.direction);
        let memory_bytes = memory.bytes().len() as u64;
        let mut moves = Vec::new();
        for object in batch.objects {
            let pinned = object.pinned;
            object.check(plan, memory_bytes, pinned.bytes())?;
            if direction == Direction::FromDevice && pinned.access() == Access::ReadOnly {
                return Err(DeviceError::ReadOnly { bytes: plan.bytes() });
            }
            moves.extend(plan.pieces(object.pages).map(|piece: Piece| Move {
                pinned: pinned.clone(),
                pinned_offset: object.offset + piece.object_offset - plan.object_range().start,
                memory: memory.clone(),
                device_offset: piece.device_offset as usize,
                bytes: piece.bytes as usize,
            }));
        }
        stream.push(Step::Copies { direction, moves });
        Ok(())
    }

    fn submit_pieces(
        &self,
        stream: &mut HostStream,
        direction: Direction,
        pieces: &[PlacedPiece<'_, Self>],
    ) -> Result<(), DeviceError> {
        let mut moves = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let DeviceRange { memory, offset, bytes } = piece.device;
            piece.check(memory.bytes().len() as u64, piece.pinned.bytes())?;
            if direction == Direction::FromDevice && piece.pinned.access() == Access::ReadOnly {
                return Err(DeviceError::ReadOnly { bytes });
            }
            moves.push(Move {
                pinned: piece.pinned.clone(),
                pinned_offset: piece.offset,
                memory: memory.clone(),
                device_offset: offset as usize,
                bytes: bytes as usize,
            });
        }
        stream.push(Step::Copies { direction, moves });
        Ok(())
    }

    fn keep(&self, stream: &mut HostStream, what: Box<dyn Any + Send>) -> Result<(), DeviceError> {
        stream.push(Step::LetGo(what));
        Ok(())
    }

    fn record(&self, stream: &mut HostStream) -> Result<HostEvent, DeviceError> {
        let steps = lock(&stream.0).submitted;
        Ok(HostEvent { queue: Arc::clone(&stream.0), steps })
    }

    fn has_happened(&self, event: &HostEvent) -> Result<bool, DeviceError> {
        let mut queue = lock(&event.queue);
        let happened = queue.done >= event.steps;
        if !happened {
            queue.advance();
        }
        Ok(happened)
    }

    fn wait(&self, event: &HostEvent) -> Result<(), DeviceError> {
        let mut queue = lock(&event.queue);
        while queue.done < event.steps && queue.advance() {}
        let cancelled =
            DeviceError::Unsupported { what: "the stream was dropped before the event happened" };
        if queue.done < event.steps { Err(cancelled) } else { Ok(()) }
    }

    fn finish(&self, stream: &mut HostStream) -> Result<(), DeviceError> {
        let mut queue = lock(&stream.0);
        while queue.advance() {}
        Ok(())
    }
}

impl HostStream {
    fn push(&self, step: Step) {
        let mut queue = lock(&self.0);
        queue.waiting.push_back(step);
        queue.submitted += 1;
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
        let Some(step) = self.waiting.pop_front() else { return false };
        if let Step::Copies { direction, moves } = step {
            for Move { pinned, pinned_offset, memory, device_offset, bytes } in moves {
                let mut memory = memory.bytes();
                let device = &mut memory[device_offset..device_offset + bytes];
                match direction {
                    Direction::ToDevice => pinned.copy_to(pinned_offset, device),
                    Direction::FromDevice => pinned.copy_from(pinned_offset, device),
                }
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
    use crate::bay::Bay;
    use crate::device::Placed;
    use crate::layout::{Layout, LayoutError, Order, PagedCache, Shape};

    const SHAPE: Shape = Shape { layers: 2, planes: 2, page_tokens: 4, heads: 2, head_bytes: 8 };

    fn layout() -> Layout {
        let cache = PagedCache::dense(SHAPE, 8, Order::PLANES_PAGES_HND).unwrap();
        Layout::new(cache, Order::PLANES_PAGES_NHD).unwrap()
    }

    #[test]
    fn object_goes_through_a_paged_cache_and_comes_back() {
        let device = HostDevice;
        let layout = layout();
        let object: Vec<u8> = (0..layout.object_bytes(3)).map(|n| (n % 251) as u8).collect();
        let memory = device.allocate(8 * layout.object_bytes(1)).unwrap();
        let whole = device.learn(layout.plan(3, 0..2).unwrap()).unwrap();
        let (mut stream, pages) = (device.stream().unwrap(), [6, 1, 2]);
        let mut source = Bay::new(device, object.len() as u64).unwrap();
        source.bytes_mut().unwrap()[..object.len()].copy_from_slice(&object);
        let to = Direction::ToDevice;
        source.submit(&mut stream, to, &memory, &whole, &[(0, &pages)]).unwrap();

        // Only the second layer is read back, into a landing that holds nothing else.
        let half = object.len() / 2;
        let later = device.learn(layout.plan(3, 1..2).unwrap()).unwrap();
        let mut landing = vec![0; half + 5];
        let base = std::ptr::NonNull::new(landing.as_mut_ptr()).unwrap();
        let bytes = landing.len() as u64;
        // SAFETY: the vector outlives the stream's last copy, which is waited for, and is looked at
        // through its pointer alone before that.
        let range = unsafe { HostRange::from_raw(base, bytes, Access::ReadWrite, Arc::new(())) };
        let pinned = device.pin(range.clone()).unwrap();
        let back = Batch {
            direction: Direction::FromDevice,
            memory: &memory,
            plan: &later,
            objects: &[Placed { pinned: &pinned, offset: 5, pages: &pages }],
        };
        device.submit(&mut stream, &back).unwrap();
        let event = device.record(&mut stream).unwrap();
        let look = || {
            let mut seen = vec![0; half + 5];
            range.copy_to(0, &mut seen);
            seen
        };
        assert_eq!(look(), vec![0; half + 5], "nothing happens before it is waited for");
        let polls = (0..9).take_while(|_| !device.has_happened(&event).unwrap()).count();
        assert_eq!(polls, 2, "one for each batch");
        assert_eq!(look()[5..], object[half..]);
        assert_eq!(look()[..5], [0; 5]);
    }

    #[test]
    fn batch_that_leaves_its_memory_copies_nothing() {
        let device = HostDevice;
        let plan = device.learn(layout().plan(1, 0..2).unwrap()).unwrap();
        let object_bytes = layout().object_bytes(1);
        let short = device.allocate(8 * object_bytes - 1).unwrap();
        let memory = device.allocate(8 * object_bytes).unwrap();
        let mut stream = device.stream().unwrap();
        let mut bay = Bay::new(device, 4096).unwrap();
        bay.bytes_mut().unwrap().fill(1);
        let last = 4096 - object_bytes;
        let mut submit = |memory, offset, pages: &[u32]| {
            let objects = [(0, &[0][..]), (offset, pages)];
            bay.submit(&mut stream, Direction::ToDevice, memory, &plan, &objects)
        };
        for (memory, offset, pages) in
            [(&short, 0, [7]), (&memory, last + 1, [0]), (&memory, u64::MAX, [0])]
        {
            let result = submit(memory, offset, &pages);
            assert!(matches!(result, Err(DeviceError::Bounds { .. })), "{result:?}");
        }
        let result = submit(&memory, 0, &[8]);
        assert_eq!(result, Err(DeviceError::Layout(LayoutError::Pages)));
        assert_eq!(submit(&memory, last, &[7]), Ok(()), "what just fits is fine");
        device.finish(&mut stream).unwrap();
        assert!(short.bytes().iter().all(|&byte| byte == 0));
        let ones = memory.bytes().iter().filter(|&&byte| byte == 1).count() as u64;
        assert_eq!(ones, 2 * object_bytes);
        assert!(device.allocate(u64::MAX).is_err());
    }

    #[test]
    fn what_is_kept_lives_until_the_copies_before_it_have_happened() {
        let device = HostDevice;
        let mut stream = device.stream().unwrap();
        let lease = Arc::new(());
        device.keep(&mut stream, Box::new(Arc::clone(&lease))).unwrap();
        let event = device.record(&mut stream).unwrap();
        assert_eq!(Arc::strong_count(&lease), 2);
        device.wait(&event).unwrap();
        assert_eq!(Arc::strong_count(&lease), 1);

        device.keep(&mut stream, Box::new(Arc::clone(&lease))).unwrap();
        let event = device.record(&mut stream).unwrap();
        drop(stream);
        assert_eq!(Arc::strong_count(&lease), 1);
        assert!(device.wait(&event).is_err() && !device.has_happened(&event).unwrap());
    }
}
