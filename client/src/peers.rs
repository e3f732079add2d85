//! The I/O's table of nodes: addresses, circuits, and the view they come from.
//!
//! A node keeps its place, and its circuit, over views and restarts. Places are never reused, so a
//! route made from an older view still means the same node.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use larder_protocol::message::SocketPath;
use larder_protocol::view::{Member, MemberState, View};

use crate::circuit::{Circuit, Patience};
use crate::inbox::{Job, Remote};
use crate::router::{Peer, Routes};

/// A node as the I/O sees it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) peer: Arc<Peer>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) shard_count: u16,
    pub(crate) circuit: Circuit,
    /// The shard that failed last: the one to probe.
    pub(crate) suspect: u16,
    /// Of the process behind it, once it said so.
    pub(crate) incarnation: Option<u64>,
    /// Whether it is in the view.
    pub(crate) is_member: bool,
    /// Whether its name is being looked up.
    pub(crate) is_resolving: bool,
    /// Where its shard 0 listens on this host, and the incarnation that said so.
    uds: Option<(PathBuf, u64)>,
    /// The incarnation that was no good to talk to there, and until when it counts as that.
    uds_bad_for: Option<(u64, Option<Instant>)>,
    addresses: Vec<IpAddr>,
}

/// All nodes that were ever in a view.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) all: Vec<Node>,
    pub(crate) view: Arc<View>,
    patience: Patience,
}

impl Nodes {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { all: Vec::new(), view: Arc::new(View::default()), patience }
    }

    /// Takes a view. Answers where to send keys from now on, and the nodes whose connections are no
    /// good any more: gone, moved, or with other shards.
    pub(crate) fn install(&mut self, view: View, chance: u64) -> (Routes, Vec<usize>) {
        let mut changed = Vec::new();
        let was_member: Vec<bool> = self.all.iter().map(|node| node.is_member).collect();
        self.all.iter_mut().for_each(|node| node.is_member = false);
        let peers = view.members.iter().map(|member| {
            let slot = self.slot(member, chance);
            let node = &mut self.all[slot];
            node.is_member = true;
            let is_same = (node.host.as_str(), node.port, node.shard_count)
                == (member.host.as_str(), member.port, member.shard_count);
            if !is_same {
                node.host.clone_from(&member.host);
                (node.port, node.shard_count) = (member.port, member.shard_count);
                // The shard that was suspected may be there no more.
                node.suspect = 0;
                node.addresses.clear();
                node.uds = None;
                node.peer = Arc::new(Peer {
                    slot,
                    id: member.id,
                    name: format!("{}:{}", member.host, member.port).into(),
                    is_open: AtomicBool::new(node.circuit.is_open()),
                });
                changed.push(slot);
            }
            Arc::clone(&node.peer)
        });
        let peers = peers.collect();
        let gone = was_member.iter().enumerate();
        changed.extend(gone.filter(|&(at, &was)| was && !self.all[at].is_member).map(|(at, _)| at));
        self.view = Arc::new(view);
        (Routes::new(Arc::clone(&self.view), peers), changed)
    }

    /// What of a view that node `from` sent, or a seed, is to be believed; `None` if nothing is
    /// new.
    ///
    /// Nodes with a fixed list of members agree on its epoch and little else: each knows itself. So
    /// at the same epoch a node is believed about itself, and a seed only if all else is lost. A
    /// node that drained and was started again is back at its first epoch, and is believed too.
    pub(crate) fn news_of(&self, view: View, from: Option<u64>) -> Option<View> {
        if view.members.is_empty() || view == *self.view {
            return None;
        }
        if view.epoch > self.view.epoch {
            return Some(view);
        }
        let is_older = view.epoch < self.view.epoch;
        let Some(id) = from else {
            let is_lost = self.all.iter().all(|node| !node.is_member || node.circuit.is_open());
            return (is_lost && !is_older).then_some(view);
        };
        let told = view.member(id)?;
        if is_older && self.view.member(id)?.incarnation == told.incarnation {
            return None;
        }
        let mut merged = View::clone(&self.view);
        let known = merged.members.iter_mut().find(|member| member.id == id)?;
        let host = std::mem::take(&mut known.host);
        *known = Member { host, ..told.clone() };
        (merged != *self.view).then_some(merged)
    }

    /// Whether a node has said that it is about to go.
    pub(crate) fn is_draining(&self, slot: usize) -> bool {
        let member = self.view.member(self.all[slot].peer.id);
        member.is_some_and(|member| member.state == MemberState::Draining)
    }

    fn slot(&mut self, member: &Member, chance: u64) -> usize {
        if let Some(slot) = self.all.iter().position(|node| node.peer.id == member.id) {
            return slot;
        }
        let slot = self.all.len();
        let name = format!("{}:{}", member.host, member.port).into();
        let seed = chance.wrapping_mul(slot as u64 * 2 + 1);
        self.all.push(Node {
            peer: Arc::new(Peer { slot, id: member.id, name, is_open: AtomicBool::new(false) }),
            host: member.host.clone(),
            port: member.port,
            shard_count: member.shard_count,
            circuit: Circuit::new(self.patience, seed),
            suspect: 0,
            incarnation: None,
            is_member: true,
            is_resolving: false,
            uds: None,
            uds_bad_for: None,
            addresses: Vec::new(),
        });
        slot
    }
}

