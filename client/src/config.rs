//! How a client behaves, and how one call does.
//!
//! Every option has a default that works; a deadline is never infinite.

use std::ops::Range;
use std::time::{Duration, Instant};

use larder_protocol::limits::{CLIENT_NAME_BYTES_MAX, CREDENTIAL_BYTES_MAX, OBJECT_BYTES_MAX};
use larder_protocol::message::{Freshness, Hints};
use larder_transport::Spin;

use crate::bootstrap::UNIX;
use crate::error::Error;

/// How a client behaves. Fill in what differs: `Config { deadline, ..Config::default() }`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Nodes to learn the view from, as `host:port` or, on this host, `unix:PATH`; the first that
    /// answers is enough.
    pub seeds: Vec<String>,
    /// Which way to nodes. Default [`PathChoice::Auto`].
    pub path: PathChoice,
    /// Name of the network card, where a path may use one; `None` for the first that has an active
    /// port. Needs the feature `rdma`.
    pub rdma_device: Option<String>,
    /// How long a call may take if it does not say so itself. Default 250 ms.
    pub deadline: Duration,
    /// How long one attempt to connect may take, at most an hour. Default 1 s.
    pub connect_timeout: Duration,
    /// Most requests in flight on one connection; more wait on this side. Default 1,024.
    pub inflight_max: usize,
    /// Most payload bytes in flight on one connection, where they are known beforehand.
    /// Default 256 MiB.
    pub inflight_bytes_max: u64,
    /// A peer that sent nothing for this long while a deadline passed is suspected, and skipped
    /// until it answers a probe. Default 50 ms.
    pub suspect_after: Duration,
    /// Pause before the first probe of a suspected peer; doubles from there. Default 50 ms.
    pub probe_pause_min: Duration,
    /// Longest pause between two probes. Default 2 s.
    pub probe_pause_max: Duration,
    /// How a caller that blocks waits for its answer. Default [`Spin::Auto`].
    pub spin: Spin,
    /// Name that nodes see in their logs, up to 64 bytes. Default `larder-client`.
    pub name: String,
    /// Proof of who we are, where nodes ask for one.
    pub credential: Vec<u8>,
}

/// Which way objects come and go. The calls, and what they answer, are the same on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathChoice {
    /// Shared memory where the node is on this host and offers it, network cards where both have
    /// one, else TCP.
    #[default]
    Auto,
    /// TCP only.
    Tcp,
    /// Shared memory only: a node that does not offer it cannot be asked.
    Shm,
    /// Network cards for what lies in exposed memory, TCP for all else: a node without a card that
    /// reaches ours cannot be asked.
    Rdma,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seeds: vec!["127.0.0.1:7400".into()],
            path: PathChoice::Auto,
            rdma_device: None,
            deadline: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(1),
            inflight_max: 1024,
            inflight_bytes_max: 256 << 20,
            suspect_after: Duration::from_millis(50),
            probe_pause_min: Duration::from_millis(50),
            probe_pause_max: Duration::from_secs(2),
            spin: Spin::Auto,
            name: "larder-client".into(),
            credential: Vec::new(),
        }
    }
}

impl Config {
    /// The defaults, with this one seed.
    pub fn seed(address: impl Into<String>) -> Self {
        Self { seeds: vec![address.into()], ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.seeds.is_empty() {
            return Err(Error::InvalidArgument { what: "no seed to learn the view from" });
        }
        if !self.seeds.iter().all(|seed| is_seed(seed)) {
            let what = "a seed is host:port, or unix: and a path";
            return Err(Error::InvalidArgument { what });
        }
        if self.inflight_max == 0 || self.deadline.is_zero() {
            return Err(Error::InvalidArgument { what: "deadline and inflight_max must not be 0" });
        }
        if self.connect_timeout > CONNECT_TIMEOUT_MAX {
            return Err(Error::InvalidArgument { what: "connect_timeout of more than an hour" });
        }
        within(self.name.len(), CLIENT_NAME_BYTES_MAX, "client name")?;
        within(self.credential.len(), CREDENTIAL_BYTES_MAX, "credential")
    }
}

/// Whether this could be the address of a node; who is there is another question.
fn is_seed(text: &str) -> bool {
    text.strip_prefix(UNIX).map_or_else(
        || {
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        },
        |path| !path.is_empty(),
    )
}

/// How a get behaves.
#[derive(Debug, Clone)]
pub struct GetOptions {
    /// How long the call may take; `None` takes the client's.
    pub deadline: Option<Duration>,
    /// Counts as a use. On by default; off for readers that must not disturb eviction order.
    pub touch: bool,
    /// How fresh the objects must be.
    pub freshness: Freshness,
    /// Only these parts of each object (a layer, a frame); `None` reads it whole.
    pub parts: Option<Range<u16>>,
    /// Longest payload taken for one object, in bytes; longer ones are [`MissSize`].
    ///
    /// [`MissSize`]: larder_protocol::Status::MissSize
    pub object_bytes_max: u32,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            deadline: None,
            touch: true,
            freshness: Freshness::Any,
            parts: None,
            object_bytes_max: OBJECT_BYTES_MAX,
        }
    }
}

/// How a put behaves.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// How long the call may take; `None` takes the client's.
    pub deadline: Option<Duration>,
    /// Keeps what is there already instead of replacing it.
    pub if_absent: bool,
    /// Has everything stored, also what its node expects no reader for while its memory is full.
    /// Off by default: then that is [`NotWanted`], and mostly not sent. A put of objects that all
    /// stand alone, at depth 0, and are shorter than 1 MiB is stored either way.
    ///
    /// [`NotWanted`]: larder_protocol::Status::NotWanted
    pub insist: bool,
    /// What is known of the request that the objects come from.
    pub hints: Hints,
}

impl PutOptions {
    /// For what is left of it, if it ends at `until`.
    pub(crate) fn until(&self, until: Instant) -> Self {
        Self { deadline: Some(until.saturating_duration_since(Instant::now())), ..self.clone() }
    }
}

/// How a match behaves.
#[derive(Debug, Clone, Default)]
pub struct MatchOptions {
    /// How long the call may take; `None` takes the client's.
    pub deadline: Option<Duration>,
    /// Counts as a use of what is there. Off by default: a probe changes no order.
    pub touch: bool,
    /// Brings the user metadata of each hit along.
    pub with_meta: bool,
    /// What is known of the request. A chain is taken to have as many objects as there are keys,
    /// unless this says more.
    pub hints: Hints,
}

/// So that a moment so far from now can be told.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

pub(crate) const fn within(found: usize, limit: usize, what: &'static str) -> Result<(), Error> {
    if found > limit {
        return Err(Error::TooLarge { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_is_no_address_is_refused_before_anybody_is_asked() {
        for seed in ["127.0.0.1:7400", "[::1]:7400", "node:1", "unix:/run/larder/s"] {
            assert_eq!(Config::seed(seed).check(), Ok(()), "{seed}");
        }
        for seed in ["", "node", ":7400", "node:", "node:65536", "node:http", "unix:"] {
            let refused = Config::seed(seed).check();
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{seed}: {refused:?}");
        }
    }
}
