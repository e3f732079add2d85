//! The operations of the protocol, each as one call of a raw connection.
//!
//! Calls whose name has no `try_` expect `Code::Ok` for the request; statuses of keys are data.

use larder_protocol::limits::{BATCH_OBJECTS_MAX, MATCH_KEYS_MAX};
use larder_protocol::message::{
    Account, AccountOf, CAPABILITY_SHARED, ClientPath, ClientReport, Freshness, Get, GetAnswer,
    Hello, MatchReply, Open, Put, Remove, decode_statuses,
};
use larder_protocol::stats::Stat;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Generation, NamespaceSpec, Opcode, Status};

use super::object::{Answer, Meaning, Object, verified};
use super::{Raw, Reply};

impl Raw {
    pub(crate) fn hello_frame(&mut self, shard: u16, shard_count: u16) -> Vec<u8> {
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            shard,
            shard_count,
            capabilities: self.capabilities
                | if self.local.is_some() { CAPABILITY_SHARED } else { 0 },
            name: b"raw",
            credential: b"",
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        self.frame(Opcode::Hello, &body, 0)
    }

    pub(crate) fn hello(&mut self, shard: u16, shard_count: u16) -> Reply {
        let frame = self.hello_frame(shard, shard_count);
        self.call(&frame)
    }

    pub(crate) fn open_frame(&mut self, spec: &NamespaceSpec, known: u64) -> Vec<u8> {
        let mut body = Vec::new();
        Open { known: Generation(known), spec: &spec.encode().unwrap() }.encode(&mut body);
        self.frame(Opcode::Open, &body, 0)
    }

    /// Opens a namespace; later requests are for it, at the generation that the node has.
    pub(crate) fn open_namespace(&mut self, spec: &NamespaceSpec, known: u64) -> Reply {
        let frame = self.open_frame(spec, known);
        let reply = self.call(&frame);
        self.namespace = reply.header.namespace;
        self.meaning = Meaning {
            digest: spec.digest().unwrap(),
            generation: reply.header.generation.0,
            part_bytes: spec.part_bytes,
        };
        reply
    }

    pub(crate) fn bump_frame(&mut self, to: u64) -> Vec<u8> {
        self.frame(Opcode::Bump, &to.to_le_bytes(), 0)
    }

    /// Bumps the namespace and answers the generation that the node has now.
    pub(crate) fn bump(&mut self, to: u64) -> u64 {
        let frame = self.bump_frame(to);
        let reply = self.call(&frame);
        assert_eq!(reply.header.code, Code::Ok);
        self.meaning.generation = reply.header.generation.0;
        self.meaning.generation
    }

    pub(crate) fn put_body(&self, objects: &[Object], if_absent: bool) -> Vec<u8> {
        let mut body = Vec::new();
        Put::encode_head(if_absent, false, objects.len(), &mut body);
        objects.iter().for_each(|object| object.encode(&self.meaning, &mut body));
        body
    }

    /// A whole put, its payload included.
    pub(crate) fn put_frame(&mut self, objects: &[Object], if_absent: bool) -> Vec<u8> {
        let inline = || objects.iter().filter(|object| object.is_inline());
        let payload_bytes = inline().map(|object| object.bytes.len() as u64).sum();
        let body = self.put_body(objects, if_absent);
        let mut frame = self.frame(Opcode::Put, &body, payload_bytes);
        inline().for_each(|object| frame.extend_from_slice(&object.bytes));
        frame
    }

    /// A put of `objects` without the checksums, and those, which follow it.
    pub(crate) fn put_and_sums(
        &mut self,
        objects: &[Object],
        if_absent: bool,
    ) -> (Vec<u8>, Vec<u8>) {
        let (mut body, mut follow) = (Vec::new(), Vec::new());
        Put::encode_head(if_absent, true, objects.len(), &mut body);
        for object in objects {
            object.encode_unsealed(&self.meaning, &mut body);
            let (parts, seal) = object.sums(&self.meaning);
            follow.extend_from_slice(&parts);
            follow.u32(seal);
        }
        (self.frame(Opcode::Put, &body, follow.len() as u64), follow)
    }

    pub(crate) fn put_then_sums(&mut self, objects: &[Object]) -> Vec<Status> {
        let (frame, follow) = self.put_and_sums(objects, false);
        self.send(&[frame, follow].concat());
        self.reply().statuses()
    }

    pub(crate) fn try_put(&mut self, objects: &[Object], if_absent: bool) -> Reply {
        let frame = self.put_frame(objects, if_absent);
        self.call(&frame)
    }

    /// Puts objects and answers a status for each.
    pub(crate) fn put(&mut self, objects: &[Object]) -> Vec<Status> {
        self.try_put(objects, false).statuses()
    }

    /// Puts one object.
    pub(crate) fn put_one(&mut self, key: impl AsRef<[u8]>, bytes: &[u8]) -> Status {
        self.put(&[Object::new(key, bytes.to_vec())])[0]
    }

    pub(crate) fn get_frame(&mut self, get: &Get<'_>, keys: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        get.encode_head(keys.len(), &mut body);
        for key in keys {
            body.bytes_u8(key);
            body.u8(0);
        }
        self.frame(Opcode::Get, &body, 0)
    }

    pub(crate) fn try_get(&mut self, get: &Get<'_>, keys: &[&[u8]]) -> Reply {
        let frame = self.get_frame(get, keys);
        self.call(&frame)
    }

    /// Gets whole objects as a use of them.
    pub(crate) fn get(&mut self, keys: &[&[u8]]) -> Vec<Answer> {
        let reply = self.try_get(&Get::whole(true), keys);
        reply.answers(keys, &self.meaning)
    }

