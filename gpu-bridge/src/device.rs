//! What moves bytes between device memory and host memory, whatever the device.
//!
//! Copies are asynchronous: after `submit` neither side may be used before an event recorded behind
//! it has happened. Handles keep their memory alive until then, so dropping one early is safe;
//! looking early is not an error but shows old bytes.

use crate::pieces::Piece;

/// A device that copies can be given to.
///
/// Whatever fails in the device's library is a [`DeviceError::Call`] that names the call and how
/// many bytes it was about; other errors are said at their method.
pub trait Device {
    /// Host memory that can be pinned, such as a mapped region.
    type Host;
    /// Memory of the device. The last clone frees it; copies under way hold one.
    type Memory: Clone;
    /// Host memory that the device reaches by itself. The last clone undoes the registration.
    type Pinned: Clone;
    /// Batches of copies that happen one after the other. Dropping it waits for those that have
    /// begun and cancels the others.
    type Stream;
    /// A point in a stream.
    type Event;

    /// Memory of the device, zeroed: what was there before belongs to somebody else.
    fn allocate(&self, bytes: u64) -> Result<Self::Memory, DeviceError>;

    /// Registers host memory. Slow: once for each region, never for each request.
    fn pin(&self, host: Self::Host, access: Access) -> Result<Self::Pinned, DeviceError>;

    /// A new stream.
    fn stream(&self) -> Result<Self::Stream, DeviceError>;

    /// Queues a batch behind what the stream already has, without waiting for it.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`] or [`DeviceError::ReadOnly`] before anything is queued.
    fn submit(
        &self,
        stream: &mut Self::Stream,
        copies: &Copies<'_, Self>,
    ) -> Result<(), DeviceError>;

    /// The point behind everything submitted so far.
    fn record(&self, stream: &mut Self::Stream) -> Result<Self::Event, DeviceError>;

    /// Whether the stream has come past the point, or a copy before it failed. Never waits.
    fn has_happened(&self, event: &Self::Event) -> Result<bool, DeviceError>;

    /// Waits until the stream is empty: for shutdown, or before a landing is given back.
    fn finish(&self, stream: &mut Self::Stream) -> Result<(), DeviceError>;
}

/// What a device may do with pinned memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it: regions of a node are mapped that way.
    ReadOnly,
    /// Read and write it: landings.
    ReadWrite,
}

/// Which way a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From pinned host memory.
    ToDevice,
    /// To pinned host memory.
    FromDevice,
}

/// A batch of copies of one object, all the same way. Offsets are in bytes.
#[derive(Debug)]
pub struct Copies<'a, D: Device + ?Sized> {
    /// Which way.
    pub direction: Direction,
    /// The device's side.
    pub memory: &'a D::Memory,
    /// The host's side.
    pub pinned: &'a D::Pinned,
    /// Where in the pinned memory byte `object_first` of the object is.
    pub pinned_offset: u64,
    /// First byte of the object that is there: more than 0 if only later layers are.
    pub object_first: u64,
    /// What goes where.
    pub pieces: &'a [Piece],
}

impl<D: Device + ?Sized> Copies<'_, D> {
    /// Checks every piece against the lengths of both sides, in bytes.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`] for the first piece that leaves its memory.
    pub fn check(&self, memory_bytes: u64, pinned_bytes: u64) -> Result<(), DeviceError> {
        for piece in self.pieces {
            let sides = [
                ("device memory", Some(piece.device_offset), memory_bytes),
                ("pinned memory", self.pinned_at(piece), pinned_bytes),
            ];
            for (memory, offset, limit) in sides {
                let end = offset.and_then(|offset| offset.checked_add(piece.bytes));
                if end.is_none_or(|end| end > limit) {
                    let bytes = piece.bytes;
                    return Err(DeviceError::Bounds { memory, offset, bytes, limit });
                }
            }
        }
        Ok(())
    }

    /// Where a piece begins in the pinned memory; `None` if it lies before `object_first`.
    pub fn pinned_at(&self, piece: &Piece) -> Option<u64> {
        piece.object_offset.checked_sub(self.object_first)?.checked_add(self.pinned_offset)
    }
}

/// Which operation of a device failed, and for how many bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A copy would leave its memory.
    #[error("copy of {bytes} bytes at {offset:?} leaves {memory} of {limit} bytes")]
    Bounds {
        /// Which side.
        memory: &'static str,
        /// Where it would begin; none if before the start.
        offset: Option<u64>,
        /// Its length.
        bytes: u64,
        /// Length of that side.
        limit: u64,
    },
    /// Copies into memory that was pinned for reading.
    #[error("{0} copies into memory that is pinned for reading only")]
    ReadOnly(usize),
    /// A call of the device's library failed.
    #[error("{call} of {bytes} bytes: {reason}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// How much it was about; 0 if nothing.
        bytes: u64,
        /// The library's words.
        reason: String,
    },
}
