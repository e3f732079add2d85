//! `larder.Match`: what a match found; and what may be said with one.
//!
//! Its lists are made when they are first asked for, and are the same ones every time: most callers
//! look at one of them, or at none.

use larder_client::number::{MISS, OK};
use larder_client::{Error, KeyError, MatchOptions, MatchResult};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::arguments::deadline;
use crate::errors::invalid;
use crate::status::of_call;

/// Which keys of a chain are there, in the order of the keys asked about.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Match {
    /// Length of the run of hits at the start.
    #[pyo3(get)]
    leading: usize,
    answer: Answer,
    lists: [PyOnceLock<Py<PyList>>; 5],
}

enum Answer {
    Found(MatchResult),
    /// The call failed: the same status for each of so many keys.
    Failed(i32, usize),
}

impl Match {
    /// # Errors
    /// What the caller did wrong. Anything else says the same of all `count` keys.
    pub(crate) fn settle(answer: Result<MatchResult, Error>, count: usize) -> PyResult<Self> {
        let lists = [const { PyOnceLock::new() }; 5];
        match answer {
            Ok(found) => Ok(Self { leading: found.leading(), answer: Answer::Found(found), lists }),
            Err(error) => {
                let answer = Answer::Failed(of_call(error)?, count);
                Ok(Self { leading: 0, answer, lists })
            }
        }
    }

    pub(crate) fn hit_count(&self) -> usize {
        self.found().map_or(0, |found| found.hits().count())
    }

    const fn found(&self) -> Option<&MatchResult> {
        match &self.answer {
            Answer::Found(found) => Some(found),
            Answer::Failed(..) => None,
        }
    }

    const fn count(&self) -> usize {
        match &self.answer {
            Answer::Found(found) => found.len(),
            Answer::Failed(_, count) => *count,
        }
    }

    fn list<'py, T: IntoPyObject<'py>>(
        &self,
        py: Python<'py>,
        at: usize,
        make: impl FnOnce() -> Vec<T>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = self.lists[at]
            .get_or_try_init(py, || Ok::<_, PyErr>(PyList::new(py, make())?.unbind()))?;
        Ok(list.bind(py).clone())
    }
}

/// The keywords of a match.
///
/// # Errors
/// `InvalidArgument` for what makes no sense, `TypeError` for a keyword that there is not.
pub(crate) fn matches(said: Option<&Bound<'_, PyDict>>) -> PyResult<MatchOptions> {
    let mut options = MatchOptions::default();
    let hints = &mut options.hints;
    for (name, value) in said.into_iter().flatten() {
        let name: String = name.extract()?;
        let wrong = || invalid(format_args!("{name}: no number that fits"));
        match name.as_str() {
            "touch" => options.touch = value.is_truthy()?,
            "with_meta" => options.with_meta = value.is_truthy()?,
            "timeout" => options.deadline = deadline(value.extract()?)?,
            "kind" => hints.class = value.extract().map_err(|_| wrong())?,
            "ends_partly" => hints.is_last_partial = value.is_truthy()?,
            "object_bytes" => hints.object_bytes = value.extract().map_err(|_| wrong())?,
            other => {
                let what = format!("a match has no keyword argument '{other}'");
                return Err(PyTypeError::new_err(what));
            }
        }
    }
    Ok(options)
}

/// One status for each key of a match.
pub(crate) fn statuses(found: &MatchResult) -> Vec<i32> {
    let status = |at| found.error(at).map_or(MISS, KeyError::number);
    let each = (0..found.len()).map(|at| if found.is_hit(at) { OK } else { status(at) });
    each.collect()
}

/// Bytes of each object of a match; 0 for what is not there.
pub(crate) fn sizes(found: &MatchResult) -> Vec<u32> {
    let mut sizes = vec![0; found.len()];
    found.hits().for_each(|hit| sizes[hit.index] = hit.object_bytes);
    sizes
}

#[pymethods]
impl Match {
    /// One bit for each key, lowest bit of the first byte first: 1 where it is there.
    #[getter]
    fn bitmap<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let nothing = || vec![0; self.count().div_ceil(8)];
        PyBytes::new(py, &self.found().map_or_else(nothing, MatchResult::bitmap))
    }

    /// One bool for each key: whether it is there.
    #[getter]
    fn hits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let is_hit = |at| self.found().is_some_and(|found| found.is_hit(at));
        self.list(py, 0, || (0..self.count()).map(is_hit).collect())
    }

    /// One bool for each key: whether a put of it would be welcome. Never for a hit.
    #[getter]
    fn wanted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let is_wanted = |at| self.found().is_some_and(|found| found.is_wanted(at));
        self.list(py, 1, || (0..self.count()).map(is_wanted).collect())
    }

    /// Bytes of each object; 0 for what is not there.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 2, || self.found().map_or_else(|| vec![0; self.count()], sizes))
    }

    /// What the writer of each object said about it, up to 64 bytes; empty if it was not asked for.
    #[getter]
    fn metas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 3, || {
            let mut metas = vec![PyBytes::new(py, b""); self.count()];
            let hits = self.found().into_iter().flat_map(MatchResult::hits);
            hits.for_each(|hit| metas[hit.index] = PyBytes::new(py, hit.user_meta));
            metas
        })
    }

    /// One ``larder.Status`` for each key: ``OK`` where it is there.
    #[getter]
    fn statuses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, 4, || match &self.answer {
            Answer::Found(found) => statuses(found),
            Answer::Failed(status, count) => vec![*status; *count],
        })
    }

    const fn __len__(&self) -> usize {
        self.count()
    }

    fn __repr__(&self) -> String {
        let (hits, count) = (self.hit_count(), self.count());
        format!("<larder.Match of {hits} in {count}, {} leading>", self.leading)
    }
}
