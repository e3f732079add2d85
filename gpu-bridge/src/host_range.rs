//! Host memory that a device may be let into.
//!
//! A device reads and writes behind the compiler's back, so whoever names memory by address makes a
//! promise here, once. What a reader would get wrong: to unpin memory does not wait for copies; a
//! stream holds on to a range for as long as it needs it, and with it to what keeps it mapped.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use larder_transport::{MappedRegion, SharedMemory};

/// What a device may do with host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it: regions of a node are mapped that way.
    ReadOnly,
    /// Read and write it: landings.
    ReadWrite,
}

/// A range of host memory, and what keeps it there.
#[derive(Clone)]
pub struct HostRange {
    base: NonNull<u8>,
    bytes: u64,
    access: Access,
    _keepalive: Arc<dyn Any + Send + Sync>,
}

// SAFETY: whoever named the memory promised that it is there for every thread.
unsafe impl Send for HostRange {}
// SAFETY: as above; nothing of it is changed through a shared reference but by copies, of which the
// same promise speaks.
unsafe impl Sync for HostRange {}

impl HostRange {
    /// The `bytes` bytes from `base` on.
    ///
    /// # Safety
    /// They are initialised memory, valid for reads, and for writes if `access` says so, until the
    /// last clone of `keepalive` is dropped. While a copy that names a part of it is under way
    /// nobody else writes that part, nor reads it if the copy writes it.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        bytes: u64,
        access: Access,
        keepalive: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self { base, bytes, access, _keepalive: keepalive }
    }

    /// The memory of a node, as this process has it mapped: for reading.
    ///
    /// Copies from it are meant for what is leased. Others copy what they find, which is no more
    /// dangerous than reading it.
    pub fn of_region(region: &Arc<MappedRegion>) -> Self {
        let (base, bytes) = (region.base(), region.bytes());
        Self { base, bytes, access: Access::ReadOnly, _keepalive: Arc::clone(region) as _ }
    }

    /// All of `memory`, to be read and written.
    ///
    /// # Safety
    /// While a copy that names a part of it is under way nobody uses a reference to that part.
    pub(crate) unsafe fn of_shared(memory: &SharedMemory) -> Self {
        let (base, bytes) = (memory.base(), memory.bytes());
        Self { base, bytes, access: Access::ReadWrite, _keepalive: memory.home() }
    }

    /// Where it begins.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How long it is.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a device may do with it.
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Copies from `offset` on into all of `into`, as a device would.
    ///
    /// # Panics
    /// If it is not all inside.
    pub(crate) fn copy_to(&self, offset: u64, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: so many bytes are there to be read, and nobody writes them during a copy, as was
        // promised when the range was made; `into` is somebody's own.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Copies all of `from` to `offset` and on, as a device would.
    ///
    /// # Panics
    /// If it is not all inside, or may only be read.
    pub(crate) fn copy_from(&self, offset: u64, from: &[u8]) {
        assert_eq!(self.access, Access::ReadWrite, "submit refuses writes to other memory");
        let into = self.at(offset, from.len());
        // SAFETY: so many bytes are there to be written, and nobody else uses them during a copy,
        // as was promised when the range was made.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
    }

    fn at(&self, offset: u64, bytes: usize) -> NonNull<u8> {
        let end = offset.checked_add(bytes as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "copies are checked when submitted");
        let offset = usize::try_from(offset).expect("addresses have 64 bits");
        // SAFETY: the offset is inside the range, which is one piece of memory.
        unsafe { self.base.add(offset) }
    }
}

impl fmt::Debug for HostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, bytes, access, .. } = self;
        f.debug_struct("HostRange")
            .field("base", base)
            .field("bytes", bytes)
            .field("access", access)
            .finish_non_exhaustive()
    }
}
