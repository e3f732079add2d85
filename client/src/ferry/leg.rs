//! One part of a call: as many objects as a bay has room for.

use std::ops::Range;
use std::time::Instant;

use larder_gpu_bridge::Device;
use larder_protocol::Key;

use crate::config::GetOptions;
use crate::error::Error;
use crate::ferry::cargo::{Cargo, Stowed};
use crate::namespace::Namespace;

/// Objects in a row, and where each would lie in a bay.
#[derive(Debug)]
pub(super) struct Leg {
    objects: Range<usize>,
    /// From where on each may have its room, at multiples of what the kernel reads at a time.
    offsets: Vec<u64>,
}

/// A leg of a get, on its way.
#[derive(Debug)]
pub(super) struct Load<'a, C> {
    pub(super) namespace: &'a Namespace,
    pub(super) cargo: &'a C,
    pub(super) leg: &'a Leg,
    pub(super) options: GetOptions,
    pub(super) until: Instant,
}

impl Leg {
    /// All legs of a call, in order, through bays of `bay_bytes`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is an object that a bay has no room for.
    pub(super) fn all<D: Device>(
        cargo: &impl Cargo<D>,
        bay_bytes: u64,
    ) -> Result<Vec<Self>, Error> {
        let mut legs: Vec<Self> = Vec::new();
        let mut used = 0_u64;
        for at in 0..cargo.count() {
            let room = cargo.room(at);
            if room > bay_bytes {
                let what = "an object that a bay has no room for";
                return Err(Error::InvalidArgument { what });
            }
            match legs.last_mut() {
                Some(leg) if used <= bay_bytes - room => {
                    leg.objects.end = at + 1;
                    leg.offsets.push(used);
                    used += stride(room);
                }
                _ => {
                    legs.push(Self { objects: at..at + 1, offsets: vec![0] });
                    used = stride(room);
                }
            }
        }
        Ok(legs)
    }

    pub(super) const fn objects(&self) -> &Range<usize> {
        &self.objects
    }

    pub(super) fn keys<D: Device>(&self, cargo: &impl Cargo<D>) -> Vec<Key> {
        self.objects.clone().map(|at| cargo.key(at)).collect()
    }

    /// Where an object of the leg lies in a bay if it has so many bytes.
    pub(super) fn stowed(&self, at: usize, bytes: u64) -> Stowed {
        Stowed { at, offset: self.offsets[at - self.objects.start], bytes }
    }

    /// All of them as long as they may be.
    pub(super) fn full<D: Device>(&self, cargo: &impl Cargo<D>) -> Vec<Stowed> {
        self.objects.clone().map(|at| self.stowed(at, cargo.room(at))).collect()
    }
}

/// From an object to the next in a bay: the kernel reads 16 bytes at a time.
const fn stride(room: u64) -> u64 {
    room.next_multiple_of(256)
}

#[cfg(test)]
mod tests {
    use larder_gpu_bridge::{DeviceRange, HostDevice};
    use proptest::prelude::*;

    use super::*;
    use crate::ferry::cargo::Ranged;

    proptest! {
        #[test]
        fn legs_hold_every_object_once_apart_and_within_a_bay(
            rooms in prop::collection::vec(0u64..3000, 0..40),
            bay_bytes in 3000u64..9000,
        ) {
            let memory = HostDevice.allocate(1).unwrap();
            let range = |bytes| [DeviceRange::<HostDevice> { memory: &memory, offset: 0, bytes }];
            let ranges: Vec<_> = rooms.iter().copied().map(range).collect();
            let key = |at: usize| Key::new(&at.to_le_bytes()).unwrap();
            let objects = ranges.iter().enumerate().map(|(at, range)| (key(at), &range[..]));
            let cargo = Ranged { objects: objects.collect() };
            let legs = Leg::all(&cargo, bay_bytes).unwrap();
            let mut next = 0;
            for leg in &legs {
                prop_assert_eq!(leg.objects().start, next);
                prop_assert!(leg.objects().end > next);
                next = leg.objects().end;
                let mut end = 0;
                for stowed in leg.full(&cargo) {
                    prop_assert!(stowed.offset >= end && stowed.offset % 16 == 0);
                    prop_assert_eq!(stowed.bytes, rooms[stowed.at]);
                    end = stowed.offset + stowed.bytes;
                }
                prop_assert!(end <= bay_bytes);
            }
            prop_assert_eq!(next, rooms.len());
            if let Some(&longest) = rooms.iter().max() {
                prop_assert_eq!(Leg::all(&cargo, longest.max(1) - 1).is_err(), longest > 0);
            }
        }
    }
}
