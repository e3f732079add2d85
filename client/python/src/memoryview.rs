//! Memory of ours as a `memoryview` that keeps it.
//!
//! The limited API of Python 3.10 cannot export buffers, and a `memoryview` of bare memory would
//! keep nothing alive. An array of `ctypes` at an address can be exported, and carries what keeps
//! the memory as an attribute, so that every view made of it does too.

use std::any::Any;
use std::sync::Arc;

use larder_transport::process_id;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::places::Access;

/// Keeps memory for as long as Python has it.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Keeper {
    kept: Option<Arc<dyn Any + Send + Sync>>,
    pid: u32,
}

impl Keeper {
    pub(crate) fn new(kept: Arc<dyn Any + Send + Sync>) -> Self {
        Self { kept: Some(kept), pid: process_id() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // What it was lent by lives in the parent, and its locks may be held for ever.
        if self.pid != process_id() {
            std::mem::forget(self.kept.take());
        }
    }
}

/// A view of `bytes` bytes at `address`, which are there for as long as `keeper` is.
///
/// # Errors
/// None that is known of; those of `ctypes`.
pub(crate) fn memory_view(
    py: Python<'_>,
    keeper: Keeper,
    address: usize,
    bytes: usize,
    access: Access,
) -> PyResult<Bound<'_, PyAny>> {
    let new = MEMORY_VIEW.import(py, "builtins", "memoryview")?;
    if bytes == 0 {
        return new.call1((PyBytes::new(py, b""),));
    }
    let array = BYTE.import(py, "ctypes", "c_ubyte")?.mul(bytes)?;
    let array = array.call_method1(intern!(py, "from_address"), (address,))?;
    array.setattr(intern!(py, "_keeper"), Bound::new(py, keeper)?)?;
    let view = new.call1((array,))?.call_method1(intern!(py, "cast"), ("B",))?;
    match access {
        Access::Read => view.call_method0(intern!(py, "toreadonly")),
        Access::Write => Ok(view),
    }
}

/// Looked up when the first view is made.
static MEMORY_VIEW: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static BYTE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
