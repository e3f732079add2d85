//! `Hello` and `Open`: who a connection is, and which namespaces it speaks of.

use larder_protocol::limits::{GENERATION_MAX, VERSION_MAX, VERSION_MIN};
use larder_protocol::message::{CAPABILITY_WANTS, Hello, HelloReply, Open};
use larder_protocol::wire::within;
use larder_protocol::{Code, DecodeError, Header, NamespaceSpec};

use super::{Peer, Shard};
use crate::config::assigned;
use crate::namespace::OpenError;
use crate::outbox::Outbox;

impl Shard {
    pub(super) fn hello(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let hello = Hello::decode(body)?;
        if hello.version_max < VERSION_MIN || hello.version_min > VERSION_MAX {
            return Err(DecodeError::Version(hello.version_max));
        }
        let asked = hello.capabilities;
        let capabilities =
            self.grant(peer, asked) | self.grant_remote(peer, asked) | asked & CAPABILITY_WANTS;
        let me = &self.identity;
        let is_here = hello.shard == me.index && [0, me.count].contains(&hello.shard_count);
        peer.is_greeted |= is_here;
        let reply = HelloReply {
            version: hello.version_max.min(VERSION_MAX),
            capabilities,
            node_id: me.node_id,
            incarnation: me.incarnation,
            shard: me.index,
            shard_count: me.count,
            object_bytes_max: self.object_bytes_max,
            uds: me.uds,
        };
        if is_here {
            self.greet(peer, hello.name);
        }
        let at = Header::begin(&mut out.bytes);
        reply.encode(&mut out.bytes);
        let code = if is_here { Code::Ok } else { Code::WrongShard };
        self.answer(header, code).finish(0, at, &mut out.bytes);
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let open = Open::decode(body)?;
        let namespace = match self.store.open(open.spec) {
            Ok(namespace) => namespace,
            Err(OpenError::Spec(error)) => return Err(error),
            Err(OpenError::Full) => {
                self.refuse(header, Code::TooMany, out);
                return Ok(());
            }
        };
        if !self.budgets.is_empty() || !self.cost_weighted.is_empty() {
            let spec = NamespaceSpec::decode(open.spec)?;
            // Also if not: another namespace may have had this number.
            let is_weighed = self.cost_weighted.iter().any(|whose| whose.has(&spec));
            self.store.weigh_by_cost(namespace, is_weighed);
            self.store.assign(namespace, assigned(&self.budgets, &spec));
        }
        within(open.known.0, GENERATION_MAX, "generation")?;
        if open.known > self.store.generation(namespace) {
            self.store.bump(namespace, open.known);
        }
        self.handles_made += 1;
        let random = self.random.hash_one((self.handles_made, self.now_ms));
        match peer.handles.open(self.store.namespaces_mut(), namespace, random) {
            Ok(handle) => self.bare(header, Code::Ok, namespace, handle, out),
            Err(_) => {
                self.refuse(header, Code::TooMany, out);
            }
        }
        Ok(())
    }
}
