//! Gets and puts of objects that lie in a device's memory.
//!
//! What a reader would get wrong: with a stream a get returns when its answers are final and its
//! bytes are on their way: work that is queued on that stream from then on finds them.

use larder_client::{Key, PutObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::get_options;
use crate::buffer::Loan;
use crate::device_memory::Streams;
use crate::devices::Call;
use crate::errors::invalid;
use crate::keys::keys;
use crate::places::{Access, from_device_addresses, from_tensors};
use crate::puts::Puts;
use crate::status::{numbers, settle};
use crate::store::Store;

#[pymethods]
impl Store {
    /// Reads objects into tensors of a device, which lie in memory that ``Client.register_device``
    /// was told of.
    ///
    /// Args:
    ///     keys: the objects.
    ///     tensors: one contiguous tensor, or array with ``__cuda_array_interface__``, for each; or
    ///         a list of them, which are filled in order, at most 512. All of one device.
    ///     stream: handle of a stream of that device, or a torch stream. The copies wait for what
    ///         it has, and what it gets afterwards waits for the copies. ``None`` for torch's
    ///         current one if torch is imported and uses devices. Else, and where arrays say what
    ///         stream they are written on, the copies wait for that, or for the default stream,
    ///         and this waits for the copies.
    ///     timeout: seconds.
    ///
    /// Answers the bytes for each key, or a negative ``larder.Status``; memory of a key that failed
    /// is left alone from then on, with unspecified contents. Raises InvalidArgument, and OsError
    /// if the device fails.
    #[pyo3(signature = (keys, tensors, *, stream = None, timeout = None))]
    fn get_device(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        tensors: &Bound<'_, PyAny>,
        stream: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        self.client()?;
        let loan = from_tensors(tensors, keys.len(), Access::Write)?;
        let streams = self.streams(tensors.py(), &loan, stream.as_ref(), Some(tensors))?;
        self.get_aboard(tensors.py(), &keys, &loan, &streams, timeout)
    }

    /// Stores objects from tensors of a device: ``tensors`` and ``stream`` as for ``get_device``,
    /// all else as for ``put``. Waits until they are stored. Answers one ``larder.Status`` for
    /// each.
    #[pyo3(
        signature = (keys, tensors, *, stream = None, **options),
        text_signature = "($self, keys, tensors, *, stream=None, timeout=None, if_absent=False, \
                          insist=False, metas=None, ttl=None, depths=None, tags=None, \
                          cost_hints=None, class_hints=None, versions=None)"
    )]
    fn put_device(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        tensors: &Bound<'_, PyAny>,
        stream: Option<Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        self.client()?;
        let loan = from_tensors(tensors, keys.len(), Access::Read)?;
        let streams = self.streams(tensors.py(), &loan, stream.as_ref(), Some(tensors))?;
        self.put_aboard(tensors.py(), &keys, &loan, &streams, options)
    }

    /// As ``get_device``, by addresses of registered memory of a device: ``ptrs`` and ``sizes`` as
    /// for ``batch_get_into``.
    #[pyo3(signature = (keys, ptrs, sizes, *, stream = None, timeout = None))]
    fn batch_get_device(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        stream: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        self.client()?;
        let loan = from_device_addresses(ptrs, sizes, keys.len(), Access::Write)?;
        let streams = self.streams(ptrs.py(), &loan, stream.as_ref(), None)?;
        self.get_aboard(ptrs.py(), &keys, &loan, &streams, timeout)
    }

    /// As ``put_device``, by addresses of registered memory of a device.
    #[pyo3(
        signature = (keys, ptrs, sizes, *, stream = None, **options),
        text_signature = "($self, keys, ptrs, sizes, *, stream=None, timeout=None, \
                          if_absent=False, insist=False, metas=None, ttl=None, depths=None, \
                          tags=None, cost_hints=None, class_hints=None, versions=None)"
    )]
    fn batch_put_device(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        ptrs: &Bound<'_, PyAny>,
        sizes: &Bound<'_, PyAny>,
        stream: Option<Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        self.client()?;
        let loan = from_device_addresses(ptrs, sizes, keys.len(), Access::Read)?;
        let streams = self.streams(ptrs.py(), &loan, stream.as_ref(), None)?;
        self.put_aboard(ptrs.py(), &keys, &loan, &streams, options)
    }
}

impl Store {
    fn streams(
        &self,
        py: Python<'_>,
        loan: &Loan,
        stream: Option<&Bound<'_, PyAny>>,
        tensors: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Streams> {
        Streams::of_call(stream, tensors, py, self.connection().devices().device_of(loan))
    }

    fn get_aboard(
        &self,
        py: Python<'_>,
        keys: &[Key],
        loan: &Loan,
        streams: &Streams,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let call = Call { client: &client, namespace: &self.namespace, loan, streams };
        let answer = self.connection().devices().get(py, &call, keys, &options)?;
        let read = settle(answer, keys.len())?.into_iter();
        Ok(read.map(|key| key.map_or_else(i64::from, i64::from)).collect())
    }

    fn put_aboard(
        &self,
        py: Python<'_>,
        keys: &[Key],
        loan: &Loan,
        streams: &Streams,
        said: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        let client = self.client()?;
        self.object_sizes(loan)?;
        let mut puts = Puts::parse(said, keys.len())?;
        let objects = keys.iter().enumerate().map(|(at, &key)| puts.object(at, key, ()));
        let objects: Vec<PutObject<()>> = objects.collect();
        let call = Call { client: &client, namespace: &self.namespace, loan, streams };
        let answer = self.connection().devices().put(py, &call, &objects, &puts.options)?;
        Ok(numbers(&settle(answer, keys.len())?))
    }
}

/// A range of memory that no registration holds.
pub(crate) fn not_registered(at: usize, piece: usize, (address, bytes): (usize, usize)) -> PyErr {
    invalid(format_args!(
        "[{at}][{piece}]: {bytes} bytes at {address:#x} are no registered memory of a device"
    ))
}
