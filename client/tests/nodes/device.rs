//! A device of ordinary memory that is late, or fails, when it is told to.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use larder_gpu_bridge::{
    Batch, Device, DeviceError, DeviceRange, Direction, HostDevice, HostRange, PlacedPiece, Plan,
    Shown,
};

/// A device that does nothing while it is held, and fails at checksums if it is told to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    device: HostDevice,
    pub(crate) is_held: Arc<AtomicBool>,
    pub(crate) sums: Arc<Mutex<Sums>>,
}

/// What becomes of checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sums {
    #[default]
    Made,
    Late,
    Failed,
}

type Memory = <HostDevice as Device>::Memory;

impl Device for Held {
    type Memory = Memory;
    type Pinned = HostRange;
    type Learnt = Arc<Plan>;
    type Stream = <HostDevice as Device>::Stream;
    type Event = <HostDevice as Device>::Event;

    fn allocate(&self, bytes: u64) -> Result<Memory, DeviceError> {
        self.device.allocate(bytes)
    }
    fn pin(&self, range: HostRange) -> Result<HostRange, DeviceError> {
        self.device.pin(range)
    }
    fn learn(&self, plan: Plan) -> Result<Arc<Plan>, DeviceError> {
        self.device.learn(plan)
    }
    fn plan(learnt: &Arc<Plan>) -> &Plan {
        learnt
    }
    fn stream(&self) -> Result<Self::Stream, DeviceError> {
        self.device.stream()
    }
    fn submit(
        &self,
        stream: &mut Self::Stream,
        batch: &Batch<'_, Self>,
    ) -> Result<(), DeviceError> {
        let objects: Vec<_> = batch
            .objects
            .iter()
            .map(|object| larder_gpu_bridge::Placed::<HostDevice> {
                pinned: object.pinned,
                offset: object.offset,
                pages: object.pages,
            })
            .collect();
        let Batch { direction, memory, plan, .. } = *batch;
        self.device.submit(stream, &Batch { direction, memory, plan, objects: &objects })
    }
    fn submit_pieces(
        &self,
        stream: &mut Self::Stream,
        direction: Direction,
        pieces: &[PlacedPiece<'_, Self>],
    ) -> Result<(), DeviceError> {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let DeviceRange { memory, offset, bytes } = piece.device;
                let device = DeviceRange::<HostDevice> { memory, offset, bytes };
                device.placed(piece.pinned, piece.offset)
            })
            .collect();
        self.device.submit_pieces(stream, direction, &pieces)
    }
    fn dock(&self, bytes: u64) -> Result<(HostRange, Shown), DeviceError> {
        if *self.sums.lock().unwrap() == Sums::Failed {
            return Err(DeviceError::Unsupported { what: "no docks without checksums" });
        }
        self.device.dock(bytes)
    }
    fn checksums(
        &self,
        stream: &mut Self::Stream,
        of: &HostRange,
        ranges: &[Range<u64>],
        until: Instant,
    ) -> Result<Option<Vec<u64>>, DeviceError> {
        let sums = *self.sums.lock().unwrap();
        match sums {
            Sums::Made => self.device.checksums(stream, of, ranges, until),
            Sums::Late => Ok(None),
            Sums::Failed => Err(DeviceError::Unsupported { what: "no checksums now" }),
        }
    }
    fn keep(
        &self,
        stream: &mut Self::Stream,
        what: Box<dyn Any + Send>,
    ) -> Result<(), DeviceError> {
        self.device.keep(stream, what)
    }
    fn record(&self, stream: &mut Self::Stream) -> Result<Self::Event, DeviceError> {
        self.device.record(stream)
    }
    fn has_happened(&self, event: &Self::Event) -> Result<bool, DeviceError> {
        if self.is_held.load(Ordering::Relaxed) {
            Ok(false)
        } else {
            self.device.has_happened(event)
        }
    }
    fn wait(&self, event: &Self::Event) -> Result<(), DeviceError> {
        assert!(!self.is_held.load(Ordering::Relaxed), "waits for a device that may never answer");
        self.device.wait(event)
    }
    fn finish(&self, stream: &mut Self::Stream) -> Result<(), DeviceError> {
        self.device.finish(stream)
    }
}
