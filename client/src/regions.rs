//! The node's memory as one connection sees it: regions by their number, and leases on places in
//! them.
//!
//! A region is announced by a frame and arrives as a descriptor that travels beside it. What a
//! reader would get wrong: the node counts a lease from the moment it answered, so every place in
//! an answer has to be given back, also where nobody wants the answer any more.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use larder_protocol::limits::HELLO_BODY_BYTES_MAX;
use larder_protocol::message::{GetAnswer, Hit, LeasedPlace, Payload as Form, SharedRegion};
use larder_protocol::{Code, DecodeError, Header};
use larder_transport::MappedRegion;

use crate::releases::{Bell, Releases, Ticket};
use crate::session::{Broken, Session};

/// What the node shares on one connection, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    /// Only where both are on one host.
    releases: Option<Arc<Releases>>,
    is_granted: bool,
    list: Vec<Option<Arc<MappedRegion>>>,
    /// Received, and not yet claimed by the frame that they came with.
    descriptors: VecDeque<OwnedFd>,
}

/// A place in a region of the node's that this connection holds a lease on.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) region: Arc<MappedRegion>,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    /// Dropped last of all that refers to these bytes.
    pub(crate) ticket: Ticket,
}

impl Regions {
    /// Both are on one host, as `releases` knows.
    pub(crate) fn set_on_host(&mut self, releases: Arc<Releases>) {
        self.releases = Some(releases);
    }

    pub(crate) const fn is_on_host(&self) -> bool {
        self.releases.is_some()
    }

    pub(crate) const fn set_granted(&mut self, is_granted: bool) {
        self.is_granted = is_granted && self.is_on_host();
    }

    /// Whether memory is shared on this connection.
    pub(crate) const fn shares(&self) -> bool {
        self.is_granted
    }

    pub(crate) const fn releases(&self) -> Option<&Arc<Releases>> {
        self.releases.as_ref()
    }

    pub(crate) fn releases_due(&self) -> bool {
        self.releases.as_ref().is_some_and(|releases| releases.are_due())
    }

    /// Whether a lease is out: each has a clone, beside ours.
    pub(crate) fn has_leases(&self) -> bool {
        self.releases.as_ref().is_some_and(|releases| Arc::strong_count(releases) > 1)
    }

    pub(crate) fn descriptor_came(&mut self, descriptor: OwnedFd) {
        self.descriptors.push_back(descriptor);
    }

    pub(crate) fn descriptors_unclaimed(&self) -> usize {
        self.descriptors.len()
    }

    /// The lease that a hit's answer gave.
    ///
    /// # Errors
    /// [`DecodeError`] if there is no such place.
    pub(crate) fn leased(&self, place: LeasedPlace, bytes: u32) -> Result<Leased, DecodeError> {
        let releases = self.releases.as_ref().filter(|_| self.is_granted);
        // Where nothing is shared, no other form was asked for.
        let releases = releases.ok_or(DecodeError::Value { what: "payload form", found: 1 })?;
        let region = self.list.get(place.region as usize).and_then(Option::as_ref);
        let found = u64::from(place.region);
        let region = region.ok_or(DecodeError::Value { what: "leased region", found })?;
        if !region.contains(place.offset, u64::from(bytes)) {
            return Err(DecodeError::Value { what: "leased offset", found: place.offset });
        }
        let region = Arc::clone(region);
        Ok(Leased { region, offset: place.offset, bytes, ticket: releases.ticket(place, bytes) })
    }

    /// Gives back what answers leased that nobody wants.
    ///
    /// # Errors
    /// [`DecodeError`] if one is no place in a region.
    pub(crate) fn give_back<'a>(
        &self,
        answers: impl Iterator<Item = GetAnswer<'a>>,
    ) -> Result<(), DecodeError> {
        for answer in answers {
            let GetAnswer::Hit(Hit { payload, sent_bytes, .. }) = answer else { continue };
            if let Form::Shared { region, offset } = payload {
                drop(self.leased(LeasedPlace { region, offset }, sent_bytes)?);
            }
        }
        Ok(())
    }
}

/// Nobody tells the node any more.
impl Drop for Regions {
    fn drop(&mut self) {
        if let Some(releases) = &self.releases {
            releases.end();
        }
    }
}

impl Session {
    /// Says, before [`Session::say_hello`] asks for it, that memory can be shared: descriptors come
    /// and go beside the bytes. `socket` is closed when its last clone is dropped; `bell`
    /// wakes the I/O to flush this connection if [`Session::wants_flush`].
    pub(crate) fn set_on_host(&mut self, socket: Arc<dyn Any + Send + Sync>, bell: Bell) {
        self.inbound.regions.set_on_host(Releases::new(socket, bell));
    }

    /// Whether a header that names no request announces a region.
    ///
    /// # Errors
    /// [`Broken`] if it does, but not as it should.
    pub(crate) fn check_region(&self, header: &Header) -> Result<(), Broken> {
        if !self.inbound.regions.shares() {
            return Err(Broken::Desync("memory on a connection that shares none"));
        }
        let is_short = header.body_bytes <= HELLO_BODY_BYTES_MAX && header.payload_bytes == 0;
        if header.code != Code::Ok || !is_short {
            return Err(Broken::Desync("memory with a refusal or a payload"));
        }
        Ok(())
    }

    /// Maps the region that a frame announces.
    ///
    /// # Errors
    /// [`Broken`] if it cannot be what was announced.
    pub(crate) fn take_region(&mut self, body: &[u8]) -> Result<(), Broken> {
        let told = SharedRegion::decode(body).map_err(Broken::Decode)?;
        let regions = &mut self.inbound.regions;
        let descriptor = regions.descriptors.pop_front();
        let descriptor = descriptor.ok_or(Broken::Desync("memory without its descriptor"))?;
        let at = told.region as usize;
        if regions.list.get(at).is_some_and(Option::is_some) {
            return Err(Broken::Desync("memory under a number that is taken"));
        }
        let region = match MappedRegion::of_node(descriptor, told.bytes) {
            Ok(region) => Arc::new(region),
            Err(error) => {
                tracing::warn!(%error, region = told.region, "a node's memory was not mapped");
                return Err(Broken::NotMapped);
            }
        };
        populate(&region);
        regions.list.resize(regions.list.len().max(at + 1), None);
        regions.list[at] = Some(region);
        Ok(())
    }
}

/// Makes a region known to this process from its start to its end, on a thread of its own, since
/// that may take seconds: first reads do not have to. Without it they are slower, nothing else.
fn populate(region: &Arc<MappedRegion>) {
    let region: Weak<MappedRegion> = Arc::downgrade(region);
    let walk = move || {
        let mut offset = 0;
        while let Some(region) = region.upgrade().filter(|region| offset < region.bytes()) {
            region.populate(offset, POPULATE_BYTES);
            offset += POPULATE_BYTES;
        }
    };
    let _ = std::thread::Builder::new().name("larder-populate".into()).spawn(walk);
}

/// How far a region is populated before somebody else gets a turn with this process's memory. A
/// guess: a few milliseconds.
const POPULATE_BYTES: u64 = 16 << 20;
