//! `larder.Completion`: what became of a job.

use larder_client::number::{EXISTS, NOT_WANTED, OK};
use larder_client::{Finished, KeyResult, Outcome};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::desk::Record;
use crate::matched;

/// What became of a job: one status for each of its keys.
///
/// When it is there, nothing touches the job's memory any more.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Completion {
    /// What submitting the job answered.
    #[pyo3(get)]
    job: u64,
    op: Op,
    /// What concerned the job as a whole; empty if nothing did.
    #[pyo3(get)]
    error: String,
    statuses: Vec<i32>,
    sizes: Vec<u32>,
    lists: [PyOnceLock<Py<PyList>>; 2],
}

/// As LMCache takes it: job, whether all is well, what concerned it as a whole, one bool a key.
pub(crate) type Taken = (u64, bool, String, Option<Vec<bool>>);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    Set,
    Exists,
    Delete,
}

impl Completion {
    /// Gives back what the job had on loan.
    pub(crate) fn of(finished: Finished, record: Record) -> Self {
        let Record { op, key_count, sizes: stored, loan } = record;
        drop(loan);
        let mut error = String::new();
        let (statuses, sizes) = match finished.outcome {
            Ok(Outcome::GetInto(keys)) => {
                let sizes = keys.iter().map(|key| key.as_ref().map_or(0, |landed| landed.bytes));
                (numbers(&keys), sizes.collect())
            }
            Ok(Outcome::Put(keys)) => {
                let sizes = keys.iter().zip(stored);
                (
                    numbers(&keys),
                    sizes.map(|(key, size)| if key.is_ok() { size } else { 0 }).collect(),
                )
            }
            Ok(Outcome::Match(found)) => (matched::statuses(&found), matched::sizes(&found)),
            Ok(Outcome::Remove(keys)) => (numbers(&keys), Vec::new()),
            // Jobs have no other outcomes.
            Ok(_) => (vec![larder_client::number::REFUSED; key_count], Vec::new()),
            Err(failed) => {
                error = failed.to_string();
                (vec![failed.number(); key_count], vec![0; key_count])
            }
        };
        Self {
            job: finished.job,
            op,
            error,
            statuses,
            sizes,
            lists: [const { PyOnceLock::new() }; 2],
        }
    }

    pub(crate) fn into_taken(self) -> Taken {
        let is_set = self.op == Op::Set;
        // What a node does not want is no failure: nothing was to be gained by storing it.
        let is_done = |status: i32| is_set && [EXISTS, NOT_WANTED].contains(&status);
        let is_good = |&status: &i32| status == OK || is_done(status);
        let each: Vec<bool> = self.statuses.iter().map(is_good).collect();
        // Whoever asks what is there is not told that the answer failed because some of it is not.
        let is_answered = self.op == Op::Exists && self.error.is_empty();
        (self.job, is_answered || each.iter().all(|&is_good| is_good), self.error, Some(each))
    }
}

#[pymethods]
impl Completion {
    /// What the job did: ``"get"``, ``"set"``, ``"exists"`` or ``"delete"``.
    #[getter]
    const fn op(&self) -> &'static str {
        match self.op {
            Op::Get => "get",
            Op::Set => "set",
            Op::Exists => "exists",
            Op::Delete => "delete",
        }
    }

    /// One ``larder.Status`` for each key.
    #[getter]
    fn statuses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let made = || Ok::<_, PyErr>(PyList::new(py, &self.statuses)?.unbind());
        Ok(self.lists[0].get_or_try_init(py, made)?.bind(py).clone())
    }

    /// Bytes of each key: read, stored, or there; 0 for one that failed. Empty for deletes.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let made = || Ok::<_, PyErr>(PyList::new(py, &self.sizes)?.unbind());
        Ok(self.lists[1].get_or_try_init(py, made)?.bind(py).clone())
    }

    /// Whether every key is ``OK``.
    #[getter]
    fn ok(&self) -> bool {
        self.statuses.iter().all(|&status| status == OK)
    }

    /// Bytes of all keys together.
    #[getter]
    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| u64::from(size)).sum()
    }

    fn __repr__(&self) -> String {
        let good = self.statuses.iter().filter(|&&status| status == OK).count();
        let (op, job, count) = (self.op(), self.job, self.statuses.len());
        format!("<larder.Completion of {op} {job}: {good} of {count} keys>")
    }
}

fn numbers<T>(keys: &[KeyResult<T>]) -> Vec<i32> {
    keys.iter().map(|key| key.as_ref().err().map_or(OK, |error| error.number())).collect()
}
