//! A session that is up, and the scripted node it talks to.
//!
//! The node is a list of bytes to read; nothing is said that a test did not write down.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use larder_protocol::checksum::{Sealed, encode_parts, part_checksums, seal};
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{CAPABILITY_SHARED, Hello, HelloReply, Hit, Payload as Form};
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::wire::Write;
use larder_protocol::{Code, Generation, Header, Key, NamespaceSpec, Opcode, Status};
use larder_transport::Landing;

use crate::call::{Call, Outcome, Pending};
use crate::error::{KeyError, KeyResult};
use crate::inbox::Remote;
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::object::{Landed, Object, Payload, PutObject};
use crate::rdma::Pairing;
use crate::request::{GetHead, Plan};
use crate::router::{Peer, Routes};
use crate::sealing::Seals;
use crate::session::{Broken, Event, Limits, Session};
use crate::shared::{Memories, PutSource};
use crate::wire::Wire;

/// A node's side of a connection: what it has said and we have not read.
#[derive(Default)]
pub(super) struct Script {
    pub(super) bytes: VecDeque<u8>,
    pub(super) step: usize,
    pub(super) is_over: bool,
    /// What comes beside the bytes, and how many bytes come before it.
    pub(super) beside: VecDeque<(usize, OwnedFd)>,
    read: usize,
}

impl Wire for Script {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && !self.is_over {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = into.len().min(self.bytes.len()).min(self.step.max(1));
        into.iter_mut().zip(self.bytes.drain(..read)).for_each(|(to, byte)| *to = byte);
        self.read += read;
        Ok(read)
    }

    fn read_both(&mut self, first: &mut [u8], then: &mut [u8]) -> io::Result<usize> {
        let read = self.read(first)?;
        Ok(if read == first.len() { read + self.read(then).unwrap_or(0) } else { read })
    }

    fn read_more(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        let mut read = vec![0; bytes_max];
        let count = self.read(&mut read)?;
        into.extend_from_slice(&read[..count]);
        Ok(count)
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        let read = self.read;
        self.beside.pop_front_if(|(before, _)| *before < read).map(|(_, descriptor)| descriptor)
    }
}

/// A session that is up, and the node it talks to.
pub(super) struct Talk {
    pub(super) session: Session,
    pub(super) node: Script,
    pub(super) events: Vec<Event>,
    pub(super) now: Instant,
    pub(super) remote: Remote,
    pub(super) namespace: Namespace,
    /// What the next calls have.
    pub(super) deadline: Duration,
    /// What went beside the bytes that were written.
    pub(super) passed: Vec<OwnedFd>,
}

pub(super) const HANDLE: u64 = 77;

impl Talk {
    pub(super) fn new() -> Self {
        let mut talk = Self::unmet();
        talk.greet();
        talk
    }

    /// Before anything is said.
    pub(super) fn unmet() -> Self {
        Self::unmet_with(Pairing::default())
    }

    /// As [`Talk::unmet`], of a client that may have a card.
    pub(super) fn unmet_with(pairing: Pairing) -> Self {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let member = Member {
            id: 1,
            incarnation: 0,
            weight: 1,
            state: MemberState::Serving,
            shard_count: 1,
            port: 1,
            host: "h".into(),
            capabilities: 0,
        };
        let view = Arc::new(View::new(1, vec![member]).unwrap());
        let is_open = AtomicBool::new(false);
        let peer = Arc::new(Peer { slot: 0, id: 1, name: "h:1".into(), is_open });
        let remote = Remote::new(waker, Routes::new(view, vec![peer]));
        let session = Session::new(Limits { requests: 100, bytes: 1 << 30 }, 1, pairing);
        let namespace = Namespace::describe(NamespaceSpec::new("t", "m")).unwrap();
        let node = Script { step: usize::MAX, ..Script::default() };
        let now = Instant::now();
        let (events, passed) = (Vec::new(), Vec::new());
        let deadline = Duration::from_millis(250);
        Self { session, node, events, now, remote, namespace, deadline, passed }
    }

    /// Says hello, opens the namespace. What it asks for is granted.
    pub(super) fn greet(&mut self) {
        self.greet_node_with(CAPABILITY_SHARED);
    }

    /// As [`Talk::greet`], by a node that has these capabilities.
    pub(super) fn greet_node_with(&mut self, capabilities: u64) {
        self.hello(capabilities);
        self.open();
    }

    /// Waits until the session's end of a pair is connected, or is not to be.
    pub(super) fn await_connected(&mut self) {
        while self.session.pairing.is_connecting() {
            std::thread::sleep(Duration::from_millis(1));
            self.session.keep_pair(self.now);
        }
    }

