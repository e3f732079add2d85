//! A get's object that still lies in the node's memory when its answer has come.
//!
//! It is copied, and checked in the same pass, by the thread that takes the answer (of a job, by a
//! mover), so that the I/O goes on with others'. What a reader would get wrong: this owns the
//! landing. Whoever drops it without finishing it has let go of the landing as it was, and nobody
//! writes it any more.

use bytes::Bytes;
use larder_protocol::Status;
use larder_transport::Landing;

use crate::call::Outcome;
use crate::error::KeyError;
use crate::lease::{Checks, Said};
use crate::object::{Landed, Object};
use crate::regions::Leased;

/// A copy to be made.
#[derive(Debug)]
pub(crate) struct Copying {
    /// The key's place in the call.
    pub(crate) place: usize,
    /// From where.
    pub(crate) leased: Leased,
    /// To where; `None` for new memory.
    pub(crate) landing: Option<Landing>,
    pub(crate) said: Said,
    pub(crate) checks: Checks,
}

impl Copying {
    /// Makes the copy and answers its key. The landing is dropped and the lease has ended when this
    /// returns.
    pub(crate) fn finish(self, outcome: &mut Outcome) {
        let Self { place, leased, landing, said, checks } = self;
        let mut verifier = checks.verifier(leased.bytes);
        let check = |step: &[u8]| verifier.update(step, &checks.parts);
        let mut bytes = Vec::new();
        match landing {
            Some(mut landing) => {
                let count = u64::from(leased.bytes);
                leased.region.copy_to_landing(leased.offset, count, &mut landing, check);
            }
            None => {
                bytes = vec![0; leased.bytes as usize];
                leased.region.copy_out(leased.offset, &mut bytes, check);
            }
        }
        let landed = leased.bytes;
        drop(leased);
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
