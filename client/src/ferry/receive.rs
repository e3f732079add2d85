//! A leg of a get from other hosts: into the dock, where cards write it and the device checks it,
//! or into the bay beside it, where whatever comes another way is checked by a processor.
//!
//! What a reader would get wrong: a landing has a place in both, and the answer says where its
//! bytes are. What the device did not find right is asked for once more, without the dock, by the
//! same deadline. So nothing is answered that was not checked, and nothing is copied to pages
//! before.

use std::ops::Range;
use std::time::{Duration, Instant};

use larder_gpu_bridge::{Device, Direction, Dock};
use larder_protocol::Status;
use larder_transport::lend;

use crate::client::Client;
use crate::config::GetOptions;
use crate::copying::Aboard;
use crate::error::{Error, KeyError, KeyResult};
use crate::ferry::cargo::{Ashore, Cargo, Stowed};
use crate::ferry::leg::Load;
use crate::ferry::quay::Quay;
use crate::ferry::{Ferry, FerryError};
use crate::object::Landed;

/// Answers by place in the leg, and which of them are about bytes in the dock.
struct Arrived {
    landed: Vec<KeyResult<Landed>>,
    is_docked: Vec<bool>,
    /// Whether the dock brought wrong bytes of an object that came right another way.
    is_dock_wrong: bool,
}

impl<D: Device> Ferry<D> {
    /// Receives objects, and has the device bring them to where they belong.
    pub(super) fn receive<C: Cargo<D>>(
        &mut self,
        load: &Load<'_, C>,
    ) -> Result<Vec<KeyResult<u32>>, FerryError> {
        let Load { cargo, leg, .. } = *load;
        self.far_legs -= 1;
        self.legs += 1;
        let quay = &mut self.bays[self.legs % 2];
        if !quay.settle_by(load.until)? {
            return Ok(vec![Err(KeyError::DeadlineExceeded); leg.objects().len()]);
        }
        let Arrived { landed, is_docked, is_dock_wrong } = quay.receive(&self.client, load)?;
        let right = |(at, landed): (usize, KeyResult<Landed>)| match landed {
            Ok(landed) if cargo.takes(at, landed.bytes.into()) => Ok(landed.bytes),
            Ok(_) => Err(KeyError::Status(Status::MissSize)),
            Err(error) => Err(error),
        };
        let landed = leg.objects().clone().zip(landed);
        let answers: Vec<KeyResult<u32>> = landed.map(right).collect();
        let arrived = leg.objects().clone().zip(&answers).zip(is_docked);
        let stowed = arrived.filter_map(|((at, answer), is_docked)| {
            let bytes = answer.as_ref().ok()?;
            Some((leg.stowed(at, u64::from(*bytes)), is_docked))
        });
        let (docked, stowed): (Vec<_>, Vec<_>) = stowed.partition(|&(_, is_docked)| is_docked);
        self.crossed.landed += docked.len() as u64;
        self.crossed.received += stowed.len() as u64;
        if let Some(dock) = quay.dock.as_mut().filter(|_| !docked.is_empty()) {
            let device = &self.device;
            dock.copy(&mut self.stream, |stream, pinned| {
                let ashore = docked.iter().map(|&(Stowed { at, offset, bytes }, _)| Ashore {
                    at,
                    pinned,
                    offset,
                    bytes,
                });
                cargo.load(device, stream, &ashore.collect::<Vec<_>>())
            })?;
        }
        if is_dock_wrong {
            tracing::warn!("a card brought wrong bytes into a device's memory: a dock is given up");
            quay.dock = None;
        }
        if !stowed.is_empty() {
            let stowed: Vec<Stowed> = stowed.into_iter().map(|(object, _)| object).collect();
            cargo.cross(quay, &mut self.stream, Direction::ToDevice, &stowed)?;
        }
        Ok(answers)
    }
}

impl<D: Device> Quay<D> {
    /// Has nodes bring the objects of a leg, and sees to it that all that is answered is right.
    fn receive<C: Cargo<D>>(
        &mut self,
        client: &Client,
        load: &Load<'_, C>,
    ) -> Result<Arrived, FerryError> {
        let count = load.leg.objects().len();
        let mut is_docked = vec![false; count];
        let all: Vec<usize> = (0..count).collect();
        let may_dock = self.has_free_dock(load.until);
        let (mut landed, aboard) = self.land(client, load, &all, may_dock)?;
        let is_right = self.check(load, &aboard);
        let mut wrong = Vec::new();
        for (object, is_right) in aboard.into_iter().zip(is_right) {
            let place = object.place;
            if is_right == Some(true) {
                (landed[place], is_docked[place]) = (Ok(object.landed()), true);
            } else {
                wrong.push((place, is_right));
            }
        }
        let mut is_dock_wrong = false;
        if !wrong.is_empty() {
            // Answers came in any order, and room is given in that of places.
            wrong.sort_unstable_by_key(|&(place, _)| place);
            let places: Vec<usize> = wrong.iter().map(|&(place, _)| place).collect();
            let (again, _) = self.land(client, load, &places, false)?;
            for ((place, is_right), answer) in wrong.into_iter().zip(again) {
                let is_doubted = is_right == Some(false);
                is_dock_wrong |= is_doubted && answer.is_ok();
                if is_doubted {
                    self.dock_rests_until = Some(Instant::now() + DOUBTED_DOCK_RESTS);
                }
                landed[place] = answer;
            }
        }
        Ok(Arrived { landed, is_docked, is_dock_wrong })
    }

