//! Operations that ask every shard of every node: namespaces, tags, counters, clients.
//!
//! What a reader would get wrong: they have one answer for each shard, and a shard that cannot be
//! reached is one of the answers, not an error.

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::message::{Bump, Open, Remove};
use larder_protocol::{Generation, NamespaceSpec, Opcode};

use crate::call::{Call, Outcome, Pending, ShardAnswer, ShardValue};
use crate::client::Client;
use crate::error::{Error, KeyError};
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::router::Indices;

impl Client {
    /// Opens a namespace at its current generation: the newest that any shard knows.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a field is too long; [`Error::Unavailable`],
    /// [`Error::DeadlineExceeded`] or [`Error::Denied`] if no shard opened it.
    pub fn namespace(&self, spec: NamespaceSpec) -> Result<Namespace, Error> {
        self.start_namespace(spec)?.wait()
    }

    /// As [`Client::namespace`], without waiting.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a field is too long; [`Error::Forked`].
    pub fn start_namespace(&self, spec: NamespaceSpec) -> Result<Pending<Namespace>, Error> {
        self.open_everywhere(Namespace::describe(spec)?, None)
    }

    /// Moves a namespace to a new generation on every shard that can be reached, and answers a
    /// handle to it. From then on nothing stored before is found through the new handle, anywhere:
    /// a shard that could not be reached learns of it when the handle is first used there.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::DeadlineExceeded`] or [`Error::Denied`] if no shard did it.
    pub fn bump(&self, namespace: &Namespace) -> Result<Namespace, Error> {
        let mut current = self.open_everywhere(namespace.clone(), None)?.wait()?;
        for _ in 0..BUMPS_MAX {
            // Far ahead by chance: two clients that bump at once, or a shard that was away, must
            // not mean different things by one number.
            let step = ahash::RandomState::new().hash_one(current.generation().0) >> 32;
            let to = Generation(current.generation().0 + 1 + step);
            let body = move |out: &mut Vec<u8>| Bump { to }.encode(out);
            let asked = self.ask_shards(Opcode::Bump, Some(current), None, body, newest_generation);
            let reached = asked?.wait()?;
            if reached.generation() == to {
                return Ok(reached);
            }
            // Somebody was further already, and may have stored since: that is not our bump.
            current = reached;
        }
        Err(Error::DeadlineExceeded)
    }

    /// Removes everything that carries `tag`, from every shard. Answers what each shard said
    /// ([`ShardValue::Removed`]).
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn remove_tag(
        &self,
        namespace: &Namespace,
        tag: u64,
        deadline: Option<Duration>,
    ) -> Result<Vec<ShardAnswer>, Error> {
        self.start_remove_tag(namespace, tag, deadline)?.wait()
    }

    /// As [`Client::remove_tag`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_remove_tag(
        &self,
        namespace: &Namespace,
        tag: u64,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<ShardAnswer>>, Error> {
        let body = |out: &mut Vec<u8>| Remove::encode_tag(tag, out);
        let namespace = Some(namespace.clone());
        self.ask_shards(Opcode::Remove, namespace, deadline, body, |_, answers| Ok(answers))
    }

    /// The counters of every shard of every node.
    ///
    /// # Errors
    /// [`Error::Forked`]. Shards that could not be asked say so in their answer.
    pub fn stats(&self, deadline: Option<Duration>) -> Result<Vec<ShardAnswer>, Error> {
        self.start_stats(deadline)?.wait()
    }

    /// As [`Client::stats`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_stats(
        &self,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<ShardAnswer>>, Error> {
        self.ask_shards(Opcode::Stats, None, deadline, |_| (), |_, answers| Ok(answers))
    }

    /// Who is connected to each shard of each node, and which way ([`ShardValue::Clients`]). This
    /// client is among them. A node of a version that does not know the question refuses it.
    ///
    /// # Errors
    /// [`Error::Forked`]. Shards that could not be asked say so in their answer.
    pub fn clients(&self, deadline: Option<Duration>) -> Result<Vec<ShardAnswer>, Error> {
        self.start_clients(deadline)?.wait()
    }

    /// As [`Client::clients`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_clients(
        &self,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<ShardAnswer>>, Error> {
        self.ask_shards(Opcode::Clients, None, deadline, |_| (), |_, answers| Ok(answers))
    }

    /// What each shard of each node counts of its namespaces, and of each class of objects
    /// ([`ShardValue::Accounts`]): of at most 768 namespaces, those that take most memory. A node
    /// of a version that does not know the question refuses it.
    ///
    /// # Errors
    /// [`Error::Forked`]. Shards that could not be asked say so in their answer.
    pub fn accounts(&self, deadline: Option<Duration>) -> Result<Vec<ShardAnswer>, Error> {
        self.start_accounts(deadline)?.wait()
    }

    /// As [`Client::accounts`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_accounts(
        &self,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<ShardAnswer>>, Error> {
        self.ask_shards(Opcode::Accounts, None, deadline, |_| (), |_, answers| Ok(answers))
    }

    fn open_everywhere(
        &self,
        namespace: Namespace,
        deadline: Option<Duration>,
    ) -> Result<Pending<Namespace>, Error> {
        let known = namespace.generation();
        let spec = namespace.clone();
        let body = move |out: &mut Vec<u8>| Open { known, spec: spec.encoded() }.encode(out);
        self.ask_shards(Opcode::Open, Some(namespace), deadline, body, newest_generation)
    }

    /// Asks every shard of every node the same.
    fn ask_shards<T>(
        &self,
        opcode: Opcode,
        namespace: Option<Namespace>,
        deadline: Option<Duration>,
        body: impl Fn(&mut Vec<u8>),
        finish: fn(&Call, Vec<ShardAnswer>) -> Result<T, Error>,
    ) -> Result<Pending<T>, Error> {
        let routes = self.shared.remote.routes();
        let unanswered = routes.all().map(|(peer, route)| ShardAnswer {
            peer: Arc::clone(&peer.name),
            node_id: peer.id,
            shard: route.shard,
            answer: Err(KeyError::DeadlineExceeded),
        });
        let outcome = Outcome::Shards(unanswered.collect());
        let call = self.begin(outcome, deadline, namespace.clone())?;
        let legs = routes.all().enumerate().map(|(at, (_, route))| {
            let indices = Indices::Run(at as u32..at as u32 + 1);
            let mut leg = Leg::ask(Arc::clone(&call), opcode, route, indices);
            leg.namespace = namespace.clone();
            body(&mut leg.frame);
            leg
        });
        self.shared.remote.submit(legs.collect());
        call.leg_ended();
        Ok(Pending::of_shards(call, finish))
    }
}

/// The namespace at the newest generation that any shard told.
fn newest_generation(call: &Call, answers: Vec<ShardAnswer>) -> Result<Namespace, Error> {
    let namespace = call.namespace.as_ref().expect("asked about a namespace");
    let told = answers.iter().filter_map(|shard| match shard.answer {
        Ok(ShardValue::Generation(generation)) => Some(generation),
        _ => None,
    });
    match told.max() {
        Some(generation) => Ok(namespace.at(generation)),
        None => {
            let error = answers.into_iter().find_map(|shard| shard.answer.err());
            Err(error.map_or(Error::DeadlineExceeded, Error::from))
        }
    }
}

/// How often a bump that was overtaken by another client's is tried again.
const BUMPS_MAX: u32 = 8;
