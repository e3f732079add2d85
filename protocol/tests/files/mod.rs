//! The golden files, and how an encoding is held to one.

use larder_protocol::Key;

/// The bytes of one file: hexadecimal up to `#`, comments behind it.
macro_rules! golden {
    ($name:literal) => {
        $crate::files::bytes_of(include_str!(concat!("golden/v1/", $name, ".hex")))
    };
}

pub(crate) use golden;

pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let hex = text.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[track_caller]
pub(crate) fn assert_golden(encoded: &[u8], golden: &[u8]) {
    let differs = encoded.iter().zip(golden).position(|(e, g)| e != g);
    let at = differs.unwrap_or_else(|| encoded.len().min(golden.len()));
    assert!(
        encoded == golden,
        "THE WIRE FORMAT CHANGED at byte {at}: peers in the field will not understand it. Do not \
         edit the golden file; restore the format, or make a new protocol version.\n\
         encoded: {encoded:02x?}\n golden: {golden:02x?}"
    );
}

pub(crate) fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

pub(crate) fn key(bytes: &[u8]) -> Key {
    Key::new(bytes).unwrap()
}
