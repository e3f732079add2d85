//! Takes the payload of a get's reply apart: to landings, to new objects, or to nowhere.
//!
//! Nothing is believed before it is checked. The seal decides whether an object gets any memory,
//! the parts' checksums, computed while the bytes are still in the cache, whether it is a hit. A
//! landing is written while they are checked, so a corrupt object leaves it with unspecified
//! contents.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use larder_protocol::checksum::{PartVerifier, part_count, part_range};
use larder_protocol::message::{GetAnswer, Hit, Item, LeasedPlace, Payload as Form, Sharing};
use larder_protocol::wire::Reader;
use larder_protocol::{DecodeError, Status};
use larder_transport::Landing;

use crate::call::Outcome;
use crate::copying::{Copying, From};
use crate::error::KeyError;
use crate::lease::{Checks, Lease, Said};
use crate::leg::{KeyCursor, Leg};
use crate::object::{Landed, Object};
use crate::regions::Regions;
use crate::wire::Wire;

/// Where in a get's reply we are.
#[derive(Debug)]
pub(crate) struct Fill {
    keys: KeyCursor,
    body_at: usize,
    next: usize,
    object: Option<Arriving>,
}

/// The object whose bytes come next.
#[derive(Debug)]
struct Arriving {
    index: usize,
    left: u32,
    sent_bytes: u32,
    said: Said,
    /// Where its part checksums are in the body.
    parts: Range<usize>,
    verifier: PartVerifier,
    target: Target,
}

/// What one read brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Landfall {
    /// Bytes of the object.
    pub(crate) landed: usize,
    /// Bytes of what comes after it.
    pub(crate) behind: usize,
    /// Whether there was room for more.
    pub(crate) is_short: bool,
}

#[derive(Debug)]
enum Target {
    Object(Vec<u8>),
    Landing,
    /// It is not taken, for this reason.
    Nowhere(Status),
}

impl Fill {
    /// At the first answer of a body that was checked as a whole.
    pub(crate) const fn new() -> Self {
        // The count of answers comes first.
        Self { keys: KeyCursor::new(), body_at: 4, next: 0, object: None }
    }

    /// Of a leg whose answers are not read any more: what they leased, somebody may hold.
    pub(crate) const fn over() -> Self {
        Self { keys: KeyCursor::new(), body_at: 0, next: usize::MAX, object: None }
    }

    /// Takes what it can from `bytes`; answers how many it took. It takes less than all only when
    /// every answer is complete.
    ///
    /// # Errors
    /// [`DecodeError`] if an answer makes no sense for a get.
    pub(crate) fn feed(
        &mut self,
        body: &[u8],
        leg: &mut Leg,
        bytes: &[u8],
        regions: &Regions,
    ) -> Result<usize, DecodeError> {
        let mut taken = 0;
        loop {
            if self.object.is_none() && !self.begin_next(body, leg, regions)? {
                return Ok(taken);
            }
            let Some(object) = &mut self.object else { continue };
            let now = (bytes.len() - taken).min(object.left as usize);
            object.take(&bytes[taken..taken + now], body, leg);
            taken += now;
            if object.left > 0 {
                return Ok(taken);
            }
            self.end_object(body, leg);
        }
    }

    /// Whether every answer is complete.
    pub(crate) fn is_done(&self, leg: &Leg) -> bool {
        self.object.is_none() && self.next == leg.indices.len()
    }

    /// Reads straight to where the current object goes, if it is long enough to be worth it. What
    /// comes behind it goes to `area`. `None` if nothing was tried.
    pub(crate) fn read(
        &mut self,
        from: &mut impl Wire,
        body: &[u8],
        leg: &mut Leg,
        area: &mut [u8],
    ) -> Option<io::Result<Landfall>> {
        let object = self.object.as_mut().filter(|object| object.left >= DIRECT_BYTES_MIN)?;
        let wanted = object.left.min(READ_BYTES_MAX) as usize;
        let read = match &mut object.target {
            Target::Nowhere(_) => return None,
            Target::Object(bytes) => from.read_more(bytes, object.left as usize).map(|read| {
                let landed = &bytes[bytes.len() - read..];
                object.verifier.update(landed, &body[object.parts.clone()]);
                Landfall { landed: read, behind: 0, is_short: read < object.left as usize }
            }),
            Target::Landing => {
                let offset = u64::from(object.sent_bytes - object.left);
                let piece = leg.landings[object.index].piece_at(offset);
                let is_last = piece.len() >= object.left as usize;
                let piece_bytes = piece.len().min(wanted);
                let piece = &mut piece[..piece_bytes];
                // Only behind the end of the object may bytes go elsewhere.
                let is_end = is_last && piece_bytes == object.left as usize;
                let room = piece_bytes + if is_end { area.len() } else { 0 };
                let read = if is_end { from.read_both(piece, area) } else { from.read(piece) };
                read.map(|read| {
                    let landed = read.min(piece_bytes);
                    object.verifier.update(&piece[..landed], &body[object.parts.clone()]);
                    Landfall { landed, behind: read - landed, is_short: read < room }
                })
            }
        };
        if let Ok(Landfall { landed, .. }) = read {
            object.left -= landed as u32;
            if object.left == 0 {
                self.end_object(body, leg);
            }
        }
        Some(read)
    }

