//! The payload of a request as it comes from the socket, to be stored or thrown away.
//!
//! What a reader would get wrong: small objects are received many at a time and copied, large ones
//! straight into their slots, so what is staged here must be used up before the socket is read.

use std::io;
use std::ops::Range;

use crate::core::Core;
use crate::spin::REST_US;
use crate::tcp::Wire;

/// The payload of one request: what came with its body, then what is still on the wire.
#[derive(Debug)]
pub(crate) struct PayloadIn<'a> {
    pub(crate) wire: &'a mut Wire,
    behind: &'a [u8],
    /// How many bytes behind the body are this payload's.
    pub(crate) taken_behind: usize,
    on_wire: u64,
    staged: Range<usize>,
}

impl<'a> PayloadIn<'a> {
    /// The next `payload_bytes`, of which some may be in `behind` already.
    pub(crate) fn new(wire: &'a mut Wire, payload_bytes: u64, behind: &'a [u8]) -> Self {
        let taken_behind = behind.len().min(usize::try_from(payload_bytes).unwrap_or(usize::MAX));
        let behind = &behind[..taken_behind];
        let on_wire = payload_bytes - taken_behind as u64;
        Self { wire, behind, taken_behind, on_wire, staged: 0..0 }
    }

    /// Puts the next bytes into `into`, at least one; an early end of the peer is an error.
    pub(crate) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.behind.is_empty() {
            let count = into.len().min(self.behind.len());
            into[..count].copy_from_slice(&self.behind[..count]);
            self.behind = &self.behind[count..];
            return Ok(count);
        }
        if self.staged.is_empty() {
            if into.len() >= DIRECT_BYTES_MIN || into.len() as u64 >= self.on_wire {
                let wanted = into.len();
                let count = some(self.wire.read_many(into, wanted).await?)?;
                self.wire.refuse_arrived()?;
                self.on_wire -= count as u64;
                return Ok(count);
            }
            self.stage(None).await?;
        }
        let count = into.len().min(self.staged.len());
        into[..count].copy_from_slice(&self.wire.staging[self.staged.start..][..count]);
        self.staged.start += count;
        Ok(count)
    }

    /// Has the next `count` bytes in `into`, awake while they are likely to come soon: few bytes
    /// that the peer makes while we do something else.
    pub(crate) async fn read_all(
        &mut self,
        core: &Core,
        into: &mut Vec<u8>,
        count: usize,
    ) -> io::Result<()> {
        into.clear();
        // For all of it: a peer that sends it byte by byte keeps nobody waiting for longer.
        let until_us = core.now_us() + REST_US;
        while into.len() < count {
            if self.behind.is_empty() && self.staged.is_empty() {
                self.stage(Some((core, until_us))).await?;
            }
            let most = count - into.len();
            let start = into.len();
            into.resize(start + most, 0);
            let taken = self.read(&mut into[start..]).await?;
            into.truncate(start + taken);
        }
        Ok(())
    }

    /// Reads past the next `count` bytes.
    pub(crate) async fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.behind.is_empty() && self.staged.is_empty() {
                self.stage(None).await?;
                // Nobody else is served while a long payload is thrown away at full speed.
                self.wire.bytes += self.staged.len() as u64;
                self.wire.breathe_if_spent().await;
            }
            let source = if self.behind.is_empty() { self.staged.len() } else { self.behind.len() };
            let now = source.min(usize::try_from(count).unwrap_or(usize::MAX));
            if self.behind.is_empty() {
                self.staged.start += now;
            } else {
                self.behind = &self.behind[now..];
            }
            count -= now as u64;
        }
        Ok(())
    }

    /// Receives many small objects with one call, to be copied from there; awake until then.
    async fn stage(&mut self, awake: Option<(&Core, u64)>) -> io::Result<()> {
        let mut staging = std::mem::take(&mut self.wire.staging);
        staging.resize(STAGING_BYTES, 0);
        let most = staging.len().min(usize::try_from(self.on_wire).unwrap_or(usize::MAX));
        let received = match awake {
            Some((core, until_us)) => {
                self.wire.await_rest(core, until_us, &mut staging[..most]).await
            }
            None => self.wire.read(&mut staging[..most]).await,
        };
        self.wire.staging = staging;
        let count = some(received?)?;
        self.wire.refuse_arrived()?;
        self.on_wire -= count as u64;
        self.staged = 0..count;
        Ok(())
    }
}

fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

/// An object with more than this still to come is received straight into its slot.
const DIRECT_BYTES_MIN: usize = 32 << 10;
/// Smaller objects are received this many bytes at a time, and copied.
const STAGING_BYTES: usize = 64 << 10;
