//! `larder.Lease`: an object, read where its node has it.
//!
//! What a reader would get wrong: to close a lease gives the object back only when no view of it is
//! left, since nothing may be read that is not there any more.

use std::sync::{Arc, Mutex, PoisonError};

use larder_client::Lease as ClientLease;
use larder_transport::process_id;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{Closed, forked};
use crate::memoryview::{Keeper, memory_view};
use crate::places::Access;

/// An object, read in place: its bytes stay as they are until the lease and all its views are gone.
///
/// Made by ``Store.lease``. Released by ``close``, at the end of ``with``, or when it is collected;
/// if views of it are left then, with the last of them. Views must not be used in a forked child.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Lease {
    held: Mutex<Option<Arc<ClientLease>>>,
    meta: Vec<u8>,
    /// Version, as its writer counts.
    #[pyo3(get)]
    version: u64,
    bytes: usize,
    pid: u32,
}

impl Lease {
    pub(crate) fn new(lease: ClientLease) -> Self {
        let (meta, version, bytes) = (lease.user_meta().to_vec(), lease.version(), lease.len());
        let held = Mutex::new(Some(Arc::new(lease)));
        Self { held, meta, version, bytes, pid: process_id() }
    }

    fn held(&self) -> PyResult<Arc<ClientLease>> {
        if self.pid != process_id() {
            return Err(forked());
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.ok_or_else(|| Closed::new_err("the lease is closed"))
    }
}

#[pymethods]
impl Lease {
    /// What the writer said about the object, up to 64 bytes.
    #[getter]
    fn meta<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.meta)
    }

    /// The bytes: a read-only ``memoryview`` of one dimension, without a copy. It, and what is made
    /// of it, keeps the lease. Raises Closed, Forked.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let held = self.held()?;
        let (address, bytes) = (held.as_ptr().expose_provenance(), held.len());
        memory_view(py, Keeper::new(held), address, bytes, Access::Read)
    }

    /// Whether the bytes, as they are now, are those that were stored. Reads all of them. Raises
    /// Closed, Forked.
    fn verify(&self, py: Python<'_>) -> PyResult<bool> {
        let held = self.held()?;
        Ok(py.detach(|| held.verify()))
    }

    /// Gives the object back, or leaves that to the last view of it. Again is fine. Raises Forked.
    fn close(&self) -> PyResult<()> {
        if self.pid != process_id() {
            return Err(forked());
        }
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    const fn __len__(&self) -> usize {
        self.bytes
    }

    const fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.close()
    }

    fn __repr__(&self) -> String {
        format!("<larder.Lease of {} bytes>", self.bytes)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What it was lent by lives in the parent, and its locks may be held for ever.
        if self.pid != process_id()
            && let Ok(held) = self.held.get_mut()
        {
            std::mem::forget(held.take());
        }
    }
}
