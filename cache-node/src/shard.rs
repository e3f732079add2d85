//! What a request does: one core's partition, as plain code.
//!
//! No socket, no clock, no executor: the driver sets `now_ms`, hands over what it read and sends
//! what it finds in the outbox. A put takes three steps, since its bytes arrive in between.

mod accounts;
mod ahead;
mod clients;
mod get;
mod greeting;
mod landing;
mod matching;
mod put;
mod remote;
mod shared;
mod tally;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use larder_protocol::header::Opcode;
use larder_protocol::limits::{GENERATION_MAX, HEADER_BYTES, OBJECT_BYTES_MAX, VERSION_MAX};
use larder_protocol::message::{
    Bump, Freshness, Get, Match, Pin, Put, Remove, SocketPath, encode_statuses,
};
use larder_protocol::placement::{anchor_hash, shard_of};
use larder_protocol::stats::{STAT_NUMBERS, Stat};
use larder_protocol::view::{MemberState, View};
use larder_protocol::wire::within;
use larder_protocol::{Code, DecodeError, Generation, Header, Status};
use larder_transport::{Arena, Region};

use crate::config::{Budget, Config, ConfigError, Whose};
use crate::counters::{NodeState, OPCODE_NUMBERS};
use crate::gauge::Gauge;
use crate::judgement;
use crate::lease::{Leases, Totals};
use crate::namespace::{Handles, NamespaceId};
use crate::outbox::Outbox;
use crate::places::Places;
use crate::store::{Ask, KeyHash, Policy, RECORD_BYTES_MAX, Store, StoreConfig};

use clients::Client;
pub(crate) use put::{Lent, PutJob};
use remote::Remote;
pub(crate) use remote::{Card, PairJob};
use shared::Host;
pub(crate) use shared::ShareJob;

/// One core's partition of the node.
#[derive(Debug)]
pub(crate) struct Shard {
    store: Store,
    budgets: Vec<Budget>,
    cost_weighted: Vec<Whose>,
    object_bytes_max: u32,
    identity: Identity,
    filling: Gauge,
    filling_bytes_max: u64,
    sending: Gauge,
    sending_bytes_max: u64,
    region: Arc<Region>,
    leased: Totals,
    lease_bytes_max: u64,
    /// Of connections that ended when the node did.
    kept: Vec<Leases>,
    clients: Places<Client>,
    card: Option<Card>,
    card_warning_at_ms: u64,
    /// Queue pairs.
    pairs: Gauge,
    /// Those that are being connected, or wait for that.
    pairs_coming: Gauge,
    counts: [u64; STAT_NUMBERS],
    requests: [u64; OPCODE_NUMBERS],
    ticks: u64,
    /// Set by the driver before each call.
    pub(crate) now_ms: u64,
    random: ahash::RandomState,
    handles_made: u64,
    is_draining: bool,
    scratch: get::Scratch,
    learned: Option<judgement::Reader>,
}

/// Which shard of which node this is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    node_id: u64,
    incarnation: u64,
    index: u16,
    count: u16,
    view: View,
    uds: SocketPath,
}

/// What a connection has said and opened so far.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    is_greeted: bool,
    handles: Handles,
    host: Host,
    /// Of a peer that may use a card.
    remote: Option<Box<Remote>>,
    /// Among those who have said `Hello`.
    place: Option<usize>,
    /// Descriptors that came with the request that is served.
    offered: Vec<OwnedFd>,
}

/// What the driver does next.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// The answer is in the outbox.
    Replied,
    /// The answer is in the outbox; the payload is read and thrown away.
    Skip,
    /// The payload is stored, object by object.
    Fill(PutJob<'a>),
    /// Memory of the client's is mapped, elsewhere: that may take long.
    Map(ShareJob),
    /// The card is connected with the client's, elsewhere: that may take long, too.
    Connect(PairJob),
}

