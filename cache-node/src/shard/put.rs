//! `Put`, in steps: admit the request, then for each object reserve a slot, fill it, commit it.
//!
//! The index insert is the last step of all. Whatever ends a put before it, a broken connection
//! included, drops a slot that nobody has ever seen. What a reader would get wrong: of an object
//! whose checksums follow nothing is known while it is copied, so the copy is what they are made
//! of, and it counts only if the writer's are the same.

use larder_protocol::checksum::{PartSums, PartVerifier, Sealed, part_count, seal};
use larder_protocol::message::{Freshness, Put, PutItem, encode_statuses};
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Generation, Header, Status};
use larder_transport::{MappedRegion, SlotMut};

use super::shared::Source;
use super::{Shard, Step};
use crate::gauge::Held;
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;
use crate::store::{Owner, Pending, RecordSpec, Ticket};

/// An admitted put.
#[derive(Debug)]
pub(crate) struct PutJob<'a> {
    pub(crate) header: Header,
    pub(crate) put: Put<'a>,
    /// Whether a card reads some of its objects.
    pub(crate) is_remote: bool,
    namespace: NamespaceId,
    generation: Generation,
}

/// An object whose bytes arrive.
#[derive(Debug)]
pub(crate) struct Filling {
    pending: Pending,
    sums: Sums,
    object_bytes: u32,
    _held: Held,
}

/// An object whose slot is somewhere else, to be filled there.
#[derive(Debug)]
pub(crate) struct Lent {
    ticket: Ticket,
    sums: Sums,
    object_bytes: u32,
    _held: Held,
}

/// What the bytes of an object are held against.
#[derive(Debug)]
enum Sums {
    /// The checksums that its put has.
    Stated(PartVerifier),
    /// Those that follow: until then, what was made of the bytes, encoded.
    Following(PartSums, Vec<u8>),
}

impl Sums {
    fn update(&mut self, bytes: &[u8], parts: &[u8]) {
        match self {
            Self::Stated(verifier) => verifier.update(bytes, parts),
            Self::Following(sums, made) => sums.update(bytes, |checksum| made.u64(checksum)),
        }
    }

    /// Whether all bytes were shown and have these checksums.
    fn finish(self, parts: &[u8]) -> bool {
        match self {
            Self::Stated(verifier) => verifier.finish(parts),
            Self::Following(sums, mut made) => {
                sums.finish(|checksum| made.u64(checksum)) && made == parts
            }
        }
    }
}

impl Filling {
    /// Whether all bytes are here.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.slot.filled() == self.pending.slot.len()
    }

    /// Where the next bytes go.
    pub(crate) fn unfilled(&mut self) -> &mut [u8] {
        self.pending.slot.unfilled()
    }

    /// Takes the next `count` bytes, checking them while they are in the cache.
    pub(crate) fn received(&mut self, count: usize, parts: &[u8]) {
        let start = self.pending.slot.filled() as usize;
        self.pending.slot.advance(count);
        self.sums.update(&self.pending.slot.filled_bytes()[start..], parts);
    }

    /// Copies the next bytes, a few at a time, from where a client shares them: the object begins
    /// at `offset` there. They are checked as they were copied. How many they were.
    pub(crate) fn pull(&mut self, from: &MappedRegion, offset: u64, parts: &[u8]) -> u32 {
        let slot = &mut self.pending.slot;
        let left = slot.len() - slot.filled();
        let pulled = self.object_bytes - left;
        let bytes = left.min(PULL_BYTES_MAX);
        let sums = &mut self.sums;
        let at = offset + u64::from(pulled);
        from.fill(at, slot, bytes, |copied| sums.update(copied, parts));
        bytes
    }
}

impl Filling {
    /// The slot, to be filled elsewhere, and the rest.
    pub(super) fn lend(self) -> (SlotMut, Lent) {
        let Self { pending: Pending { slot, ticket }, sums, object_bytes, _held } = self;
        (slot, Lent { ticket, sums, object_bytes, _held })
    }

    /// Checks the next bytes of a slot that came back full, of which `checked` were: a few at a
    /// time. How many they were.
    pub(crate) fn check(&mut self, checked: u32, parts: &[u8]) -> u32 {
        let slot = &self.pending.slot;
        let start = slot.len() - self.object_bytes + checked;
        let bytes = (slot.len() - start).min(PULL_BYTES_MAX);
        let next = start as usize..(start + bytes) as usize;
        self.sums.update(&slot.filled_bytes()[next], parts);
        bytes
    }
}

impl Lent {
    /// The object with its slot, which came back full.
    pub(crate) fn with_slot(self, slot: SlotMut) -> Filling {
        let Self { ticket, sums, object_bytes, _held } = self;
        Filling { pending: Pending { slot, ticket }, sums, object_bytes, _held }
    }
}

impl Shard {
    /// Whether puts may fill so much more now.
    pub(crate) fn may_fill(&self, bytes: u32) -> bool {
        let filling = self.filling.value();
        filling == 0 || filling + u64::from(bytes) <= self.filling_bytes_max
    }

