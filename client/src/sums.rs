//! Checksums of objects in shared memory, made while the node already copies them.
//!
//! A caller that does the I/O itself sends the request first and what the bytes must be behind it:
//! the node copies meanwhile, and stores nothing before it has compared. What a reader would get
//! wrong: they are put off, not left out, and only for whoever waits. Legs that go to another
//! thread have theirs made before, so that the I/O keeps nobody waiting for another's checksums.

use larder_protocol::limits::INLINE_BYTES_MAX;
use larder_protocol::message::{Put, PutItem};
use larder_protocol::wire::Write;

use crate::client::{Client, Shared};
use crate::leg::Leg;
use crate::sealing::{Seals, checksum_parts};
use crate::session::Session;
use crate::shared::Memories;

/// How far a put is with its checksums.
#[derive(Debug, Default)]
pub(crate) enum Sums {
    /// They stand in the frame, or none are needed.
    #[default]
    Stated,
    /// They are not made. The frame has room for them.
    Due,
    /// They follow the frame: those of the first `objects` are made.
    Following { made: Vec<u8>, objects: usize },
}

impl Client {
    /// As [`Memories::seals_of`], where that pays: on crowded cores the node would wait for a
    /// caller who waits for its core.
    pub(crate) fn seals_of<'p, P: Iterator<Item = &'p [u8]>>(
        &self,
        objects: impl Iterator<Item = P>,
    ) -> Seals {
        let Shared { remote, memories, .. } = &*self.shared;
        if remote.helm().looks_pay() { memories.seals_of(objects) } else { Seals::default() }
    }
}

impl Memories {
    /// Seals for a put of `objects`, each in these pieces. They are put off if all of it is where
    /// nodes on this host can read it, and not so much that others of this client wait for long.
    pub(crate) fn seals_of<'p, P: Iterator<Item = &'p [u8]>>(
        &self,
        objects: impl Iterator<Item = P>,
    ) -> Seals {
        if !self.is_empty() && self.may_follow(objects) { Seals::due() } else { Seals::default() }
    }

    fn may_follow<'p, P: Iterator<Item = &'p [u8]>>(
        &self,
        objects: impl Iterator<Item = P>,
    ) -> bool {
        let mut left = FOLLOWING_BYTES_MAX;
        for mut object in objects {
            let (Some(piece), None) = (object.next(), object.next()) else { return false };
            let is_long = piece.len() > INLINE_BYTES_MAX as usize;
            if !is_long || piece.len() as u64 > left || !self.have(piece) {
                return false;
            }
            left -= piece.len() as u64;
        }
        left < FOLLOWING_BYTES_MAX
    }
}

impl Leg {
    /// Makes the checksums that were put off, and states them in the frame.
    pub(crate) fn state_sums(&mut self) {
        if matches!(self.sums, Sums::Stated) {
            return;
        }
        let mut made = Vec::new();
        self.sum_from(0, u64::MAX, &mut made);
        self.sums = Sums::Stated;
        self.encode_forms(Some(&made));
    }

    /// What of the checksums that follow the frame is made, and whether more is to come.
    pub(crate) fn following(&self) -> (&[u8], bool) {
        match &self.sums {
            Sums::Following { made, .. } => (made, (made.len() as u64) < self.payload_bytes),
            Sums::Stated | Sums::Due => (&[], false),
        }
    }

    /// Makes some of the checksums that follow; whether there were any to make.
    fn sum_next(&mut self) -> bool {
        let Sums::Following { mut made, objects } = std::mem::take(&mut self.sums) else {
            return false;
        };
        let next = self.sum_from(objects, STEP_BYTES, &mut made);
        self.sums = Sums::Following { made, objects: next };
        next > objects
    }

    /// Appends part checksums and seal of each object from number `first` on, until `bytes_min`
    /// bytes were read or there are no more. Answers the number of the next.
    fn sum_from(&self, first: usize, bytes_min: u64, out: &mut Vec<u8>) -> usize {
        let namespace = self.namespace.as_ref().expect("puts have a namespace");
        let request = Put::decode(self.body(), self.payload_bytes).expect("encoded by this client");
        let (mut next, mut read) = (first, 0);
        for (item, source) in request.items.iter().zip(&self.sources).skip(first) {
            if read >= bytes_min {
                break;
            }
            let parts_at = out.len();
            checksum_parts(source.pieces(), namespace.part_bytes(), out);
            let PutItem { key, version, object_bytes, user_meta, .. } = item;
            let parts = &out[parts_at..];
            let seal = namespace.seal(key.as_bytes(), version, object_bytes, user_meta, parts);
            out.u32(seal);
            read += u64::from(object_bytes);
            next += 1;
        }
        next
    }
}

impl Session {
    /// Makes some of the checksums that follow what is written; whether there were any to make.
    pub(crate) fn sum_next(&mut self) -> bool {
        while let Some(id) = self.summing.front() {
            let leg = self.flights.get_mut(id).and_then(|flight| flight.leg_mut());
            if leg.is_some_and(Leg::sum_next) {
                return true;
            }
            self.summing.pop_front();
        }
        false
    }
}

/// Most bytes of a put that makes its checksums while it does the I/O: some 100 us.
const FOLLOWING_BYTES_MAX: u64 = 2 << 20;
/// What is checksummed before what was made is sent: small objects go many at a time.
const STEP_BYTES: u64 = 256 << 10;
