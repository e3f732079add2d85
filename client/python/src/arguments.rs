//! Arguments that many methods take: sequences, and times in seconds.

use std::time::Duration;

use larder_client::{GetOptions, MatchOptions};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::errors::invalid;

/// The items of a sequence, or of anything that can be iterated over.
///
/// # Errors
/// `InvalidArgument`, naming the argument `what`.
pub(crate) fn items<'py>(
    sequence: &Bound<'py, PyAny>,
    what: &str,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if let Ok(list) = sequence.cast::<PyList>() {
        return Ok(list.iter().collect());
    }
    if let Ok(tuple) = sequence.cast::<PyTuple>() {
        return Ok(tuple.iter().collect());
    }
    let iterator = sequence.try_iter();
    iterator.map_err(|_| invalid(format_args!("{what}: not a sequence")))?.collect()
}

/// As [`items`], one for each of `count` keys.
///
/// # Errors
/// `InvalidArgument`, naming the argument `what`.
pub(crate) fn items_of<'py>(
    sequence: &Bound<'py, PyAny>,
    count: usize,
    what: &str,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let items = items(sequence, what)?;
    if items.len() != count {
        let found = items.len();
        return Err(invalid(format_args!("{what}: {found} for {count} keys")));
    }
    Ok(items)
}

/// Whether this is a list or a tuple: several of something rather than one.
pub(crate) fn is_many(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>()
}

/// Seconds, as a duration; what is longer than anybody waits becomes a century.
///
/// # Errors
/// `InvalidArgument`, naming the argument `what`, for what is negative or not a number.
pub(crate) fn duration(seconds: f64, what: &str) -> PyResult<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(invalid(format_args!("{what}: {seconds} seconds")));
    }
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(FOREVER).min(FOREVER))
}

/// The deadline of one call; `None` for the client's.
///
/// # Errors
/// As [`duration`].
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    timeout.map(|seconds| duration(seconds, "timeout")).transpose()
}

/// How long to wait for something of one's own; `None` for as long as it takes.
///
/// # Errors
/// As [`duration`].
pub(crate) fn patience(timeout: Option<f64>) -> PyResult<Duration> {
    Ok(deadline(timeout)?.unwrap_or(FOREVER))
}

/// # Errors
/// As [`duration`].
pub(crate) fn get_options(timeout: Option<f64>) -> PyResult<GetOptions> {
    Ok(GetOptions { deadline: deadline(timeout)?, ..GetOptions::default() })
}

/// # Errors
/// As [`duration`].
pub(crate) fn match_options(timeout: Option<f64>) -> PyResult<MatchOptions> {
    Ok(MatchOptions { deadline: deadline(timeout)?, ..MatchOptions::default() })
}

/// A century: far enough, and no clock overflows on it.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
