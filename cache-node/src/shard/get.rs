//! `Get`: a status for every key, and the slots of those found, held until they are sent.

use std::ops::Range;

use larder_protocol::checksum::part_range;
use larder_protocol::limits::PAYLOAD_BYTES_MAX;
use larder_protocol::message::{Get, Hit, Payload};
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Header, Key, Status};
use larder_transport::Slot;

use super::Shard;
use super::shared::{Leasing, Shared};
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;
use crate::store::{Dead, GROUP_KEYS, Place, Record, Seen, Told, Use};

/// Lists that one request fills and the next uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) uses: Vec<Use>,
    /// Keys of a match that are not there, by their numbers.
    pub(super) missing: Vec<(usize, Place)>,
    pub(super) keys: Vec<Key>,
    slots: Vec<(Slot, Range<u32>)>,
}

impl Shard {
    pub(super) fn get(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        shared: Option<&mut Shared>,
        out: &mut Outbox,
    ) {
        let leasing = self.leasing(shared, get.sharing, out);
        let is_full = self.sending.value() >= self.sending_bytes_max;
        if is_full && !leasing.is_on() {
            self.refuse(header, Code::Busy, out);
            return;
        }
        if let Some(key) = get.only_inline()
            && self.answer_one(header, namespace, get, key, out)
        {
            return;
        }
        let budget = Budget::new(self.sending_bytes_max);
        let mut sent = Sent { leasing, is_full, budget };
        let hits = self.answer_all(header, namespace, get, &mut sent, out);
        let [given, refused] = sent.leasing.counts();
        self.count_get(get.items.len() as u64, [hits, sent.sent_bytes(), given, refused]);
    }

    /// Answers each key, and hands over what was found as `way` does; how many were.
    pub(super) fn answer_all(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        way: &mut impl Way,
        out: &mut Outbox,
    ) -> u64 {
        let part_bytes = self.store.namespaces()[namespace].part_bytes();
        let ask = self.ask(header, namespace, get.freshness);
        let mut scratch = std::mem::take(&mut self.scratch);
        let at = Header::begin(&mut out.bytes);
        out.bytes.u32(get.items.len() as u32);
        let mut keys = get.items.iter().map(|item| item.key);
        let (mut number, mut hits) = (0, 0);
        while next_group(&mut scratch.keys, &mut keys) {
            let places = self.store.locate(namespace, &scratch.keys);
            for (key, located) in scratch.keys.iter().zip(places) {
                let found = if self.identity.owns(key.as_bytes()) {
                    self.store.lookup_at(&ask, key.as_bytes(), located)
                } else {
                    Err(Status::WrongShard)
                };
                let answer = found.and_then(|found| {
                    let record = found.record();
                    let range = wanted(get, &record, part_bytes)?;
                    let start = record.record_bytes();
                    let place = start + range.start..start + range.end;
                    let payload = way.give(number, &found.slot, place.clone())?;
                    hit(&record, &range, payload).encode(&mut out.bytes);
                    Ok((found, payload.is_inline().then_some(place)))
                });
                number += 1;
                match answer {
                    Ok((found, place)) => {
                        hits += 1;
                        self.count_hit(namespace, found.record().class_hint());
                        scratch.uses.push(Use::of(located, Some(found.entry)));
                        scratch.slots.extend(place.map(|place| (found.slot, place)));
                    }
                    Err(status) => {
                        if status == Status::Miss {
                            scratch.uses.push(Use::of(located, None));
                        }
                        self.count_miss(namespace, status);
                        out.bytes.u8(status as u8);
                    }
                }
            }
        }
        let reply = self.answer_in(header, Code::Ok, namespace);
        reply.finish(way.sent_bytes(), at, &mut out.bytes);
        self.send(&mut scratch.slots, out);
        if get.touch {
            self.store.used(namespace, &scratch.uses, Told::default(), self.now_ms);
        }
        scratch.uses.clear();
        self.scratch = scratch;
        hits
    }

    /// Counts a get: hits, bytes sent, leases given and refused.
    pub(super) fn count_get(&mut self, asked: u64, [hits, sent, given, refused]: [u64; 4]) {
        self.count(Stat::Hits, hits);
        self.count(Stat::Misses, asked - hits);
        self.count(Stat::SentBytes, sent);
        self.count(Stat::Leases, given);
        self.count(Stat::LeasesRefused, refused);
    }

    /// As [`Shard::get`], of one object that is copied into the reply or not there: it needs no
    /// lists and no clone of a slot. `false` if it is a longer one, and nothing was done.
    fn answer_one(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        key: &[u8],
        out: &mut Outbox,
    ) -> bool {
        let part_bytes = self.store.namespaces()[namespace].part_bytes();
        let ask = self.ask(header, namespace, get.freshness);
        let reply = self.answer_in(header, Code::Ok, namespace);
        let located = self.store.place_of(namespace, key);
        let found = if self.identity.owns(key) {
            self.store.peek_at(&ask, key, located)
        } else {
            Err(Dead::nobody(Status::WrongShard))
        };
        let found = found.and_then(|seen| {
            let range = wanted(get, &seen.record, part_bytes).map_err(Dead::nobody)?;
            Ok((seen, range))
        });
        match found {
            Ok((_, range)) if range.end - range.start > COPIED_BYTES_MAX => return false,
            Ok((Seen { entry, slot, record }, range)) => {
                let at = Header::begin(&mut out.bytes);
                out.bytes.u32(1);
                hit(&record, &range, Payload::Inline).encode(&mut out.bytes);
                let bytes = u64::from(range.end - range.start);
                reply.finish(bytes, at, &mut out.bytes);
                let start = record.record_bytes();
                let place = (start + range.start) as usize..(start + range.end) as usize;
                out.bytes.extend_from_slice(&slot[place]);
                let class = record.class_hint();
                self.count_hit(namespace, class);
                if get.touch {
                    let uses = [Use::of(located, Some(entry))];
                    self.store.used(namespace, &uses, Told::default(), self.now_ms);
                }
                self.count(Stat::Hits, 1);
                self.count(Stat::SentBytes, bytes);
            }
            Err(dead) => {
                let status = self.store.bury(dead);
                self.count_miss(namespace, status);
                if get.touch && status == Status::Miss {
                    let uses = [Use::of(located, None)];
                    self.store.used(namespace, &uses, Told::default(), self.now_ms);
                }
                let at = Header::begin(&mut out.bytes);
                out.bytes.u32(1);
                out.bytes.u8(status as u8);
                reply.finish(0, at, &mut out.bytes);
                self.count(Stat::Misses, 1);
            }
        }
        true
    }

