//! A store's jobs, and the memory that each of them has on loan.
//!
//! A loan is given back on the thread that takes the job's completion, never on the client's. What
//! a reader would get wrong: to give it back may run any Python code, which may come back here. So
//! no lock is held then, and nobody waits for the interpreter's lock while holding one of these.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_client::{Client, Error, Finished, Jobs, JobsConfig};
use pyo3::prelude::*;

use crate::buffer::Loan;
use crate::completion::{Completion, Op};
use crate::errors::{Closed, raise};

/// Where jobs are submitted and their completions taken. Nothing is started before the first.
pub(crate) struct Desk {
    /// Dropped first: that waits until nothing uses a loan any more.
    jobs: Mutex<Option<Jobs>>,
    records: Mutex<HashMap<u64, Record>>,
    is_closed: AtomicBool,
    threads: u16,
}

/// What is remembered of a job until its completion is taken.
pub(crate) struct Record {
    pub(crate) op: Op,
    pub(crate) key_count: usize,
    /// Bytes of each object of a put.
    pub(crate) sizes: Vec<u32>,
    pub(crate) loan: Loan,
}

impl Desk {
    pub(crate) fn new(threads: u16) -> Self {
        let (jobs, records) = (Mutex::default(), Mutex::default());
        Self { jobs, records, is_closed: AtomicBool::new(false), threads }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Submits a job by `go`.
    ///
    /// # Errors
    /// `Busy`, `Closed`, `Forked`, `OsError`.
    pub(crate) fn submit(
        &self,
        client: &Client,
        record: Record,
        go: impl FnOnce(&Jobs) -> Result<u64, Error>,
    ) -> PyResult<u64> {
        let jobs = self.jobs(client)?;
        // Locked until the record is there, so that nobody takes the completion before.
        let mut records = self.records();
        let job = go(&jobs);
        match job {
            Ok(job) => {
                records.insert(job, record);
                Ok(job)
            }
            Err(error) => {
                drop(records);
                drop(record);
                Err(raise(error))
            }
        }
    }

    /// # Errors
    /// `Closed`, `Forked`, `OsError`.
    pub(crate) fn descriptor(&self, client: &Client) -> PyResult<RawFd> {
        self.jobs(client)?.fd().map_err(raise)
    }

    /// All completions so far.
    ///
    /// # Errors
    /// `Forked`.
    pub(crate) fn drain(&self) -> PyResult<Vec<Completion>> {
        let Some(jobs) = self.started() else { return Ok(Vec::new()) };
        let finished = jobs.drain().map_err(raise)?;
        Ok(finished.into_iter().filter_map(|finished| self.completion(finished)).collect())
    }

    /// The completion of one job, once it is there or `patience` is over.
    ///
    /// # Errors
    /// `Forked`, and what a signal handler raises.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        job: u64,
        patience: Duration,
    ) -> PyResult<Option<Completion>> {
        let Some(jobs) = self.started() else { return Ok(None) };
        let finished = in_slices(py, patience, |slice| {
            let finished = jobs.wait(job, slice).map_err(raise)?;
            Ok((finished.is_some() || !self.knows(job)).then_some(finished))
        })?;
        Ok(finished.flatten().and_then(|finished| self.completion(finished)))
    }

    /// # Errors
    /// `Forked`.
    pub(crate) fn cancel(&self, job: u64) -> PyResult<bool> {
        let Some(jobs) = self.started() else { return Ok(false) };
        jobs.cancel(job).map_err(raise)
    }

    /// Whether no job is under way, at the latest when `patience` is over.
    ///
    /// # Errors
    /// `Forked`, and what a signal handler raises.
    pub(crate) fn drain_all(&self, py: Python<'_>, patience: Duration) -> PyResult<bool> {
        let Some(jobs) = self.started() else { return Ok(true) };
        let idle = in_slices(py, patience, |slice| {
            Ok(jobs.drain_all(slice).map_err(raise)?.then_some(()))
        })?;
        Ok(idle.is_some())
    }

    /// Cancels all jobs and waits for them. Completions can still be taken.
    ///
    /// # Errors
    /// `Forked`.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, or somebody may start jobs that nobody would end.
        self.is_closed.store(true, Ordering::Relaxed);
        let started = jobs.clone();
        drop(jobs);
        match started {
            Some(jobs) => py.detach(|| jobs.close()).map_err(raise),
            None => Ok(()),
        }
    }

    fn completion(&self, finished: Finished) -> Option<Completion> {
        let record = self.records().remove(&finished.job)?;
        Some(Completion::of(finished, record))
    }

    fn knows(&self, job: u64) -> bool {
        self.records().contains_key(&job)
    }

    fn started(&self) -> Option<Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn jobs(&self, client: &Client) -> PyResult<Jobs> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return Err(Closed::new_err("the store is closed"));
        }
        if let Some(jobs) = &*jobs {
            return Ok(jobs.clone());
        }
        let config = JobsConfig { threads: self.threads, ..JobsConfig::default() };
        let started = Jobs::new(client, &config).map_err(raise)?;
        *jobs = Some(started.clone());
        Ok(started)
    }

    fn records(&self) -> MutexGuard<'_, HashMap<u64, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks `look` again and again, with the interpreter's lock let go, until it has found something or
/// `patience` is over; between two looks signals are served.
///
/// # Errors
/// Those of `look`, and what a signal handler raises.
pub(crate) fn in_slices<T: Send>(
    py: Python<'_>,
    patience: Duration,
    look: impl Fn(Duration) -> PyResult<Option<T>> + Sync,
) -> PyResult<Option<T>> {
    let began = Instant::now();
    loop {
        let left = patience.saturating_sub(began.elapsed());
        let found = py.detach(|| look(left.min(SIGNALS_EVERY)))?;
        if found.is_some() || left <= SIGNALS_EVERY {
            return Ok(found);
        }
        py.check_signals()?;
    }
}

/// How often who waits looks whether somebody pressed Ctrl-C.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);
