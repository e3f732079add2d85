//! One matrix of gets and puts over Larder and other servers: who takes part, and who measures.
//!
//! Clients are processes, as inference workers are, and the same processes for every server: each
//! worker has one connection to each server and one memory to receive into, and an order says which
//! server it works on and for how long. So nothing differs between two measurements but the server,
//! and no server pays for another's client.

mod crew;
mod field;
mod larder;
mod link;
mod order;
mod rival;
mod source;
mod worker;

pub use crew::{Crew, CrewError};
pub use field::{Entrant, Field, FieldError, FieldShape, Kind, memory_bytes};
pub use link::LinkError;
pub use order::{Copying, Deed, LinkSpec, Order, Ran, Setup};
pub use worker::{WorkError, work};
