//! The other members of a static cluster, as `name@host:port/shards[*weight]`.
//!
//! A peer's name must be the one that it was started with: its id for placement is made from it.

use std::net::IpAddr;

use larder_protocol::limits::ADDRESS_BYTES_MAX;
use larder_protocol::placement::anchor_hash;
use larder_protocol::view::{Member, MemberState};

/// What a list of peers looks like, for messages.
pub(crate) const PEERS_FORM: &str =
    "a list of name@host:port/shards[*weight], such as a@10.0.0.1:7400/8,b@10.0.0.2:7400/8*200";
/// What a node's name looks like, for messages.
pub(crate) const NAME_FORM: &str = "1 to 64 letters, digits or any of . _ : - [ ]";
/// What a host looks like, for messages.
pub(crate) const HOST_FORM: &str = "a host name or address that others can use, without a port";
/// Share of a node that does not say otherwise.
pub(crate) const WEIGHT_DEFAULT: u32 = 100;

/// A member beside this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its node name.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port of its first shard.
    pub port: u16,
    /// How many shards it has.
    pub shard_count: u16,
    /// Its share of the objects relative to other members.
    pub weight: u32,
}

impl Peer {
    /// The peer as a member of a view; who it is at the moment is not known, so incarnation 0.
    pub fn member(&self) -> Member {
        Member {
            id: anchor_hash(self.name.as_bytes()),
            incarnation: 0,
            weight: self.weight,
            state: MemberState::Serving,
            shard_count: self.shard_count,
            port: self.port,
            host: self.host.clone(),
            capabilities: 0,
        }
    }
}

/// Reads a list of peers with commas between them; an empty text is an empty list.
pub(crate) fn parse_peers(text: &str) -> Option<Vec<Peer>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|peer| parse_peer(peer.trim())).collect()
}

/// Whether this may name a node: such names need no quoting in logs, labels and lists of peers.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-[]".contains(&b);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether this may be somebody's host name or address: its syntax is checked, nothing looked up.
pub(crate) fn is_host(text: &str) -> bool {
    if let Ok(address) = text.parse::<IpAddr>() {
        return !address.is_unspecified();
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=ADDRESS_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn parse_peer(text: &str) -> Option<Peer> {
    let (name, rest) = text.split_once('@')?;
    let (address, size) = rest.split_once('/')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':'))?,
        // Without brackets a colon is part of an IPv6 address that was cut at a wrong place.
        None if host.contains(':') => return None,
        None => host,
    };
    let (shards, weight) = match size.split_once('*') {
        Some((shards, weight)) => (shards, weight.parse().ok()?),
        None => (size, WEIGHT_DEFAULT),
    };
    let (port, shard_count) = (port.parse().ok()?, shards.parse().ok()?);
    let usable = is_name(name) && is_host(host) && port > 0 && shard_count > 0 && weight > 0;
    usable.then(|| Peer { name: name.into(), host: host.into(), port, shard_count, weight })
}

const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read() {
        let peers = parse_peers("a@10.0.0.1:7400/8, b:1@[::1]:7500/2*50,c@node-3.example:1/1");
        let peers = peers.unwrap();
        assert_eq!(peers[0].weight, WEIGHT_DEFAULT);
        let second =
            Peer { name: "b:1".into(), host: "::1".into(), port: 7500, shard_count: 2, weight: 50 };
        assert_eq!(peers[1], second);
        assert_eq!(peers[2].member().host, "node-3.example");
        assert_eq!(peers[2].member().id, anchor_hash(b"c"));
        assert_eq!(parse_peers(""), Some(Vec::new()));
    }

    #[test]
    fn malformed_peers_are_refused() {
        for text in [
            ",",
            "a",
            "a@h:1",
            "a@h/1",
            "@h:1/1",
            "a@:1/1",
            "a@h:0/1",
            "a@h:1/0",
            "a@h:1/1*0",
            "a@h:1/1*",
            "a@h:70000/1",
            "a@h:1/70000",
            "a@::1:1/1",
            "a@[::1:1/1",
            "a b@h:1/1",
            "a@h h:1/1",
            "a@h:1/1,",
            "a@h:1/1;b@h:2/1",
            "a@h:1/1*-1",
            "é@h:1/1",
            "a@0.0.0.0:1/1",
            "a@[h]:1/1",
        ] {
            assert_eq!(parse_peers(text), None, "{text:?}");
        }
        assert!(!is_name(&"n".repeat(65)) && is_name(&"n".repeat(64)));
    }
}
