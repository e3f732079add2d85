//! Objects into paged caches of a device and out of them: is every byte right, and how fast.
//!
//! What a reader would get wrong: speed is told against one plain copy of as many bytes in the same
//! run, never alone, and nothing is told of what was not verified first.

pub mod aboard;
pub mod aims;
pub mod beside;
pub mod cases;
pub mod pace;
pub mod truth;
