//! The first byte picks a decoder, the rest is its body.
//!
//! The walk behind each decoder checks limits and that the encoder writes the same bytes; it is
//! the one of the property tests.
#![no_main]

#[path = "../../tests/decoders/mod.rs"]
mod decoders;

use decoders::DECODERS;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((pick, body)) = bytes.split_first() else { return };
    let _ = DECODERS[usize::from(*pick) % DECODERS.len()].1(body);
});
