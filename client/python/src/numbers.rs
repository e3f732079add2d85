//! Addresses and lengths of a batch, as Python has them: integers of a sequence, or of an array.
//!
//! What a reader would get wrong: an array is only the faster way to say the same. One whose items
//! are not 8 bytes in one piece is iterated over like any sequence. And it is copied before it is
//! looked at, so that what its owner does to it later changes nothing.

use pyo3::prelude::*;

use crate::arguments::{is_many, items, items_of};
use crate::buffer::Export;
use crate::errors::invalid;

/// Some integers for each key of a batch.
pub(crate) struct Numbers {
    pub(crate) values: Vec<usize>,
    /// Where in `values` those of each key end.
    pub(crate) ends: Vec<usize>,
}

impl Numbers {
    /// One integer for each of `count` keys, or several: lists of them, or an array with a row for
    /// each key.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the argument `what`.
    pub(crate) fn of(given: &Bound<'_, PyAny>, count: usize, what: &str) -> PyResult<Self> {
        if !is_many(given)
            && let Some((values, rows, each)) = array(given)
        {
            if rows != count {
                return Err(invalid(format_args!("{what}: {rows} for {count} keys")));
            }
            let ends = (1..=rows).map(|row| row * each).collect();
            return Ok(Self { values, ends });
        }
        let given = items_of(given, count, what)?;
        let (mut values, mut ends) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (at, item) in given.iter().enumerate() {
            // Asked first: an extraction that fails makes an exception.
            if !is_many(item)
                && let Ok(number) = item.extract()
            {
                values.push(number);
            } else {
                values.extend(several(item, at, what)?);
            }
            ends.push(values.len());
        }
        Ok(Self { values, ends })
    }

    /// The same integer wherever `others` have one.
    pub(crate) fn like(others: &Self, number: usize) -> Self {
        Self { values: vec![number; others.values.len()], ends: others.ends.clone() }
    }
}

fn several(list: &Bound<'_, PyAny>, at: usize, what: &str) -> PyResult<Vec<usize>> {
    let list = items(list, what);
    let list = list.and_then(|list| list.iter().map(|n| n.extract::<usize>()).collect());
    list.map_err(|_| invalid(format_args!("{what}[{at}]: neither an integer nor integers")))
}

/// The integers of an array, how many rows they are in, and how many each row has.
fn array(given: &Bound<'_, PyAny>) -> Option<(Vec<usize>, usize, usize)> {
    let py = given.py();
    let export = Export::with_format(given).ok()?;
    let (rows, each) = match export.shape(py)[..] {
        [rows] => (rows, 1),
        [rows, each] => (rows, each),
        _ => return None,
    };
    if export.item_bytes() != size_of::<usize>() || !is_integer(export.format(py)) {
        return None;
    }
    let bytes = export.copied(py)?;
    let (words, rest) = bytes.as_chunks();
    let is_whole = rest.is_empty() && rows.checked_mul(each) == Some(words.len());
    is_whole.then(|| (words.iter().map(|&word| usize::from_ne_bytes(word)).collect(), rows, each))
}

/// Whether this is the format of one integer in the order of bytes of this machine. A negative one
/// becomes an address that nobody has.
const fn is_integer(format: &[u8]) -> bool {
    let letter = match format {
        [letter] | [b'@' | b'=' | NATIVE, letter] => *letter,
        _ => return false,
    };
    matches!(letter, b'Q' | b'q' | b'L' | b'l' | b'N' | b'n')
}

/// How a format says the order of bytes that this machine has.
const NATIVE: u8 = if cfg!(target_endian = "little") { b'<' } else { b'>' };
