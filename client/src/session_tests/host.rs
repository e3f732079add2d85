//! A talk with a node on the same host: what it shares, what it leases, what it hears of.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{LeasedPlace, Payload as Form, Release, SharedRegion, Sharing};
use larder_protocol::wire::Write;
use larder_protocol::{Code, Header, Key, Opcode};
use larder_transport::{Landing, SharedMemory};

use super::talk::Talk;
use crate::call::{Outcome, Pending};
use crate::error::{KeyError, KeyResult};
use crate::lease::Lease;
use crate::object::{Landed, Object};
use crate::request::GetHead;

/// A talk with a node on this host, and the node's memory, of which it has told.
pub(super) struct Host {
    pub(super) talk: Talk,
    pub(super) memory: SharedMemory,
    pub(super) socket: Arc<()>,
    pub(super) rings: Arc<AtomicUsize>,
}

impl Host {
    pub(super) fn unmet() -> Self {
        let mut talk = Talk::unmet();
        let (socket, rings) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
        let ring = Arc::clone(&rings);
        let bell = Box::new(move || {
            ring.fetch_add(1, Ordering::Relaxed);
        });
        talk.session.set_on_host(Arc::<()>::clone(&socket), bell);
        Self { talk, memory: SharedMemory::new(1 << 20).unwrap(), socket, rings }
    }

    pub(super) fn new() -> Self {
        let mut host = Self::unmet();
        host.talk.greet();
        assert!(host.talk.session.inbound.regions.shares());
        host.share(3);
        host.talk.receive().unwrap();
        host
    }

    pub(super) fn descriptor(&self) -> OwnedFd {
        self.memory.descriptor().try_clone_to_owned().unwrap()
    }

    pub(super) fn announce(&mut self, region: u32, bytes: u64) {
        let mut body = Vec::new();
        SharedRegion { region, bytes }.encode(&mut body);
        self.talk.say(&Header::request(Opcode::Region, 0, 0).reply(Code::Ok), &body, b"");
    }

    pub(super) fn share(&mut self, region: u32) {
        let descriptor = self.descriptor();
        self.talk.pass(descriptor);
        self.announce(region, self.memory.bytes());
    }

    pub(super) fn keys(keys: &[&[u8]]) -> Vec<Key> {
        keys.iter().map(|key| Key::new(key).unwrap()).collect()
    }

    pub(super) fn head(sharing: Sharing) -> GetHead {
        GetHead { object_bytes_max: 1 << 20, sharing, ..GetHead::default() }
    }

    pub(super) fn lease(&mut self, keys: &[&[u8]]) -> (Pending<Vec<KeyResult<Lease>>>, Header) {
        let unanswered = keys.iter().map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let (call, head) = (self.talk.call(Outcome::Lease(unanswered)), Self::head(LEASE));
        self.talk.submit(&call, |plan| plan.get(head, &Self::keys(keys), Vec::new()));
        let pending = Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::Lease(keys) => Ok(keys),
            other => panic!("{other:?}"),
        });
        (pending, self.asked())
    }

    pub(super) fn get(&mut self, keys: &[&[u8]]) -> (Pending<Vec<KeyResult<Object>>>, Header) {
        let unanswered = keys.iter().map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let (call, head) = (self.talk.call(Outcome::Get(unanswered)), Self::head(INLINE_TOO));
        self.talk.submit(&call, |plan| plan.get(head, &Self::keys(keys), Vec::new()));
        let pending = Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::Get(keys) => Ok(keys),
            other => panic!("{other:?}"),
        });
        (pending, self.asked())
    }

    pub(super) fn get_into(
        &mut self,
        key: &[u8],
        parts: (u16, u16),
        landing: Landing,
    ) -> (Pending<Vec<KeyResult<Landed>>>, Header) {
        self.get_all_into(&[key], parts, vec![landing])
    }

    pub(super) fn get_all_into(
        &mut self,
        keys: &[&[u8]],
        parts: (u16, u16),
        landings: Vec<Landing>,
    ) -> (Pending<Vec<KeyResult<Landed>>>, Header) {
        let unanswered = keys.iter().map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.talk.call(Outcome::GetInto(unanswered));
        let (part_first, part_count) = parts;
        let head = GetHead { part_first, part_count, ..Self::head(INLINE_TOO) };
        self.talk.submit(&call, |plan| plan.get(head, &Self::keys(keys), landings));
        let pending = Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::GetInto(keys) => Ok(keys),
            other => panic!("{other:?}"),
        });
        (pending, self.asked())
    }

    pub(super) fn asked(&mut self) -> Header {
        *self.talk.sent().last().unwrap()
    }

    /// Says that this one object is in region 3, where it was put before.
    pub(super) fn say_leased(&mut self, asked: &Header, key: &[u8], bytes: &[u8], offset: u64) {
        let payload = Form::Shared { region: 3, offset };
        self.say_leased_as(asked, key, bytes, bytes.len() as u32, payload);
    }

    pub(super) fn say_leased_as(
        &mut self,
        asked: &Header,
        key: &[u8],
        bytes: &[u8],
        sent_bytes: u32,
        payload: Form<'_>,
    ) {
        let mut body = Vec::new();
        body.u32(1);
        self.talk.encode_hit(key, bytes, sent_bytes, payload, &mut body);
        self.talk.say(&asked.reply(Code::Ok), &body, b"");
    }

    /// Puts an object into the node's memory.
    pub(super) fn store(&mut self, offset: u64, bytes: &[u8]) {
        self.memory[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// What is released with the next bytes that are written, and in how many frames.
    pub(super) fn released(&mut self) -> (Vec<LeasedPlace>, usize) {
        let written = self.talk.write(usize::MAX);
        let (mut places, mut frames, mut rest) = (Vec::new(), 0, &written[..]);
        while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).unwrap();
            let (body, next) = rest[HEADER_BYTES..].split_at(header.body_bytes as usize);
            rest = &next[header.payload_bytes as usize..];
            if header.opcode == Opcode::Release as u8 {
                assert!(header.deadline_us > 0 && header.payload_bytes == 0);
                places.extend(Release::decode(body).unwrap().leases.iter());
                frames += 1;
            }
        }
        (places, frames)
    }

    pub(super) fn assert_released(&mut self, offsets: &[u64]) {
        let places: Vec<_> =
            offsets.iter().map(|&offset| LeasedPlace { region: 3, offset }).collect();
        assert_eq!(self.released(), (places, usize::from(!offsets.is_empty())));
    }
}

const LEASE: Sharing = Sharing::LeaseOrBusy;
const INLINE_TOO: Sharing = Sharing::LeaseOrInline;
