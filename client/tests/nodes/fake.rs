//! A node in a few threads that speaks the protocol, and can be told to misbehave.
//!
//! It stores objects in a map and checks nothing: what is under test is the client. Its Unix socket
//! is in `fake/near.rs`.

mod near;

pub(crate) use near::NearNode;

use std::collections::HashMap;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use larder_client::{Code, Generation, Status};
use larder_protocol::checksum::part_range;
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{
    Account, Bump, CAPABILITY_SHARED, ClientReport, Get, Hello, HelloReply, Hit, Match,
    MatchReplyWriter, Open, Payload, Put, Remove, SocketPath, encode_stats, encode_statuses,
};
use larder_protocol::placement::{anchor_hash, shard_of};
use larder_protocol::view::{Member, MemberState, View};
use larder_protocol::wire::Write;
use larder_protocol::{Header, NamespaceSpec, Opcode};

use crate::calls::{ACCOUNT, CLIENT};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    /// Reads and never answers.
    Silent,
    /// Does not even read.
    Stopped,
    /// Writes half of every reply, then waits.
    Half,
    /// Flips a bit in the payload of every get.
    Corrupt,
    /// Ends a connection when it is asked for objects.
    HangUp,
    /// Answers to another request than was asked.
    Desync,
    /// Ends connections over its Unix socket at once.
    Shut,
    /// Is not done with mapping memory that it is given, and does nothing else on that connection.
    Mapping,
}

#[derive(Clone)]
struct Stored {
    generation: Generation,
    version: u64,
    bytes: Vec<u8>,
    meta: Vec<u8>,
    parts: Vec<u8>,
    tags: Vec<u8>,
    seal: u32,
}

type Objects = HashMap<(Vec<u8>, Vec<u8>), Stored>;

pub(crate) struct FakeNode {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    shard_count: u16,
    uds: SocketPath,
    incarnation: AtomicU64,
    mood: Mutex<Mood>,
    view: Mutex<View>,
    objects: Mutex<Objects>,
    generations: Mutex<HashMap<(u16, Vec<u8>), Generation>>,
    connections: AtomicUsize,
    near_connections: AtomicUsize,
    is_down: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl FakeNode {
    /// A node of `shard_count` shards with a view of itself alone.
    pub(crate) fn start(id: u64, shard_count: u16) -> Self {
        Self::start_with(id, shard_count, SocketPath::NONE)
    }

    fn start_with(id: u64, shard_count: u16, uds: SocketPath) -> Self {
        let listeners = listen(shard_count);
        let port = listeners[0].local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            id,
            shard_count,
            uds,
            incarnation: AtomicU64::new(1),
            mood: Mutex::new(Mood::Good),
            view: Mutex::default(),
            objects: Mutex::default(),
            generations: Mutex::default(),
            connections: AtomicUsize::new(0),
            near_connections: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            sockets: Mutex::default(),
        });
        let node = Self { port, shared };
        node.set_view(View::new(1, vec![node.member()]).unwrap());
        for (shard, listener) in listeners.into_iter().enumerate() {
            node.serve(shard as u16, listener);
        }
        node
    }

    /// Several nodes that know each other.
    pub(crate) fn cluster(count: u64, shard_count: u16) -> Vec<Self> {
        let nodes: Vec<_> = (1..=count).map(|id| Self::start(id, shard_count)).collect();
        let view = View::new(1, nodes.iter().map(Self::member).collect()).unwrap();
        nodes.iter().for_each(|node| node.set_view(view.clone()));
        nodes
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn member(&self) -> Member {
        Member {
            id: self.shared.id,
            incarnation: 0,
            weight: 100,
            state: MemberState::Serving,
            shard_count: self.shared.shard_count,
            port: self.port,
            host: "127.0.0.1".into(),
            capabilities: 0,
        }
    }

    pub(crate) fn set_view(&self, view: View) {
        *self.shared.view.lock().unwrap() = view;
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn object_count(&self) -> usize {
        self.shared.objects.lock().unwrap().len()
    }

    /// Ends all connections and forgets everything, as a killed process does.
    pub(crate) fn restart(&self) {
        self.shared.incarnation.fetch_add(1, Ordering::SeqCst);
        self.shared.objects.lock().unwrap().clear();
        self.shared.generations.lock().unwrap().clear();
        self.hang_up();
    }

    /// Refuses connections from now on.
    pub(crate) fn kill(&self) {
        self.shared.is_down.store(true, Ordering::SeqCst);
        self.hang_up();
    }

    /// Ends all connections.
    pub(crate) fn hang_up(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn serve(&self, shard: u16, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !shared.is_down.load(Ordering::SeqCst) {
                let Ok((socket, _)) = listener.accept() else {
                    sleep(Duration::from_millis(1));
                    continue;
                };
                socket.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.talk(shard, socket);
            }
        });
    }
}

