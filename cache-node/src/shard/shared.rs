//! What a connection from this host shares with the node: leases one way, its own memory the other.
//!
//! What a reader would get wrong: memory of a client is read where a put says, so where that is was
//! checked against its mapping once, when the put was read, and is never looked at again.

use std::os::fd::OwnedFd;

use larder_protocol::header::Opcode;
use larder_protocol::limits::INLINE_BYTES_MAX;
use larder_protocol::message::{
    CAPABILITY_SHARED, LeasedPlace, Payload, Put, Release, SharedRegion, Sharing, Unshare,
};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, DecodeError, Header, Status};
use larder_transport::{MapError, MappedRegion, Slot};

use super::landing::bytes_of;
use super::{Peer, Shard, Step};
use crate::lease::{Leases, Totals};
use crate::outbox::Outbox;

/// What one connection and the node share.
#[derive(Debug)]
pub(crate) struct Shared {
    leases: Leases,
    /// Memory of the client, by the numbers that it chose.
    mapped: Vec<(u32, MappedRegion)>,
    /// Whether the client was given the node's region.
    knows_region: bool,
}

/// Who is on this host, and what it may share.
#[derive(Debug, Default)]
pub(crate) enum Host {
    /// Another one, or this one by way of its network.
    #[default]
    Unknown,
    /// This one. It has not asked for more.
    Same,
    /// This one, and it shares memory.
    Sharing(Box<Shared>),
}

impl Peer {
    /// A peer at the other end of a Unix socket.
    pub(crate) fn local() -> Self {
        Self { host: Host::Same, ..Self::default() }
    }

    /// Whether it is on another host, as far as one can tell.
    pub(super) fn is_far(&self) -> bool {
        matches!(self.host, Host::Unknown)
    }

    /// Whether it may share memory.
    pub(crate) fn is_sharing(&self) -> bool {
        matches!(self.host, Host::Sharing(_))
    }

    /// Whether it reads slots in place.
    pub(crate) fn holds_leases(&self) -> bool {
        self.shared().is_some_and(|shared| !shared.leases.is_empty())
    }

    /// Hands over descriptors that came with a frame that may have one.
    pub(crate) fn offer(&mut self, descriptors: Vec<OwnedFd>) {
        self.offered = descriptors;
    }

    /// Memory of the client.
    pub(crate) fn mapped(&self, region: u32) -> Option<&MappedRegion> {
        let mut mapped = self.shared()?.mapped.iter();
        mapped.find(|(number, _)| *number == region).map(|(_, mapped)| mapped)
    }

    /// Lets go of the client's memory.
    pub(super) fn forget_memory(&mut self) {
        if let Some(shared) = self.shared_mut() {
            shared.mapped.clear();
        }
    }

    fn shared(&self) -> Option<&Shared> {
        match &self.host {
            Host::Sharing(shared) => Some(shared),
            _ => None,
        }
    }

    pub(super) fn shared_mut(&mut self) -> Option<&mut Shared> {
        match &mut self.host {
            Host::Sharing(shared) => Some(shared),
            _ => None,
        }
    }

    /// How the memory that a put names is read, `None` if that was not agreed upon; the error is
    /// for what ends a connection.
    pub(super) fn source_of(&self, put: &Put<'_>) -> Result<Option<Source>, DecodeError> {
        let mut source = Source::Here;
        for item in put.items.iter() {
            match item.payload {
                Payload::Inline => {}
                Payload::Shared { region, offset } if self.is_sharing() => {
                    let unknown = DecodeError::Value { what: "region", found: region.into() };
                    let mapped = self.mapped(region).ok_or(unknown)?;
                    if !mapped.contains(offset, item.object_bytes.into()) {
                        return Err(DecodeError::Value { what: "shared offset", found: offset });
                    }
                }
                Payload::Remote(pieces) if self.is_remote() => {
                    let found = bytes_of(pieces.iter());
                    if found != u64::from(item.object_bytes) {
                        return Err(DecodeError::Value { what: "bytes of remote pieces", found });
                    }
                    source = Source::Card;
                }
                _ => return Ok(None),
            }
        }
        let is_lost = source == Source::Card && !self.is_reachable();
        Ok(Some(if is_lost { Source::Unreachable } else { source }))
    }
}

