//! What is served of a connection while a card reads a put of it: requests that only read.
//!
//! What a reader would get wrong: they overtake the put, and nothing else does. From the first
//! request on that is no read, all that came waits until the put was answered, in its order.

use std::io;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::{Header, Opcode};

use crate::core::Core;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::rdma;
use crate::shard::{Peer, Step};
use crate::tcp::{Ending, FLUSH_BYTES, Wire};

/// What came of a connection behind a put that is read.
#[derive(Debug)]
pub(crate) struct Beside {
    inbox: Inbox,
    /// Whether the next request waits for the put.
    is_waiting: bool,
}

impl Beside {
    /// What was here behind it when its reading began.
    pub(crate) fn new(behind: &[u8], arrived_us: u64) -> Self {
        Self { inbox: Inbox::holding(behind, arrived_us), is_waiting: false }
    }

    /// What was not served.
    pub(crate) fn into_inbox(self) -> Inbox {
        self.inbox
    }

    /// Serves what it may of what is here, and receives what comes.
    ///
    /// # Errors
    /// [`Ending`] if the peer is gone, or says what may not be said.
    pub(crate) fn serve(
        &mut self,
        wire: &mut Wire,
        core: &Core,
        peer: &mut Peer,
        outbox: &mut Outbox,
    ) -> Result<(), Ending> {
        while !self.is_waiting
            && let Some(header) = self.inbox.header(true)?
        {
            if !only_reads(&header) {
                self.is_waiting = true;
                if header.opcode == Opcode::Pair as u8 {
                    // Its client has taken down its end, and nothing more can be read.
                    core.shard(|shard| shard.unlink(peer, outbox));
                }
                break;
            }
            let Some((body, _)) = self.inbox.body(&header) else { break };
            if outbox.len() >= FLUSH_BYTES || core.shard(|s| s.has_moves_enough(peer)) {
                return Ok(rdma::check_peer(wire)?);
            }
            let late = core.is_late(&header, self.inbox.arrived_us);
            let step = core.shard(|shard| shard.begin(peer, &header, body, late, outbox))?;
            assert!(matches!(step, Step::Replied), "what only reads is answered at once");
            let used = HEADER_BYTES + body.len();
            self.inbox.consume(used);
            wire.spend();
        }
        if self.is_waiting {
            return Ok(rdma::check_peer(wire)?);
        }
        match wire.receive_now(self.inbox.room()) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            Ok(count) => {
                self.inbox.received(count);
                self.inbox.arrived_us = core.now_us();
                wire.bytes += count as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a request changes nothing and has no payload.
fn only_reads(header: &Header) -> bool {
    header.payload_bytes == 0 && Opcode::try_from(header.opcode).is_ok_and(Opcode::only_reads)
}
