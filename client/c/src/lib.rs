//! The client for C and C++, behind `client/include/larder.h`, which says what everything means.
//!
//! What a reader would get wrong: this is one of the few places with unsafe code, and all of it
//! turns what C promises into types, in `edge`. Behind that, the crate is a translation: whatever
//! can go wrong goes wrong in `larder-client`, and comes out as a number.

mod client;
mod edge;
mod jobs;
mod lease;
mod memory;
mod object;
mod store;

pub use client::{
    Config, larder_client_close, larder_connect, larder_last_error, larder_status_name,
};
pub use jobs::{
    Completion, larder_cancel, larder_completion_free, larder_completion_job,
    larder_completion_results, larder_completion_status, larder_drain_all, larder_fd, larder_next,
    larder_submit_get, larder_submit_match, larder_submit_put, larder_submit_remove, larder_wait,
};
pub use lease::{larder_lease_bytes, larder_lease_free, larder_lease_get, larder_lease_meta};
pub use memory::{Memory, larder_expose, larder_hide, larder_is_exposed};
pub use object::{Key, Object, Piece};
pub use store::{
    Namespace, Store, larder_bump, larder_generation, larder_get, larder_match, larder_open,
    larder_pin, larder_put, larder_remove, larder_store_close,
};
