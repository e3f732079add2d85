//! What is said of a key, as the numbers of `larder.Status`.
//!
//! What a reader would get wrong: a call that failed as a whole is here too, as the same answer for
//! each of its keys: an inference server goes on without its cache. Only what the caller did wrong
//! is an exception.

use larder_client::number::OK;
use larder_client::{Error, KeyResult};
use pyo3::prelude::*;

use crate::errors::raise;

/// One answer for each of `count` keys, whatever became of the call.
///
/// # Errors
/// What the caller did wrong.
pub(crate) fn settle<T>(
    answer: Result<Vec<KeyResult<T>>, Error>,
    count: usize,
) -> PyResult<Vec<Result<T, i32>>> {
    match answer {
        Ok(keys) => Ok(keys.into_iter().map(|key| key.map_err(|e| e.number())).collect()),
        Err(error) => {
            let status = of_call(error)?;
            Ok((0..count).map(|_| Err(status)).collect())
        }
    }
}

/// The numbers alone.
pub(crate) fn numbers<T>(keys: &[Result<T, i32>]) -> Vec<i32> {
    keys.iter().map(|key| key.as_ref().err().copied().unwrap_or(OK)).collect()
}

/// What a call that failed says of each of its keys.
///
/// # Errors
/// What the caller did wrong.
pub(crate) fn of_call(error: Error) -> PyResult<i32> {
    match error {
        Error::InvalidArgument { .. }
        | Error::TooLarge { .. }
        | Error::Forked
        | Error::Closed
        | Error::Card(_)
        | Error::System { .. } => Err(raise(error)),
        other => Ok(other.number()),
    }
}
