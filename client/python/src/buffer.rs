//! Memory of Python's objects: Python's buffers, and addresses that a caller gave, as landings and
//! sources.
//!
//! The limited API of Python 3.10 does not declare the buffer protocol, but every CPython has it,
//! with the same struct: so the declarations are ours. What a reader would get wrong: a [`Loan`]
//! may be dropped at any time, and then what is still in use is leaked, never given back; but that
//! nobody else touches the memory meanwhile is the promise of the Python program, as for every
//! library that reads into its buffers.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{
    copy_nonoverlapping, null_mut, with_exposed_provenance, with_exposed_provenance_mut,
};
use std::sync::{Arc, Mutex, Weak};

use larder_transport::{Landing, NotPresent, Registered, Source};
use pyo3::ffi::{Py_ssize_t, PyObject};
use pyo3::prelude::*;

/// The memory that an object exports; it stays where it is until this is dropped.
pub(crate) struct Export {
    /// Boxed: exporters may keep its address.
    raw: Box<RawExport>,
}

/// `Py_buffer`, as it is since Python 3.0.
#[repr(C)]
struct RawExport {
    buf: *mut c_void,
    obj: *mut PyObject,
    len: Py_ssize_t,
    itemsize: Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut Py_ssize_t,
    strides: *mut Py_ssize_t,
    suboffsets: *mut Py_ssize_t,
    internal: *mut c_void,
}

// SAFETY: it is only read, and released with the interpreter's lock held.
unsafe impl Send for Export {}
// SAFETY: as above.
unsafe impl Sync for Export {}

impl Export {
    /// What `object` exports, in any shape.
    ///
    /// # Errors
    /// The exporter's exception; `None` if the object is no buffer at all.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Result<Self, Option<PyErr>> {
        Self::asked(object, STRIDES)
    }

    /// As [`Export::of`], and it says what its items are. Not all that is memory can.
    ///
    /// # Errors
    /// As [`Export::of`].
    pub(crate) fn with_format(object: &Bound<'_, PyAny>) -> Result<Self, Option<PyErr>> {
        Self::asked(object, STRIDES | FORMAT)
    }

    fn asked(object: &Bound<'_, PyAny>, flags: c_int) -> Result<Self, Option<PyErr>> {
        // SAFETY: the object is alive while it is borrowed, and the lock is held.
        if unsafe { PyObject_CheckBuffer(object.as_ptr()) } == 0 {
            return Err(None);
        }
        let mut raw = Box::new(RawExport::EMPTY);
        // SAFETY: the object is alive, the struct is ours to fill, and the lock is held.
        if unsafe { PyObject_GetBuffer(object.as_ptr(), &raw mut *raw, flags) } != 0 {
            return Err(Some(PyErr::fetch(object.py())));
        }
        Ok(Self { raw })
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> usize {
        self.raw.buf.expose_provenance()
    }

    /// How long it is, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.raw.len).unwrap_or(0)
    }

    /// How long one of its items is, in bytes.
    pub(crate) fn item_bytes(&self) -> usize {
        usize::try_from(self.raw.itemsize).unwrap_or(0)
    }

    /// How many items it has in each dimension.
    pub(crate) fn shape(&self, _: Python<'_>) -> Vec<usize> {
        let count = usize::try_from(self.raw.ndim).unwrap_or(0);
        if self.raw.shape.is_null() || count == 0 {
            return Vec::new();
        }
        // SAFETY: its exporter was asked for a shape, which has so many numbers and stays until the
        // export is released.
        let shape = unsafe { std::slice::from_raw_parts(self.raw.shape, count) };
        shape.iter().map(|&items| usize::try_from(items).unwrap_or(0)).collect()
    }

    /// What its items are, in the letters of Python's `struct`, if it was asked and says so.
    pub(crate) fn format(&self, _: Python<'_>) -> &[u8] {
        if self.raw.format.is_null() {
            return &[];
        }
        // SAFETY: an exporter's format ends with a zero and stays until the export is released.
        unsafe { CStr::from_ptr(self.raw.format) }.to_bytes()
    }

    /// A copy of its bytes as they are now; `None` if they do not lie in one piece.
    pub(crate) fn copied(&self, py: Python<'_>) -> Option<Vec<u8>> {
        if !self.is_contiguous(py) {
            return None;
        }
        let count = self.bytes();
        let mut bytes = Vec::with_capacity(count);
        if count > 0 {
            // SAFETY: it exports so many bytes in one piece, and the vector, which is new, has room
            // for them.
            unsafe { copy_nonoverlapping(self.raw.buf.cast::<u8>(), bytes.as_mut_ptr(), count) };
            // SAFETY: so many bytes were just written.
            unsafe { bytes.set_len(count) };
        }
        Some(bytes)
    }

    pub(crate) const fn is_read_only(&self) -> bool {
        self.raw.readonly != 0
    }

    /// Whether its bytes lie in one piece, in the order of its items.
    pub(crate) fn is_contiguous(&self, _: Python<'_>) -> bool {
        // SAFETY: it was filled by its exporter, and the lock is held.
        unsafe { PyBuffer_IsContiguous(&raw const *self.raw, b'C' as c_char) != 0 }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let raw = &raw mut *self.raw;
        // Without an interpreter there is nothing to give back.
        let _ = Python::try_attach(|_| {
            // SAFETY: it was filled by PyObject_GetBuffer and not released since; the lock is held.
            unsafe { PyBuffer_Release(raw) }
        });
    }
}

