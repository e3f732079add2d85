//! The membership of a cluster at one epoch, and how it travels.
//!
//! A view is a value: it never changes, a newer one replaces it. The node that sent it may be wrong
//! about its neighbours; a client's own failed connection says more.

use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX, SHARDS_MAX};
use crate::status::from_byte;
use crate::wire::{DecodeError, Reader, Write, within};

/// Where a member is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum MemberState {
    /// Starting: not yet asked for anything.
    Joining = 0,
    /// Takes reads and writes.
    Serving = 1,
    /// Leaves: still answers reads, is given no writes.
    Draining = 2,
}

from_byte!(MemberState, "member state", Joining, Serving, Draining);

/// One node of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Names the node for placement; the same over restarts.
    pub id: u64,
    /// Random at each start, 0 if not known: the same id with another incarnation lost its memory.
    pub incarnation: u64,
    /// Share of the objects relative to other members.
    pub weight: u32,
    /// Whether it takes work.
    pub state: MemberState,
    /// How many shards it has; shard *i* listens on `port + i`.
    pub shard_count: u16,
    /// First port.
    pub port: u16,
    /// Host name or address.
    pub host: String,
    /// Bits of what it can do beyond the base protocol.
    pub capabilities: u64,
}

/// The members at an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Grows with every change.
    pub epoch: u64,
    /// Sorted by id, without repetition.
    pub members: Vec<Member>,
}

impl View {
    /// A view of `members`, sorted by id.
    ///
    /// # Errors
    /// [`DecodeError`] if an id is there twice or a member breaks a limit.
    pub fn new(epoch: u64, mut members: Vec<Member>) -> Result<Self, DecodeError> {
        within(members.len() as u64, MEMBERS_MAX as u64, "members")?;
        members.sort_by_key(|m| m.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(DecodeError::Value { what: "repeated member id", found: pair[0].id });
        }
        members.iter().try_for_each(Member::check)?;
        Ok(Self { epoch, members })
    }

    /// The member with this id.
    pub fn member(&self, id: u64) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |m| m.id).ok()?;
        self.members.get(at)
    }

    /// Appends the view to a message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.epoch);
        out.u32(self.members.len() as u32);
        for member in &self.members {
            member.encode(out);
        }
    }

    /// Reads a view from the whole of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, breaks a limit or repeats a member.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let epoch = reader.u64("epoch")?;
        let count = reader.count(MEMBERS_MAX, "members")?;
        let members =
            (0..count).map(|_| Member::decode(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        Self::new(epoch, members)
    }
}

impl Member {
    fn check(&self) -> Result<(), DecodeError> {
        within(self.host.len() as u64, ADDRESS_BYTES_MAX as u64, "member host")?;
        within(u64::from(self.shard_count), u64::from(SHARDS_MAX), "member shards")?;
        if self.shard_count == 0 || self.weight == 0 {
            return Err(DecodeError::Value { what: "member shards or weight", found: 0 });
        }
        let last = u64::from(self.port) + u64::from(self.shard_count) - 1;
        within(last, u64::from(u16::MAX), "member's last port")
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.id);
        out.u64(self.incarnation);
        out.u32(self.weight);
        out.u8(self.state as u8);
        out.u16(self.shard_count);
        out.u16(self.port);
        out.bytes_u8(self.host.as_bytes());
        out.u64(self.capabilities);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: reader.u64("member id")?,
            incarnation: reader.u64("incarnation")?,
            weight: reader.u32("weight")?,
            state: MemberState::try_from(reader.u8("member state")?)?,
            shard_count: reader.u16("shards")?,
            port: reader.u16("port")?,
            host: {
                let bytes = reader.bytes_u8(ADDRESS_BYTES_MAX, "member host")?;
                let text = std::str::from_utf8(bytes).map_err(|e| DecodeError::Value {
                    what: "member host",
                    found: e.valid_up_to() as u64,
                })?;
                text.to_owned()
            },
            capabilities: reader.u64("capabilities")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member {
            id,
            incarnation: 3,
            weight: 100,
            state: MemberState::Serving,
            shard_count: 2,
            port: 7400,
            host: "127.0.0.1".into(),
            capabilities: 0,
        }
    }

    #[test]
    fn view_survives_the_wire_and_no_prefix_of_it_does() {
        let view = View::new(9, vec![member(2), member(1)]).unwrap();
        assert_eq!(view.members[0].id, 1, "sorted");
        assert_eq!(view.member(2).map(|m| m.id), Some(2));
        let mut bytes = Vec::new();
        view.encode(&mut bytes);
        assert_eq!(View::decode(&bytes).unwrap(), view);
        for cut in 0..bytes.len() {
            assert!(View::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn impossible_members_are_refused() {
        assert!(View::new(1, vec![member(1), member(1)]).is_err());
        assert!(View::new(1, vec![Member { shard_count: 0, ..member(1) }]).is_err());
        assert!(View::new(1, vec![Member { port: 65_535, ..member(1) }]).is_err());
        assert!(View::new(1, vec![Member { weight: 0, ..member(1) }]).is_err());
    }
}
