//! The keywords that all puts take.

use std::time::Duration;

use larder_client::{Bytes, Key, PutObject, PutOptions};
use larder_protocol::limits::{TAGS_MAX, USER_META_BYTES_MAX};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{deadline, duration, is_many, items, items_of};
use crate::errors::invalid;

/// What is said of a put and of each of its objects; what was not said is empty.
#[derive(Debug, Default)]
pub(crate) struct Puts {
    pub(crate) options: PutOptions,
    metas: Vec<Bytes>,
    ttls: Vec<Option<Duration>>,
    depths: Vec<u16>,
    tags: Vec<Vec<u64>>,
    cost_hints: Vec<u32>,
    class_hints: Vec<u8>,
    versions: Vec<u64>,
}

impl Puts {
    /// # Errors
    /// `InvalidArgument` for what makes no sense, `TypeError` for a keyword that there is not.
    pub(crate) fn parse(said: Option<&Bound<'_, PyDict>>, count: usize) -> PyResult<Self> {
        let mut puts = Self::default();
        for (name, value) in said.into_iter().flatten() {
            let name: String = name.extract()?;
            let is_known = KEYWORDS.contains(&name.as_str());
            if is_known && value.is_none() {
                continue;
            }
            match name.as_str() {
                "timeout" => puts.options.deadline = deadline(Some(value.extract()?))?,
                "if_absent" => puts.options.if_absent = value.is_truthy()?,
                "insist" => puts.options.insist = value.is_truthy()?,
                "metas" => puts.metas = metas(&value, count)?,
                "ttl" => puts.ttls = ttls(&value, count)?,
                "depths" => puts.depths = numbers(&value, count, "depths")?,
                "tags" => puts.tags = tags(&value, count)?,
                "cost_hints" => puts.cost_hints = numbers(&value, count, "cost_hints")?,
                "class_hints" => puts.class_hints = numbers(&value, count, "class_hints")?,
                "versions" => puts.versions = numbers(&value, count, "versions")?,
                other => {
                    let what = format!("a put has no keyword argument '{other}'");
                    return Err(PyTypeError::new_err(what));
                }
            }
        }
        Ok(puts)
    }

    /// Object `at` of the batch.
    pub(crate) fn object<B>(&mut self, at: usize, key: Key, bytes: B) -> PutObject<B> {
        PutObject {
            key,
            bytes,
            depth: self.depths.get(at).copied().unwrap_or(0),
            class_hint: self.class_hints.get(at).copied().unwrap_or(0),
            cost_hint: self.cost_hints.get(at).copied().unwrap_or(0),
            ttl: self.ttls.get(at).copied().flatten(),
            version: self.versions.get(at).copied().unwrap_or(0),
            tags: self.tags.get_mut(at).map(std::mem::take).unwrap_or_default(),
            user_meta: self.metas.get_mut(at).map(std::mem::take).unwrap_or_default(),
        }
    }
}

fn numbers<T: for<'a, 'py> FromPyObject<'a, 'py>>(
    value: &Bound<'_, PyAny>,
    count: usize,
    what: &str,
) -> PyResult<Vec<T>> {
    let each = items_of(value, count, what)?.into_iter().enumerate();
    let wrong = |at| invalid(format_args!("{what}[{at}]: no number that fits"));
    each.map(|(at, item)| item.extract().map_err(|_| wrong(at))).collect()
}

fn metas(value: &Bound<'_, PyAny>, count: usize) -> PyResult<Vec<Bytes>> {
    let each = items_of(value, count, "metas")?.into_iter().enumerate();
    let each = each.map(|(at, item)| {
        if item.is_none() {
            return Ok(Bytes::new());
        }
        let meta = item.extract::<Vec<u8>>();
        let meta = meta.map_err(|_| invalid(format_args!("metas[{at}]: bytes are expected")))?;
        if meta.len() > USER_META_BYTES_MAX {
            let found = meta.len();
            let limit = USER_META_BYTES_MAX;
            return Err(invalid(format_args!("metas[{at}]: {found} bytes, at most {limit}")));
        }
        Ok(meta.into())
    });
    each.collect()
}

fn ttls(value: &Bound<'_, PyAny>, count: usize) -> PyResult<Vec<Option<Duration>>> {
    let one = |item: &Bound<'_, PyAny>| -> PyResult<Option<Duration>> {
        if item.is_none() {
            return Ok(None);
        }
        let seconds = item.extract().map_err(|_| invalid("ttl: seconds are expected"))?;
        let ttl = duration(seconds, "ttl")?;
        if ttl.is_zero() {
            return Err(invalid("ttl: 0 seconds"));
        }
        Ok(Some(ttl))
    };
    if is_many(value) {
        return items_of(value, count, "ttl")?.iter().map(one).collect();
    }
    Ok(vec![one(value)?; count])
}

fn tags(value: &Bound<'_, PyAny>, count: usize) -> PyResult<Vec<Vec<u64>>> {
    let each = items_of(value, count, "tags")?.into_iter().enumerate();
    let each = each.map(|(at, item)| {
        let found = items(&item, "tags")?;
        if found.len() > TAGS_MAX {
            let count = found.len();
            return Err(invalid(format_args!("tags[{at}]: {count}, at most {TAGS_MAX}")));
        }
        numbers(&item, found.len(), "tags")
    });
    each.collect()
}

const KEYWORDS: [&str; 10] = [
    "timeout",
    "if_absent",
    "insist",
    "metas",
    "ttl",
    "depths",
    "tags",
    "cost_hints",
    "class_hints",
    "versions",
];
