//! Calls that nobody waits for: submitted at once, their completions taken later.
//!
//! The names are those that LMCache calls, and one queue serves all ways of taking completions:
//! what one has taken, no other sees.

use std::os::fd::RawFd;

use larder_client::Key;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{deadline, match_options, patience};
use crate::buffer::Loan;
use crate::completion::{Completion, Op, Taken};
use crate::desk::Record;
use crate::keys::keys;
use crate::places::{Access, from_buffers};
use crate::store::Store;

#[pymethods]
impl Store {
    /// A descriptor that is readable while completions wait. It is the store's: do not read or
    /// close it.
    fn event_fd(&self) -> PyResult<RawFd> {
        self.desk.descriptor(&self.client()?)
    }

    /// As ``get_into``, without waiting. Answers the job.
    ///
    /// The buffers are kept until the completion is taken; leave them alone until then. Raises
    /// Busy.
    #[pyo3(signature = (keys, buffers, *, timeout = None))]
    fn submit_batch_get(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        buffers: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        self.client()?;
        let loan = from_buffers(buffers, keys.len(), Access::Write)?;
        self.submit_get_given(&keys, loan, timeout)
    }

    /// As ``put``, without waiting. Answers the job.
    ///
    /// The buffers are kept until the completion is taken; do not write them until then. Raises
    /// Busy.
    #[pyo3(
        signature = (keys, buffers, **options),
        text_signature = "($self, keys, buffers, *, timeout=None, if_absent=False, insist=False, \
                          metas=None, ttl=None, depths=None, tags=None, cost_hints=None, \
                          class_hints=None, versions=None)"
    )]
    fn submit_batch_set(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        buffers: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        self.client()?;
        let loan = from_buffers(buffers, keys.len(), Access::Read)?;
        self.submit_put_given(&keys, loan, options)
    }

    /// Asks which keys are there, without waiting. Answers the job. Raises Busy.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn submit_batch_exists(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let (client, options) = (self.client()?, match_options(timeout)?);
        let record = Record::without_memory(Op::Exists, keys.len());
        let namespace = &self.namespace;
        self.desk.submit(&client, record, |jobs| jobs.submit_match(namespace, keys, &options))
    }

    /// As ``remove``, without waiting. Answers the job. Raises Busy.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn submit_batch_delete(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let (client, timeout) = (self.client()?, deadline(timeout)?);
        let record = Record::without_memory(Op::Delete, keys.len());
        let namespace = &self.namespace;
        self.desk.submit(&client, record, |jobs| jobs.submit_remove(namespace, keys, timeout))
    }

    /// All completions so far, oldest first, each as ``(job, ok, error, bools)``: whether all went
    /// well (of a lookup: whether it was answered), what concerned the job as a whole or ``""``,
    /// and for each key whether it is there, read, stored (by whomever) or deleted. Never waits.
    fn drain_completions(&self) -> PyResult<Vec<Taken>> {
        self.connection().check_process()?;
        Ok(self.desk.drain()?.into_iter().map(Completion::into_taken).collect())
    }

    /// All completions so far, oldest first, as ``larder.Completion``. Never waits.
    fn drain(&self) -> PyResult<Vec<Completion>> {
        self.connection().check_process()?;
        self.desk.drain()
    }

    /// Waits for the completion of one job, ``timeout`` seconds at most, ``None`` for as long as it
    /// takes. ``None`` if it is not there by then, was taken already, or there is no such job.
    #[pyo3(signature = (job, timeout = None))]
    fn wait(&self, py: Python<'_>, job: u64, timeout: Option<f64>) -> PyResult<Option<Completion>> {
        self.connection().check_process()?;
        self.desk.wait(py, job, patience(timeout)?)
    }

    /// The completion of one job, or ``None`` if it is not there. Never waits.
    fn poll(&self, py: Python<'_>, job: u64) -> PyResult<Option<Completion>> {
        self.wait(py, job, Some(0.0))
    }

    /// Has a job end soon: keys without an answer become ``CANCELLED``. Answers whether it was
    /// under way. Its completion comes all the same, and only that says that its memory is free.
    fn cancel(&self, job: u64) -> PyResult<bool> {
        self.connection().check_process()?;
        self.desk.cancel(job)
    }

    /// Waits until no job is under way, ``timeout`` seconds at most, ``None`` for as long as it
    /// takes. Answers whether that is so. Completions stay where they are.
    #[pyo3(signature = (timeout = None))]
    fn drain_all(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.connection().check_process()?;
        self.desk.drain_all(py, patience(timeout)?)
    }
}

impl Record {
    fn without_memory(op: Op, key_count: usize) -> Self {
        Self { op, key_count, sizes: Vec::new(), loan: Loan::default() }
    }
}
