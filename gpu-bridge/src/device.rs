//! What moves bytes between device memory and host memory, whatever the device.
//!
//! Copies are asynchronous: after `submit` neither side may be used before an event recorded behind
//! it has happened. Streams keep all they use alive until then, so dropping a handle early is safe;
//! looking early is not an error but shows old bytes.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::dock::Shown;
use crate::host_range::HostRange;
use crate::layout::LayoutError;
use crate::plan::Plan;

/// A device that copies can be given to. Clones are the same device.
///
/// Whatever fails in the device's library is a [`DeviceError::Call`] that names the call and how
/// many bytes it was about; other errors are said at their method.
pub trait Device: Clone + Debug + Send + Sync + 'static {
    /// Memory of the device. The last clone gives it back; copies under way hold one.
    type Memory: Clone + Debug + Send + Sync + 'static;
    /// Where objects are that are copied: host memory that the device reaches by itself, of which
    /// the last clone undoes the registration, or the device's own memory of a dock.
    type Pinned: Clone + Debug + Send + Sync + 'static;
    /// A plan, and what the device keeps to follow it. Clones are the same.
    type Learnt: Clone + Debug + Send + Sync + 'static;
    /// Batches of copies that happen one after the other. Dropping it waits for those that have
    /// begun; the others may be cancelled.
    type Stream: Debug + Send;
    /// A point in a stream.
    type Event: Debug + Send;

    /// Memory of the device, zeroed: what was there before belongs to somebody else.
    fn allocate(&self, bytes: u64) -> Result<Self::Memory, DeviceError>;

    /// Registers host memory. Slow, some 0.1 s a GiB: once for each region, never for each request.
    fn pin(&self, range: HostRange) -> Result<Self::Pinned, DeviceError>;

    /// Memory of the device for objects that network cards bring, zeroed, of at least `bytes`
    /// bytes, and the same as cards are shown it. Only for a device that makes checksums.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where device or driver show their memory to nobody.
    fn dock(&self, bytes: u64) -> Result<(Self::Pinned, Shown), DeviceError> {
        let _ = bytes;
        Err(DeviceError::Unsupported { what: "this device lets no network card into its memory" })
    }

    /// The protocol's checksums of ranges of memory, which nobody writes meanwhile. What others
    /// than the device have written there is seen, as far as the device knows how to see to it.
    /// Waits for them no longer than `until`; `None` if they are not made by then, and are still
    /// under way in the stream.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`], [`DeviceError::Unsupported`] for a device that makes none.
    fn checksums(
        &self,
        stream: &mut Self::Stream,
        of: &Self::Pinned,
        ranges: &[Range<u64>],
        until: Instant,
    ) -> Result<Option<Vec<u64>>, DeviceError> {
        let _ = (stream, of, ranges, until);
        Err(DeviceError::Unsupported { what: "this device makes no checksums" })
    }

    /// Readies the device for a plan. Slow: once for each plan, never for each request.
    fn learn(&self, plan: Plan) -> Result<Self::Learnt, DeviceError>;

    /// The plan that was learnt.
    fn plan(learnt: &Self::Learnt) -> &Plan;

    /// A new stream.
    fn stream(&self) -> Result<Self::Stream, DeviceError>;

    /// Queues a batch behind what the stream already has, without waiting for it.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`], [`DeviceError::Layout`] or [`DeviceError::ReadOnly`] before
    /// anything is queued. After another error some of the batch may be under way.
    fn submit(&self, stream: &mut Self::Stream, batch: &Batch<'_, Self>)
    -> Result<(), DeviceError>;

    /// As [`Device::submit`], for pieces that no plan describes. The copy engines move them.
    ///
    /// # Errors
    /// As [`Device::submit`].
    fn submit_pieces(
        &self,
        stream: &mut Self::Stream,
        direction: Direction,
        pieces: &[PlacedPiece<'_, Self>],
    ) -> Result<(), DeviceError>;

    /// Holds on to something until all that was submitted so far has happened: a lease on what is
    /// being read, for one. It is dropped by a later call with this stream or one of its events.
    fn keep(&self, stream: &mut Self::Stream, what: Box<dyn Any + Send>)
    -> Result<(), DeviceError>;

    /// The point behind everything submitted so far.
    fn record(&self, stream: &mut Self::Stream) -> Result<Self::Event, DeviceError>;

    /// Whether the stream has come past the point. Never waits. What went wrong before the point is
    /// an error here.
    fn has_happened(&self, event: &Self::Event) -> Result<bool, DeviceError>;

    /// Waits until the stream has come past the point, no longer than `until`. Whether it has: if
    /// not, nothing has changed hands.
    ///
    /// # Errors
    /// What went wrong before the point.
    fn wait_until(&self, event: &Self::Event, until: Instant) -> Result<bool, DeviceError> {
        let mut looks = 0_u32;
        while !self.has_happened(event)? {
            if Instant::now() >= until {
                return Ok(false);
            }
            looks = looks.saturating_add(1);
            if looks > LOOKS_MAX {
                std::thread::sleep(LOOK_PAUSE);
            } else {
                std::thread::yield_now();
            }
        }
        Ok(true)
    }

    /// Waits until the stream has come past the point.
    fn wait(&self, event: &Self::Event) -> Result<(), DeviceError>;

    /// Waits until the stream is empty: for shutdown, or before a landing is given back.
    fn finish(&self, stream: &mut Self::Stream) -> Result<(), DeviceError>;
}

/// Which way a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From pinned host memory.
    ToDevice,
    /// To pinned host memory.
    FromDevice,
}

