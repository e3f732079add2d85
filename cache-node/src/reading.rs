//! The driver's part of a put whose objects a network card reads: several at a time, each checked
//! and stored when it is here.
//!
//! What a reader would get wrong: nothing of a put is under way any more when it is answered, also
//! when some of it failed. The next put may use the same places.

use std::collections::VecDeque;
use std::rc::Rc;

use larder_protocol::Status;
use larder_protocol::message::{Batch, Payload, PutItem, RemotePiece};

use crate::beside::Beside;
use crate::core::Core;
use crate::outbox::Outbox;
use crate::putting::AdmittedPut;
use crate::rdma::{Watch, answer_ended};
use crate::shard::{Lent, Peer};
use crate::stalls::Patience;
use crate::tcp::{Ending, Wire};

/// A put of which a card reads some objects.
pub(crate) struct Reading<'a, 'p> {
    pub(crate) put: &'a AdmittedPut<'p>,
    pub(crate) wire: &'a mut Wire,
    pub(crate) core: &'a Core,
    pub(crate) peer: &'a mut Peer,
    pub(crate) patience: &'a Patience,
    pub(crate) outbox: &'a mut Outbox,
    /// What else its connection asks for.
    pub(crate) beside: &'a mut Beside,
}

/// An object that is read.
struct Coming<'p> {
    place: usize,
    item: PutItem<'p>,
    lent: Lent,
}

impl<'p> Reading<'_, 'p> {
    /// Stores all objects that a card reads, and notes a status for each at its place; `false` if
    /// the card did not reach all of them.
    pub(crate) async fn read_all(mut self, statuses: &mut [Status]) -> Result<bool, Ending> {
        let polls = Rc::clone(&self.wire.polls);
        let mut watch = Watch::new(self.core, &polls);
        let (mut coming, mut has_reached) = (VecDeque::new(), true);
        let put = self.put;
        for (place, item) in put.job.put.items.iter().enumerate() {
            let Payload::Remote(pieces) = item.payload else { continue };
            // What is under way makes room when it ends.
            while !coming.is_empty() && !self.core.shard(|s| s.may_fill(item.object_bytes)) {
                has_reached &= self.finish_first(&mut coming, statuses, &mut watch).await?;
            }
            if !has_reached || !self.peer.is_reachable() {
                has_reached = false;
                break;
            }
            match self.begin(&item, &pieces, place) {
                Ok(lent) => coming.push_back(Coming { place, item, lent }),
                Err(status) => statuses[place] = status,
            }
        }
        while !coming.is_empty() {
            has_reached &= self.finish_first(&mut coming, statuses, &mut watch).await?;
        }
        Ok(has_reached)
    }

    /// Makes room for an object and has the card read it.
    fn begin(
        &mut self,
        item: &PutItem<'p>,
        pieces: &Batch<'p, RemotePiece>,
        place: usize,
    ) -> Result<Lent, Status> {
        if self.put.is_late(self.core) {
            return Err(Status::DeadlineExceeded);
        }
        let (put, peer) = (self.put, &mut *self.peer);
        self.core.shard(|s| {
            let filling = s.reserve(&put.job, item)?;
            s.move_in(peer, filling, pieces, place)
        })
    }

    /// Waits until the first object was read, and stores it; `false` if it could not be read.
    async fn finish_first(
        &mut self,
        coming: &mut VecDeque<Coming<'p>>,
        statuses: &mut [Status],
        watch: &mut Watch<'_>,
    ) -> Result<bool, Ending> {
        let read = loop {
            if let Some(read) = self.peer.take_read() {
                break read;
            }
            // The card is looked at before it is judged: this task may have waited for long. What
            // else the peer asks wins its put no time.
            if self.answer_others().await? {
                watch.renew(self.core);
            } else if self.put.is_doubted(self.core) || self.core.shard(|s| s.is_stuck(self.peer)) {
                let Self { core, peer, outbox, .. } = self;
                core.shard(|s| s.give_up_pair(peer, outbox));
            } else {
                watch.rest(self.wire, self.core).await;
            }
        };
        let Coming { place, item, lent } = coming.pop_front().expect("what was read was to come");
        assert_eq!(place, read.place, "reads end in their order");
        let Some(slot) = read.slot else { return Ok(false) };
        let (mut filling, mut checked) = (lent.with_slot(slot), 0);
        while checked < item.object_bytes {
            let count = filling.check(checked, item.parts);
            checked += count;
            self.wire.bytes += u64::from(count);
            self.wire.breathe_if_spent().await;
            self.answer_others().await?;
        }
        let (job, late) = (&self.put.job, self.put.is_late(self.core));
        statuses[place] = self.core.shard(|s| s.commit(job, &item, filling, late));
        self.wire.spend();
        Ok(true)
    }

    /// Answers what else is asked meanwhile, and gets whose objects were written; whether anything
    /// the card moves has ended.
    async fn answer_others(&mut self) -> Result<bool, Ending> {
        let Self { wire, core, peer, patience, outbox, beside, .. } = self;
        beside.serve(wire, core, peer, outbox)?;
        wire.breathe_if_spent().await;
        Ok(answer_ended(wire, core, peer, patience, outbox).await?)
    }
}