    pub(super) fn begin_put<'a>(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        put: Put<'a>,
        source: Source,
        out: &mut Outbox,
    ) -> Step<'a> {
        if self.is_draining {
            return self.refuse(header, Code::Draining, out);
        }
        if source == Source::Unreachable {
            return self.refuse(header, Code::Unreachable, out);
        }
        if self.filling.value() >= self.filling_bytes_max {
            return self.refuse(header, Code::Busy, out);
        }
        let generation = header.generation;
        let is_remote = source == Source::Card;
        Step::Fill(PutJob { header: *header, put, is_remote, namespace, generation })
    }

    /// Room for one object of an admitted put, or why there is none.
    pub(crate) fn reserve(
        &mut self,
        job: &PutJob<'_>,
        item: &PutItem<'_>,
    ) -> Result<Filling, Status> {
        let status = self.admit(job, item);
        match status {
            Err(Status::Busy) => self.count(Stat::RefusedBusy, 1),
            Err(Status::NoRoom) => self.count(Stat::RefusedRoom, 1),
            Err(Status::Corrupt) => self.count(Stat::Corrupt, 1),
            Err(Status::NotWanted) => self.count(Stat::NotWanted, 1),
            _ => {}
        }
        if let Err(status) = status {
            let owner = Owner { namespace: job.namespace, class: item.class_hint };
            self.store.count(owner, |account| account.count_refusal(status));
        }
        status
    }

    fn admit(&mut self, job: &PutJob<'_>, item: &PutItem<'_>) -> Result<Filling, Status> {
        if !self.identity.owns(item.key.as_bytes()) {
            return Err(Status::WrongShard);
        }
        let namespace = &self.store.namespaces()[job.namespace];
        let part_bytes = namespace.part_bytes();
        if item.object_bytes > namespace.object_bytes_max() {
            return Err(Status::TooLarge);
        }
        let parts = part_count(item.object_bytes, part_bytes) as usize;
        if item.parts.len() != 8 * parts || !(job.put.sums_follow || self.is_sealed(job, item)) {
            return Err(Status::Corrupt);
        }
        if let Some(status) = self.must_stay(job, item) {
            return Err(status);
        }
        if job.put.if_wanted {
            let place = self.store.place_of(job.namespace, item.key.as_bytes());
            let owner = Owner { namespace: job.namespace, class: item.class_hint };
            if !self.store.wants(owner, place, item.depth, item.object_bytes) {
                return Err(Status::NotWanted);
            }
        }
        if !self.may_fill(item.object_bytes) {
            return Err(Status::Busy);
        }
        let spec = RecordSpec::of_put(item, job.namespace, job.generation, self.now_ms);
        let pending = self.store.reserve(&spec)?;
        let sums = if job.put.sums_follow {
            let made = Vec::with_capacity(item.parts.len());
            Sums::Following(PartSums::new(item.object_bytes, part_bytes), made)
        } else {
            Sums::Stated(PartVerifier::new(item.object_bytes, part_bytes, 0))
        };
        Ok(Filling {
            pending,
            sums,
            object_bytes: item.object_bytes,
            _held: self.filling.hold(item.object_bytes.into()),
        })
    }

    /// Whether the seal binds what the put says of the object.
    fn is_sealed(&self, job: &PutJob<'_>, item: &PutItem<'_>) -> bool {
        let what = Sealed {
            namespace_digest: self.store.namespaces()[job.namespace].digest(),
            generation: job.generation,
            key: item.key.as_bytes(),
            version: item.version,
            object_bytes: item.object_bytes,
            user_meta: item.user_meta,
        };
        seal(&what, item.parts) == item.seal
    }

    /// Why what is there already must stay, if so: then nothing is evicted for what it refuses.
    fn must_stay(&mut self, job: &PutJob<'_>, item: &PutItem<'_>) -> Option<Status> {
        if !job.put.if_absent && item.version == 0 {
            return None;
        }
        let ask = self.ask(&job.header, job.namespace, Freshness::Any);
        let (_, resident) = self.store.probe(&ask, item.key.as_bytes()).ok()?;
        if job.put.if_absent {
            return Some(Status::Exists);
        }
        (resident.version() > item.version).then_some(Status::OlderVersion)
    }

    /// Checks what arrived and makes it visible; `item` has the checksums by now.
    pub(crate) fn commit(
        &mut self,
        job: &PutJob<'_>,
        item: &PutItem<'_>,
        filling: Filling,
        late: bool,
    ) -> Status {
        if late {
            return Status::DeadlineExceeded;
        }
        let Filling { mut pending, sums, .. } = filling;
        let follow = job.put.sums_follow;
        if !sums.finish(item.parts) || (follow && !self.is_sealed(job, item)) {
            self.count(Stat::Corrupt, 1);
            return Status::Corrupt;
        }
        if follow {
            let spec = RecordSpec::of_put(item, job.namespace, job.generation, self.now_ms);
            self.store.rewrite(&mut pending, &spec);
        }
        let Pending { slot, ticket } = pending;
        let slot = slot.freeze().expect("the driver commits what is full");
        self.store.insert(ticket, slot, job.put.if_absent, self.now_ms)
    }

    /// Answers a put of which the card did not reach everything.
    pub(crate) fn give_up_put(&mut self, header: &Header, out: &mut Outbox) {
        self.refuse(header, Code::Unreachable, out);
    }

    /// Answers a put whose payload was read to its end.
    pub(crate) fn finish_put(
        &mut self,
        header: &Header,
        job: &PutJob<'_>,
        statuses: &[Status],
        out: &mut Outbox,
    ) {
        let at = Header::begin(&mut out.bytes);
        encode_statuses(statuses.iter().copied(), &mut out.bytes);
        self.answer_in(header, Code::Ok, job.namespace).finish(0, at, &mut out.bytes);
    }
}

/// Copied or checked of one object before other connections get their turn. A guess: some 30 us,
/// and no more pages of the client's to be found than 64 where they are not in our tables.
const PULL_BYTES_MAX: u32 = 256 << 10;
