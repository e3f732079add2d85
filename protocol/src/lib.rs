//! The contract between node and client: frames, messages, keys, view, placement, limits.
//!
//! Pure: no clock, socket, file or unsafe. Whoever decodes bytes from a peer does it here, once;
//! what leaves a decoder cannot be wrong in shape, but it is still only what the peer *claims*.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod header;
pub mod key;
pub mod limits;
pub mod message;
pub mod namespace;
pub mod placement;
pub mod stats;
pub mod status;
pub mod view;
pub mod wire;

pub use header::{Header, Opcode};
pub use key::Key;
pub use namespace::{Generation, NamespaceSpec};
pub use status::{Code, Status};
pub use wire::DecodeError;
