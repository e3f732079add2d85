//! What only peers on one host say: which memory is shared, and which leases have ended.
//!
//! The memory itself travels beside these frames, as a descriptor with the first byte of the
//! header. A number without its descriptor, or a descriptor without its number, ends the
//! connection.

use super::{Batch, Item};
use crate::limits::{REGION_SHARED_BYTES_MAX, RELEASES_MAX, SHARED_REGIONS_MAX};
use crate::wire::{DecodeError, Reader, Write, within};

/// `Region`, from the node and unasked, and `Share`, from the client: memory to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRegion {
    /// Its number from now on, on this connection and for this direction.
    pub region: u32,
    /// Its length in bytes.
    pub bytes: u64,
}

impl SharedRegion {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u32(self.region);
        out.u64(self.bytes);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not two numbers within their limits.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let region = reader.u32("region")?;
        let bytes = reader.u64("region bytes")?;
        reader.end()?;
        within(u64::from(region), u64::from(SHARED_REGIONS_MAX) - 1, "region")?;
        within(bytes, REGION_SHARED_BYTES_MAX, "region bytes")?;
        Ok(Self { region, bytes })
    }
}

/// `Unshare`, from the client: the node forgets memory that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unshare {
    /// Its number.
    pub region: u32,
}

impl Unshare {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u32(self.region);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not one number.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let region = reader.u32("region")?;
        reader.end()?;
        Ok(Self { region })
    }
}

/// `Release`, from the client: leases that have ended. It has no reply.
#[derive(Debug, Clone, Copy)]
pub struct Release<'a> {
    /// The leases, by the place that the get was answered with.
    pub leases: Batch<'a, LeasedPlace>,
}

/// Where leased bytes start, as a get was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeasedPlace {
    /// Which of the node's regions.
    pub region: u32,
    /// Where in it.
    pub offset: u64,
}

impl<'a> Item<'a> for LeasedPlace {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { region: reader.u32("leased region")?, offset: reader.u64("leased offset")? })
    }
}

impl<'a> Release<'a> {
    /// Appends the body.
    ///
    /// # Panics
    /// If there are more than [`RELEASES_MAX`]: the caller sends them in several frames.
    pub fn encode(leases: &[LeasedPlace], out: &mut Vec<u8>) {
        assert!(leases.len() <= RELEASES_MAX, "releases are cut into frames");
        out.u32(leases.len() as u32);
        for lease in leases {
            out.u32(lease.region);
            out.u64(lease.offset);
        }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not a count and that many places.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count(RELEASES_MAX, "leases")?;
        let leases = Batch::read(&mut reader, count)?;
        reader.end()?;
        Ok(Self { leases })
    }
}