    /// Says hello to a node that has these capabilities.
    pub(super) fn hello(&mut self, capabilities: u64) {
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            shard: 0,
            shard_count: 1,
            capabilities: 0,
            name: b"",
            credential: b"",
        };
        self.session.say_hello(&hello, self.now);
        let said = self.write(usize::MAX);
        let asked = Header::decode(said.first_chunk().unwrap()).unwrap();
        let wanted = Hello::decode(&said[HEADER_BYTES..]).unwrap().capabilities;
        let reply = HelloReply {
            version: 1,
            capabilities: capabilities & wanted,
            node_id: 1,
            incarnation: 1,
            shard: 0,
            shard_count: 1,
            object_bytes_max: 1 << 20,
            uds: larder_protocol::message::SocketPath::NONE,
        };
        let mut body = Vec::new();
        reply.encode(&mut body);
        self.say(&asked.reply(Code::Ok), &body, b"");
        self.receive().unwrap();
        assert!(self.session.is_up());
    }

    /// Opens the namespace.
    pub(super) fn open(&mut self) {
        let probe = self.get(&[b"probe"]);
        let asked = self.sent();
        assert_eq!(asked[0].opcode, Opcode::Open as u8, "a namespace is opened first");
        let opened =
            Header { namespace: HANDLE, generation: Generation::FIRST, ..asked[0].reply(Code::Ok) };
        self.say(&opened, b"", b"");
        self.receive().unwrap();
        let asked = self.sent();
        assert_eq!((asked[0].opcode, asked[0].namespace), (Opcode::Get as u8, HANDLE));
        self.say(&asked[0].reply(Code::Ok), &misses(1), b"");
        self.receive().unwrap();
        assert!(answers(probe)[0].as_ref().is_err_and(KeyError::is_miss));
    }

    pub(super) fn call(&self, outcome: Outcome) -> Arc<Call> {
        Call::new(outcome, self.now + self.deadline, None, self.remote.clone())
    }

    pub(super) fn submit(
        &mut self,
        call: &Arc<Call>,
        legs: impl FnOnce(&Plan<'_>) -> Vec<Box<Leg>>,
    ) {
        let (routes, namespace) = (self.remote.routes(), self.namespace.clone());
        let plan = Plan { call, routes: &routes, namespace: &namespace, base: None, attempts: 0 };
        for leg in legs(&plan) {
            self.session.submit(leg, self.now);
        }
        call.leg_ended();
    }

    pub(super) fn get(&mut self, keys: &[&[u8]]) -> Pending<Vec<KeyResult<Object>>> {
        let keys: Vec<Key> = keys.iter().map(|key| Key::new(key).unwrap()).collect();
        let unanswered = keys.iter().map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.call(Outcome::Get(unanswered));
        let head = GetHead { object_bytes_max: 1 << 20, ..GetHead::default() };
        self.submit(&call, |plan| plan.get(head, &keys, Vec::new()));
        Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::Get(keys) => Ok(keys),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn get_into(
        &mut self,
        key: &[u8],
        landing: Landing,
    ) -> Pending<Vec<KeyResult<Landed>>> {
        let call = self.call(Outcome::GetInto(vec![Err(KeyError::DeadlineExceeded)]));
        let head = GetHead { object_bytes_max: 1 << 20, ..GetHead::default() };
        let keys = [Key::new(key).unwrap()];
        self.submit(&call, |plan| plan.get(head, &keys, vec![landing]));
        Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::GetInto(keys) => Ok(keys),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn put(&mut self, key: &[u8], bytes: Vec<u8>) -> Pending<Vec<KeyResult<()>>> {
        self.put_all(vec![(key, bytes.into())], &Memories::default())
    }

    pub(super) fn put_all(
        &mut self,
        objects: Vec<(&[u8], Payload)>,
        memories: &Memories,
    ) -> Pending<Vec<KeyResult<()>>> {
        self.put_sealed(objects, memories, Seals::default())
    }

    /// As [`Talk::put_all`], with checksums that are made later if they may be.
    pub(super) fn put_unsealed(
        &mut self,
        objects: Vec<(&[u8], Payload)>,
        memories: &Memories,
    ) -> Pending<Vec<KeyResult<()>>> {
        let seals = memories.seals_of(objects.iter().map(|(_, bytes)| bytes.pieces()));
        self.put_sealed(objects, memories, seals)
    }

    fn put_sealed(
        &mut self,
        objects: Vec<(&[u8], Payload)>,
        memories: &Memories,
        mut seals: Seals,
    ) -> Pending<Vec<KeyResult<()>>> {
        let unanswered = vec![Err(KeyError::DeadlineExceeded); objects.len()];
        let call = self.call(Outcome::Put(unanswered));
        let (mut sources, mut named) = (Vec::new(), Vec::new());
        for (key, bytes) in objects {
            let object: PutObject<()> = PutObject::new(Key::new(key).unwrap(), ());
            seals.add(&self.namespace, &object, bytes.pieces()).unwrap();
            sources.push(PutSource::new(bytes, memories));
            named.push(object);
        }
        let items = seals.items(&named);
        self.submit(&call, |plan| {
            let mut legs = plan.put(false, &items, sources);
            legs.iter_mut().for_each(|leg| leg.sums = seals.sums());
            legs
        });
        Pending::new(call, Vec::new(), |_, outcome| match outcome {
            Outcome::Put(keys) => Ok(keys),
            other => panic!("{other:?}"),
        })
    }

    /// Writes everything there is to write; the headers of what was written.
    pub(super) fn sent(&mut self) -> Vec<Header> {
        let bytes = self.write(usize::MAX);
        let mut headers = Vec::new();
        let mut rest = &bytes[..];
        while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).unwrap();
            rest =
                &rest[HEADER_BYTES + header.body_bytes as usize + header.payload_bytes as usize..];
            headers.push(header);
        }
        headers
    }

    /// Writes at most `bytes_max`.
    pub(super) fn write(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            self.session.pump(self.now);
            let descriptor =
                self.session.descriptor_due().map(|fd| fd.try_clone_to_owned().unwrap());
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.session.gather(&mut slices);
            let mut offered: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            if descriptor.is_some() {
                let frame = Header::decode(offered.first_chunk().unwrap()).unwrap();
                let goes_alone = HEADER_BYTES + frame.body_bytes as usize == offered.len();
                assert!(frame.opcode == Opcode::Share as u8 && goes_alone);
            }
            offered.truncate(bytes_max - out.len());
            if offered.is_empty() {
                return out;
            }
            self.passed.extend(descriptor);
            self.session.wrote(offered.len());
            out.append(&mut offered);
        }
    }

    pub(super) fn say(&mut self, header: &Header, body: &[u8], payload: &[u8]) {
        let header = Header {
            body_bytes: body.len() as u32,
            payload_bytes: payload.len() as u64,
            ..*header
        };
        self.node.bytes.extend(header.encode());
        self.node.bytes.extend(body);
        self.node.bytes.extend(payload);
    }

    pub(super) fn receive(&mut self) -> Result<(), Broken> {
        while !self.node.bytes.is_empty() || self.node.is_over {
            self.session.receive(&mut self.node, self.now, &mut self.events)?;
        }
        self.session.end_early(self.now, &mut self.events)
    }

    /// Has a descriptor travel with the next byte that the node says.
    pub(super) fn pass(&mut self, descriptor: OwnedFd) {
        self.node.beside.push_back((self.node.read + self.node.bytes.len(), descriptor));
    }

    /// A get's reply body for this one object.
    pub(super) fn hit(&self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.u32(1);
        self.encode_hit(key, bytes, bytes.len() as u32, Form::Inline, &mut body);
        body
    }

    /// Appends the answer for this object, of which so many bytes are sent.
    pub(super) fn encode_hit(
        &self,
        key: &[u8],
        bytes: &[u8],
        sent_bytes: u32,
        payload: Form<'_>,
        body: &mut Vec<u8>,
    ) {
        let (parts, seal) = self.sums(key, 5, b"meta", bytes);
        let hit = Hit {
            object_bytes: bytes.len() as u32,
            sent_bytes,
            version: 5,
            payload,
            user_meta: b"meta",
            parts: &parts,
            seal,
        };
        hit.encode(body);
    }

    /// The part checksums of an object as they travel, and its seal.
    pub(super) fn sums(
        &self,
        key: &[u8],
        version: u64,
        user_meta: &[u8],
        bytes: &[u8],
    ) -> (Vec<u8>, u32) {
        let parts = encode_parts(&part_checksums(bytes, self.namespace.part_bytes()));
        let what = Sealed {
            namespace_digest: self.namespace.digest(),
            generation: self.namespace.generation(),
            key,
            version,
            object_bytes: bytes.len() as u32,
            user_meta,
        };
        let seal = seal(&what, &parts);
        (parts, seal)
    }
}

pub(super) fn misses(count: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.u32(count);
    body.extend(std::iter::repeat_n(Status::Miss as u8, count as usize));
    body
}

pub(super) fn answers<T>(call: Pending<Vec<KeyResult<T>>>) -> Vec<KeyResult<T>> {
    call.wait().unwrap()
}

pub(super) fn object_of(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}
