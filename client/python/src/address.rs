//! Gets and puts by addresses of registered memory, for callers whose memory is not in Python.

use larder_client::Key;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::keys::keys;
use crate::places::{Access, from_addresses};
use crate::store::Store;

#[pymethods]
impl Store {
    /// Reads objects into registered memory.
    ///
    /// Args:
    ///     keys: the objects.
    ///     ptrs: one address for each, or a list of addresses that are filled in order, at most
    ///         512. Or an array of one address for each, or of a row of addresses for each.
    ///     sizes: bytes at each address, in the same shape, or one number for all.
    ///     timeout: seconds.
    ///
    /// Answers the bytes written for each key, or a negative ``larder.Status``; memory of a key
    /// that failed has unspecified contents. Raises InvalidArgument, naming the first range that is
    /// not registered. Arrays of 8-byte integers in one piece (``numpy.uint64``, ``array("Q")``)
    /// are taken as a whole, all others item by item.
    #[pyo3(signature = (keys, ptrs, sizes, *, timeout = None))]
    fn batch_get_into(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        let memories = self.connection().memories()?;
        let loan = from_addresses(ptrs, sizes, keys.len(), Access::Write, memories)?;
        self.get_given(ptrs.py(), &keys, loan, timeout)
    }

    /// Stores objects from registered memory: ``ptrs`` and ``sizes`` as for ``batch_get_into``, all
    /// else as for ``put``. Answers one ``larder.Status`` for each.
    #[pyo3(
        signature = (keys, ptrs, sizes, **options),
        text_signature = "($self, keys, ptrs, sizes, *, timeout=None, if_absent=False, \
                          insist=False, metas=None, ttl=None, depths=None, tags=None, \
                          cost_hints=None, class_hints=None, versions=None)"
    )]
    fn batch_put_from(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        let memories = self.connection().memories()?;
        let loan = from_addresses(ptrs, sizes, keys.len(), Access::Read, memories)?;
        self.put_given(ptrs.py(), &keys, loan, options)
    }

    /// As ``batch_get_into``, without waiting. Answers the job. Raises Busy.
    #[pyo3(signature = (keys, ptrs, sizes, *, timeout = None))]
    fn submit_get_ptrs(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let memories = self.connection().memories()?;
        let loan = from_addresses(ptrs, sizes, keys.len(), Access::Write, memories)?;
        self.submit_get_given(&keys, loan, timeout)
    }

    /// As ``batch_put_from``, without waiting. Answers the job. Raises Busy.
    #[pyo3(
        signature = (keys, ptrs, sizes, **options),
        text_signature = "($self, keys, ptrs, sizes, *, timeout=None, if_absent=False, \
                          insist=False, metas=None, ttl=None, depths=None, tags=None, \
                          cost_hints=None, class_hints=None, versions=None)"
    )]
    fn submit_put_ptrs(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        let memories = self.connection().memories()?;
        let loan = from_addresses(ptrs, sizes, keys.len(), Access::Read, memories)?;
        self.submit_put_given(&keys, loan, options)
    }
}