impl Shared {
    fn talk(self: &Arc<Self>, shard: u16, socket: TcpStream) {
        socket.set_nonblocking(false).unwrap();
        self.sockets.lock().unwrap().push(socket.try_clone().unwrap());
        let shared = Arc::clone(self);
        std::thread::spawn(move || Talk { shard, shared, handles: Vec::new() }.run(socket));
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Talk {
    shard: u16,
    shared: Arc<Shared>,
    handles: Vec<Vec<u8>>,
}

impl Talk {
    fn run(mut self, mut socket: TcpStream) {
        loop {
            while self.mood() == Mood::Stopped {
                sleep(Duration::from_millis(1));
            }
            let mut head = [0; HEADER_BYTES];
            if socket.read_exact(&mut head).is_err() {
                return;
            }
            let header = Header::decode(&head).expect("the client speaks the protocol");
            let mut body = vec![0; header.body_bytes as usize];
            let mut payload = vec![0; header.payload_bytes as usize];
            if socket.read_exact(&mut body).is_err() || socket.read_exact(&mut payload).is_err() {
                return;
            }
            let mood = self.mood();
            let mut out = self.reply(&header, &body, &payload);
            let is_data = header.opcode == Opcode::Get as u8 || header.opcode == Opcode::Put as u8;
            match mood {
                Mood::Silent | Mood::Stopped => continue,
                Mood::HangUp if is_data => {
                    let _ = socket.shutdown(std::net::Shutdown::Both);
                    return;
                }
                Mood::Half if is_data => {
                    out.truncate(out.len() / 2);
                    let _ = socket.write_all(&out);
                    while self.mood() == Mood::Half {
                        sleep(Duration::from_millis(1));
                    }
                    let _ = socket.shutdown(std::net::Shutdown::Both);
                    return;
                }
                Mood::Desync if is_data => {
                    let wrong = Header { request_id: header.request_id + 7, ..header };
                    out = wrong.reply(Code::Ok).encode().to_vec();
                }
                Mood::Mapping if header.opcode == Opcode::Share as u8 => {
                    while self.mood() == Mood::Mapping {
                        sleep(Duration::from_millis(1));
                    }
                }
                Mood::Corrupt if header.opcode == Opcode::Get as u8 => {
                    *out.last_mut().unwrap() ^= 1;
                }
                _ => {}
            }
            if socket.write_all(&out).is_err() {
                return;
            }
        }
    }

    fn mood(&self) -> Mood {
        *self.shared.mood.lock().unwrap()
    }

    fn reply(&mut self, header: &Header, body: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let at = Header::begin(&mut out);
        let mut reply = header.reply(Code::Ok);
        reply.view_epoch = self.shared.view.lock().unwrap().epoch;
        let mut sent = Vec::new();
        match Opcode::try_from(header.opcode).unwrap() {
            Opcode::Hello => reply.code = self.hello(body, &mut out),
            Opcode::View => self.shared.view.lock().unwrap().encode(&mut out),
            Opcode::Stats => encode_stats(|stat| stat as u64, &mut out),
            // As a node does that is older.
            Opcode::Clients if self.shard == 1 => reply.code = Code::UnknownOpcode,
            Opcode::Clients => ClientReport::encode_all([CLIENT].into_iter(), &mut out),
            Opcode::Accounts => Account::encode_all([ACCOUNT].into_iter(), &mut out),
            Opcode::Share => {}
            Opcode::Open => {
                let open = Open::decode(body).unwrap();
                NamespaceSpec::decode(open.spec).unwrap();
                self.handles.push(open.spec.to_vec());
                reply.namespace = self.handles.len() as u64;
                reply.generation = self.move_to(open.spec, open.known);
            }
            opcode => {
                let Some(spec) = self.handles.get(header.namespace as usize - 1).cloned() else {
                    reply.code = Code::UnknownNamespace;
                    reply.finish(0, at, &mut out);
                    return out;
                };
                let known = if opcode == Opcode::Bump {
                    Bump::decode(body).unwrap().to
                } else {
                    header.generation
                };
                reply.generation = self.move_to(&spec, known);
                if known < reply.generation {
                    reply.code = Code::StaleGeneration;
                } else if opcode != Opcode::Bump {
                    let (spec, generation) = (&spec[..], header.generation);
                    let asked = Asked { opcode, generation, spec, body, payload };
                    sent = self.serve_keys(&asked, &mut out);
                }
            }
        }
        reply.finish(sent.len() as u64, at, &mut out);
        out.extend(sent);
        out
    }

    fn hello(&self, body: &[u8], out: &mut Vec<u8>) -> Code {
        let hello = Hello::decode(body).unwrap();
        let reply = HelloReply {
            version: 1,
            capabilities: hello.capabilities & CAPABILITY_SHARED,
            node_id: self.shared.id,
            incarnation: self.shared.incarnation.load(Ordering::SeqCst),
            shard: self.shard,
            shard_count: self.shared.shard_count,
            object_bytes_max: 64 << 20,
            uds: self.shared.uds,
        };
        reply.encode(out);
        let fits =
            hello.shard == self.shard && [0, self.shared.shard_count].contains(&hello.shard_count);
        if fits { Code::Ok } else { Code::WrongShard }
    }

    fn move_to(&self, spec: &[u8], known: Generation) -> Generation {
        let mut generations = self.shared.generations.lock().unwrap();
        let current = generations.entry((self.shard, spec.to_vec())).or_insert(Generation::FIRST);
        *current = known.max(*current);
        *current
    }

    fn serve_keys(&self, asked: &Asked<'_>, out: &mut Vec<u8>) -> Vec<u8> {
        let mut objects = self.shared.objects.lock().unwrap();
        match asked.opcode {
            Opcode::Put => self.put(asked, &mut objects, out),
            Opcode::Get => return self.get(asked, &objects, out),
            Opcode::Match => self.matching(asked, &objects, out),
            _ => remove(asked, &mut objects, out),
        }
        Vec::new()
    }

    fn put(&self, asked: &Asked<'_>, objects: &mut Objects, out: &mut Vec<u8>) {
        let put = Put::decode(asked.body, asked.payload.len() as u64).unwrap();
        let mut rest = asked.payload;
        let statuses = put.items.iter().map(|item| {
            if !matches!(item.payload, Payload::Inline) {
                // It cannot see memory that it was given.
                return Status::NoRoom;
            }
            let (bytes, behind) = rest.split_at(item.object_bytes as usize);
            rest = behind;
            let name = asked.name(item.key.as_bytes());
            if !self.is_mine(item.key.as_bytes()) {
                return Status::WrongShard;
            }
            if put.if_absent && objects.contains_key(&name) {
                return Status::Exists;
            }
            let stored = Stored {
                generation: asked.generation,
                version: item.version,
                bytes: bytes.to_vec(),
                meta: item.user_meta.to_vec(),
                parts: item.parts.to_vec(),
                tags: item.tags.to_vec(),
                seal: item.seal,
            };
            objects.insert(name, stored);
            Status::Stored
        });
        encode_statuses(statuses, out);
    }

    fn get(&self, asked: &Asked<'_>, objects: &Objects, out: &mut Vec<u8>) -> Vec<u8> {
        let mut sent = Vec::new();
        let get = Get::decode(asked.body).unwrap();
        let part_bytes = NamespaceSpec::decode(asked.spec).unwrap().part_bytes;
        out.u32(get.items.len() as u32);
        for item in get.items.iter() {
            let key = item.key.as_bytes();
            let found = objects.get(&asked.name(key));
            match found.filter(|stored| stored.generation == asked.generation) {
                _ if !self.is_mine(key) => out.u8(Status::WrongShard as u8),
                Some(stored) => hit(stored, &get, part_bytes, out, &mut sent),
                None => out.u8(Status::Miss as u8),
            }
        }
        sent
    }

    fn matching(&self, asked: &Asked<'_>, objects: &Objects, out: &mut Vec<u8>) {
        let request = Match::decode(asked.body).unwrap();
        let mut writer = MatchReplyWriter::begin(request.keys.len(), request.with_meta, out);
        for key in request.keys.iter() {
            match objects.get(&asked.name(key.as_bytes())) {
                Some(stored) => writer.hit(stored.bytes.len() as u32, &stored.meta, out),
                None => writer.miss(self.is_mine(key.as_bytes()), out),
            }
        }
        writer.finish(out);
    }

    /// Only a node alone can tell: with others, any of them may be asked.
    fn is_mine(&self, key: &[u8]) -> bool {
        shard_of(anchor_hash(key), self.shared.shard_count) == self.shard
    }
}

/// A request about keys.
struct Asked<'a> {
    opcode: Opcode,
    generation: Generation,
    spec: &'a [u8],
    body: &'a [u8],
    payload: &'a [u8],
}

impl Asked<'_> {
    fn name(&self, key: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (self.spec.to_vec(), key.to_vec())
    }
}

