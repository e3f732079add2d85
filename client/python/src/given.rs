//! Gets and puts over memory on loan, in both forms: waited for, and as jobs.

use larder_client::{Key, OwnedPlace, Payload, PutObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::get_options;
use crate::buffer::Loan;
use crate::completion::Op;
use crate::desk::Record;
use crate::puts::Puts;
use crate::status::{numbers, settle};
use crate::store::Store;

impl Store {
    /// Bytes written for each key, or a negative status.
    pub(crate) fn get_given(
        &self,
        py: Python<'_>,
        keys: &[Key],
        mut loan: Loan,
        timeout: Option<f64>,
    ) -> PyResult<Vec<i64>> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let places = places(keys, &mut loan);
        let answer = py.detach(|| client.get_into_owned(&self.namespace, places, &options));
        let landed = settle(answer, keys.len())?.into_iter();
        Ok(landed.map(|key| key.map_or_else(i64::from, |landed| landed.bytes.into())).collect())
    }

    /// One status for each object.
    pub(crate) fn put_given(
        &self,
        py: Python<'_>,
        keys: &[Key],
        mut loan: Loan,
        said: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<i32>> {
        let client = self.client()?;
        self.object_sizes(&loan)?;
        let mut puts = Puts::parse(said, keys.len())?;
        let objects = objects(keys, &mut loan, &mut puts);
        let answer = py.detach(|| client.put_owned(&self.namespace, objects, &puts.options));
        Ok(numbers(&settle(answer, keys.len())?))
    }

    /// As [`Store::get_given`], as a job.
    pub(crate) fn submit_get_given(
        &self,
        keys: &[Key],
        mut loan: Loan,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let (client, options) = (self.client()?, get_options(timeout)?);
        let places = places(keys, &mut loan);
        let record = Record { op: Op::Get, key_count: keys.len(), sizes: Vec::new(), loan };
        self.desk.submit(&client, record, |jobs| jobs.submit_get(&self.namespace, places, &options))
    }

    /// As [`Store::put_given`], as a job.
    pub(crate) fn submit_put_given(
        &self,
        keys: &[Key],
        mut loan: Loan,
        said: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<u64> {
        let client = self.client()?;
        let sizes = self.object_sizes(&loan)?;
        let mut puts = Puts::parse(said, keys.len())?;
        let objects = objects(keys, &mut loan, &mut puts);
        let record = Record { op: Op::Set, key_count: keys.len(), sizes, loan };
        let (namespace, options) = (&self.namespace, &puts.options);
        self.desk.submit(&client, record, |jobs| jobs.submit_put(namespace, objects, options))
    }
}

fn places(keys: &[Key], loan: &mut Loan) -> Vec<OwnedPlace> {
    let each = keys.iter().zip(loan.landings());
    each.map(|(&key, landing)| OwnedPlace { key, landing }).collect()
}

fn objects(keys: &[Key], loan: &mut Loan, puts: &mut Puts) -> Vec<PutObject<Payload>> {
    let each = keys.iter().zip(loan.sources()).enumerate();
    each.map(|(at, (&key, source))| puts.object(at, key, Payload::Source(source))).collect()
}
