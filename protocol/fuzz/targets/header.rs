//! Any 64 bytes as a header: as they come, and once more with a right checksum.
//!
//! Without the second try the checksum would turn nearly everything away before a field is read.
#![no_main]

use larder_protocol::Header;
use larder_protocol::checksum::crc32c;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(&(mut bytes)) = input.first_chunk::<64>() else { return };
    for _ in 0..2 {
        if let Ok(header) = Header::decode(&bytes) {
            assert_eq!(header.encode(), bytes);
        }
        let checksum = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    }
});
