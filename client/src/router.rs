//! Which shard a key is asked of: the view's placement, less the peers that do not answer.
//!
//! Pure: the view and the circuits are arguments. What a reader would get wrong: a key's *owner*
//! and the shard it is *asked of* differ while the owner's circuit is open; writers and readers
//! then agree on the next candidate, because both follow the same list.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_protocol::placement::{anchor_hash, candidates, owner_of, shard_of};
use larder_protocol::view::{MemberState, View};

use crate::error::{Reason, Unavailable};

/// A node as callers and the I/O both see it. It outlives views.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Place in the I/O's table.
    pub(crate) slot: usize,
    /// The node's id.
    pub(crate) id: u64,
    /// `host:port`, for errors.
    pub(crate) name: Arc<str>,
    /// Whether its circuit is open.
    pub(crate) is_open: AtomicBool,
}

/// A view with its peers.
#[derive(Debug)]
pub(crate) struct Routes {
    view: Arc<View>,
    /// One for each member, in the same order.
    peers: Vec<Arc<Peer>>,
    /// Number of each member's first shard, counting all shards of all members.
    shard_base: Vec<u32>,
    shard_total: u32,
}

/// One shard of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// [`Peer::slot`].
    pub(crate) peer: usize,
    pub(crate) shard: u16,
}

/// Some of the keys of a batch, by their places in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Indices {
    /// One after the other: the common case needs no list.
    Run(Range<u32>),
    /// These.
    List(Vec<u32>),
}

/// How a batch falls apart.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// The keys of each shard, in order of their first key.
    pub(crate) groups: Vec<(Route, Vec<u32>)>,
    /// Keys that nobody can be asked for, and why.
    pub(crate) unroutable: Vec<(u32, Unavailable)>,
}

impl Routes {
    pub(crate) fn new(view: Arc<View>, peers: Vec<Arc<Peer>>) -> Self {
        assert_eq!(view.members.len(), peers.len(), "one peer for each member");
        let mut shard_total = 0;
        let shard_base = view.members.iter().map(|member| {
            let base = shard_total;
            shard_total += u32::from(member.shard_count);
            base
        });
        let shard_base = shard_base.collect();
        Self { view, peers, shard_base, shard_total }
    }

    pub(crate) const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The one shard there is, if there is only one and it can be asked.
    pub(crate) fn only(&self) -> Option<Route> {
        let [peer] = self.peers.as_slice() else { return None };
        let serves = self.view.members[0].state != MemberState::Joining;
        let is_usable = serves && self.shard_total == 1 && !is_open(peer);
        is_usable.then_some(Route { peer: peer.slot, shard: 0 })
    }

    /// Every shard of every member that takes requests.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<Peer>, Route)> {
        let members = self.view.members.iter().zip(&self.peers);
        let members = members.filter(|(member, _)| member.state != MemberState::Joining);
        members.flat_map(|(member, peer)| {
            (0..member.shard_count).map(move |shard| (peer, Route { peer: peer.slot, shard }))
        })
    }

    /// Cuts `keys` by the shard to ask, each key going to the first candidate that answers.
    pub(crate) fn split<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Split {
        let mut sorter = Sorter::new(self);
        for (index, key) in keys.enumerate() {
            let hash = anchor_hash(key);
            match self.first_usable(hash) {
                Ok(member) => sorter.add(index as u32, member, hash),
                Err(unavailable) => sorter.split.unroutable.push((index as u32, unavailable)),
            }
        }
        sorter.split
    }

    /// As [`Routes::split`], but each key goes to every candidate that may hold it.
    pub(crate) fn split_to_all_holders<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Split {
        let mut sorter = Sorter::new(self);
        for (index, key) in keys.enumerate() {
            let hash = anchor_hash(key);
            let holders = candidates(&self.view, hash, HOLDERS);
            if holders.is_empty() {
                sorter.split.unroutable.push((index as u32, self.no_member()));
            }
            for member in holders {
                if is_open(&self.peers[member]) {
                    let unavailable = self.unavailable(member, Reason::CircuitOpen);
                    sorter.split.unroutable.push((index as u32, unavailable));
                } else {
                    sorter.add(index as u32, member, hash);
                }
            }
        }
        sorter.split
    }

    fn first_usable(&self, hash: u64) -> Result<usize, Unavailable> {
        let owner = owner_of(&self.view, hash).ok_or_else(|| self.no_member())?;
        if !is_open(&self.peers[owner]) {
            return Ok(owner);
        }
        let all = candidates(&self.view, hash, self.view.members.len());
        let usable = all.into_iter().find(|&member| !is_open(&self.peers[member]));
        usable.ok_or_else(|| self.unavailable(owner, Reason::CircuitOpen))
    }

    fn unavailable(&self, member: usize, reason: Reason) -> Unavailable {
        Unavailable { peer: Arc::clone(&self.peers[member].name), reason }
    }

    pub(crate) fn no_member(&self) -> Unavailable {
        Unavailable { peer: "cluster".into(), reason: Reason::NoMember }
    }
}

