//! Objects that are read where the node has them.
//!
//! What a reader would get wrong: the bytes of a [`Lease`] were not read yet when it is handed out.
//! Its seal was checked, so it is the right object; whether the bytes are what was stored is known
//! only to who reads them, and [`Lease::verify`] is how to ask.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use larder_protocol::Key;
use larder_protocol::checksum::PartVerifier;
use larder_protocol::message::Sharing;
use larder_transport::LeasedBytes;

use crate::call::{Outcome, Pending};
use crate::client::Client;
use crate::config::GetOptions;
use crate::error::{Error, KeyError, KeyResult};
use crate::namespace::Namespace;
use crate::regions::Leased;
use crate::releases::Ticket;
use crate::request::GetHead;

/// An object, read in place: in memory of a node on this host, where it stays as it is for as long
/// as this lives.
///
/// The node checked the bytes when it took them, and who they are was checked when the lease was
/// given. The bytes themselves are read by nobody but the caller, so memory that went bad since is
/// found by [`Lease::verify`] only. A process that forks must not use leases in the child.
///
/// Small objects, and those of nodes on other hosts, are in memory of this process and were checked
/// as they came.
pub struct Lease {
    held: Held,
    said: Said,
    checks: Checks,
}

enum Held {
    /// The bytes go before what keeps them.
    Mapped {
        bytes: LeasedBytes,
        _ticket: Ticket,
    },
    Owned(Bytes),
}

/// What the answer to a get says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) object_bytes: u32,
    pub(crate) version: u64,
    pub(crate) user_meta: Bytes,
}

/// What the bytes of an object, or of some of its parts, are checked against.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Checksums of all parts of the object, encoded.
    pub(crate) parts: Box<[u8]>,
    pub(crate) part_bytes: u32,
    pub(crate) part_first: u16,
}

impl Checks {
    /// To be shown `bytes` bytes, and then to be asked, with `parts` both times.
    pub(crate) fn verifier(&self, bytes: u32) -> PartVerifier {
        PartVerifier::new(bytes, self.part_bytes, usize::from(self.part_first))
    }
}

impl Lease {
    pub(crate) fn mapped(leased: Leased, said: Said, checks: Checks) -> Option<Self> {
        let bytes = LeasedBytes::new(leased.region, leased.offset, leased.bytes as usize)?;
        let held = Held::Mapped { bytes, _ticket: leased.ticket };
        Some(Self { held, said, checks })
    }

    pub(crate) const fn owned(bytes: Bytes, said: Said, checks: Checks) -> Self {
        Self { held: Held::Owned(bytes), said, checks }
    }

    /// Length of the whole object in bytes, of which only the parts asked for are here.
    pub const fn object_bytes(&self) -> u32 {
        self.said.object_bytes
    }

    /// Version, as its writer counts.
    pub const fn version(&self) -> u64 {
        self.said.version
    }

    /// What its writer said about it, up to 64 bytes.
    pub const fn user_meta(&self) -> &Bytes {
        &self.said.user_meta
    }

    /// The region that the bytes are in, and where; none if they are in memory of this process.
    #[cfg(feature = "gpu")]
    pub(crate) fn place(&self) -> Option<(&std::sync::Arc<larder_transport::MappedRegion>, u64)> {
        match &self.held {
            Held::Mapped { bytes, .. } => Some((bytes.region(), bytes.offset())),
            Held::Owned(_) => None,
        }
    }

    /// Whether the bytes, as they are now, have the checksums that they were stored with. Reads all
    /// of them.
    pub fn verify(&self) -> bool {
        let Ok(bytes) = u32::try_from(self.len()) else { return false };
        let mut verifier = self.checks.verifier(bytes);
        verifier.update(self, &self.checks.parts);
        verifier.finish(&self.checks.parts)
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.held {
            Held::Mapped { bytes, .. } => bytes,
            Held::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The same bytes, and the same said of them.
impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.said == other.said && **self == **other
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_mapped = matches!(self.held, Held::Mapped { .. });
        f.debug_struct("Lease")
            .field("bytes", &self.len())
            .field("is_mapped", &is_mapped)
            .field("said", &self.said)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Reads objects where they are, without a copy, if their node is on this host; else as
    /// [`Client::get`]. One answer for each key.
    ///
    /// A node lends each client only so much at a time. What would be more is answered
    /// [`Status::Busy`](crate::Status::Busy): drop leases and ask again.
    ///
    /// # Errors
    /// Those of [`Client::start_lease`].
    pub fn lease(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<Lease>>, Error> {
        self.prepare_lease(namespace, keys, options)?.wait()
    }

    /// As [`Client::lease`], without waiting.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an impossible range of parts; [`Error::Forked`].
    pub fn start_lease(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Lease>>>, Error> {
        self.prepare_lease(namespace, keys, options).map(Pending::launch)
    }

    fn prepare_lease(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Lease>>>, Error> {
        let head = GetHead::new(options, Sharing::LeaseOrBusy)?;
        let unanswered = (0..keys.len()).map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.begin(Outcome::Lease(unanswered), options.deadline, None)?;
        let legs = self.legs(&call, namespace, |plan| plan.get(head, keys, Vec::new()));
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::Lease(keys) => Ok(keys),
            other => unreachable!("leases have leases' outcomes: {other:?}"),
        }))
    }
}