impl Node {
    /// It said where it listens on this host.
    pub(crate) fn learn_socket(&mut self, path: Option<PathBuf>, incarnation: u64, now: Instant) {
        let is_bad = self.uds_bad_for.is_some_and(|(bad, until)| {
            bad == incarnation && until.is_none_or(|until| until > now)
        });
        self.uds = path.filter(|_| !is_bad).map(|path| (path, incarnation));
    }

    /// Where a shard listens on this host, if the node said so.
    pub(crate) fn socket(&self, shard: u16) -> Option<PathBuf> {
        let (first, _) = self.uds.as_ref()?;
        Some(SocketPath::of_shard(first.clone(), shard))
    }

    /// Its socket is another's, or not for us: not to be tried again before `until`, or, without
    /// that, before the node was restarted.
    pub(crate) fn shun_socket(&mut self, until: Option<Instant>) {
        self.uds_bad_for = self.uds.take().map(|(_, incarnation)| (incarnation, until));
    }

    /// Where a shard listens, if that is known without looking up a name.
    pub(crate) fn addresses(&self, shard: u16) -> Option<Vec<SocketAddr>> {
        let port = self.port.wrapping_add(shard);
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Some(vec![SocketAddr::new(address, port)]);
        }
        let known = self.addresses.iter().map(|&address| SocketAddr::new(address, port));
        (!self.addresses.is_empty()).then(|| known.collect())
    }

    /// Looks its name up on a thread of its own, since that may take seconds.
    pub(crate) fn resolve(&mut self, remote: &Remote) {
        if self.is_resolving {
            return;
        }
        let (host, port, slot) = (self.host.clone(), self.port, self.peer.slot);
        let remote = remote.clone();
        let looker = std::thread::Builder::new().name("larder-resolve".into()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            let addresses = found.map_or_else(|_| Vec::new(), Iterator::collect);
            remote.push([Job::Resolved { slot, addresses }]);
        });
        self.is_resolving = looker.is_ok();
    }

    pub(crate) fn resolved(&mut self, addresses: &[SocketAddr]) {
        self.is_resolving = false;
        self.addresses = addresses.iter().map(SocketAddr::ip).collect();
    }

    /// Forgets what its name meant: it may mean something else by now.
    pub(crate) fn forget_addresses(&mut self) {
        self.addresses.clear();
    }

    /// Something failed that is this shard's fault. Whether the circuit was closed until now.
    pub(crate) fn failed(&mut self, shard: u16, now: Instant) -> bool {
        let was_open = self.circuit.is_open();
        self.circuit.failed(now);
        self.opened(shard);
        !was_open
    }

    pub(crate) fn opened(&mut self, shard: u16) {
        self.suspect = shard;
        self.peer.is_open.store(true, Ordering::Relaxed);
    }

    /// A shard answered. Whether this closed the circuit.
    pub(crate) fn answered(&mut self, shard: u16) -> bool {
        if !self.circuit.is_open() || shard != self.suspect.min(self.shard_count - 1) {
            return false;
        }
        self.circuit.answered();
        self.peer.is_open.store(false, Ordering::Relaxed);
        true
    }
}
