//! What a call carries: where each object lies on the device, and how the device is told.
//!
//! What a reader would get wrong: offsets are in host memory and count from where an object begins
//! there; where it lies on the device is known here alone.

use std::ops::Range;

use larder_gpu_bridge::{
    Batch, Bay, Device, DeviceError, DeviceRange, Direction, Placed, PlacedPiece,
};
use larder_protocol::Key;

use crate::ferry::Berth;

/// The objects of one call.
pub(super) trait Cargo<D: Device> {
    /// How many there are.
    fn count(&self) -> usize;

    /// Name of one of them.
    fn key(&self, at: usize) -> Key;

    /// How long it may be.
    fn room(&self, at: usize) -> u64;

    /// Whether so many bytes can lie there.
    fn takes(&self, at: usize, bytes: u64) -> bool;

    /// Has the device read objects where they are pinned.
    fn load(
        &self,
        device: &D,
        stream: &mut D::Stream,
        objects: &[Ashore<'_, D>],
    ) -> Result<(), DeviceError>;

    /// Has the device read or write objects in a bay.
    fn cross(
        &self,
        bay: &mut Bay<D>,
        stream: &mut D::Stream,
        direction: Direction,
        objects: &[Stowed],
    ) -> Result<(), DeviceError>;
}

/// An object in pinned memory of a node.
#[derive(Debug)]
pub(super) struct Ashore<'a, D: Device> {
    pub(super) at: usize,
    pub(super) pinned: &'a D::Pinned,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// An object in a bay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stowed {
    pub(super) at: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Objects in pages of a cache, all as long as their plan.
#[derive(Debug)]
pub(super) struct Paged<'a, D: Device> {
    pub(super) berth: &'a Berth<'a, D>,
    pub(super) objects: Vec<(Key, &'a [u32])>,
}

impl<D: Device> Cargo<D> for Paged<'_, D> {
    fn count(&self) -> usize {
        self.objects.len()
    }

    fn key(&self, at: usize) -> Key {
        self.objects[at].0
    }

    fn room(&self, _: usize) -> u64 {
        D::plan(self.berth.plan).object_span()
    }

    fn takes(&self, at: usize, bytes: u64) -> bool {
        bytes == self.room(at)
    }

    fn load(
        &self,
        device: &D,
        stream: &mut D::Stream,
        objects: &[Ashore<'_, D>],
    ) -> Result<(), DeviceError> {
        let placed = objects.iter().map(|object| Placed {
            pinned: object.pinned,
            offset: object.offset,
            pages: self.objects[object.at].1,
        });
        let placed: Vec<_> = placed.collect();
        let Berth { memory, plan } = *self.berth;
        let direction = Direction::ToDevice;
        device.submit(stream, &Batch { direction, memory, plan, objects: &placed })
    }

    fn cross(
        &self,
        bay: &mut Bay<D>,
        stream: &mut D::Stream,
        direction: Direction,
        objects: &[Stowed],
    ) -> Result<(), DeviceError> {
        let placed = objects.iter().map(|object| (object.offset, self.objects[object.at].1));
        let placed: Vec<_> = placed.collect();
        let Berth { memory, plan } = *self.berth;
        bay.submit(stream, direction, memory, plan, &placed)
    }
}

/// Objects in ranges of device memory, each as long as its ranges or shorter.
#[derive(Debug)]
pub(super) struct Ranged<'a, D: Device> {
    pub(super) objects: Vec<(Key, &'a [DeviceRange<'a, D>])>,
}

impl<'a, D: Device> Ranged<'a, D> {
    /// The first `bytes` bytes of an object: where in it, and where on the device.
    fn pieces(
        &self,
        at: usize,
        bytes: u64,
    ) -> impl Iterator<Item = (u64, DeviceRange<'a, D>)> + use<'a, D> {
        let mut done = 0;
        self.objects[at].1.iter().filter_map(move |&range| {
            let Range { start, end } = done..range.bytes.saturating_add(done).min(bytes);
            done = end;
            (start < end).then_some((start, DeviceRange { bytes: end - start, ..range }))
        })
    }
}

impl<D: Device> Cargo<D> for Ranged<'_, D> {
    fn count(&self) -> usize {
        self.objects.len()
    }

    fn key(&self, at: usize) -> Key {
        self.objects[at].0
    }

    fn room(&self, at: usize) -> u64 {
        self.objects[at].1.iter().fold(0, |room, range| range.bytes.saturating_add(room))
    }

    fn takes(&self, at: usize, bytes: u64) -> bool {
        bytes <= self.room(at)
    }

    fn load(
        &self,
        device: &D,
        stream: &mut D::Stream,
        objects: &[Ashore<'_, D>],
    ) -> Result<(), DeviceError> {
        let pieces = objects.iter().flat_map(|&Ashore { at, pinned, offset, bytes }| {
            self.pieces(at, bytes).map(move |(start, range)| range.placed(pinned, offset + start))
        });
        let pieces: Vec<PlacedPiece<'_, D>> = pieces.collect();
        device.submit_pieces(stream, Direction::ToDevice, &pieces)
    }

    fn cross(
        &self,
        bay: &mut Bay<D>,
        stream: &mut D::Stream,
        direction: Direction,
        objects: &[Stowed],
    ) -> Result<(), DeviceError> {
        let pieces = objects.iter().flat_map(|&Stowed { at, offset, bytes }| {
            self.pieces(at, bytes).map(move |(start, range)| (offset + start, range))
        });
        bay.submit_pieces(stream, direction, pieces)
    }
}

#[cfg(test)]
mod tests {
    use larder_gpu_bridge::HostDevice;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_of_an_object_are_its_bytes_in_the_order_of_its_ranges(
            ranges in prop::collection::vec((0u64..1000, prop_oneof![Just(0u64), 1u64..40]), 0..12),
            share in 0u64..=100,
        ) {
            let memory = HostDevice.allocate(1).unwrap();
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(offset, bytes)| DeviceRange::<HostDevice> { memory: &memory, offset, bytes })
                .collect();
            let cargo = Ranged { objects: vec![(Key::new(b"a").unwrap(), &ranges[..])] };
            let room = Cargo::<HostDevice>::room(&cargo, 0);
            let bytes = room * share / 100;
            let naive: Vec<u64> =
                ranges.iter().flat_map(|range| range.offset..range.offset + range.bytes).collect();
            prop_assert_eq!(naive.len() as u64, room);
            let mut found = Vec::new();
            for (start, range) in cargo.pieces(0, bytes) {
                prop_assert_eq!(start, found.len() as u64);
                prop_assert!(range.bytes > 0);
                found.extend(range.offset..range.offset + range.bytes);
            }
            prop_assert_eq!(&found[..], &naive[..bytes as usize]);
        }
    }
}
