//! The smart client: routing, sessions, deadlines; the `larder` command.
//!
//! A call goes down one stack and its answer comes back up: [`Client`] cuts it into legs by the
//! shard that owns each key (`router`, `request`), whoever is at the helm of the I/O (`helm`, `io`)
//! gives each leg to the session of that shard's connection (`session`, `tcp`), and the reply is
//! checked and written to where the caller wants it (`reply`, `fill`, `answer`). What cannot be
//! answered by the deadline is a miss; nothing ever blocks an inference server.
//!
//! Nothing happens when this is linked or imported: no thread, socket or registration exists before
//! [`Client::connect`]. A client does not survive a fork: calls in the child fail with
//! [`Error::Forked`].
#![forbid(unsafe_code)]
#![expect(clippy::vec_box, reason = "legs move from list to list; a pointer moves cheaply")]

mod account;
mod answer;
mod bootstrap;
mod call;
mod card;
mod circuit;
mod client;
mod closing;
mod cluster;
mod completion;
mod config;
mod connected;
mod copying;
mod error;
mod faults;
#[cfg(feature = "gpu")]
mod ferry;
mod fill;
mod flight;
mod given;
mod handles;
mod helm;
mod inbox;
mod io;
mod jobs;
mod lease;
mod leg;
mod matched;
mod mover;
mod namespace;
pub mod number;
mod object;
mod peers;
#[cfg(feature = "probe")]
#[doc(hidden)]
pub mod probe;
mod rdma;
mod regions;
mod releases;
mod reply;
mod request;
mod router;
mod sealing;
mod session;
#[cfg(test)]
mod session_tests;
mod shared;
mod stream;
mod sums;
mod sync;
mod tcp;
mod wanting;
mod wire;

pub use account::{AccountInfo, AccountName};
pub use bytes::Bytes;
pub use call::{Outcome, Pending, ShardAnswer, ShardValue};
pub use card::ExposedMemory;
pub use client::Client;
pub use completion::{Completion, CompletionQueue};
pub use config::{Config, GetOptions, MatchOptions, PathChoice, PutOptions};
pub use connected::ClientInfo;
pub use error::{Error, KeyError, KeyResult, Reason, Unavailable};
#[cfg(feature = "gpu")]
pub use ferry::{Berth, Crossed, Crossing, Ferry, FerryConfig, FerryError};
pub use jobs::{Finished, Jobs, JobsConfig};
pub use larder_protocol::message::{ClientPath, Freshness, Hints};
pub use larder_protocol::stats::Stat;
pub use larder_protocol::view::{Member, MemberState, View};
pub use larder_protocol::{Code, Generation, Key, NamespaceSpec, Status};
pub use larder_transport::{Landing, Source, Spin};
pub use lease::Lease;
pub use matched::{MatchHit, MatchResult};
pub use namespace::Namespace;
pub use object::{Landed, Object, OwnedPlace, Payload, Pieces, Place, PutObject};
pub use shared::SharedMemory;
