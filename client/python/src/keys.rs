//! Names as Python has them, as keys: bytes, or text, of any length.
//!
//! What a reader would get wrong: a name of up to 64 bytes is its own key; only longer ones are
//! hashed, so a name is never prefixed and never changed otherwise.

use larder_client::Key;
use larder_protocol::limits::KEY_BYTES_MAX;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};

use crate::arguments::items;
use crate::errors::invalid;

/// One key for each name of a sequence.
///
/// # Errors
/// `InvalidArgument` for an empty name or something that is no sequence, `TypeError` for a name
/// that is neither bytes nor text.
pub(crate) fn keys(names: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if names.is_instance_of::<PyBytes>() || names.is_instance_of::<PyString>() {
        return Err(invalid("keys: one name where a sequence of names is expected"));
    }
    items(names, "keys")?.iter().map(key).collect()
}

/// The key of one name.
///
/// # Errors
/// As [`keys`].
pub(crate) fn key(name: &Bound<'_, PyAny>) -> PyResult<Key> {
    if let Ok(bytes) = name.cast::<PyBytes>() {
        return short_or_hashed(name.py(), bytes.as_bytes());
    }
    let Ok(text) = name.cast::<PyString>() else {
        let found = name.get_type();
        return Err(PyTypeError::new_err(format!("a key is bytes or str, not {found}")));
    };
    let text = text.to_cow().map_err(|_| invalid("a key of text must be valid Unicode"))?;
    short_or_hashed(name.py(), text.as_bytes())
}

fn short_or_hashed(py: Python<'_>, name: &[u8]) -> PyResult<Key> {
    if name.len() <= KEY_BYTES_MAX {
        return Key::new(name).map_err(|_| invalid("a key has at least 1 byte"));
    }
    let hash = SHA256.import(py, "hashlib", "sha256")?.call1((PyBytes::new(py, name),))?;
    let digest = hash.call_method0(intern!(py, "digest"))?;
    let mut short = PREFIX.to_vec();
    short.extend_from_slice(digest.cast::<PyBytes>()?.as_bytes());
    Key::new(&short).map_err(invalid)
}

/// Looked up when the first long name comes.
static SHA256: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
const PREFIX: &[u8] = b"sha256:";
const _: () = assert!(PREFIX.len() + 32 <= KEY_BYTES_MAX);
