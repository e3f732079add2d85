//! Calls that wait for their answers, with the interpreter's lock let go.
//!
//! What a reader would get wrong: when one returns, nothing touches the caller's memory any more,
//! whatever the statuses are.

use larder_client::{Key, MatchOptions};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::arguments::{deadline, duration, get_options, match_options};
use crate::keys::{key, keys};
use crate::lease::Lease;
use crate::matched::{Match, matches};
use crate::places::{Access, from_buffers};
use crate::status::{numbers, of_call, settle};
use crate::store::Store;

impl Store {
    fn match_all(&self, py: Python<'_>, keys: &[Key], options: &MatchOptions) -> PyResult<Match> {
        let client = self.client()?;
        let answer = py.detach(|| client.match_chain(&self.namespace, keys, options));
        Match::settle(answer, keys.len())
    }
}

#[pymethods]
impl Store {
    /// Which keys of a chain are there, in order from its head: a ``larder.Match``.
    ///
    /// Args:
    ///     keys: the chain.
    ///     touch: counts as a use of what is there, by one request that goes on to get and put.
    ///     with_meta: brings what the writer of each object said about it.
    ///     timeout: seconds.
    ///
    /// What a node's policy learns from, of a request that touches:
    ///     kind: 1 for one that a tool's call ends, 2 for one that ends a turn, 0 if not known.
    ///     ends_partly: whether the chain's last object holds less than one may, so that no longer
    ///         chain goes on from it.
    ///     object_bytes: how long the missing objects are, each; 0 if not known.
    #[pyo3(
        name = "match",
        signature = (keys, **said),
        text_signature = "($self, keys, *, touch=False, with_meta=False, timeout=None, kind=0, \
                          ends_partly=False, object_bytes=0)"
    )]
    fn match_(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        said: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Match> {
        self.match_all(py, &keys, &matches(said)?)
    }

    /// How many keys at the start of a chain are there.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn batch_exists_prefix(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let (client, options) = (self.client()?, match_options(timeout)?);
        match py.detach(|| client.match_chain(&self.namespace, &keys, &options)) {
            Ok(found) => Ok(found.leading()),
            Err(error) => of_call(error).map(|_| 0),
        }
    }

    /// Counts as a use of each key. Answers how many were there.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn touch(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let options = MatchOptions { touch: true, ..match_options(timeout)? };
        Ok(self.match_all(py, &keys, &options)?.hit_count())
    }

    /// Reads objects into new ``bytes``; ``None`` for what could not be read.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let answer = py.detach(|| client.get(&self.namespace, &keys, &options));
        let objects = settle(answer, keys.len())?.into_iter();
        let objects = objects.map(|key| key.ok().map(|object| PyBytes::new(py, &object.bytes)));
        PyList::new(py, objects.collect::<Vec<_>>())
    }

    /// Reads one object into new ``bytes``; ``None`` if it could not be read.
    #[pyo3(signature = (key, *, timeout = None))]
    fn get_one<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = key)] key: Key,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let answer = py.detach(|| client.get(&self.namespace, &[key], &options));
        let object = settle(answer, 1)?.pop().and_then(Result::ok);
        Ok(object.map(|object| PyBytes::new(py, &object.bytes)))
    }

    /// Reads objects into memory: one writable buffer for each key, or a list of buffers that are
    /// filled in order, at most 512.
    ///
    /// Answers the bytes written for each key, or a negative ``larder.Status``; memory of a key
    /// that failed has unspecified contents.
    #[pyo3(signature = (keys, buffers, *, timeout = None))]
    fn get_into(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        buffers: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        self.client()?;
        let loan = from_buffers(buffers, keys.len(), Access::Write)?;
        self.get_given(buffers.py(), &keys, loan, timeout)
    }

    /// Stores objects: one buffer for each key, or a list of buffers that are one object together,
    /// at most 512. Answers one ``larder.Status`` for each: ``OK`` means that a reader finds it
    /// now.
    ///
    /// Args:
    ///     keys, buffers: the objects.
    ///     timeout: seconds.
    ///     if_absent: keeps what is there instead of replacing it.
    ///     metas: up to 64 bytes for each object, which come back with it.
    ///     ttl: seconds that they live, or a list with those of each (or ``None``).
    ///     depths: place of each in its chain, from 0.
    ///     tags: up to 4 numbers for each.
    ///     cost_hints: what recomputing each would cost, in microseconds of accelerator time.
    ///     class_hints: what kind of request each comes from, 0 to 255.
    ///     versions: version of each, as the writer counts.
    #[pyo3(
        signature = (keys, buffers, **options),
        text_signature = "($self, keys, buffers, *, timeout=None, if_absent=False, insist=False, \
                          metas=None, ttl=None, depths=None, tags=None, cost_hints=None, \
                          class_hints=None, versions=None)"
    )]
    fn put(
        &self,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        buffers: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        self.client()?;
        let loan = from_buffers(buffers, keys.len(), Access::Read)?;
        self.put_given(buffers.py(), &keys, loan, options)
    }

    /// Removes objects. Answers one ``larder.Status`` for each: ``OK`` if it was there and is gone,
    /// ``MISS`` if it was not there.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn remove(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i32>> {
        let (client, timeout) = (self.client()?, deadline(timeout)?);
        let answer = py.detach(|| client.remove(&self.namespace, &keys, timeout));
        Ok(numbers(&settle(answer, keys.len())?))
    }

    /// Has objects evicted last for so many seconds from now, or as all others again with 0.
    /// Answers one ``larder.Status`` for each: ``OK`` if it is there, ``MISS`` if it is not,
    /// ``NO_ROOM`` if its tenant has as much pinned as the node allows.
    #[pyo3(signature = (keys, seconds, *, timeout = None))]
    fn pin(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        seconds: f64,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i32>> {
        let (client, timeout) = (self.client()?, deadline(timeout)?);
        let keep_for = duration(seconds, "seconds")?;
        let answer = py.detach(|| client.pin(&self.namespace, &keys, keep_for, timeout));
        Ok(numbers(&settle(answer, keys.len())?))
    }

    /// Reads objects where they are, without a copy, if their node is on this host. Answers a
    /// ``larder.Lease`` or a negative ``larder.Status`` for each.
    ///
    /// A node lends a client only so much at a time: what would be more is ``BUSY``.
    #[pyo3(signature = (keys, *, timeout = None))]
    fn lease<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = keys)] keys: Vec<Key>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let answer = py.detach(|| client.lease(&self.namespace, &keys, &options));
        let list = PyList::empty(py);
        for lease in settle(answer, keys.len())? {
            match lease {
                Ok(lease) => list.append(Bound::new(py, Lease::new(lease))?)?,
                Err(status) => list.append(status)?,
            }
        }
        Ok(list)
    }
}