/// How the bytes of a put are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// From the connection or from shared memory.
    Here,
    /// Some of them by a card.
    Card,
    /// Some of them would be, but the card does not reach them.
    Unreachable,
}

impl Shard {
    /// What a client that asks for `capabilities` gets of them.
    pub(super) fn grant(&self, peer: &mut Peer, capabilities: u64) -> u64 {
        if capabilities & CAPABILITY_SHARED == 0 || self.region.descriptor().is_none() {
            return 0;
        }
        if let Host::Same = peer.host {
            let leases = Leases::new(self.lease_bytes_max, self.leased.clone());
            let shared = Shared { leases, mapped: Vec::new(), knows_region: false };
            peer.host = Host::Sharing(Box::new(shared));
        }
        if peer.is_sharing() { CAPABILITY_SHARED } else { 0 }
    }

    /// Takes memory of the client's, to be mapped.
    ///
    /// # Errors
    /// For what cannot be mapped; the connection ends then.
    pub(super) fn begin_share<'a>(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<Step<'a>, DecodeError> {
        let mut offered = std::mem::take(&mut peer.offered);
        let Some(shared) = peer.shared_mut() else {
            return Ok(self.refuse(header, Code::Unsupported, out));
        };
        let SharedRegion { region, bytes } = SharedRegion::decode(body)?;
        if shared.mapped.iter().any(|(number, _)| *number == region) {
            return Err(DecodeError::Value { what: "shared region", found: region.into() });
        }
        let (Some(descriptor), true) = (offered.pop(), offered.is_empty()) else {
            let found = offered.len() as u64;
            return Err(DecodeError::Value { what: "descriptors of a share", found });
        };
        Ok(Step::Map(ShareJob { header: *header, region, bytes, descriptor }))
    }

    /// Keeps memory of the client's that was mapped.
    ///
    /// # Errors
    /// If it is no memory that may be mapped; the connection ends then.
    pub(crate) fn finish_share(
        &self,
        peer: &mut Peer,
        mapping: Mapping,
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let mapped = mapping.mapped.map_err(|error| {
            tracing::debug!(%error, "memory of a client was not mapped");
            reason(&error)
        })?;
        if let Some(shared) = peer.shared_mut() {
            shared.mapped.push((mapping.region, mapped));
        }
        self.bare_ok(&mapping.header, out);
        Ok(())
    }

    /// Forgets memory of the client's.
    ///
    /// # Errors
    /// If it has no such memory; the connection ends then.
    pub(super) fn unshare(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let Some(shared) = peer.shared_mut() else {
            self.refuse(header, Code::Unsupported, out);
            return Ok(());
        };
        let region = Unshare::decode(body)?.region;
        let at = shared.mapped.iter().position(|(number, _)| *number == region);
        let at = at.ok_or_else(|| DecodeError::Value { what: "region", found: region.into() })?;
        shared.mapped.swap_remove(at);
        self.bare_ok(header, out);
        Ok(())
    }

    /// Ends leases; one that is not there is counted and no more.
    ///
    /// # Errors
    /// If that is not what the body says.
    pub(super) fn release(&mut self, peer: &mut Peer, body: &[u8]) -> Result<(), DecodeError> {
        let release = Release::decode(body)?;
        let mut unknown = release.leases.len() as u64;
        if let Some(shared) = peer.shared_mut() {
            for place in release.leases.iter() {
                unknown -= u64::from(shared.leases.release(place));
            }
        }
        self.count(Stat::LeasesUnknown, unknown);
        Ok(())
    }

