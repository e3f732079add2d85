//! Names as Python has them, as keys: bytes, or text, of any length; or rows of an array.
//!
//! What a reader would get wrong: a name of up to 64 bytes is its own key; only longer ones are
//! hashed, so a name is never prefixed and never changed otherwise. All rows of an array have one
//! length, and zeros at their ends are part of their names.

use larder_client::Key;
use larder_protocol::limits::KEY_BYTES_MAX;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::arguments::items;
use crate::buffer::Export;
use crate::errors::invalid;

/// One key for each name of a sequence, or for each row of an array of bytes.
///
/// # Errors
/// `InvalidArgument` for an empty name, for something that is no sequence, and for an array whose
/// rows are not bytes or do not lie one behind the other; `TypeError` for a name that is neither
/// bytes nor text.
pub(crate) fn keys(names: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if let Ok(list) = names.cast::<PyList>() {
        return all(list.iter());
    }
    if let Ok(tuple) = names.cast::<PyTuple>() {
        return all(tuple.iter());
    }
    if names.is_instance_of::<PyBytes>() || names.is_instance_of::<PyString>() {
        return Err(invalid("keys: one name where a sequence of names is expected"));
    }
    if let Some(keys) = rows(names)? {
        return Ok(keys);
    }
    all(items(names, "keys")?.into_iter())
}

fn all<'py>(names: impl ExactSizeIterator<Item = Bound<'py, PyAny>>) -> PyResult<Vec<Key>> {
    let mut keys = unset(names.len())?;
    let mut count = 0;
    for (key, name) in keys.iter_mut().zip(names) {
        set(key, &name)?;
        count += 1;
    }
    // To hash a long name runs Python, and whoever runs then may shorten the list.
    keys.truncate(count);
    Ok(keys)
}

/// So many keys to be set.
fn unset(count: usize) -> PyResult<Vec<Key>> {
    Ok(vec![Key::new(b"unset").map_err(invalid)?; count])
}

/// One key for each row, if this is an array of rows.
fn rows(names: &Bound<'_, PyAny>) -> PyResult<Option<Vec<Key>>> {
    let py = names.py();
    let Ok(export) = Export::of(names) else { return Ok(None) };
    let [count, width] = export.shape(py)[..] else { return Ok(None) };
    if export.item_bytes() != 1 {
        let found = export.item_bytes();
        return Err(invalid(format_args!("keys: rows of bytes are expected, not of {found} each")));
    }
    let bytes = export.copied(py).ok_or_else(|| invalid("keys: the rows are not contiguous"))?;
    if width == 0 && count > 0 {
        return Err(empty());
    }
    let names = bytes.chunks_exact(width.max(1));
    let mut keys = unset(names.len())?;
    for (key, name) in keys.iter_mut().zip(names) {
        set_short_or_hashed(py, key, name)?;
    }
    Ok(Some(keys))
}

/// The key of one name.
///
/// # Errors
/// As [`keys`].
pub(crate) fn key(name: &Bound<'_, PyAny>) -> PyResult<Key> {
    let mut key = Key::new(b"unset").map_err(invalid)?;
    set(&mut key, name)?;
    Ok(key)
}

fn set(key: &mut Key, name: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(bytes) = name.cast::<PyBytes>() {
        return set_short_or_hashed(name.py(), key, bytes.as_bytes());
    }
    let Ok(text) = name.cast::<PyString>() else {
        let found = name.get_type();
        return Err(PyTypeError::new_err(format!("a key is bytes or str, not {found}")));
    };
    let text = text.to_cow().map_err(|_| invalid("a key of text must be valid Unicode"))?;
    set_short_or_hashed(name.py(), key, text.as_bytes())
}

fn set_short_or_hashed(py: Python<'_>, key: &mut Key, name: &[u8]) -> PyResult<()> {
    if name.len() <= KEY_BYTES_MAX {
        return key.set(name).map_err(|_| empty());
    }
    let hash = SHA256.import(py, "hashlib", "sha256")?.call1((PyBytes::new(py, name),))?;
    let digest = hash.call_method0(intern!(py, "digest"))?;
    let mut short = PREFIX.to_vec();
    short.extend_from_slice(digest.cast::<PyBytes>()?.as_bytes());
    key.set(&short).map_err(invalid)
}

fn empty() -> PyErr {
    invalid("a key has at least 1 byte")
}

/// Looked up when the first long name comes.
static SHA256: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
const PREFIX: &[u8] = b"sha256:";
const _: () = assert!(PREFIX.len() + 32 <= KEY_BYTES_MAX);
