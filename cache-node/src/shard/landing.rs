//! Gets whose objects the node writes into the memory of the reader.
//!
//! What a reader would get wrong: a landing may have more room than the object has bytes. Only the
//! front of it is written.

use std::ops::Range;

use larder_protocol::message::{Get, Payload, RemotePiece};
use larder_protocol::{Code, Header, Status};
use larder_transport::Slot;
use larder_transport::rdma::{AnyMemory, AnyPair, Transfers};

use super::get::{Budget, Way};
use super::remote::Parked;
use super::{Peer, Shard};
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;

impl Shard {
    /// Serves a get of which not all goes through the connection.
    pub(super) fn get_remote(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        out: &mut Outbox,
    ) {
        let (Some(remote), Some(landings)) = (&mut peer.remote, landings_of(get)) else {
            self.refuse(header, Code::Unsupported, out);
            return;
        };
        if self.sending.value() >= self.sending_bytes_max || remote.is_full() {
            self.refuse(header, Code::Busy, out);
            return;
        }
        let Some((transfers, first_token)) = remote.open() else {
            self.refuse(header, Code::Unreachable, out);
            return;
        };
        let mut written = Written {
            landings: &landings,
            transfers,
            first_token,
            moves: Vec::new(),
            budget: Budget::new(self.sending_bytes_max),
            sent_bytes: 0,
        };
        let mut answer = Outbox::default();
        let hits = self.answer_all(header, namespace, get, &mut written, &mut answer);
        let Written { moves, sent_bytes, .. } = written;
        let (keys, counts) = (get.items.len() as u64, [hits, sent_bytes, 0, 0]);
        if moves.is_empty() {
            self.count_get(keys, counts);
            out.append(answer);
            return;
        }
        let parked = Parked::new(header, answer, &moves, &self.sending).counting(keys, counts);
        if remote.park(parked, &moves, self.now_ms) {
            self.post(peer);
        }
    }
}

/// Objects are written where they shall land, or sent behind the answers.
struct Written<'a> {
    landings: &'a [Payload<'a>],
    transfers: &'a mut Transfers<AnyPair, AnyMemory>,
    first_token: u64,
    /// How many bytes each has that the card writes.
    moves: Vec<u32>,
    budget: Budget,
    sent_bytes: u64,
}

impl Way for Written<'_> {
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
fn landings_of<'a>(get: &Get<'a>) -> Option<Vec<Payload<'a>>> {
    let landings = get.items.iter().map(|item| item.landing);
    landings.map(|at| (!matches!(at, Payload::Shared { .. })).then_some(at)).collect()
}

/// How many bytes pieces have together.
pub(super) fn bytes_of(pieces: impl Iterator<Item = RemotePiece>) -> u64 {
    pieces.map(|piece| u64::from(piece.bytes)).sum()
}
