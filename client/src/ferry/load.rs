//! Gets, leg by leg: leases that the device reads by itself, or bays. What comes from other hosts
//! is received in `receive.rs`.
//!
//! What a reader would get wrong: nothing is given to the device but objects that are answered with
//! success, so what failed was never begun. A bay that the device does not give back in time is a
//! miss, and stays the device's.

use std::time::Instant;

use larder_gpu_bridge::{Device, Direction};
use larder_protocol::Status;
use larder_protocol::limits::INLINE_BYTES_MAX;

use crate::config::GetOptions;
use crate::error::{KeyError, KeyResult};
use crate::ferry::cargo::{Ashore, Cargo};
use crate::ferry::leg::{Leg, Load};
use crate::ferry::{Ferry, FerryError};
use crate::lease::Lease;
use crate::namespace::Namespace;

/// An object that a node on this host has lent, and how the device reads it.
struct Direct<D: Device> {
    at: usize,
    pinned: D::Pinned,
    offset: u64,
    lease: Lease,
}

impl<D: Device> Ferry<D> {
    /// Brings all of a cargo on its way. Answers how long each object is.
    pub(super) fn load(
        &mut self,
        namespace: &Namespace,
        cargo: &impl Cargo<D>,
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<u32>>, FerryError> {
        let until = self.client.until(options.deadline);
        let mut answers = Vec::with_capacity(cargo.count());
        for leg in &Leg::all(cargo, self.bay_bytes)? {
            let left = until.saturating_duration_since(Instant::now());
            let options = GetOptions { deadline: Some(left), ..options.clone() };
            let load = Load { namespace, cargo, leg, options, until };
            let answered = if self.far_legs > 0 { self.receive(&load) } else { self.lease(&load) };
            answers.extend(answered?);
        }
        Ok(answers)
    }

    /// Asks for leases, and has the device read what is pinned. The rest goes through a bay.
    fn lease<C: Cargo<D>>(
        &mut self,
        load: &Load<'_, C>,
    ) -> Result<Vec<KeyResult<u32>>, FerryError> {
        let first = load.leg.objects().start;
        let mut answers = Vec::with_capacity(load.leg.objects().len());
        let (mut direct, mut staged) = (Vec::new(), Vec::new());
        for (at, lease) in (first..).zip(self.leases(load)?) {
            let checked = lease.and_then(|lease| self.check(lease, load.cargo, at));
            // An object's length has 32 bits.
            answers.push(checked.as_ref().map(|lease| lease.len() as u32).map_err(Clone::clone));
            let Ok(lease) = checked else { continue };
            let place = lease.place().and_then(|(region, offset)| {
                let pinned = self.pins.pinned(region)?;
                Some((pinned, offset))
            });
            match place {
                Some((pinned, offset)) => direct.push(Direct { at, pinned, offset, lease }),
                None => staged.push((at, lease)),
            }
        }
        let is_far = direct.is_empty() && staged.iter().all(|(_, lease)| lease.place().is_none());
        let is_long = |(_, lease): &(usize, Lease)| lease.len() > INLINE_BYTES_MAX as usize;
        if is_far && staged.iter().any(is_long) {
            self.far_legs = FAR_LEGS;
        }
        self.crossed.direct += direct.len() as u64;
        if !self.stage(load, &staged)? {
            for (at, _) in &staged {
                answers[at - first] = Err(KeyError::DeadlineExceeded);
            }
        }
        self.read(load, direct)?;
        Ok(answers)
    }

    fn leases<C: Cargo<D>>(
        &mut self,
        load: &Load<'_, C>,
    ) -> Result<Vec<KeyResult<Lease>>, FerryError> {
        let keys = load.leg.keys(load.cargo);
        let is_busy =
            |lease: &KeyResult<Lease>| matches!(lease, Err(KeyError::Status(Status::Busy)));
        let mut leases = self.client.lease(load.namespace, &keys, &load.options)?;
        if !leases.iter().any(is_busy) {
            return Ok(leases);
        }
        // A node lends only so much at a time, and we may be who has it all.
        let event = self.device.record(&mut self.stream)?;
        if !self.device.wait_until(&event, load.until)? {
            return Ok(leases);
        }
        for (lease, key) in leases.iter_mut().zip(&keys).filter(|(lease, _)| is_busy(lease)) {
            let left = load.until.saturating_duration_since(Instant::now());
            let options = GetOptions { deadline: Some(left), ..load.options.clone() };
            *lease = self.client.lease(load.namespace, &[*key], &options)?.remove(0);
        }
        Ok(leases)
    }

    /// Has the device read objects where they are.
    fn read<C: Cargo<D>>(
        &mut self,
        load: &Load<'_, C>,
        direct: Vec<Direct<D>>,
    ) -> Result<(), FerryError> {
        if direct.is_empty() {
            return Ok(());
        }
        let ashore = direct.iter().map(|Direct { at, pinned, offset, lease }| Ashore {
            at: *at,
            pinned,
            offset: *offset,
            bytes: lease.len() as u64,
        });
        let ashore: Vec<_> = ashore.collect();
        let submitted = load.cargo.load(&self.device, &mut self.stream, &ashore);
        drop(ashore);
        // The leases end when the device has read what they are on, also after an error.
        let leases: Vec<Lease> = direct.into_iter().map(|direct| direct.lease).collect();
        self.device.keep(&mut self.stream, Box::new(leases))?;
        Ok(submitted?)
    }

    /// Copies objects into a bay, and has the device read them there. `false`, and nothing, if no
    /// bay was free in time.
    fn stage<C: Cargo<D>>(
        &mut self,
        load: &Load<'_, C>,
        objects: &[(usize, Lease)],
    ) -> Result<bool, FerryError> {
        if objects.is_empty() {
            return Ok(true);
        }
        self.legs += 1;
        let bay = &mut self.bays[self.legs % 2];
        if !bay.settle_by(load.until)? {
            return Ok(false);
        }
        let bytes = bay.bytes_mut()?;
        let mut stowed = Vec::with_capacity(objects.len());
        for (at, lease) in objects {
            let object = load.leg.stowed(*at, lease.len() as u64);
            let start = object.offset as usize;
            bytes[start..start + lease.len()].copy_from_slice(lease);
            stowed.push(object);
        }
        self.crossed.staged += stowed.len() as u64;
        load.cargo.cross(bay, &mut self.stream, Direction::ToDevice, &stowed)?;
        Ok(true)
    }

    /// Whether an object fits its place, and is right if that is to be looked at.
    fn check(&self, lease: Lease, cargo: &impl Cargo<D>, at: usize) -> KeyResult<Lease> {
        if !cargo.takes(at, lease.len() as u64) {
            return Err(KeyError::Status(Status::MissSize));
        }
        // What has no place in a region was checked as it came.
        if self.verify && lease.place().is_some() && !lease.verify() {
            return Err(KeyError::Status(Status::MissCorrupt));
        }
        Ok(lease)
    }
}

/// How many legs objects are taken to be on other hosts, once a whole leg was. A guess: asking for
/// a lease in vain costs a copy of the leg.
const FAR_LEGS: u32 = 64;