    /// Reads answers up to the next object with bytes. `false` if there is none.
    fn begin_next(
        &mut self,
        body: &[u8],
        leg: &mut Leg,
        regions: &Regions,
    ) -> Result<bool, DecodeError> {
        while self.next < leg.indices.len() {
            let mut reader = Reader::new(&body[self.body_at..]);
            let answer = GetAnswer::read(&mut reader)?;
            self.body_at = body.len() - reader.remaining();
            let key = self.keys.next(&leg.frame);
            let index = self.next;
            self.next += 1;
            // The node has answered, so it writes there no more.
            let is_landed = leg.landings.get_mut(index).is_some_and(Landing::settle);
            match answer {
                GetAnswer::Miss(status) => miss(index, status, leg)?,
                GetAnswer::Hit(hit) => match hit.payload {
                    Form::Inline => {
                        self.object = Some(begin(index, &leg.frame[key], &hit, body, leg));
                        return Ok(true);
                    }
                    Form::Shared { region, offset } if leg.get.sharing != Sharing::Never => {
                        let place = LeasedPlace { region, offset };
                        take_shared(index, key, &hit, place, leg, regions)?;
                    }
                    Form::Remote(pieces) if is_landed && pieces.is_empty() => {
                        take_landed(index, key, &hit, leg);
                    }
                    // No other form was asked for.
                    other => {
                        let found = u64::from(other.form());
                        return Err(DecodeError::Value { what: "payload form", found });
                    }
                },
            }
        }
        Ok(false)
    }

    /// The answers that were not taken yet, of a body that was checked as a whole.
    pub(crate) fn rest<'b>(
        &self,
        body: &'b [u8],
        leg: &Leg,
    ) -> impl Iterator<Item = GetAnswer<'b>> + use<'b> {
        let mut reader = Reader::new(body.get(self.body_at..).unwrap_or_default());
        (self.next..leg.indices.len()).map_while(move |_| GetAnswer::read(&mut reader).ok())
    }

    fn end_object(&mut self, body: &[u8], leg: &mut Leg) {
        let object = self.object.take().expect("called with an object");
        let is_whole = object.verifier.finish(&body[object.parts.clone()]);
        let Said { object_bytes, version, user_meta } = object.said;
        let place = leg.indices.at(object.index);
        let error = match object.target {
            Target::Nowhere(status) => Some(status),
            _ if !is_whole => Some(Status::MissCorrupt),
            _ => None,
        };
        leg.answered = object.index + 1;
        leg.call.answer(|outcome| match (error, outcome, object.target) {
            (Some(status), outcome, _) => outcome.fail(place, &KeyError::Status(status)),
            (None, Outcome::Get(keys), Target::Object(bytes)) => {
                let bytes = Bytes::from(bytes);
                keys[place] = Ok(Object { bytes, object_bytes, version, user_meta });
            }
            (None, Outcome::GetInto(keys), _) => {
                let bytes = object.sent_bytes;
                keys[place] = Ok(Landed { bytes, object_bytes, version, user_meta });
            }
            (None, Outcome::Lease(keys), Target::Object(bytes)) => {
                let said = Said { object_bytes, version, user_meta };
                let checks = checks(&body[object.parts], leg);
                keys[place] = Ok(Lease::owned(Bytes::from(bytes), said, checks));
            }
            _ => unreachable!("gets have gets' outcomes"),
        });
    }
}

impl Arriving {
    fn take(&mut self, bytes: &[u8], body: &[u8], leg: &mut Leg) {
        match &mut self.target {
            Target::Nowhere(_) => {}
            Target::Object(object) => object.extend_from_slice(bytes),
            Target::Landing => {
                let offset = u64::from(self.sent_bytes - self.left);
                leg.landings[self.index].write_at(offset, bytes);
            }
        }
        if !matches!(self.target, Target::Nowhere(_)) {
            self.verifier.update(bytes, &body[self.parts.clone()]);
        }
        self.left -= bytes.len() as u32;
    }
}

fn begin(index: usize, key: &[u8], hit: &Hit<'_>, body: &[u8], leg: &Leg) -> Arriving {
    let namespace = leg.namespace.as_ref().expect("gets have a namespace");
    let target = match refusal(index, key, hit, leg) {
        Some(status) => Target::Nowhere(status),
        None if leg.landings.is_empty() => {
            Target::Object(Vec::with_capacity(hit.sent_bytes as usize))
        }
        None => Target::Landing,
    };
    let parts_at = hit.parts.as_ptr() as usize - body.as_ptr() as usize;
    let first = usize::from(leg.get.part_first);
    Arriving {
        index,
        left: hit.sent_bytes,
        sent_bytes: hit.sent_bytes,
        said: said(hit),
        parts: parts_at..parts_at + hit.parts.len(),
        verifier: PartVerifier::new(hit.sent_bytes, namespace.part_bytes(), first),
        target,
    }
}