/// Connections as the driver sees them: open now, cut off since the last tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) connections: u64,
    pub(crate) timed_out: u64,
}

impl Identity {
    /// The identity of shard `index` of the node that `config` describes.
    ///
    /// # Errors
    /// As [`Config::view`].
    pub(crate) fn new(config: &Config, state: &NodeState, index: u16) -> Result<Self, ConfigError> {
        let (node_id, incarnation) = (state.id, state.incarnation);
        let view = config.view(incarnation)?;
        let uds = config.socket_path().unwrap_or(SocketPath::NONE);
        Ok(Self { node_id, incarnation, index, count: config.shards, view, uds })
    }

    fn owns(&self, key: &[u8]) -> bool {
        self.count == 1 || shard_of(anchor_hash(key), self.count) == self.index
    }
}

impl Peer {
    /// Whether it has said `Hello`.
    pub(crate) fn is_greeted(&self) -> bool {
        self.is_greeted
    }
}

impl Shard {
    /// An empty shard over `arena`.
    pub(crate) fn new(arena: Arena, identity: Identity, config: &Config) -> Self {
        let region = Arc::clone(arena.region());
        let region_bytes = region.bytes();
        let bounds = StoreConfig {
            objects_max: config.objects_max(),
            policy: config.policy,
            ..StoreConfig::for_region(region_bytes)
        };
        let mut store = Store::new(arena, bounds, KeyHash::random());
        store.keep_to(config.budgets.iter().map(|budget| budget.share(config.shards)).collect());
        store.pin_at_most(config.pinned_bytes_max());
        let learns = matches!(config.policy, Policy::Hazard { .. });
        let learned = learns.then(judgement::Reader::default);
        let room = region_bytes.saturating_sub(RECORD_BYTES_MAX as u64);
        let object_bytes_max = room.min(u64::from(OBJECT_BYTES_MAX)) as u32;
        Self {
            region,
            leased: Totals::default(),
            lease_bytes_max: config.lease_bytes_max(),
            kept: Vec::new(),
            clients: Places::default(),
            card: None,
            card_warning_at_ms: 0,
            pairs: Gauge::default(),
            pairs_coming: Gauge::default(),
            store,
            budgets: config.budgets.clone(),
            cost_weighted: config.cost_weighted.clone(),
            object_bytes_max,
            identity,
            filling: Gauge::default(),
            filling_bytes_max: config.inflight_bytes_max(),
            sending: Gauge::default(),
            sending_bytes_max: config.reply_bytes_max(),
            counts: [0; STAT_NUMBERS],
            requests: [0; OPCODE_NUMBERS],
            ticks: 0,
            now_ms: 0,
            random: ahash::RandomState::new(),
            handles_made: 0,
            is_draining: false,
            scratch: get::Scratch::default(),
            learned,
        }
    }