    fn send(&self, slots: &mut Vec<(Slot, Range<u32>)>, out: &mut Outbox) {
        for (slot, range) in slots.drain(..) {
            let bytes = range.end - range.start;
            if bytes <= COPIED_BYTES_MAX {
                out.bytes.extend_from_slice(&slot[range.start as usize..range.end as usize]);
            } else {
                out.attach(slot, range, self.sending.hold(u64::from(bytes)));
            }
        }
    }
}

/// How a get hands over what was found.
pub(super) trait Way {
    /// Hands over `range` of the slot of the key with this number; where its bytes are then.
    ///
    /// # Errors
    /// What to answer instead.
    fn give(
        &mut self,
        number: usize,
        slot: &Slot,
        range: Range<u32>,
    ) -> Result<Payload<'static>, Status>;

    /// How many bytes follow behind the answers.
    fn sent_bytes(&self) -> u64;
}

/// Most bytes of slots that one get is answered with, and how many they are already.
///
/// One reader that stands still must not take what all of them have.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: u64,
    bytes: u64,
}

impl Budget {
    /// A share of what all readers together may hold.
    pub(super) fn new(sending_bytes_max: u64) -> Self {
        Self { bytes_max: PAYLOAD_BYTES_MAX.min(sending_bytes_max / READERS_MIN), bytes: 0 }
    }

    /// Takes so many bytes more; the first object is given even if it alone has more.
    ///
    /// # Errors
    /// [`Status::MissReplyFull`] if there is no room for them.
    pub(super) fn take(&mut self, bytes: u32) -> Result<(), Status> {
        let room = match self.bytes {
            0 => PAYLOAD_BYTES_MAX,
            taken => self.bytes_max.saturating_sub(taken),
        };
        if u64::from(bytes) > room {
            return Err(Status::MissReplyFull);
        }
        self.bytes += u64::from(bytes);
        Ok(())
    }
}

/// Objects are sent behind the answers, or leased.
struct Sent<'s> {
    leasing: Leasing<'s>,
    /// Whether the shard holds as much for sending as it may.
    is_full: bool,
    budget: Budget,
}

impl Way for Sent<'_> {
    fn give(
        &mut self,
        _number: usize,
        slot: &Slot,
        range: Range<u32>,
    ) -> Result<Payload<'static>, Status> {
        let bytes = range.end - range.start;
        let payload = self.leasing.lease(slot, range.start, bytes)?;
        if payload.is_inline() {
            // Who leases most of what it gets is not refused for what others are sent.
            if self.is_full && bytes > COPIED_BYTES_MAX {
                return Err(Status::Busy);
            }
            self.budget.take(bytes)?;
        }
        Ok(payload)
    }

    fn sent_bytes(&self) -> u64 {
        self.budget.bytes
    }
}

/// Takes the next keys of a batch that are located together, if there are more.
fn next_group(group: &mut Vec<Key>, keys: &mut impl Iterator<Item = Key>) -> bool {
    group.clear();
    group.extend(keys.take(GROUP_KEYS));
    !group.is_empty()
}

/// Which bytes of an object answer this request, or why none do.
fn wanted(get: &Get<'_>, record: &Record<'_>, part_bytes: u32) -> Result<Range<u32>, Status> {
    let object_bytes = record.object_bytes();
    let range = if get.part_count == 0 {
        0..object_bytes
    } else {
        let last = u32::from(get.part_first) + u32::from(get.part_count) - 1;
        if last as usize >= record.parts().len() / 8 {
            return Err(Status::MissSize);
        }
        let first = part_range(object_bytes, part_bytes, u32::from(get.part_first));
        first.start..part_range(object_bytes, part_bytes, last).end
    };
    let bytes = range.end - range.start;
    if bytes > get.payload_bytes_max {
        return Err(Status::MissSize);
    }
    Ok(range)
}

fn hit<'a>(record: &Record<'a>, range: &Range<u32>, payload: Payload<'a>) -> Hit<'a> {
    Hit {
        object_bytes: record.object_bytes(),
        sent_bytes: range.end - range.start,
        version: record.version(),
        payload,
        user_meta: record.user_meta(),
        parts: record.parts(),
        seal: record.seal(),
    }
}

/// How many stalled readers it takes at least to use up a shard's bytes in sending.
pub(super) const READERS_MIN: u64 = 4;
/// Up to here a copy into the reply costs less than a piece of its own in the system call.
const COPIED_BYTES_MAX: u32 = 2 << 10;
