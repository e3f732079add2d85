//! A session without socket, thread and clock: for counting what a call costs.
//!
//! What a reader would get wrong: nothing in the client uses this. Between a caller and the session
//! stand, in the client, a list of jobs and a thread's wake-up, which are not counted here.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_protocol::message::Sharing;
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::{Key, NamespaceSpec};
use mio::{Poll, Token, Waker};

use crate::bootstrap::hello;
use crate::call::{Call, Outcome, Pending};
use crate::completion::{Completion, CompletionQueue};
use crate::config::{Config, GetOptions};
use crate::error::{Error, KeyError};
use crate::inbox::Remote;
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::object::PutObject;
use crate::rdma::Pairing;
use crate::request::{GetHead, Plan};
use crate::router::{Peer, Routes};
use crate::sealing::Seals;
use crate::session::{Limits, Session};
use crate::shared::{Memories, PutSource};
use crate::wire::Wire;

/// A client with one node of one shard.
pub struct Probe {
    session: Session,
    remote: Remote,
    namespace: Namespace,
    queue: CompletionQueue,
    head: GetHead,
    now: Instant,
}

impl Probe {
    /// A client that has said hello to a node of this id; the greeting is in `frames`.
    ///
    /// # Errors
    /// [`Error`] if the description is too long, or there is no descriptor left.
    pub fn new(node_id: u64, spec: NamespaceSpec, frames: &mut Vec<u8>) -> Result<Self, Error> {
        let system = |what| move |error: io::Error| Error::System { what, kind: error.kind() };
        let poll = Poll::new().map_err(system("epoll"))?;
        let waker = Waker::new(poll.registry(), Token(0)).map_err(system("eventfd"))?;
        let member = Member {
            id: node_id,
            incarnation: 0,
            weight: 1,
            state: MemberState::Serving,
            shard_count: 1,
            port: 1,
            host: "probe".into(),
            capabilities: 0,
        };
        let view = Arc::new(View::new(1, vec![member]).map_err(Error::Protocol)?);
        let is_open = AtomicBool::new(false);
        let peer = Arc::new(Peer { slot: 0, id: node_id, name: "probe:1".into(), is_open });
        let mut probe = Self {
            session: Session::new(LIMITS, 1, Pairing::default()),
            remote: Remote::new(waker, Routes::new(view, vec![peer])),
            namespace: Namespace::describe(spec)?,
            queue: CompletionQueue::new()?,
            head: GetHead::new(&GetOptions::default(), Sharing::Never)?,
            now: Instant::now(),
        };
        probe.session.say_hello(&hello(&Config::default(), 0, 1), probe.now);
        probe.write(frames);
        Ok(probe)
    }

    /// Asks for each of `keys` in a call of its own, under its place in the list; appends what is
    /// written.
    #[inline(never)]
    pub fn ask(&mut self, keys: &[Key], frames: &mut Vec<u8>) {
        for (key, token) in keys.iter().zip(0..) {
            let call = self.call(Outcome::Get(vec![Err(KeyError::DeadlineExceeded)]));
            let head = self.head;
            self.submit(&call, |plan| plan.get(head, std::slice::from_ref(key), Vec::new()));
            self.watch(call, token);
        }
        self.write(frames);
    }

    /// Stores one object, under token 0; appends what is written.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn put(&mut self, key: Key, object: Bytes, frames: &mut Vec<u8>) -> Result<(), Error> {
        let call = self.call(Outcome::Put(vec![Err(KeyError::DeadlineExceeded)]));
        let object: PutObject<Bytes> = PutObject::new(key, object);
        let mut seals = Seals::default();
        seals.add(&self.namespace, &object, [&object.bytes[..]].into_iter())?;
        let objects = [object];
        let bytes = objects[0].bytes.clone().into();
        let (items, sources) =
            (seals.items(&objects), vec![PutSource::new(bytes, &Memories::default())]);
        self.submit(&call, |plan| plan.put(false, &items, sources));
        self.watch(call, 0);
        self.write(frames);
        Ok(())
    }

    /// Takes what the node sent, and answers the calls that ended by it.
    ///
    /// # Errors
    /// [`Error::Closed`] where a connection would end.
    #[inline(never)]
    pub fn take(&mut self, replies: &[u8]) -> Result<Vec<Completion>, Error> {
        let (mut from, mut events) = (Replies(replies), Vec::new());
        while !from.0.is_empty() {
            let received = self.session.receive(&mut from, self.now, &mut events);
            received.map_err(|_| Error::Closed)?;
        }
        Ok(self.queue.drain())
    }

    /// Appends what waits to be written.
    pub fn write(&mut self, frames: &mut Vec<u8>) {
        loop {
            self.session.pump(self.now);
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            self.session.gather(&mut slices);
            let offered = slices.iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                return;
            }
            slices.iter().for_each(|slice| frames.extend_from_slice(slice));
            self.session.wrote(offered);
        }
    }

    fn call(&self, outcome: Outcome) -> Arc<Call> {
        Call::new(outcome, self.now + DEADLINE, None, self.remote.clone())
    }

    fn submit(&mut self, call: &Arc<Call>, legs: impl FnOnce(&Plan<'_>) -> Vec<Box<Leg>>) {
        let (routes, namespace) = (self.remote.routes(), &self.namespace);
        let plan = Plan { call, routes: &routes, namespace, base: None, attempts: 0 };
        for leg in legs(&plan) {
            self.session.submit(leg, self.now);
        }
        call.leg_ended();
    }

    fn watch(&self, call: Arc<Call>, token: u64) {
        self.queue.watch(token, Pending::new(call, Vec::new(), |_, outcome| Ok(outcome)));
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// What a node sent, and nothing after it for now.
struct Replies<'a>(&'a [u8]);

impl Wire for Replies<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = into.len().min(self.0.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn read_both(&mut self, first: &mut [u8], then: &mut [u8]) -> io::Result<usize> {
        let read = self.read(first)?;
        Ok(if read == first.len() { read + self.read(then).unwrap_or(0) } else { read })
    }

    fn read_more(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        let count = bytes_max.min(self.0.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into.extend_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

const LIMITS: Limits = Limits { requests: 1 << 20, bytes: 1 << 30 };
const DEADLINE: Duration = Duration::from_secs(3600);
