//! Gets whose objects the node writes into the memory of the reader.
//!
//! What a reader would get wrong: where an object goes is checked when the request is read, all of
//! it, but only the front of it is written: as much as the object has.

use std::ops::Range;

use larder_protocol::message::{Get, Payload, RemotePiece};
use larder_protocol::{Code, DecodeError, Header, Status};
use larder_transport::Slot;
use larder_transport::rdma::{AnyMemory, AnyPair, Transfers};

use super::get::{Budget, Way};
use super::remote::Parked;
use super::{Peer, Shard};
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;

impl Shard {
    /// Serves a get of which not all goes through the connection.
    ///
    /// # Errors
    /// [`DecodeError`] if a landing is at no address; the connection ends then.
    pub(super) fn get_remote(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let landings = landings_of(get)?;
        let (Some(remote), Some(landings)) = (&mut peer.remote, landings) else {
            self.refuse(header, Code::Unsupported, out);
            return Ok(());
        };
        if self.sending.value() >= self.sending_bytes_max || remote.is_full() {
            self.refuse(header, Code::Busy, out);
            return Ok(());
        }
        let Some((transfers, first_token)) = remote.open() else {
            self.refuse(header, Code::Unreachable, out);
            return Ok(());
        };
        let mut landing = Landing {
            landings: &landings,
            transfers,
            first_token,
            moves: Vec::new(),
            budget: Budget::new(self.sending_bytes_max),
            sent_bytes: 0,
        };
        let mut answer = Outbox::default();
        let hits = self.answer_all(header, namespace, get, &mut landing, &mut answer);
        let Landing { moves, sent_bytes, .. } = landing;
        self.count_get(get.items.len() as u64, [hits, sent_bytes, 0, 0]);
        if moves.is_empty() {
            out.append(answer);
            return Ok(());
        }
        let parked = Parked::new(header, answer, &moves, &self.sending);
        if remote.park(parked, &moves, self.now_ms) {
            self.post(peer);
        }
        Ok(())
    }
}

/// Where the objects of one get go.
struct Landing<'a> {
    landings: &'a [Payload<'a>],
    transfers: &'a mut Transfers<AnyPair, AnyMemory>,
    first_token: u64,
    /// How many bytes each has that the card writes.
    moves: Vec<u32>,
    budget: Budget,
    sent_bytes: u64,
}

impl Way for Landing<'_> {
    fn give(
        &mut self,
        number: usize,
        slot: &Slot,
        range: Range<u32>,
    ) -> Result<Payload<'static>, Status> {
        let bytes = range.end - range.start;
        let Payload::Remote(pieces) = self.landings[number] else {
            self.budget.take(bytes)?;
            self.sent_bytes += u64::from(bytes);
            return Ok(Payload::Inline);
        };
        let pieces = first_bytes(pieces.iter(), bytes).ok_or(Status::MissSize)?;
        self.budget.take(bytes)?;
        if bytes > 0 {
            let token = self.first_token + self.moves.len() as u64;
            let range = range.start as usize..range.end as usize;
            let taken = self.transfers.write(token, slot.clone(), range, pieces);
            taken.map_err(|_| Status::Busy)?;
            self.moves.push(bytes);
        }
        Ok(Payload::landed())
    }

    fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }
}

/// The first `bytes` bytes of the pieces, `None` if they have fewer.
fn first_bytes(
    pieces: impl Iterator<Item = RemotePiece>,
    mut bytes: u32,
) -> Option<Vec<RemotePiece>> {
    let mut first = Vec::new();
    for piece in pieces {
        if bytes == 0 {
            break;
        }
        let taken = piece.bytes.min(bytes);
        if taken > 0 {
            first.push(RemotePiece { bytes: taken, ..piece });
        }
        bytes -= taken;
    }
    (bytes == 0).then_some(first)
}

/// The landings of a get, `None` if one is of a kind that gets do not have.
fn landings_of<'a>(get: &Get<'a>) -> Result<Option<Vec<Payload<'a>>>, DecodeError> {
    let mut landings = Vec::with_capacity(get.items.len());
    for item in get.items.iter() {
        match item.landing {
            Payload::Inline => {}
            Payload::Remote(pieces) => {
                bytes_of(pieces.iter())?;
            }
            Payload::Shared { .. } => return Ok(None),
        }
        landings.push(item.landing);
    }
    Ok(Some(landings))
}

/// How many bytes pieces have together.
///
/// # Errors
/// [`DecodeError`] for one that ends behind the last address.
pub(super) fn bytes_of(pieces: impl Iterator<Item = RemotePiece>) -> Result<u64, DecodeError> {
    let mut bytes = 0;
    for piece in pieces {
        let end = piece.address.checked_add(piece.bytes.into());
        end.ok_or(DecodeError::Value { what: "remote address", found: piece.address })?;
        bytes += u64::from(piece.bytes);
    }
    Ok(bytes)
}
