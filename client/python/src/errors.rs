//! Exceptions: what a caller did wrong, and what concerns a client as a whole.
//!
//! What concerns a key is never one of these; see `status`.

use std::fmt::Display;

use larder_client::Error as ClientError;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(larder, Error, PyException, "What all exceptions of larder are.");
create_exception!(
    larder,
    InvalidArgument,
    Error,
    "An argument makes no sense or is above its limit. Nothing was sent."
);
create_exception!(larder, Closed, Error, "The client or the store was closed.");
create_exception!(
    larder,
    Forked,
    Error,
    "The process was forked after the client was made. Connect again in the child."
);
create_exception!(larder, Unavailable, Error, "No node answered when a client or store was made.");
create_exception!(larder, Denied, Error, "The node does not know us, or does not allow it.");
create_exception!(
    larder,
    Busy,
    Error,
    "The completions of 4096 jobs of a store were not taken. Take some, then submit again."
);
create_exception!(
    larder,
    OsError,
    Error,
    "The system refused a thread, a descriptor or memory, or a network card did."
);

/// The exception for an error of a call as a whole.
pub(crate) fn raise(error: ClientError) -> PyErr {
    match error {
        ClientError::Forked => forked(),
        ClientError::Closed => Closed::new_err("the client is closed"),
        ClientError::Denied => Denied::new_err(error.to_string()),
        ClientError::InvalidArgument { .. } | ClientError::TooLarge { .. } => invalid(error),
        ClientError::System { .. } | ClientError::Card(_) => OsError::new_err(error.to_string()),
        ClientError::Unavailable(_)
        | ClientError::DeadlineExceeded
        | ClientError::Refused(_)
        | ClientError::Protocol(_) => Unavailable::new_err(error.to_string()),
        ClientError::Busy => Busy::new_err(error.to_string()),
        other => Error::new_err(other.to_string()),
    }
}

pub(crate) fn invalid(what: impl Display) -> PyErr {
    InvalidArgument::new_err(what.to_string())
}

pub(crate) fn forked() -> PyErr {
    Forked::new_err("a larder client cannot be used in a forked child; connect again there")
}
