//! The driver's part of a put: its objects into their slots, from the socket or from shared memory.
//!
//! What a reader would get wrong: a long object is no reason for others to wait. Whatever is copied
//! is counted, and others get their turn between pieces.

use std::io;

use larder_protocol::message::{Payload, PutItem};
use larder_protocol::stats::Stat;
use larder_protocol::{Header, Status};

use crate::beside::Beside;
use crate::core::Core;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::payload::PayloadIn;
use crate::rdma;
use crate::reading::Reading;
use crate::shard::{Peer, PutJob};
use crate::stalls::{NEVER, Patience};
use crate::tcp::{Ending, Wire};

/// A put that was admitted.
pub(crate) struct AdmittedPut<'a> {
    pub(crate) job: PutJob<'a>,
    /// What came behind its body.
    pub(crate) behind: &'a [u8],
    /// When, by the core's clock.
    pub(crate) arrived_us: u64,
}

impl AdmittedPut<'_> {
    /// Stores its objects and queues the answer. How many bytes behind the body are done with, and
    /// what came meanwhile if these are all.
    pub(crate) async fn store(
        &self,
        wire: &mut Wire,
        core: &Core,
        peer: &mut Peer,
        patience: &Patience,
        outbox: &mut Outbox,
    ) -> Result<(usize, Option<Inbox>), Ending> {
        let header = &self.job.header;
        if header.payload_bytes > self.behind.len() as u64 {
            answer_first(wire, core, peer, patience, header, outbox).await?;
        } else if peer.is_sharing() {
            // What is copied here is no time that the peer takes.
            patience.until(NEVER);
        }
        let mut payload = PayloadIn::new(wire, header.payload_bytes, self.behind);
        let mut statuses = self.fill(&mut payload, core, peer).await?;
        let taken = payload.taken_behind;
        if !self.job.is_remote {
            core.shard(|s| s.finish_put(header, &self.job, &statuses, outbox));
            return Ok((taken, None));
        }
        let mut beside = Beside::new(&self.behind[taken..], self.arrived_us);
        let others = &mut beside;
        let reading = Reading { put: self, wire, core, peer, patience, outbox, beside: others };
        if reading.read_all(&mut statuses).await? {
            core.shard(|s| s.finish_put(header, &self.job, &statuses, outbox));
        } else {
            core.shard(|s| s.give_up_put(header, outbox));
        }
        Ok((self.behind.len(), Some(beside.into_inbox())))
    }

    /// Stores objects as their bytes arrive; each is visible as soon as it is whole. Those that a
    /// card reads come later.
    async fn fill(
        &self,
        payload: &mut PayloadIn<'_>,
        core: &Core,
        peer: &Peer,
    ) -> Result<Vec<Status>, Ending> {
        let job = &self.job;
        let mut statuses = Vec::with_capacity(job.put.items.len());
        let mut sums = Vec::new();
        for item in job.put.items.iter() {
            if let Payload::Remote(_) = item.payload {
                statuses.push(Status::DeadlineExceeded);
                continue;
            }
            statuses.push(self.fill_one(payload, core, peer, &item, &mut sums).await?);
            payload.wire.spend();
            payload.wire.breathe_if_spent().await;
        }
        Ok(statuses)
    }

    async fn fill_one(
        &self,
        payload: &mut PayloadIn<'_>,
        core: &Core,
        peer: &Peer,
        item: &PutItem<'_>,
        sums: &mut Vec<u8>,
    ) -> Result<Status, Ending> {
        let job = &self.job;
        // What is behind the body of this object's.
        let payload_bytes = match item.payload {
            _ if job.put.sums_follow => item.sums_bytes() as u64,
            Payload::Inline => item.object_bytes.into(),
            _ => 0,
        };
        if !item.payload.is_inline() && self.is_late(core) {
            payload.skip(payload_bytes).await?;
            return Ok(Status::DeadlineExceeded);
        }
        let mut filling = match core.shard(|s| s.reserve(job, item)) {
            Ok(filling) => filling,
            Err(status) => {
                core.count(Stat::RefusedBytes, payload_bytes);
                payload.skip(payload_bytes).await?;
                return Ok(status);
            }
        };
        if let Payload::Shared { region, offset } = item.payload {
            let from = peer.mapped(region).expect("requests are served in their order");
            while !filling.is_full() {
                let count = filling.pull(from, offset, item.parts);
                payload.wire.bytes += u64::from(count);
                payload.wire.breathe_if_spent().await;
            }
            core.count(Stat::PulledBytes, item.object_bytes.into());
        }
        while !filling.is_full() {
            let room = filling.unfilled();
            let most = room.len().min(READ_BYTES_MAX);
            let count = payload.read(&mut room[..most]).await?;
            filling.received(count, item.parts);
            payload.wire.bytes += count as u64;
            payload.wire.breathe_if_spent().await;
        }
        if job.put.sums_follow {
            payload.read_all(core, sums, payload_bytes as usize).await?;
            let (item, late) = (item.with_sums(sums), self.is_late(core));
            return Ok(core.shard(|s| s.commit(job, &item, filling, late)));
        }
        let late = self.is_late(core);
        Ok(core.shard(|s| s.commit(job, item, filling, late)))
    }

    /// Whether half of its time has passed: its client does not wait for a card any longer, for the
    /// rest is for the bytes to come another way.
    pub(crate) fn is_doubted(&self, core: &Core) -> bool {
        core.now_us().saturating_sub(self.arrived_us) > u64::from(self.job.header.deadline_us) / 2
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_late(&self, core: &Core) -> bool {
        core.is_late(&self.job.header, self.arrived_us)
    }
}

/// Sends what waits, so that the answer does not, and gives the payload its time. While it comes
/// nobody looks at what is under way through a card, so that ends first.
pub(crate) async fn answer_first(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    header: &Header,
    outbox: &mut Outbox,
) -> io::Result<()> {
    wire.send(core, patience, outbox).await?;
    if peer.is_moving() {
        rdma::settle(wire, core, peer, patience, outbox).await?;
    }
    patience.until(core.received_by(header));
    Ok(())
}

/// Received of one object before the others get their turn: sockets hold many megabytes.
const READ_BYTES_MAX: usize = 256 << 10;
