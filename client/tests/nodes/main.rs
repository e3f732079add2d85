//! The client as its users see it, against nodes made of a few threads.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod calls;
#[cfg(feature = "gpu")]
mod device;
mod fake;
mod faults;
#[cfg(feature = "gpu")]
mod ferry;
#[cfg(feature = "gpu")]
mod ferry_cards;
#[cfg(feature = "gpu")]
mod ferry_ranges;
mod helm;
mod host;
mod jobs;
mod near;
mod quiet;
mod real;
