//! `Get`: a status for every key, and the slots of those found, held until they are sent.

use larder_protocol::checksum::part_range;
use larder_protocol::limits::PAYLOAD_BYTES_MAX;
use larder_protocol::message::{Get, Hit, Payload};
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Header, Key, Status};
use larder_transport::Slot;

use std::ops::Range;

use super::Shard;
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;
use crate::store::{EntryId, Record, Store, WARM_KEYS};

/// Lists that one request fills and the next uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) entries: Vec<EntryId>,
    pub(super) keys: Vec<Key>,
    slots: Vec<(Slot, Range<u32>)>,
}

impl Shard {
    pub(super) fn get(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        get: &Get<'_>,
        out: &mut Outbox,
    ) {
        if self.sending.value() >= self.sending_bytes_max {
            self.refuse(header, Code::Busy, out);
            return;
        }
        let part_bytes = self.store.namespaces()[namespace].part_bytes();
        let ask = self.ask(header, namespace, get.freshness);
        let mut scratch = std::mem::take(&mut self.scratch);
        let at = Header::begin(&mut out.bytes);
        out.bytes.u32(get.items.len() as u32);
        let mut payload_bytes = 0;
        let mut ahead = get.items.iter().map(|item| item.key);
        for (index, item) in get.items.iter().enumerate() {
            if index % WARM_KEYS == 0 {
                warm(&self.store, &mut scratch.keys, namespace, ahead.by_ref());
            }
            if !self.identity.owns(&item.key) {
                out.bytes.u8(Status::WrongShard as u8);
                continue;
            }
            match self.store.lookup(&ask, item.key.as_bytes(), false) {
                Ok(found) => {
                    let record = found.record();
                    match wanted(get, &record, part_bytes, payload_bytes) {
                        Ok(range) => {
                            payload_bytes += u64::from(range.end - range.start);
                            hit(&record, &range).encode(&mut out.bytes);
                            let start = record.record_bytes();
                            scratch.entries.push(found.entry);
                            let place = start + range.start..start + range.end;
                            scratch.slots.push((found.slot, place));
                        }
                        Err(status) => out.bytes.u8(status as u8),
                    }
                }
                Err(status) => out.bytes.u8(status as u8),
            }
        }
        let reply = self.answer_in(header, Code::Ok, namespace);
        reply.finish(payload_bytes, at, &mut out.bytes);
        self.send(&mut scratch.slots, out);
        if get.touch {
            self.store.touch_batch(&scratch.entries);
        }
        let hits = scratch.entries.len() as u64;
        self.count(Stat::Hits, hits);
        self.count(Stat::Misses, get.items.len() as u64 - hits);
        self.count(Stat::SentBytes, payload_bytes);
        scratch.entries.clear();
        self.scratch = scratch;
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

/// Has the memory fetch what the next keys of a batch need.
pub(super) fn warm(
    store: &Store,
    keys: &mut Vec<Key>,
    namespace: NamespaceId,
    ahead: impl Iterator<Item = Key>,
) {
    keys.clear();
    keys.extend(ahead.take(WARM_KEYS));
    // A lone key is looked up right away.
    if keys.len() > 1 {
        store.warm(namespace, keys);
    }
}

/// Which bytes of an object answer this request, or why none do.
fn wanted(
    get: &Get<'_>,
    record: &Record<'_>,
    part_bytes: u32,
    sent_bytes: u64,
) -> Result<Range<u32>, Status> {
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
    if sent_bytes + u64::from(bytes) > PAYLOAD_BYTES_MAX {
        return Err(Status::MissReplyFull);
    }
    Ok(range)
}

fn hit<'a>(record: &Record<'a>, range: &Range<u32>) -> Hit<'a> {
    Hit {
        object_bytes: record.object_bytes(),
        sent_bytes: range.end - range.start,
        version: record.version(),
        payload: Payload::Inline,
        user_meta: record.user_meta(),
        parts: record.parts(),
        seal: record.seal(),
    }
}

/// Up to here a copy into the reply costs less than a piece of its own in the system call.
const COPIED_BYTES_MAX: u32 = 2 << 10;
