//! Small gets over one bare socket: what a server costs, without the client that belongs to it.
//!
//! One loop for every server: only the words differ. It keeps a number of requests in flight, which
//! were encoded beforehand, and parses every answer in full. It is less than a client: it trusts
//! the order of answers, and has no deadline but that of the socket.

mod dialect;
mod larder;
mod memcached;
mod pipeline;
mod resp;
mod rival;

pub use dialect::Text;
pub(crate) use dialect::{END_OF_LINE, odd};
pub use pipeline::Pipeline;
pub use rival::{Rival, RivalError, RivalProcess, RivalShape};