impl RawExport {
    const EMPTY: Self = Self {
        buf: null_mut(),
        obj: null_mut(),
        len: 0,
        itemsize: 0,
        readonly: 0,
        ndim: 0,
        format: null_mut(),
        shape: null_mut(),
        strides: null_mut(),
        suboffsets: null_mut(),
        internal: null_mut(),
    };
}

/// What keeps a range of memory where it is.
pub(crate) enum Keep {
    /// Its exporter.
    Export(#[expect(dead_code, reason = "is dropped")] Export),
    /// Whatever owns it.
    Object(#[expect(dead_code, reason = "is dropped")] Py<PyAny>),
}

/// The memory of one batch while a call has it: some ranges for each key.
#[derive(Default)]
pub(crate) struct Loan {
    pub(crate) keeps: Vec<Keep>,
    /// An address and a length in bytes each, key after key.
    pub(crate) ranges: Vec<(usize, usize)>,
    /// Where in `ranges` those of each key end.
    pub(crate) ends: Vec<usize>,
    /// Registered memory that ranges are in: each of these counts as one in flight there.
    pub(crate) registered: Vec<Source>,
    away: Weak<Away>,
}

/// Shared by all landings or sources of one loan.
struct Away {
    /// In a lock only to be shared; nobody ever asks for it.
    _registered: Mutex<Vec<Source>>,
}

impl Loan {
    /// One landing for each key.
    pub(crate) fn landings(&mut self) -> Vec<Landing> {
        let away = self.away();
        let landings = self.places().map(|ranges| {
            let pieces = ranges.iter().map(|&(at, bytes)| (with_exposed_provenance_mut(at), bytes));
            // SAFETY: the memory is there for as long as `away` is: what keeps it is dropped after
            // that or never. That nobody else touches it, and that an address which was registered
            // is good, is promised by the Python program; `places` has checked for overlaps.
            unsafe { Landing::from_raw(pieces, Some(Arc::clone(&away))) }
        });
        landings.collect()
    }

    /// The bytes of each key.
    pub(crate) fn sources(&mut self) -> Vec<Source> {
        let away = self.away();
        let sources = self.places().map(|ranges| {
            let pieces = ranges.iter().map(|&(at, bytes)| (with_exposed_provenance(at), bytes));
            // SAFETY: as for landings; that nobody writes it is the Python program's promise.
            unsafe { Source::from_raw(pieces, Some(Arc::clone(&away))) }
        });
        sources.collect()
    }

    /// The ranges of each key.
    pub(crate) fn places(&self) -> impl Iterator<Item = &[(usize, usize)]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.ranges[start..end])
    }

    fn away(&mut self) -> Arc<dyn Any + Send + Sync> {
        let registered = Mutex::new(std::mem::take(&mut self.registered));
        let away = Arc::new(Away { _registered: registered });
        self.away = Arc::downgrade(&away);
        away
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.away.strong_count() > 0 {
            // Somebody may still write there: whatever it costs, it stays memory.
            std::mem::forget(std::mem::take(&mut self.keeps));
        }
    }
}

/// Registers memory by its address: that it stays there is the word of the Python program.
///
/// # Errors
/// [`NotPresent`] if it is no memory to read and write now.
pub(crate) fn register(
    address: usize,
    bytes: usize,
    keepalive: Option<Arc<dyn Any + Send + Sync>>,
) -> Result<Registered, NotPresent> {
    // SAFETY: the Python program promises, by registering it, that memory which is there stays and
    // may be written on any thread until it was unregistered and nothing is in flight; what keeps
    // it is given back only then.
    unsafe { Registered::new(with_exposed_provenance_mut(address), bytes, keepalive) }
}

unsafe extern "C" {
    fn PyObject_CheckBuffer(object: *mut PyObject) -> c_int;
    fn PyObject_GetBuffer(object: *mut PyObject, view: *mut RawExport, flags: c_int) -> c_int;
    fn PyBuffer_IsContiguous(view: *const RawExport, order: c_char) -> c_int;
    fn PyBuffer_Release(view: *mut RawExport);
}

/// `PyBUF_STRIDES`: any shape, and whether it may be written is for us to look at.
const STRIDES: c_int = 0x0010 | 0x0008;
/// `PyBUF_FORMAT`: what the items are, in letters.
const FORMAT: c_int = 0x0004;
