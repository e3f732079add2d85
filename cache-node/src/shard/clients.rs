//! Who is connected to the shard, and which way: for operators, so no request pays for it.
//!
//! What a reader would get wrong: a connection is here from its `Hello` on, and its path is what it
//! may use now, not what it last used.

use larder_protocol::message::{ClientPath, ClientReport};
use larder_protocol::{Code, Header};

use super::{Peer, Shard};
use crate::outbox::Outbox;

/// A connection that has said `Hello`.
#[derive(Debug)]
pub(super) struct Client {
    name: Box<[u8]>,
    path: ClientPath,
    since_ms: u64,
}

impl Shard {
    /// Notes that a connection has said its name.
    pub(super) fn greet(&mut self, peer: &mut Peer, name: &[u8]) {
        match peer.place.and_then(|place| self.clients.at(place)) {
            // It may say another one.
            Some(client) => client.name = name.into(),
            None => {
                let (path, since_ms) = (ClientPath::Tcp, self.now_ms);
                peer.place = Some(self.clients.enter(Client { name: name.into(), path, since_ms }));
            }
        }
        self.note_path(peer);
    }

    /// Notes which way the objects of a connection come and go from now on.
    pub(super) fn note_path(&mut self, peer: &Peer) {
        let client = peer.place.and_then(|place| self.clients.at(place));
        if let Some(client) = client {
            client.path = if peer.is_sharing() {
                ClientPath::Shm
            } else if peer.is_reachable() {
                ClientPath::Rdma
            } else {
                ClientPath::Tcp
            };
        }
    }

    /// Forgets a connection.
    pub(super) fn part_with(&mut self, peer: &mut Peer) {
        if let Some(place) = peer.place.take() {
            self.clients.leave(place);
        }
    }

    /// Answers who is connected.
    pub(super) fn clients(&self, header: &Header, out: &mut Outbox) {
        let clients: Vec<_> = self.clients.iter().collect();
        let at = Header::begin(&mut out.bytes);
        let reports = clients.iter().map(|client| ClientReport {
            name: &client.name,
            path: client.path,
            connected_ms: self.now_ms.saturating_sub(client.since_ms),
        });
        ClientReport::encode_all(reports, &mut out.bytes);
        self.answer(header, Code::Ok).finish(0, at, &mut out.bytes);
    }
}
