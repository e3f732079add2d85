//! A shard and a connection without sockets, executor and clock: for counting what a request costs.
//!
//! What a reader would get wrong: nothing in the node uses this, and the driver it stands for is
//! `tcp.rs`. What is here is that loop without its awaits, so whoever changes one looks at both.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use larder_protocol::DecodeError;
use larder_protocol::limits::HEADER_BYTES;
use larder_transport::{Arena, Region};

use crate::config::Config;
use crate::counters::NodeState;
use crate::inbox::Inbox;
use crate::node::StartError;
use crate::outbox::Outbox;
use crate::shard::{Identity, Peer, Shard, Step};

/// The only shard of a node, and one peer of it.
#[derive(Debug)]
pub struct Probe {
    node_id: u64,
    shard: Shard,
    peer: Peer,
    inbox: Inbox,
    outbox: Outbox,
}

impl Probe {
    /// An empty shard of one node with this many bytes of memory.
    ///
    /// # Errors
    /// [`StartError`] if there is not so much memory.
    pub fn new(memory_bytes: u64) -> Result<Self, StartError> {
        let memory = |source| StartError::Memory { shard: 0, source };
        // Nobody listens there; a view has addresses.
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 7400));
        let config = Config { memory_bytes, listen, ..Config::default() };
        let arena = Arena::new(Arc::new(Region::heap(memory_bytes).map_err(memory)?));
        let state = NodeState::new(&config);
        let identity = Identity::new(&config, &state, 0)?;
        Ok(Self {
            node_id: state.id,
            shard: Shard::new(arena, identity, &config),
            peer: Peer::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        })
    }

    /// The number that clients place keys by.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Serves what has come and appends the replies. A request that is not whole waits for more.
    ///
    /// # Errors
    /// [`DecodeError`] where a connection would end.
    #[inline(never)]
    pub fn serve(&mut self, mut came: &[u8], replies: &mut Vec<u8>) -> Result<(), DecodeError> {
        while !came.is_empty() {
            let room = self.inbox.room();
            let count = room.len().min(came.len());
            room[..count].copy_from_slice(&came[..count]);
            self.inbox.received(count);
            came = &came[count..];
            self.serve_inbox()?;
            while !self.outbox.is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
                let count = self.outbox.slices(&mut slices);
                let sent = slices[..count].iter().map(|slice| slice.len()).sum();
                slices[..count].iter().for_each(|slice| replies.extend_from_slice(slice));
                self.outbox.advance(sent);
            }
        }
        Ok(())
    }

    fn serve_inbox(&mut self) -> Result<(), DecodeError> {
        let Self { shard, peer, inbox, outbox, .. } = self;
        let mut seen_ahead = 0;
        while let Some(header) = inbox.header(peer.is_greeted())? {
            let Some((body, behind)) = inbox.body(&header) else { break };
            if (behind.len() as u64) < header.payload_bytes {
                break;
            }
            if seen_ahead == 0 {
                seen_ahead = shard.look_ahead(peer, inbox.unserved());
            }
            seen_ahead = seen_ahead.saturating_sub(1);
            let mut used = HEADER_BYTES + body.len();
            match shard.begin(peer, &header, body, false, outbox)? {
                // Nobody here shares memory or has a card.
                Step::Replied | Step::Map(_) | Step::Connect(_) => {}
                Step::Skip => used += header.payload_bytes as usize,
                Step::Fill(job) => {
                    used += header.payload_bytes as usize;
                    let mut rest = behind;
                    let mut statuses = Vec::with_capacity(job.put.items.len());
                    for item in job.put.items.iter() {
                        let (object, next) = rest.split_at(item.object_bytes as usize);
                        rest = next;
                        statuses.push(match shard.reserve(&job, &item) {
                            Ok(mut filling) => {
                                filling.unfilled()[..object.len()].copy_from_slice(object);
                                filling.received(object.len(), item.parts);
                                shard.commit(&job, &item, filling, false)
                            }
                            Err(status) => status,
                        });
                    }
                    shard.finish_put(&header, &job, &statuses, outbox);
                }
            }
            inbox.consume(used);
        }
        Ok(())
    }
}

/// As in `tcp.rs`.
const SLICES_MAX: usize = 130;