    /// What leases a get is given: none, if it wants none or its client shares nothing.
    pub(super) fn leasing<'a>(
        &self,
        shared: Option<&'a mut Shared>,
        sharing: Sharing,
        out: &mut Outbox,
    ) -> Leasing<'a> {
        let leases = shared.filter(|_| sharing != Sharing::Never).map(|shared| {
            self.pass_region(shared, out);
            &mut shared.leases
        });
        Leasing { leases, sharing, given: 0, refused: 0 }
    }

    /// Gives the client the region that leases are in, once.
    fn pass_region(&self, shared: &mut Shared, out: &mut Outbox) {
        if std::mem::replace(&mut shared.knows_region, true) {
            return;
        }
        let header = self.answer(&Header::request(Opcode::Region, 0, 0), Code::Ok);
        out.pass(&self.region, |bytes| {
            let at = Header::begin(bytes);
            SharedRegion { region: OWN_REGION, bytes: self.region.bytes() }.encode(bytes);
            header.finish(0, at, bytes);
        });
    }

    /// Keeps the leases of a connection that has ended for as long as the node's memory is there:
    /// whoever holds them was not asked, and may still read.
    pub(crate) fn keep(&mut self, peer: &mut Peer) {
        if let Host::Sharing(shared) = std::mem::take(&mut peer.host) {
            self.kept.push(shared.leases);
        }
    }

    /// Leases that all connections hold, and bytes of their slots.
    pub(super) fn leased(&self) -> [(Stat, u64); 2] {
        let Totals { count, bytes } = &self.leased;
        [(Stat::LeasesHeld, count.value()), (Stat::LeasedBytes, bytes.value())]
    }

    fn bare_ok(&self, header: &Header, out: &mut Outbox) {
        let at = Header::begin(&mut out.bytes);
        self.answer(header, Code::Ok).finish(0, at, &mut out.bytes);
    }
}

/// Memory that a client offered.
#[derive(Debug)]
pub(crate) struct ShareJob {
    header: Header,
    region: u32,
    bytes: u64,
    descriptor: OwnedFd,
}

/// What came of a [`ShareJob`].
#[derive(Debug)]
pub(crate) struct Mapping {
    header: Header,
    region: u32,
    mapped: Result<MappedRegion, MapError>,
}

impl ShareJob {
    /// Maps it. To see that nothing of it is missing takes some 20 ms a GiB (measured), so not on
    /// a shard's core.
    pub(crate) fn map(self) -> Mapping {
        let Self { header, region, bytes, descriptor } = self;
        // Its pages get into our tables as puts name them: what is never named costs us nothing.
        let mapped = MappedRegion::of_client(descriptor, bytes);
        Mapping { header, region, mapped }
    }
}

/// The leases that one get is given.
pub(super) struct Leasing<'a> {
    leases: Option<&'a mut Leases>,
    sharing: Sharing,
    given: u64,
    refused: u64,
}

impl Leasing<'_> {
    /// Whether leases may be given at all.
    pub(super) fn is_on(&self) -> bool {
        self.leases.is_some()
    }

    /// How many leases were given, and how many refused.
    pub(super) fn counts(&self) -> [u64; 2] {
        [self.given, self.refused]
    }

    /// Leases `bytes` bytes of `slot` from `start` on.
    ///
    /// # Errors
    /// [`Status::Busy`] if it may hold no more and does not want it inline then.
    pub(super) fn lease(
        &mut self,
        slot: &Slot,
        start: u32,
        bytes: u32,
    ) -> Result<Payload<'static>, Status> {
        let Some(leases) = self.leases.as_mut().filter(|_| bytes > INLINE_BYTES_MAX) else {
            return Ok(Payload::Inline);
        };
        let (region, offset) = (OWN_REGION, slot.offset() + u64::from(start));
        if leases.take(LeasedPlace { region, offset }, slot) {
            self.given += 1;
            return Ok(Payload::Shared { region, offset });
        }
        self.refused += 1;
        match self.sharing {
            Sharing::LeaseOrBusy => Err(Status::Busy),
            _ => Ok(Payload::Inline),
        }
    }
}

fn reason(error: &MapError) -> DecodeError {
    let (what, found) = match error {
        MapError::NotMemory { filesystem, .. } => ("file system of shared memory", *filesystem),
        MapError::SealsMissing { found, .. } => ("seals of shared memory", (*found).into()),
        MapError::WrongSize { found_bytes, .. } => ("size of shared memory", *found_bytes),
        MapError::OddSize { bytes, .. } => ("announced size of shared memory", *bytes),
        MapError::Sparse { found_bytes, .. } => ("hole in shared memory", *found_bytes),
        MapError::System { source, .. } => {
            ("shared memory", source.raw_os_error().unwrap_or(0).unsigned_abs().into())
        }
    };
    DecodeError::Value { what, found }
}

/// A shard has one region, and clients know it by this number.
const OWN_REGION: u32 = 0;