/// Copies of objects of one kind, all the same way.
#[derive(Debug)]
pub struct Batch<'a, D: Device> {
    /// Which way.
    pub direction: Direction,
    /// The device's side.
    pub memory: &'a D::Memory,
    /// What to copy for each page.
    pub plan: &'a D::Learnt,
    /// The host's side, and which pages. The same page in two objects is written twice, in no
    /// order that could be relied on.
    pub objects: &'a [Placed<'a, D>],
}

/// One object in host memory, and its pages in the device's.
#[derive(Debug)]
pub struct Placed<'a, D: Device> {
    /// Where it is.
    pub pinned: &'a D::Pinned,
    /// Where in there the first byte is that the plan copies: the object's own first one, unless
    /// the plan leaves out layers in front.
    pub offset: u64,
    /// Its pages, in its order.
    pub pages: &'a [u32],
}

/// A range of device memory.
#[derive(Debug)]
pub struct DeviceRange<'a, D: Device> {
    /// What it is in.
    pub memory: &'a D::Memory,
    /// Where in there it begins, in bytes.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

impl<D: Device> Clone for DeviceRange<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for DeviceRange<'_, D> {}

impl<'a, D: Device> DeviceRange<'a, D> {
    /// With its host side.
    pub const fn placed(self, pinned: &'a D::Pinned, offset: u64) -> PlacedPiece<'a, D> {
        PlacedPiece { pinned, offset, device: self }
    }
}

/// One piece, by its place on either side.
#[derive(Debug)]
pub struct PlacedPiece<'a, D: Device> {
    /// The host's side.
    pub pinned: &'a D::Pinned,
    /// Where in there it begins.
    pub offset: u64,
    /// The device's side, as long as the host's.
    pub device: DeviceRange<'a, D>,
}

impl<D: Device> Clone for PlacedPiece<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for PlacedPiece<'_, D> {}

impl<D: Device> PlacedPiece<'_, D> {
    /// Checks both sides against the length of their memories, in bytes.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`].
    pub fn check(&self, memory_bytes: u64, pinned_bytes: u64) -> Result<(), DeviceError> {
        let DeviceRange { offset, bytes, .. } = self.device;
        within("pinned memory", self.offset, bytes, pinned_bytes)?;
        within("device memory", offset, bytes, memory_bytes)
    }
}

impl<D: Device> Clone for Placed<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Placed<'_, D> {}

impl<D: Device> Placed<'_, D> {
    /// Checks both sides of an object against the length of its memories, in bytes.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`] or [`DeviceError::Layout`].
    pub fn check(
        &self,
        plan: &Plan,
        memory_bytes: u64,
        pinned_bytes: u64,
    ) -> Result<(), DeviceError> {
        plan.check(self.pages)?;
        within("pinned memory", self.offset, plan.object_span(), pinned_bytes)?;
        self.pages.iter().try_for_each(|&page| {
            let range = plan.device_range(page);
            within("device memory", range.start, range.end - range.start, memory_bytes)
        })
    }
}

pub(crate) fn within(
    memory: &'static str,
    offset: u64,
    bytes: u64,
    limit: u64,
) -> Result<(), DeviceError> {
    let fits = offset.checked_add(bytes).is_some_and(|end| end <= limit);
    fits.then_some(()).ok_or(DeviceError::Bounds { memory, offset, bytes, limit })
}

/// Which operation of a device failed, and for how many bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A copy would leave its memory.
    #[error("copy of {bytes} bytes at {offset} leaves {memory} of {limit} bytes")]
    Bounds {
        /// Which side.
        memory: &'static str,
        /// Where it would begin.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// Length of that side.
        limit: u64,
    },
    /// An object cannot lie there.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A copy into memory that was pinned for reading.
    #[error("a copy of {bytes} bytes into memory that is pinned for reading only")]
    ReadOnly {
        /// Its length.
        bytes: u64,
    },
    /// The device, or its driver, cannot do this.
    #[error("{what}")]
    Unsupported {
        /// What it cannot do, as a sentence.
        what: &'static str,
    },
    /// A call of the device's library failed.
    #[error("{call}{}: {reason}", of(*.bytes))]
    Call {
        /// Name of the call.
        call: &'static str,
        /// How much it was about; 0 if nothing.
        bytes: u64,
        /// The library's words, with its number.
        reason: String,
    },
}

/// How much a call was about, in the words of its error.
fn of(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" of {bytes} bytes") }
}

/// How often a point is looked at before the thread sleeps in between: some ten microseconds. A
/// guess, as is the pause: copies of a bay take ten times as long.
const LOOKS_MAX: u32 = 16;
const LOOK_PAUSE: Duration = Duration::from_micros(50);
