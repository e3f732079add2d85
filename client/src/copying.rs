//! A get's object that still lies in the node's memory when its answer has come, or that a network
//! card has written to where it shall be.
//!
//! It is copied, and checked in the same pass, by the thread that takes the answer (of a job, by a
//! mover), so that the I/O goes on with others'. What is there already is only checked. What a
//! reader would get wrong: this owns the landing. Whoever drops it without finishing it has let go
//! of the landing as it was, and nobody writes it any more.

use bytes::Bytes;
use larder_protocol::Status;
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

impl Copying {
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