    /// Serves a request as far as it goes without its payload.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none; the connection ends then.
    pub(crate) fn begin<'a>(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &'a [u8],
        late: bool,
        out: &mut Outbox,
    ) -> Result<Step<'a>, DecodeError> {
        self.count(Stat::Requests, 1);
        let opcode = Opcode::try_from(header.opcode).ok();
        if let Some(opcode) = opcode {
            self.requests[opcode as usize] += 1;
        }
        if opcode != Some(Opcode::Put) && opcode.is_some() {
            within(header.payload_bytes, 0, "payload of this operation")?;
        }
        if !peer.is_greeted && opcode != Some(Opcode::Hello) {
            return Ok(self.refuse(header, Code::Denied, out));
        }
        if opcode == Some(Opcode::Release) {
            self.release(peer, body)?;
            return Ok(Step::Replied);
        }
        if late {
            return Ok(self.refuse(header, Code::DeadlineExceeded, out));
        }
        match opcode {
            Some(Opcode::Hello) => self.hello(peer, header, body, out)?,
            Some(Opcode::Open) => self.open(peer, header, body, out)?,
            Some(Opcode::View) => {
                let at = Header::begin(&mut out.bytes);
                self.identity.view.encode(&mut out.bytes);
                self.answer(header, Code::Ok).finish(0, at, &mut out.bytes);
            }
            Some(Opcode::Stats) => self.stats(header, out),
            Some(Opcode::Clients) => self.clients(header, out),
            Some(Opcode::Accounts) => self.accounts(header, out),
            Some(Opcode::Share) => return self.begin_share(peer, header, body, out),
            Some(Opcode::Unshare) => self.unshare(peer, header, body, out)?,
            Some(Opcode::Pair) => return self.begin_pair(peer, header, body, out),
            Some(
                Opcode::Bump
                | Opcode::Match
                | Opcode::Get
                | Opcode::Put
                | Opcode::Remove
                | Opcode::Pin,
            ) => {
                return self.begin_in_namespace(peer, header, body, out);
            }
            _ => return Ok(self.refuse(header, Code::UnknownOpcode, out)),
        }
        Ok(Step::Replied)
    }

    fn begin_in_namespace<'a>(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &'a [u8],
        out: &mut Outbox,
    ) -> Result<Step<'a>, DecodeError> {
        let Some(namespace) = peer.handles.find(header.namespace) else {
            return Ok(self.refuse(header, Code::UnknownNamespace, out));
        };
        if header.opcode == Opcode::Bump as u8 {
            let to = Bump::decode(body)?.to;
            within(to.0, GENERATION_MAX, "generation")?;
            self.store.bump(namespace, to);
            self.bare(header, Code::Ok, namespace, header.namespace, out);
            return Ok(Step::Replied);
        }
        within(header.generation.0, GENERATION_MAX, "generation")?;
        // A client that knows a newer generation has been told by another shard or node: a bump
        // that never came here is made up for now.
        if header.generation > self.store.generation(namespace) {
            self.store.bump(namespace, header.generation);
        }
        let generation = self.store.generation(namespace);
        if header.generation < generation {
            self.bare(header, Code::StaleGeneration, namespace, header.namespace, out);
            return Ok(skip_payload(header));
        }
        match Opcode::try_from(header.opcode)? {
            Opcode::Match => self.matching(header, namespace, &Match::decode(body)?, out),
            Opcode::Get => {
                let get = Get::decode(body)?;
                if get.is_inline() {
                    self.get(header, namespace, &get, peer.shared_mut(), out);
                } else {
                    self.get_remote(peer, header, namespace, &get, out);
                }
            }
            Opcode::Remove => self.remove(header, namespace, &Remove::decode(body)?, out),
            Opcode::Pin => self.pin(header, namespace, &Pin::decode(body)?, out),
            Opcode::Put => {
                let put = Put::decode(body, header.payload_bytes)?;
                let Some(source) = peer.source_of(&put)? else {
                    return Ok(self.refuse(header, Code::Unsupported, out));
                };
                return Ok(self.begin_put(header, namespace, put, source, out));
            }
            _ => return Ok(self.refuse(header, Code::UnknownOpcode, out)),
        }
        Ok(Step::Replied)
    }

    fn remove(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        request: &Remove<'_>,
        out: &mut Outbox,
    ) {
        let at = Header::begin(&mut out.bytes);
        match request {
            Remove::Keys(keys) => {
                let statuses = keys.iter().map(|key| {
                    if !self.identity.owns(key.as_bytes()) {
                        return Status::WrongShard;
                    }
                    self.store.remove(namespace, key.as_bytes(), self.now_ms)
                });
                encode_statuses(statuses, &mut out.bytes);
            }
            Remove::Tag(tag) => {
                let status = self.store.remove_tag(namespace, *tag);
                encode_statuses(std::iter::once(status), &mut out.bytes);
            }
        }
        self.answer_in(header, Code::Ok, namespace).finish(0, at, &mut out.bytes);
    }

    fn pin(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        request: &Pin<'_>,
        out: &mut Outbox,
    ) {
        let at = Header::begin(&mut out.bytes);
        let (ask, mut refused) = (self.ask(header, namespace, Freshness::Any), 0);
        let statuses = request.keys.iter().map(|key| {
            if !self.identity.owns(key.as_bytes()) {
                return Status::WrongShard;
            }
            let status = self.store.pin(&ask, key.as_bytes(), request.keep_ms);
            refused += u64::from(status == Status::NoRoom);
            status
        });
        encode_statuses(statuses, &mut out.bytes);
        self.count(Stat::PinsRefused, refused);
        self.answer_in(header, Code::Ok, namespace).finish(0, at, &mut out.bytes);
    }

    fn ask(&self, header: &Header, namespace: NamespaceId, freshness: Freshness) -> Ask {
        Ask { namespace, generation: header.generation, freshness, now_ms: self.now_ms }
    }

    /// Takes no more puts, and says so in its view.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        let id = self.identity.node_id;
        let members = self.identity.view.members.iter_mut();
        members.filter(|m| m.id == id).for_each(|m| m.state = MemberState::Draining);
        self.identity.view.epoch += 1;
    }

    /// Forgets a connection that has ended, but for its leases.
    pub(crate) fn forget(&mut self, peer: &mut Peer) {
        peer.remote = None;
        self.part_with(peer);
        peer.handles.close_all(self.store.namespaces_mut());
        peer.forget_memory();
    }

    /// Queues the reason why a connection ends.
    pub(crate) fn farewell(&mut self, reason: DecodeError, out: &mut Outbox) {
        let at = Header::begin(&mut out.bytes);
        out.bytes.extend_from_slice(reason.to_string().as_bytes());
        let header = Header::request(Opcode::Hello, 0, 0);
        self.answer(&header, Code::Malformed).finish(0, at, &mut out.bytes);
    }

    /// Answers with a bare code, and reads past the payload if there is one.
    fn refuse<'a>(&mut self, header: &Header, code: Code, out: &mut Outbox) -> Step<'a> {
        if code == Code::Busy {
            self.count(Stat::RefusedBusy, 1);
        }
        let at = Header::begin(&mut out.bytes);
        self.answer(header, code).finish(0, at, &mut out.bytes);
        skip_payload(header)
    }

    /// Answers with nothing but a header that carries handle and generation.
    fn bare(
        &self,
        header: &Header,
        code: Code,
        namespace: NamespaceId,
        handle: u64,
        out: &mut Outbox,
    ) {
        let at = Header::begin(&mut out.bytes);
        let reply = Header { namespace: handle, ..self.answer_in(header, code, namespace) };
        reply.finish(0, at, &mut out.bytes);
    }

    fn answer(&self, header: &Header, code: Code) -> Header {
        let view_epoch = self.identity.view.epoch;
        Header { version: VERSION_MAX, view_epoch, load: self.load(), ..header.reply(code) }
    }

    fn answer_in(&self, header: &Header, code: Code, namespace: NamespaceId) -> Header {
        Header { generation: self.store.generation(namespace), ..self.answer(header, code) }
    }

    /// How much of what may be in flight is in flight, as a byte.
    fn load(&self) -> u8 {
        let share = |gauge: &Gauge, max: u64| (gauge.value() * 255 / max.max(1)).min(255) as u8;
        share(&self.filling, self.filling_bytes_max)
            .max(share(&self.sending, self.sending_bytes_max))
    }
}

fn skip_payload<'a>(header: &Header) -> Step<'a> {
    if header.payload_bytes > 0 { Step::Skip } else { Step::Replied }
}

const _: () = assert!(HEADER_BYTES == 64, "the driver reads headers of this size");
const _: () = assert!(Generation::FIRST.0 > 0, "no generation is the 0 of an empty header");