fn remove(asked: &Asked<'_>, objects: &mut Objects, out: &mut Vec<u8>) {
    let status = |is_removed| if is_removed { Status::Removed } else { Status::Miss };
    match Remove::decode(asked.body).unwrap() {
        Remove::Keys(keys) => {
            let keys = keys.iter();
            let statuses =
                keys.map(|key| status(objects.remove(&asked.name(key.as_bytes())).is_some()));
            encode_statuses(statuses, out);
        }
        Remove::Tag(tag) => {
            let (before, tag) = (objects.len(), tag.to_le_bytes());
            objects.retain(|_, stored| !stored.tags.chunks(8).any(|found| found == tag));
            encode_statuses([status(objects.len() < before)].into_iter(), out);
        }
    }
}

fn hit(stored: &Stored, get: &Get<'_>, part_bytes: u32, out: &mut Vec<u8>, sent: &mut Vec<u8>) {
    let object_bytes = stored.bytes.len() as u32;
    let range = if get.part_count == 0 {
        0..object_bytes
    } else {
        let first = part_range(object_bytes, part_bytes, u32::from(get.part_first));
        let last = u32::from(get.part_first + get.part_count - 1);
        first.start..part_range(object_bytes, part_bytes, last).end
    };
    let sent_bytes = range.end - range.start;
    if sent_bytes > get.payload_bytes_max {
        out.u8(Status::MissSize as u8);
        return;
    }
    let hit = Hit {
        object_bytes,
        sent_bytes,
        version: stored.version,
        payload: Payload::Inline,
        user_meta: &stored.meta,
        parts: &stored.parts,
        seal: stored.seal,
    };
    hit.encode(out);
    sent.extend_from_slice(&stored.bytes[range.start as usize..range.end as usize]);
}

/// Listeners on neighbouring ports.
fn listen(count: u16) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let others =
            (1..count).map(|shard| TcpListener::bind(("127.0.0.1", port.checked_add(shard)?)).ok());
        if let Some(others) = others.collect::<Option<Vec<_>>>() {
            return std::iter::once(first).chain(others).collect();
        }
    }
}
