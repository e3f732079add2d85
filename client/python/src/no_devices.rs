//! What stands in for `devices` in a package that was built without them: it refuses all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use larder_client::{Client, Error, GetOptions, Key, KeyResult, Namespace, PutObject, PutOptions};
use pyo3::prelude::*;

use crate::buffer::Loan;
use crate::device_calls::not_registered;
use crate::device_memory::Streams;
use crate::errors::invalid;

/// Registers nothing.
#[derive(Default)]
pub(crate) struct Devices {
    _none: (),
}

/// Of which there is none.
pub(crate) struct Entry(Infallible);

/// What a call is about.
#[expect(dead_code, reason = "most of it is for who knows devices")]
pub(crate) struct Call<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a Namespace,
    pub(crate) loan: &'a Loan,
    pub(crate) streams: &'a Streams,
}

/// How many devices there are.
#[expect(clippy::unnecessary_wraps, reason = "as where devices are known")]
pub(crate) const fn count() -> PyResult<u32> {
    Ok(0)
}

impl Entry {
    pub(crate) const fn address(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) const fn bytes(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) const fn device(&self) -> u32 {
        match self.0 {}
    }
}

impl Devices {
    pub(crate) fn register(
        &self,
        _: Python<'_>,
        _: &Client,
        device: u32,
        (address, bytes): (u64, u64),
        _: Vec<Py<PyAny>>,
    ) -> PyResult<Arc<Entry>> {
        Err(invalid(format_args!(
            "memory: {bytes} bytes at {address:#x} of device {device}, in a package that was built \
             without the feature cuda"
        )))
    }

    pub(crate) fn unregister(&self, _: Python<'_>, entry: &Entry, _: Duration) -> PyResult<bool> {
        match entry.0 {}
    }

    pub(crate) fn get(
        &self,
        _: Python<'_>,
        call: &Call<'_>,
        _: &[Key],
        _: &GetOptions,
    ) -> PyResult<Result<Vec<KeyResult<u32>>, Error>> {
        refused(call.loan)
    }

    pub(crate) fn put(
        &self,
        _: Python<'_>,
        call: &Call<'_>,
        _: &[PutObject<()>],
        _: &PutOptions,
    ) -> PyResult<Result<Vec<KeyResult<()>>, Error>> {
        refused(call.loan)
    }

    pub(crate) const fn device_of(&self, _: &Loan) -> Option<u32> {
        None
    }

    pub(crate) const fn clear(&self, _: Python<'_>) {}

    pub(crate) const fn abandon(&mut self) {}
}

/// Nothing is registered, so whatever range comes first is not.
fn refused<T>(loan: &Loan) -> PyResult<Result<Vec<T>, Error>> {
    let mut places = loan.places().enumerate();
    let first = places.find_map(|(at, ranges)| Some((at, *ranges.first()?)));
    match first {
        Some((at, range)) => Err(not_registered(at, 0, range)),
        None => Err(invalid("no memory, in a package that was built without the feature cuda")),
    }
}
