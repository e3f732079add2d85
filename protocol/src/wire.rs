//! Little-endian reading and writing: the only code that knows the order of bytes.
//!
//! A `Reader` never allocates by what it reads; it hands out slices of what it was given.

use crate::key::Key;
use crate::limits::KEY_BYTES_MAX;

/// Why bytes from a peer are not a message. It ends the connection that sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first four bytes are not those of a frame.
    #[error("not a frame: magic {0:#010x}")]
    Magic(u32),
    /// A version outside the range that this side speaks.
    #[error("protocol version {0} is not spoken here")]
    Version(u8),
    /// The header's own checksum is wrong.
    #[error("header checksum {found:#010x}, computed {computed:#010x}")]
    HeaderChecksum {
        /// What the header says.
        found: u32,
        /// What its first 60 bytes give.
        computed: u32,
    },
    /// Flags or fields that must be zero are not.
    #[error("reserved bits are set: {0:#x}")]
    Reserved(u64),
    /// A length above its limit.
    #[error("{what} of {found} is above its limit of {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// What the peer wrote.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The message ends before its fields do.
    #[error("message ends inside {0}")]
    Short(&'static str),
    /// Bytes remain after the last field.
    #[error("{0} bytes follow the last field")]
    Surplus(usize),
    /// A field has a value with no meaning.
    #[error("{what} has no meaning for {found}")]
    Value {
        /// The field.
        what: &'static str,
        /// What the peer wrote.
        found: u64,
    },
    /// The lengths of the objects do not add up to the payload's.
    #[error("objects add up to {objects} bytes, the payload has {payload}")]
    PayloadLength {
        /// Sum over the objects.
        objects: u64,
        /// What the header says.
        payload: u64,
    },
}

/// Takes fields off the front of a message.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`] with `what` if there are fewer.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, as an array.
    ///
    /// # Errors
    /// [`DecodeError::Short`] with `what` if there are fewer.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A key: a length byte, then that many bytes.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or not 1 to 64 bytes long.
    pub fn key(&mut self) -> Result<Key, DecodeError> {
        let bytes = self.key_bytes()?;
        Ok(Key::new(bytes).expect("its length was checked"))
    }

    /// As [`Reader::key`], without a copy.
    ///
    /// # Errors
    /// As [`Reader::key`].
    pub fn key_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u8("key length")?;
        let bytes = self.take(usize::from(len), "key")?;
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(DecodeError::Value { what: "key length", found: u64::from(len) });
        }
        Ok(bytes)
    }

    /// Bytes behind a one-byte length of at most `limit`.
    ///
    /// # Errors
    /// [`DecodeError`] if they are cut short or too long.
    pub fn bytes_u8(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u8(what)?;
        within(u64::from(len), limit as u64, what)?;
        self.take(usize::from(len), what)
    }

    /// Bytes behind a two-byte length of at most `limit`.
    ///
    /// # Errors
    /// [`DecodeError`] if they are cut short or too long.
    pub fn bytes_u16(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(what)?;
        within(u64::from(len), limit as u64, what)?;
        self.take(usize::from(len), what)
    }

    /// A four-byte count of at most `limit`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or too large.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.u32(what)?;
        within(u64::from(count), limit as u64, what)?;
        Ok(count as usize)
    }

    /// Asserts that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Surplus`] if something is.
    pub const fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Surplus(self.rest.len())) }
    }

    /// How many bytes are left.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What is left, without taking it.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Refuses a `found` above `limit`.
///
/// # Errors
/// [`DecodeError::TooLong`].
pub const fn within(found: u64, limit: u64, what: &'static str) -> Result<(), DecodeError> {
    if found > limit { Err(DecodeError::TooLong { what, found, limit }) } else { Ok(()) }
}

/// Appends fields to a message.
pub trait Write {
    /// Appends bytes as they are.
    fn bytes(&mut self, bytes: &[u8]);

    /// One byte.
    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Two bytes.
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Four bytes.
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes.
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// A key behind its length.
    fn key(&mut self, key: &Key) {
        self.bytes_u8(key.as_bytes());
    }

    /// Bytes behind a one-byte length.
    ///
    /// # Panics
    /// If there are more than 255: callers check against a limit first.
    fn bytes_u8(&mut self, bytes: &[u8]) {
        self.u8(u8::try_from(bytes.len()).expect("checked against a limit below 256"));
        self.bytes(bytes);
    }

    /// Bytes behind a two-byte length.
    ///
    /// # Panics
    /// If there are more than 65,535: callers check against a limit first.
    fn bytes_u16(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).expect("checked against a limit below 65,536"));
        self.bytes(bytes);
    }
}

impl Write for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut bytes = Vec::new();
        bytes.u8(1);
        bytes.u16(0x0203);
        bytes.u32(4);
        bytes.u64(5);
        bytes.key(&Key::new(b"k").unwrap());
        assert_eq!(bytes[1..3], [3, 2], "little-endian");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("").unwrap(), 1);
        assert_eq!(reader.u16("").unwrap(), 0x0203);
        assert_eq!(reader.u32("").unwrap(), 4);
        assert_eq!(reader.u64("").unwrap(), 5);
        assert_eq!(reader.key().unwrap().as_bytes(), b"k");
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(reader.u8("more"), Err(DecodeError::Short("more")));
    }

    #[test]
    fn keys_of_0_and_65_bytes_are_refused() {
        for len in [0u8, 65] {
            let mut bytes = vec![len];
            bytes.resize(usize::from(len) + 1, 1);
            let found = u64::from(len);
            assert_eq!(
                Reader::new(&bytes).key(),
                Err(DecodeError::Value { what: "key length", found })
            );
        }
    }
}