    /// Whether there is a dock that landings can be given of. Half of the time may be waited for
    /// the device to be done with it.
    fn has_free_dock(&mut self, until: Instant) -> bool {
        if self.dock_rests_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.dock_rests_until = None;
        let Some(dock) = &mut self.dock else { return false };
        match dock.settle_by(half_way(until)) {
            Ok(is_free) => is_free,
            Err(error) => {
                tracing::warn!(%error, "a dock is given up");
                self.dock = None;
                false
            }
        }
    }

    /// Asks for some of a leg's objects, by their places in it, which ascend.
    fn land<C: Cargo<D>>(
        &mut self,
        client: &Client,
        load: &Load<'_, C>,
        places: &[usize],
        may_dock: bool,
    ) -> Result<(Vec<KeyResult<Landed>>, Vec<Aboard>), FerryError> {
        let Load { cargo, leg, .. } = *load;
        let left = load.until.saturating_duration_since(Instant::now());
        let options = GetOptions { deadline: Some(left), ..load.options.clone() };
        let full = leg.full(cargo);
        let wanted: Vec<Stowed> = places.iter().map(|&place| full[place]).collect();
        let keys: Vec<_> = wanted.iter().map(|object| cargo.key(object.at)).collect();
        let (mut rooms, mut start) = (Vec::with_capacity(wanted.len()), 0);
        let (bay, dock) = self.sides();
        let mut rest = bay.bytes_mut()?;
        for &Stowed { offset, bytes, .. } in &wanted {
            let (room, behind) = rest[(offset - start) as usize..].split_at_mut(bytes as usize);
            (rest, start) = (behind, offset + bytes);
            rooms.push([room]);
        }
        let mut dock = dock.filter(|_| may_dock);
        let landed = lend(rooms, |landings| {
            let aimed =
                landings.into_iter().zip(&wanted).map(|(landing, object)| match &mut dock {
                    Some(dock) => dock.take(landing, object.offset),
                    None => landing,
                });
            let aimed = aimed.collect();
            client.land(load.namespace, &keys, aimed, &options)?.wait_ashore()
        });
        landed.map_err(|error: Error| error.into())
    }

    /// Whether each of these is right; `None` where the device does not say so in time. It looks
    /// twice: an answer may overtake the last bytes, if the device does not keep them in order.
    fn check<C: Cargo<D>>(&mut self, load: &Load<'_, C>, aboard: &[Aboard]) -> Vec<Option<bool>> {
        let mut verdicts = vec![None; aboard.len()];
        let Some(dock) = &mut self.dock else { return verdicts };
        for pause in [Duration::ZERO, LOOK_AGAIN_AFTER] {
            let doubted = (0..aboard.len()).filter(|&at| verdicts[at] != Some(true));
            let doubted: Vec<usize> = doubted.collect();
            if doubted.is_empty() {
                break;
            }
            std::thread::sleep(pause);
            let objects: Vec<&Aboard> = doubted.iter().map(|&at| &aboard[at]).collect();
            match check(dock, load, &objects) {
                Ok(Some(right)) => {
                    doubted.into_iter().zip(right).for_each(|(at, is)| verdicts[at] = Some(is));
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a dock is given up");
                    self.dock = None;
                    return vec![None; aboard.len()];
                }
            }
        }
        verdicts
    }
}

/// Has the device compare these with what they shall be.
fn check<D: Device, C: Cargo<D>>(
    dock: &mut Dock<D>,
    load: &Load<'_, C>,
    objects: &[&Aboard],
) -> Result<Option<Vec<bool>>, larder_gpu_bridge::DeviceError> {
    let (mut ranges, mut expected) = (Vec::<Range<u64>>::new(), Vec::new());
    for (which, object) in objects.iter().enumerate() {
        let at = load.leg.objects().start + object.place;
        let start = load.leg.stowed(at, object.bytes.into()).offset;
        for (part, sum) in object.parts() {
            ranges.push(start + u64::from(part.start)..start + u64::from(part.end));
            expected.push((which, sum));
        }
    }
    let Some(made) = dock.checksums(&ranges, half_way(load.until))? else { return Ok(None) };
    let mut is_right = vec![true; objects.len()];
    for ((which, expected), made) in expected.into_iter().zip(made) {
        is_right[which] &= expected == Some(made);
    }
    Ok(Some(is_right))
}

/// Half of the time that is left is for another way.
fn half_way(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 2
}

/// Bytes that were not there yet may come later still, and to another object's place. A guess: far
/// longer than anything is on its way in a host.
const DOUBTED_DOCK_RESTS: Duration = Duration::from_secs(1);
/// A guess: what a card has acknowledged is in memory within microseconds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(200);
