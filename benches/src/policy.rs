//! What eviction policies make of a trace, in the trace's own time and without a byte of payload.
//!
//! For each request first every key is looked up as the cache stands, and all hits are counted;
//! then what is there is used, and what is missing is written, as clients do. The policies are the
//! node's own, in its own store, behind its own placement. What a reader would get wrong: capacity
//! is counted in objects here, all of one size, which is what published values are for; a node
//! counts bytes.

mod chart;
mod optimum;
mod score;
mod shards;
mod whole;

pub use chart::{Chart, Line};
pub use optimum::optimum;
pub use score::Score;
pub use shards::{Rules, replay};
pub use whole::{Asked, HintsError, Whole, at_speed};
