//! `larder.Match`: what a match found.
//!
//! Its lists are made when they are first asked for, and are the same ones every time.

use larder_client::number::{MISS, OK};
use larder_client::{Error, KeyError, MatchResult};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

use crate::status::of_call;

/// Which keys of a chain are there, in the order of the keys asked about.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Match {
    /// Length of the run of hits at the start.
    #[pyo3(get)]
    leading: usize,
    bitmap: Vec<u8>,
    pub(crate) statuses: Vec<i32>,
    pub(crate) sizes: Vec<u32>,
    wanted: Vec<bool>,
    metas: Vec<Vec<u8>>,
    lists: [PyOnceLock<Py<PyList>>; 5],
}

impl Match {
    /// # Errors
    /// What the caller did wrong. Anything else says the same of all `count` keys.
    pub(crate) fn settle(answer: Result<MatchResult, Error>, count: usize) -> PyResult<Self> {
        match answer {
            Ok(found) => Ok(Self::of(&found)),
            Err(error) => {
                let statuses = vec![of_call(error)?; count];
                let bitmap = vec![0; count.div_ceil(8)];
                let (sizes, metas) = (vec![0; count], vec![Vec::new(); count]);
                let wanted = vec![false; count];
                let lists = [const { PyOnceLock::new() }; 5];
                Ok(Self { leading: 0, bitmap, statuses, sizes, wanted, metas, lists })
            }
        }
    }

    pub(crate) fn of(found: &MatchResult) -> Self {
        let count = found.len();
        let status = |at| found.error(at).map_or(MISS, KeyError::number);
        let mut statuses: Vec<i32> = (0..count).map(status).collect();
        let (mut sizes, mut metas) = (vec![0; count], vec![Vec::new(); count]);
        for hit in found.hits() {
            statuses[hit.index] = OK;
            sizes[hit.index] = hit.object_bytes;
            metas[hit.index] = hit.user_meta.to_vec();
        }
        let wanted = (0..count).map(|at| found.is_wanted(at)).collect();
        let (leading, bitmap) = (found.leading(), found.bitmap());
        Self {
            leading,
            bitmap,
            statuses,
            sizes,
            wanted,
            metas,
            lists: [const { PyOnceLock::new() }; 5],
        }
    }

    pub(crate) fn hit_count(&self) -> usize {
        self.statuses.iter().filter(|&&status| status == OK).count()
    }

    fn list<'py, T: IntoPyObject<'py>>(
        &self,
        py: Python<'py>,
        at: usize,
        make: impl Iterator<Item = T>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = self.lists[at].get_or_try_init(py, || {
            Ok::<_, PyErr>(PyList::new(py, make.collect::<Vec<_>>())?.unbind())
        })?;
        Ok(list.bind(py).clone())
    }
}

#[pymethods]
impl Match {
    /// One bit for each key, lowest bit of the first byte first: 1 where it is there.
    #[getter]
    fn bitmap<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.bitmap)
    }

    /// One bool for each key: whether it is there.
    #[getter]
    fn hits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 0, self.statuses.iter().map(|&status| status == OK))
    }

    /// One bool for each key: whether a put of it would be welcome. Never for a hit.
    #[getter]
    fn wanted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 1, self.wanted.iter().copied())
    }

    /// Bytes of each object; 0 for what is not there.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 2, self.sizes.iter().copied())
    }

    /// What the writer of each object said about it, up to 64 bytes; empty if it was not asked for.
    #[getter]
    fn metas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 3, self.metas.iter().map(|meta| PyBytes::new(py, meta)))
    }

    /// One ``larder.Status`` for each key: ``OK`` where it is there.
    #[getter]
    fn statuses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 4, self.statuses.iter().copied())
    }

    const fn __len__(&self) -> usize {
        self.statuses.len()
    }

    fn __repr__(&self) -> String {
        let (hits, count) = (self.hit_count(), self.statuses.len());
        format!("<larder.Match of {hits} in {count}, {} leading>", self.leading)
    }
}