/// Sorts keys into groups without searching: a table knows the group of each shard.
struct Sorter<'a> {
    routes: &'a Routes,
    group_of: Vec<u32>,
    split: Split,
}

impl<'a> Sorter<'a> {
    fn new(routes: &'a Routes) -> Self {
        let group_of = vec![u32::MAX; routes.shard_total as usize];
        Self { routes, group_of, split: Split::default() }
    }

    fn add(&mut self, index: u32, member: usize, hash: u64) {
        let shard = shard_of(hash, self.routes.view.members[member].shard_count);
        let group =
            &mut self.group_of[(self.routes.shard_base[member] + u32::from(shard)) as usize];
        let groups = &mut self.split.groups;
        if *group == u32::MAX {
            *group = groups.len() as u32;
            groups.push((Route { peer: self.routes.peers[member].slot, shard }, Vec::new()));
        }
        groups[*group as usize].1.push(index);
    }
}

impl Indices {
    /// Place in the batch of the `position`th of these.
    pub(crate) fn at(&self, position: usize) -> usize {
        match self {
            Self::Run(run) => run.start as usize + position,
            Self::List(list) => list[position] as usize,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.len(),
            Self::List(list) => list.len(),
        }
    }

    /// The places in the batch, in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.len()).map(|position| self.at(position))
    }

    /// Those from `from` to `to`.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Run(run) => Self::Run(run.start + from as u32..run.start + to as u32),
            Self::List(list) => Self::List(list[from..to].to_vec()),
        }
    }
}

fn is_open(peer: &Peer) -> bool {
    peer.is_open.load(Ordering::Relaxed)
}

/// A key can lie with its owner, or with the next candidate if the owner did not answer once.
const HOLDERS: usize = 2;

#[cfg(test)]
mod tests {
    use larder_protocol::view::Member;
    use proptest::prelude::*;

    use super::*;

    fn routes(shards: &[u16], open: &[bool]) -> Routes {
        let members = shards.iter().enumerate().map(|(index, &shard_count)| Member {
            id: index as u64 + 1,
            incarnation: 0,
            weight: 1 + index as u32,
            state: MemberState::Serving,
            shard_count,
            port: 7400,
            host: format!("node{index}"),
            capabilities: 0,
        });
        let view = Arc::new(View::new(1, members.collect()).unwrap());
        let peers = view.members.iter().enumerate().map(|(slot, member)| {
            let name = member.host.as_str().into();
            Arc::new(Peer { slot, id: member.id, name, is_open: AtomicBool::new(open[slot]) })
        });
        let peers = peers.collect();
        Routes::new(view, peers)
    }

    proptest! {
        #[test]
        fn split_agrees_with_asking_key_by_key(
            members in prop::collection::vec((1u16..9, any::<bool>()), 1..6),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..200),
        ) {
            let (shards, open): (Vec<_>, Vec<_>) = members.into_iter().unzip();
            let routes = routes(&shards, &open);
            let split = routes.split(keys.iter().map(Vec::as_slice));
            let mut seen = vec![None; keys.len()];
            for (route, indices) in &split.groups {
                prop_assert!(indices.is_sorted());
                for &index in indices {
                    prop_assert!(seen[index as usize].replace(Some(*route)).is_none());
                }
            }
            for (index, _) in &split.unroutable {
                prop_assert!(seen[*index as usize].replace(None).is_none());
            }
            for (key, found) in keys.iter().zip(seen) {
                let hash = anchor_hash(key);
                let naive = candidates(routes.view(), hash, shards.len());
                let naive = naive.into_iter().find(|&m| !open[m]).map(|member| {
                    Route { peer: member, shard: shard_of(hash, shards[member]) }
                });
                prop_assert_eq!(found, Some(naive));
            }
        }
    }

    #[test]
    fn an_open_circuit_sends_keys_to_the_next_candidate() {
        let routes = routes(&[1, 1], &[true, false]);
        let split = routes.split([&b"a"[..], b"b", b"c", b"d"].into_iter());
        assert_eq!(split.groups.len(), 1);
        assert_eq!(split.groups[0].0.peer, 1);
        assert!(split.unroutable.is_empty());
    }

    #[test]
    fn a_remove_reaches_both_holders_or_says_so() {
        let all = routes(&[1, 1, 1], &[false; 3]).split_to_all_holders([&b"k"[..]].into_iter());
        assert_eq!(all.groups.len(), 2);
        let half = routes(&[1, 1], &[true, false]).split_to_all_holders([&b"k"[..]].into_iter());
        assert_eq!((half.groups.len(), half.unroutable.len()), (1, 1));
        assert_eq!(half.unroutable[0].1.reason, Reason::CircuitOpen);
    }

    #[test]
    fn one_shard_needs_no_hashing() {
        assert_eq!(routes(&[1], &[false]).only(), Some(Route { peer: 0, shard: 0 }));
        assert_eq!(routes(&[1], &[true]).only(), None);
        assert_eq!(routes(&[2], &[false]).only(), None);
    }
}