/// Takes an object that is not sent: leases it to the caller, or has it copied by who waits.
fn take_shared(
    index: usize,
    key: Range<usize>,
    hit: &Hit<'_>,
    place: LeasedPlace,
    leg: &mut Leg,
    regions: &Regions,
) -> Result<(), DecodeError> {
    // Whatever becomes of it, from here on the lease ends.
    let leased = regions.leased(place, hit.sent_bytes)?;
    let place = leg.indices.at(index);
    leg.answered = index + 1;
    if let Some(status) = refusal(index, &leg.frame[key], hit, leg) {
        leg.call.fail(place, &KeyError::Status(status));
        return Ok(());
    }
    let (said, checks) = (said(hit), checks(hit.parts, leg));
    let nothing = || Landing::from_vec(Vec::new());
    let landing = leg.landings.get_mut(index).map(|landing| std::mem::replace(landing, nothing()));
    leg.call.answer_shared(|outcome| match outcome {
        Outcome::Lease(keys) => {
            let corrupt = KeyError::Status(Status::MissCorrupt);
            keys[place] = Lease::mapped(leased, said, checks).ok_or(corrupt);
            None
        }
        _ => Some(Copying { place, from: From::Leased(leased), landing, said, checks }),
    });
    Ok(())
}

/// Takes an object that is where it shall be already: it is checked by who waits.
fn take_landed(index: usize, key: Range<usize>, hit: &Hit<'_>, leg: &mut Leg) {
    let place = leg.indices.at(index);
    leg.answered = index + 1;
    if let Some(status) = refusal(index, &leg.frame[key], hit, leg) {
        leg.call.fail(place, &KeyError::Status(status));
        return;
    }
    let (said, checks, bytes) = (said(hit), checks(hit.parts, leg), hit.sent_bytes);
    let landing = std::mem::replace(&mut leg.landings[index], Landing::from_vec(Vec::new()));
    let copying =
        Copying { place, from: From::Landed { bytes }, landing: Some(landing), said, checks };
    leg.call.answer_shared(|_| Some(copying));
}

fn said(hit: &Hit<'_>) -> Said {
    let user_meta = copy_of(hit.user_meta);
    Said { object_bytes: hit.object_bytes, version: hit.version, user_meta }
}

fn checks(parts: &[u8], leg: &Leg) -> Checks {
    let namespace = leg.namespace.as_ref().expect("gets have a namespace");
    let (parts, part_bytes) = (parts.into(), namespace.part_bytes());
    Checks { parts, part_bytes, part_first: leg.get.part_first }
}

/// No metadata is what most objects have.
fn copy_of(meta: &[u8]) -> Bytes {
    if meta.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(meta) }
}

/// Why a hit is not taken, if it is not: what it claims is not what was asked for.
fn refusal(index: usize, key: &[u8], hit: &Hit<'_>, leg: &Leg) -> Option<Status> {
    let namespace = leg.namespace.as_ref().expect("gets have a namespace");
    let part_bytes = namespace.part_bytes();
    let parts = part_count(hit.object_bytes, part_bytes);
    let seal = || namespace.seal(key, hit.version, hit.object_bytes, hit.user_meta, hit.parts);
    if hit.parts.len() != 8 * parts as usize || seal() != hit.seal {
        return Some(Status::MissCorrupt);
    }
    let (first, count) = (u32::from(leg.get.part_first), u32::from(leg.get.part_count));
    let asked = if count == 0 {
        hit.object_bytes
    } else {
        let last = part_range(hit.object_bytes, part_bytes, first + count - 1);
        last.end - part_range(hit.object_bytes, part_bytes, first).start
    };
    if first + count > parts || hit.sent_bytes != asked {
        return Some(Status::MissCorrupt);
    }
    let room = leg.landings.get(index).map_or(u64::MAX, Landing::len);
    let room = room.min(u64::from(leg.get.object_bytes_max));
    (u64::from(hit.sent_bytes) > room).then_some(Status::MissSize)
}

fn miss(index: usize, status: Status, leg: &mut Leg) -> Result<(), DecodeError> {
    leg.answered = index + 1;
    match status {
        Status::WrongShard | Status::MissReplyFull => {
            leg.again.push(index as u32);
            leg.is_misplaced |= status == Status::WrongShard;
        }
        status if status.is_miss() || status == Status::Busy => {
            leg.call.fail(leg.indices.at(index), &KeyError::Status(status));
        }
        other => {
            return Err(DecodeError::Value { what: "key status", found: other as u64 });
        }
    }
    Ok(())
}

/// Shorter rests are read with whatever follows them and copied: one system call for many.
const DIRECT_BYTES_MIN: u32 = 16 << 10;
/// Longest read before what was read is checked: it shall still be in the cache. A guess.
const READ_BYTES_MAX: u32 = 256 << 10;
