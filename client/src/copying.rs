//! A get's object that still lies in the node's memory when its answer has come, or that a network
//! card has written to where it shall be.
//!
//! It is copied, and checked in the same pass, by the thread that takes the answer (of a job, by a
//! mover), so that the I/O goes on with others'. What is there already is only checked. What a
//! reader would get wrong: this owns the landing. Whoever drops it without finishing it has let go
//! of the landing as it was, and nobody writes it any more.

#[cfg(feature = "gpu")]
use std::ops::Range;

use bytes::Bytes;
use larder_protocol::Status;
#[cfg(feature = "gpu")]
use larder_protocol::checksum::{decode_part, part_count, part_range};
use larder_transport::Landing;

use crate::call::Outcome;
use crate::error::KeyError;
use crate::lease::{Checks, Said};
use crate::object::{Landed, Object};
use crate::regions::Leased;

/// A copy to be made, or a check.
#[derive(Debug)]
pub(crate) struct Copying {
    /// The key's place in the call.
    pub(crate) place: usize,
    pub(crate) from: From,
    /// To where; `None` for new memory.
    pub(crate) landing: Option<Landing>,
    pub(crate) said: Said,
    pub(crate) checks: Checks,
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum From {
    /// In the node's memory.
    Leased(Leased),
    /// In the landing, so many from its start.
    Landed { bytes: u32 },
}

/// An object that a card has written to memory of a device, where no processor looks. It is not
/// answered before whoever had it land there has checked it.
#[cfg(feature = "gpu")]
#[derive(Debug)]
pub(crate) struct Aboard {
    /// The key's place in the call.
    pub(crate) place: usize,
    pub(crate) bytes: u32,
    said: Said,
    checks: Checks,
}

#[cfg(feature = "gpu")]
impl Aboard {
    /// Where each of its parts is, from its start on, and the checksum that it shall have; `None`
    /// is that of no bytes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Range<u32>, Option<u64>)> {
        let Self { bytes, checks: Checks { parts, part_bytes, part_first }, .. } = self;
        (0..part_count(*bytes, *part_bytes)).map(|index| {
            let expected = decode_part(parts, usize::from(*part_first) + index as usize);
            (part_range(*bytes, *part_bytes, index), expected)
        })
    }

    /// What is answered of it once it was checked.
    pub(crate) fn landed(self) -> Landed {
        let Said { object_bytes, version, user_meta } = self.said;
        Landed { bytes: self.bytes, object_bytes, version, user_meta }
    }
}

impl Copying {
    /// What a card has written to memory of a device, apart. Its landing was let go of.
    #[cfg(feature = "gpu")]
    pub(crate) fn ashore_or_aboard(self) -> Result<Self, Aboard> {
        match (&self.from, &self.landing) {
            (&From::Landed { bytes }, Some(landing)) if landing.is_aboard() => {
                let Self { place, said, checks, .. } = self;
                Err(Aboard { place, bytes, said, checks })
            }
            _ => Ok(self),
        }
    }

    /// Makes the copy and answers its key. The landing is dropped and the lease has ended when this
    /// returns.
    pub(crate) fn finish(self, outcome: &mut Outcome) {
        let Self { place, from, landing, said, checks } = self;
        let (From::Leased(Leased { bytes: landed, .. }) | From::Landed { bytes: landed }) = from;
        let mut verifier = checks.verifier(landed);
        let check = |step: &[u8]| verifier.update(step, &checks.parts);
        let mut bytes = Vec::new();
        match (&from, landing) {
            (From::Leased(leased), Some(mut landing)) => {
                let count = u64::from(landed);
                leased.region.copy_to_landing(leased.offset, count, &mut landing, check);
            }
            (From::Leased(leased), None) => {
                bytes = vec![0; landed as usize];
                leased.region.copy_out(leased.offset, &mut bytes, check);
            }
            (From::Landed { .. }, landing) => {
                let mut landing = landing.expect("what has landed has a landing");
                // Nobody here can look at it: its verifier is shown nothing.
                let landed = if landing.is_aboard() { 0 } else { landed };
                landing.for_each_piece(0, landed.into(), check);
            }
        }
        drop(from);
        if !verifier.finish(&checks.parts) {
            outcome.fail(place, &KeyError::Status(Status::MissCorrupt));
            return;
        }
        let Said { object_bytes, version, user_meta } = said;
        match outcome {
            Outcome::Get(keys) => {
                let bytes = Bytes::from(bytes);
                keys[place] = Ok(Object { bytes, object_bytes, version, user_meta });
            }
            Outcome::GetInto(keys) => {
                let bytes = landed;
                keys[place] = Ok(Landed { bytes, object_bytes, version, user_meta });
            }
            _ => unreachable!("only gets copy"),
        }
    }
}
