//! Puts from shared memory: by reference where the node can read it, with their bytes elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{
    Payload as Form, Put, PutItem, SharedRegion, Unshare, encode_statuses,
};
use larder_protocol::{Code, Header, Key, Opcode, Status};
use larder_transport::{MappedRegion, Source};

use super::on_host::Host;
use super::talk::{Talk, answers, object_of};
use crate::call::{Outcome, Pending};
use crate::error::{KeyError, KeyResult};
use crate::object::{Payload, PutObject};
use crate::sealing::Seals;
use crate::session::{Event, Session};
use crate::shared::{Memories, PutSource, SharedMemory};
