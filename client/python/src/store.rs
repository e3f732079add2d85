//! `larder.Store`: one namespace, with its jobs.
//!
//! Its methods are in three files: `blocking` waits for its answers, `jobs` does not, and `address`
//! takes addresses of registered memory instead of buffers.

use std::sync::Arc;

use larder_client::{Client, Namespace};
use larder_protocol::limits::OBJECT_BYTES_MAX;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffer::Loan;
use crate::client::PyClient;
use crate::connection::Connection;
use crate::desk::Desk;
use crate::errors::{Closed, invalid, raise};
use crate::keys::key;

/// One namespace at one generation, with its own jobs and completion descriptor. Made by
/// ``Client.namespace``; usable from any thread.
///
/// Keys are ``bytes`` or ``str``, as ``Store.key`` says; sequences of them may have any length.
/// Many keys of one width are converted faster as the rows of a contiguous array of bytes with two
/// dimensions: a numpy array of ``uint8``, or ``memoryview(joined).cast("B", (count, width))``.
/// What is said of a key is a ``larder.Status``: a node that is gone, or too slow, is never an
/// exception. ``timeout`` is in seconds, ``None`` for the client's deadline.
///
/// Every method raises ``larder.Forked`` in a forked child, ``larder.Closed`` after ``close``, and
/// ``larder.InvalidArgument`` for what makes no sense; then nothing was sent.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Store {
    connection: Arc<Connection>,
    pub(crate) namespace: Namespace,
    pub(crate) desk: Arc<Desk>,
    threads: u16,
}

impl Store {
    pub(crate) fn new(connection: &Arc<Connection>, namespace: Namespace, threads: u16) -> Self {
        let desk = Arc::new(Desk::new(threads));
        connection.add_desk(&desk);
        Self { connection: Arc::clone(connection), namespace, desk, threads }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The client, for one call.
    ///
    /// # Errors
    /// `Forked`, `Closed`.
    pub(crate) fn client(&self) -> PyResult<Client> {
        let client = self.connection.client()?;
        if self.desk.is_closed() {
            return Err(Closed::new_err("the store is closed"));
        }
        Ok(client)
    }

    /// The length of each object of a put, in bytes.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the first that is too long for the namespace.
    pub(crate) fn object_sizes(&self, loan: &Loan) -> PyResult<Vec<u32>> {
        let limit = self.namespace.spec().object_bytes_max();
        let sizes = loan.places().enumerate().map(|(at, ranges)| {
            let total = ranges.iter().fold(0_usize, |sum, &(_, bytes)| sum.saturating_add(bytes));
            let size = u32::try_from(total).ok().filter(|&size| size <= limit);
            let wrong = || format!("object {at}: {total} bytes, at most {limit} in this namespace");
            size.ok_or_else(|| invalid(wrong()))
        });
        sizes.collect()
    }
}

#[pymethods]
impl Store {
    /// The client that it was made of.
    #[getter]
    #[pyo3(name = "client")]
    fn client_<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyClient>> {
        Bound::new(py, PyClient::of(Arc::clone(&self.connection)))
    }

    /// What its bytes mean: the arguments of ``Client.namespace``, as a dict.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let spec = self.namespace.spec();
        let told = PyDict::new(py);
        told.set_item("tenant", &spec.tenant)?;
        told.set_item("model", &spec.model)?;
        told.set_item("revision", &spec.revision)?;
        told.set_item("dtype", &spec.dtype)?;
        told.set_item("layout", &spec.layout)?;
        told.set_item("rank", &spec.rank)?;
        told.set_item("extra", &spec.extra)?;
        told.set_item("part_bytes", spec.part_bytes)?;
        Ok(told)
    }

    /// The generation that it reads and writes. It never changes: after a bump there is a new
    /// store.
    #[getter]
    const fn generation(&self) -> u64 {
        self.namespace.generation().0
    }

    /// Longest object that the namespace can hold, in bytes.
    #[getter]
    fn object_bytes_max(&self) -> u32 {
        self.namespace.spec().object_bytes_max().min(OBJECT_BYTES_MAX)
    }

    /// Moves the namespace to a new generation, in which nothing is, and answers a store for it.
    /// This one only misses from now on, as does everybody else's.
    ///
    /// Raises Unavailable or Denied if no shard did it.
    fn bump(&self, py: Python<'_>) -> PyResult<Self> {
        let client = self.client()?;
        let bumped = py.detach(|| client.bump(&self.namespace)).map_err(raise)?;
        Ok(Self::new(&self.connection, bumped, self.threads))
    }

    /// The key of a name: ``bytes`` of 1 to 64 as they are, ``str`` as UTF-8; what is longer
    /// becomes ``b"sha256:"`` and its digest, 39 bytes.
    #[staticmethod]
    #[pyo3(name = "key")]
    fn key_of<'py>(name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(name.py(), key(name)?.as_bytes()))
    }

    /// Ends the store: its jobs are cancelled and waited for, and their completions can still be
    /// taken. Again is fine.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.connection.check_process()?;
        self.desk.close(py)
    }

    /// Whether the store was closed, by itself or with its client.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        Ok(self.connection.is_closed()? || self.desk.is_closed())
    }

    const fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let spec = self.namespace.spec();
        let (tenant, model, generation) = (&spec.tenant, &spec.model, self.generation());
        format!("<larder.Store {tenant:?} {model:?} at generation {generation}>")
    }
}
