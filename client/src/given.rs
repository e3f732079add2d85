//! Gets and puts over memory that is given away until the call is answered.
//!
//! A caller that borrows its memory has to wait for the answer; one that gives it away may go on.
//! What a reader would get wrong: landings and bytes are dropped before the answer is there, so
//! whoever is told by their drop learns of it first.

use std::time::Instant;

use crate::call::Pending;
use crate::client::{Client, Sealed};
use crate::config::{GetOptions, PutOptions};
use crate::error::{Error, KeyResult};
use crate::namespace::Namespace;
use crate::object::{Landed, OwnedPlace, Payload, PutObject};
use crate::wanting::Kept;

impl Client {
    /// As [`Client::get_into`], into memory that is given away.
    ///
    /// # Errors
    /// Those of [`Client::start_get_into`].
    pub fn get_into_owned(
        &self,
        namespace: &Namespace,
        places: Vec<OwnedPlace>,
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<Landed>>, Error> {
        self.prepare_get_into(namespace, places, options)?.wait()
    }

    /// As [`Client::get_into_owned`], without waiting.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an impossible range of parts; [`Error::Forked`].
    pub fn start_get_into(
        &self,
        namespace: &Namespace,
        places: Vec<OwnedPlace>,
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Landed>>>, Error> {
        self.prepare_get_into(namespace, places, options).map(Pending::launch)
    }

    fn prepare_get_into(
        &self,
        namespace: &Namespace,
        places: Vec<OwnedPlace>,
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Landed>>>, Error> {
        let keys: Vec<_> = places.iter().map(|place| place.key).collect();
        let landings = places.into_iter().map(|place| place.landing).collect();
        self.land(namespace, &keys, landings, options)
    }

    /// As [`Client::put`], of memory that is given away.
    ///
    /// # Errors
    /// Those of [`Client::put`].
    pub fn put_owned(
        &self,
        namespace: &Namespace,
        objects: Vec<PutObject<Payload>>,
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, Error> {
        // First: in a forked child locks may be held for ever.
        self.check_process()?;
        let until = self.until(options.deadline);
        let mut kept = Kept::all(&objects, Payload::len, options);
        if kept.is_in_doubt(namespace) {
            let offered = self.offered(&objects, |o| o.bytes.pieces());
            self.ask_wants(namespace, &offered, until)?;
            kept = kept.without_refused(namespace, &offered);
        }
        self.prepare_put(namespace, objects, &kept, &options.until(until))?.wait()
    }

    /// As [`Client::put_owned`], without waiting for the answer, nor for one to what is wanted.
    /// Checksums are made first, on the calling thread.
    ///
    /// # Errors
    /// Those of [`Client::put`].
    pub fn start_put(
        &self,
        namespace: &Namespace,
        objects: Vec<PutObject<Payload>>,
        options: &PutOptions,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        self.check_process()?;
        let mut kept = Kept::all(&objects, Payload::len, options);
        if kept.is_in_doubt(namespace) {
            let offered = self.offered(&objects, |o| o.bytes.pieces());
            kept = kept.without_refused(namespace, &offered);
        }
        self.prepare_put(namespace, objects, &kept, options).map(Pending::launch)
    }

    fn prepare_put(
        &self,
        namespace: &Namespace,
        objects: Vec<PutObject<Payload>>,
        kept: &Kept,
        options: &PutOptions,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        let until = self.until(options.deadline);
        let objects = kept.take(objects);
        let shown = objects.iter().map(|object| object.bytes.pieces());
        let mut seals = self.seals_of(shown);
        for object in &objects {
            if Instant::now() >= until {
                return self.put_late(kept.total);
            }
            seals.add(namespace, object, object.bytes.pieces())?;
        }
        let mut sources = Vec::with_capacity(objects.len());
        let named = objects.into_iter().map(|object| {
            sources.push(object.bytes);
            PutObject {
                key: object.key,
                bytes: (),
                depth: object.depth,
                class_hint: object.class_hint,
                cost_hint: object.cost_hint,
                ttl: object.ttl,
                version: object.version,
                tags: object.tags,
                user_meta: object.user_meta,
            }
        });
        let named: Vec<_> = named.collect();
        let batch = Sealed { seals: &seals, sources, kept };
        self.put_sealed(namespace, &named, batch, &options.until(until))
    }
}