    /// Gets one object.
    pub(crate) fn get_one(&mut self, key: impl AsRef<[u8]>) -> Answer {
        self.get(&[key.as_ref()]).remove(0)
    }

    /// Gets one object that is as fresh as asked.
    pub(crate) fn get_fresh(&mut self, key: &[u8], freshness: Freshness) -> Answer {
        let reply = self.try_get(&Get { freshness, ..Get::whole(true) }, &[key]);
        reply.answers(&[key], &self.meaning).remove(0)
    }

    pub(crate) fn match_frame(&mut self, keys: &[&[u8]], touch: bool) -> Vec<u8> {
        let mut body = vec![u8::from(touch)];
        body.u32(keys.len() as u32);
        keys.iter().for_each(|key| body.bytes_u8(key));
        self.frame(Opcode::Match, &body, 0)
    }

    /// Which of the keys are there.
    pub(crate) fn matched(&mut self, keys: &[&[u8]], touch: bool) -> Vec<bool> {
        let frame = self.match_frame(keys, touch);
        let reply = self.call(&frame);
        assert_eq!(reply.header.code, Code::Ok);
        let found = MatchReply::decode(&reply.body).unwrap();
        assert_eq!(found.count, keys.len());
        (0..keys.len()).map(|index| found.is_hit(index)).collect()
    }

    /// Whether one key is there, without using it.
    pub(crate) fn has(&mut self, key: impl AsRef<[u8]>) -> bool {
        self.matched(&[key.as_ref()], false)[0]
    }

    pub(crate) fn remove_frame(&mut self, keys: &[&[u8]]) -> Vec<u8> {
        let mut body = vec![0];
        body.u32(keys.len() as u32);
        keys.iter().for_each(|key| body.bytes_u8(key));
        self.frame(Opcode::Remove, &body, 0)
    }

    pub(crate) fn remove(&mut self, keys: &[&[u8]]) -> Vec<Status> {
        let frame = self.remove_frame(keys);
        self.call(&frame).statuses()
    }

    /// Which ways the clients of the shard have, this one included.
    pub(crate) fn paths(&mut self) -> Vec<ClientPath> {
        let frame = self.frame(Opcode::Clients, &[], 0);
        let reply = self.call(&frame);
        let clients = ClientReport::decode_all(&reply.body).unwrap();
        assert!(clients.iter().all(|client| client.name == b"raw"));
        assert!(clients.iter().all(|client| client.connected_ms < 60_000));
        let mut paths: Vec<_> = clients.iter().map(|client| client.path).collect();
        paths.sort_unstable();
        paths
    }

    /// What the shard counts of namespaces, by their models, and of classes, of which something is
    /// not 0.
    pub(crate) fn accounts(&mut self) -> Vec<(String, Vec<(Stat, u64)>)> {
        let frame = self.frame(Opcode::Accounts, &[], 0);
        let reply = self.call(&frame);
        let accounts = Account::decode_all(&reply.body).unwrap().into_iter();
        let named = accounts.map(|account| match account.of {
            AccountOf::Namespace(spec) => {
                (NamespaceSpec::decode(spec).unwrap().model, account.values)
            }
            AccountOf::Class(class) => (format!("class {class}"), account.values),
        });
        named.collect()
    }

    /// Pins objects for so many milliseconds.
    pub(crate) fn pin(&mut self, keys: &[&[u8]], keep_ms: u32) -> Vec<Status> {
        let mut body = Vec::new();
        body.u32(keep_ms);
        body.u32(keys.len() as u32);
        keys.iter().for_each(|key| body.bytes_u8(key));
        let frame = self.frame(Opcode::Pin, &body, 0);
        self.call(&frame).statuses()
    }

    pub(crate) fn remove_tag_frame(&mut self, tag: u64) -> Vec<u8> {
        let mut body = Vec::new();
        Remove::encode_tag(tag, &mut body);
        self.frame(Opcode::Remove, &body, 0)
    }
}

impl Reply {
    /// The statuses of a put or a remove.
    pub(crate) fn statuses(&self) -> Vec<Status> {
        assert_eq!(self.header.code, Code::Ok, "{:?}", self.header);
        assert!(self.payload.is_empty());
        let limit = BATCH_OBJECTS_MAX.max(MATCH_KEYS_MAX);
        decode_statuses(&self.body, limit).unwrap().iter().collect()
    }

    /// The answers of a get for whole objects, each verified against its key.
    pub(crate) fn answers(&self, keys: &[&[u8]], meaning: &Meaning) -> Vec<Answer> {
        assert_eq!(self.header.code, Code::Ok, "{:?}", self.header);
        let answers = GetAnswer::decode_all(&self.body, self.payload.len() as u64).unwrap();
        assert_eq!(answers.len(), keys.len(), "an answer for each key");
        let mut rest = self.payload.as_slice();
        let answer = |(answer, key): (GetAnswer<'_>, &&[u8])| match answer {
            GetAnswer::Miss(status) => Err(status),
            GetAnswer::Hit(hit) => {
                let (bytes, behind) = rest.split_at(hit.sent_bytes as usize);
                rest = behind;
                Ok(verified(&hit, bytes, key, meaning))
            }
        };
        answers.iter().zip(keys).map(answer).collect()
    }
}

/// A key for a test that has many.
pub(crate) fn name(prefix: &str, number: usize) -> Vec<u8> {
    format!("{prefix}-{number}").into_bytes()
}

/// Keys as calls take them.
pub(crate) fn borrowed(keys: &[Vec<u8>]) -> Vec<&[u8]> {
    keys.iter().map(Vec::as_slice).collect()
}
