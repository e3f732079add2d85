//! Who goes first when room is needed.
//!
//! [`Lru`] is the only policy in the tree, so there is no trait yet: a second one (S3-FIFO for
//! small objects, class lists by reuse hazard) becomes a file beside `lru.rs`, and the store holds
//! an enum of them. The seam is the five things that the store tells or asks a policy, always with
//! the pool of entries as an argument, since lists run through the entries themselves:
//!
//! * `inserted`, `touched`, `removed`: one object; its stamp is set already. All O(1).
//! * `bumped`: every object of a namespace is stale now. O(1), whatever their number.
//! * `search`: the objects in the order in which they should go, until one is accepted.
//!
//! What a reader would get wrong: a policy frees nothing and counts nothing. It orders numbers; the
//! store decides whether evicting one would free memory, and drops it.

mod lru;
mod ring;

pub(super) use lru::Lru;
