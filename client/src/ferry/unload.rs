//! Puts, leg by leg: the device fills one bay while the other is stored.
//!
//! What a reader would get wrong: when the deadline passes first the device may still read its
//! pages for a bay that nobody waits for. What it reads then goes nowhere.

use larder_gpu_bridge::{Device, Direction};

use crate::config::PutOptions;
use crate::error::{KeyError, KeyResult};
use crate::ferry::cargo::Cargo;
use crate::ferry::leg::Leg;
use crate::ferry::{Ferry, FerryError};
use crate::namespace::Namespace;
use crate::object::{Pieces, PutObject};

impl<D: Device> Ferry<D> {
    /// Stores all of a cargo: what is said of each object is in `objects`.
    pub(super) fn unload<T>(
        &mut self,
        namespace: &Namespace,
        cargo: &impl Cargo<D>,
        objects: &[PutObject<T>],
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, FerryError> {
        let until = self.client.until(options.deadline);
        let mut stored = Vec::with_capacity(objects.len());
        let all = Leg::all(cargo, self.bay_bytes)?;
        let mut legs = all.iter().peekable();
        if let Some(first) = legs.peek() {
            self.fetch(cargo, first)?;
        }
        while let Some(leg) = legs.next() {
            let fetched = self.legs % 2;
            // The device fills the other bay while this one is stored.
            if let Some(next) = legs.peek() {
                self.fetch(cargo, next)?;
            }
            if !self.bays[fetched].settle_by(until)? {
                stored.extend(vec![Err(KeyError::DeadlineExceeded); leg.objects().len()]);
                continue;
            }
            let bay = self.bays[fetched].bytes()?;
            let stowed = leg.full(cargo).into_iter();
            let whole: Vec<PutObject<Pieces<'_>>> = stowed
                .map(|object| {
                    let start = object.offset as usize;
                    let bytes = &bay[start..start + object.bytes as usize];
                    objects[object.at].with_bytes(Pieces::One(bytes))
                })
                .collect();
            stored.extend(self.client.put(namespace, &whole, &options.until(until))?);
        }
        Ok(stored)
    }

    /// Has the device write objects into the next bay.
    fn fetch(&mut self, cargo: &impl Cargo<D>, leg: &Leg) -> Result<(), FerryError> {
        self.legs += 1;
        let bay = &mut self.bays[self.legs % 2];
        cargo.cross(bay, &mut self.stream, Direction::FromDevice, &leg.full(cargo))?;
        Ok(())
    }
}
