//! Keys of test objects: 32 bytes that look like a runtime's hashes, or 16 that any server takes.
//!
//! A number has one key for ever, and no two numbers share one.

use larder_protocol::Key;

use crate::random::mix;

/// The key of number `id`.
pub fn key_of(id: u64) -> Key {
    let mut bytes = [0; 32];
    let words = bytes.as_chunks_mut::<8>().0.iter_mut();
    // The first word is a one-to-one function of the number; the others only fill up.
    words.zip(0u64..).for_each(|(word, salt)| *word = mix(salt, id).to_le_bytes());
    Key::new(&bytes).expect("32 bytes are a key")
}

/// A key of 16 hexadecimal digits for number `id`: memcached takes only bytes that can be printed.
pub fn short_key_of(id: u64) -> Key {
    let digits = format!("{:016x}", mix(0, id));
    Key::try_from(digits.as_str()).expect("16 bytes are a key")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_have_distinct_keys() {
        let keys: HashSet<Key> = (0..10_000).map(key_of).collect();
        assert_eq!(keys.len(), 10_000);
        assert_eq!(key_of(7), key_of(7));
        let short: HashSet<Key> = (0..10_000).map(short_key_of).collect();
        assert_eq!(short.len(), 10_000);
        assert!(short.iter().all(|key| key.as_bytes().len() == 16));
    }
}
