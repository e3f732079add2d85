//! The name of an object: opaque bytes, compared in full.
//!
//! A `Key` borrows nothing and lives on the stack. Two keys with one hash are still two keys: no
//! code may take a hash, of whatever width, for the key itself.

use std::fmt;

use crate::limits::KEY_BYTES_MAX;

/// An object's name: 1 to [`KEY_BYTES_MAX`] bytes of any value.
#[derive(Clone, Copy)]
pub struct Key {
    len: u8,
    bytes: [u8; KEY_BYTES_MAX],
}

/// Why some bytes are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to 64 bytes, this one has {0}")]
pub struct KeyLength(pub usize);

impl Key {
    /// Takes `bytes` as a key.
    ///
    /// # Errors
    /// [`KeyLength`] if there are none or more than [`KEY_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Result<Self, KeyLength> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(KeyLength(bytes.len()));
        }
        let mut key = Self { len: bytes.len() as u8, bytes: [0; KEY_BYTES_MAX] };
        key.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(key)
    }

    /// Becomes the key of `bytes`, where it is. For many at once: to move a key that was just made
    /// takes longer than to make it.
    ///
    /// # Errors
    /// As [`Key::new`]; then it is still the key that it was.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), KeyLength> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(KeyLength(bytes.len()));
        }
        // What is behind the new length belongs to no key, and nobody looks at it.
        self.len = bytes.len() as u8;
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The bytes of the key, 1 to [`KEY_BYTES_MAX`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = KeyLength;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyLength> {
        Self::new(bytes)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyLength;

    fn try_from(text: &str) -> Result<Self, KeyLength> {
        Self::new(text.as_bytes())
    }
}

/// Text as it stands if it is printable, else hexadecimal.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.as_bytes();
        if bytes.iter().all(|b| b.is_ascii_graphic()) {
            return f.write_str(std::str::from_utf8(bytes).expect("graphic ASCII is UTF-8"));
        }
        f.write_str("0x")?;
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_1_to_64() {
        for len in [1, 2, 63, 64] {
            assert_eq!(Key::new(&vec![7; len]).unwrap().as_bytes(), vec![7; len]);
        }
        for len in [0, 65, 65_535] {
            assert_eq!(Key::new(&vec![7; len]), Err(KeyLength(len)));
        }
    }

    #[test]
    fn a_key_that_was_set_is_as_a_new_one() {
        let mut key = Key::new(&[7; 64]).unwrap();
        for bytes in [&b"short"[..], &[9; 64], b"x"] {
            key.set(bytes).unwrap();
            assert_eq!(key, Key::new(bytes).unwrap());
        }
        for len in [0, 65] {
            assert_eq!(key.set(&vec![7; len]), Err(KeyLength(len)));
            assert_eq!(key.as_bytes(), b"x");
        }
    }

    #[test]
    fn keys_are_compared_in_full() {
        let (a, b) = (Key::new(b"a\0").unwrap(), Key::new(b"a").unwrap());
        assert_ne!(a, b, "padding must not make a shorter key equal");
        assert_eq!(b.to_string(), "a");
        assert_eq!(a.to_string(), "0x6100");
    }
}
