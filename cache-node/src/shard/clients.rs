//! Who is connected to the shard, and which way: for operators, so no request pays for it.
//!
//! What a reader would get wrong: a connection is here from its `Hello` on, and its path is what it
//! may use now, not what it last used.

use larder_protocol::message::{ClientPath, ClientReport};
use larder_protocol::{Code, Header};

use super::{Peer, Shard};
use crate::outbox::Outbox;

/// The connections that have said `Hello`.
#[derive(Debug, Default)]
pub(super) struct Clients {
    places: Vec<Option<Client>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Client {
    name: Box<[u8]>,
    path: ClientPath,
    since_ms: u64,
}

impl Clients {
    /// Takes a connection in; its place until it leaves.
    fn enter(&mut self, name: &[u8], now_ms: u64) -> usize {
        let client = Client { name: name.into(), path: ClientPath::Tcp, since_ms: now_ms };
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.places[place] = Some(client);
        place
    }

    fn leave(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }
}

impl Shard {
    /// Notes that a connection has said its name.
    pub(super) fn greet(&mut self, peer: &mut Peer, name: &[u8]) {
        match peer.place.and_then(|place| self.clients.places[place].as_mut()) {
            // It may say another one.
            Some(client) => client.name = name.into(),
            None => peer.place = Some(self.clients.enter(name, self.now_ms)),
        }
        self.note_path(peer);
    }

    /// Notes which way the objects of a connection come and go from now on.
    pub(super) fn note_path(&mut self, peer: &Peer) {
        let client = peer.place.and_then(|place| self.clients.places[place].as_mut());
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
        let clients: Vec<_> = self.clients.places.iter().flatten().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_those_who_left_are_taken_again() {
        let mut clients = Clients::default();
        let places: Vec<_> = (0..3).map(|n| clients.enter(&[n], 5)).collect();
        assert_eq!(places, [0, 1, 2]);
        clients.leave(1);
        assert_eq!((clients.enter(b"d", 6), clients.enter(b"e", 7)), (1, 3));
        let names: Vec<_> = clients.places.iter().flatten().map(|c| c.name[0]).collect();
        assert_eq!(names, [0, b'd', 2, b'e']);
    }
}
