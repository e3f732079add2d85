//! `Open` registers a namespace with a connection, `Bump` moves it to a newer generation.
//!
//! Both are answered by a bare header: the handle in its namespace field, the node's generation in
//! its generation field. A handle means nothing on another connection.

use crate::namespace::Generation;
use crate::wire::{DecodeError, Reader, Write};

/// Registers a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open<'a> {
    /// A generation that the client knows of: a node that knows only older ones moves forward.
    pub known: Generation,
    /// The description, as [`NamespaceSpec::encode`](crate::NamespaceSpec::encode) gives it.
    pub spec: &'a [u8],
}

impl<'a> Open<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.known.0);
        out.bytes(self.spec);
    }

    /// Reads the body; the description itself is checked by whoever registers it.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let known = Generation(reader.u64("known generation")?);
        Ok(Self { known, spec: reader.rest() })
    }
}

/// Moves the namespace of the header forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bump {
    /// The generation to reach; an older one than the node's changes nothing.
    pub to: Generation,
}

impl Bump {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.to.0);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not eight bytes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let to = Generation(reader.u64("new generation")?);
        reader.end()?;
        Ok(Self { to })
    }
}
