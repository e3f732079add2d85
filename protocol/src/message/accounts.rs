//! The reply to `Accounts`: what a shard counts of each namespace, and of each class of objects.
//!
//! Numbers and values, as those of `Stats`, so that either side may know more names; a value of 0
//! is left out.

use crate::limits::NAMESPACE_BYTES_MAX;
use crate::stats::Stat;
use crate::wire::{DecodeError, Reader, Write};

/// Whose an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountOf<'a> {
    /// A namespace, with this description.
    Namespace(&'a [u8]),
    /// All objects that were put with this class hint, of whatever namespace.
    Class(u8),
}

/// What was counted of a namespace or class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account<'a> {
    /// Whose it is.
    pub of: AccountOf<'a>,
    /// What was counted; what is not named is 0.
    pub values: Vec<(Stat, u64)>,
}

impl<'a> Account<'a> {
    /// Appends the whole reply: the first [`ACCOUNTS_MAX`] of them.
    pub fn encode_all<V: IntoIterator<Item = (Stat, u64)>>(
        accounts: impl ExactSizeIterator<Item = (AccountOf<'a>, V)>,
        out: &mut Vec<u8>,
    ) {
        out.u32(accounts.len().min(ACCOUNTS_MAX) as u32);
        for (of, values) in accounts.take(ACCOUNTS_MAX) {
            match of {
                AccountOf::Namespace(spec) => {
                    out.u8(NAMESPACE);
                    out.bytes_u16(spec);
                }
                AccountOf::Class(class) => {
                    out.u8(CLASS);
                    out.u8(class);
                }
            }
            let (at, mut count) = (out.len(), 0);
            out.u8(0);
            for (stat, value) in values.into_iter().filter(|(_, value)| *value > 0).take(VALUES_MAX)
            {
                out.u16(stat as u16);
                out.u64(value);
                count += 1;
            }
            out[at] = count;
        }
    }

    /// Reads the reply; stats that this version does not know are skipped.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or too long, or a field is.
    pub fn decode_all(body: &'a [u8]) -> Result<Vec<Self>, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count(ACCOUNTS_MAX, "accounts")?;
        let mut accounts = Vec::new();
        for _ in 0..count {
            let of = match reader.u8("account")? {
                NAMESPACE => AccountOf::Namespace(
                    reader.bytes_u16(NAMESPACE_BYTES_MAX, "namespace description")?,
                ),
                CLASS => AccountOf::Class(reader.u8("class")?),
                found => return Err(DecodeError::Value { what: "account", found: found.into() }),
            };
            let mut values = Vec::new();
            for _ in 0..reader.u8("values of an account")? {
                let (number, value) = (reader.u16("stat")?, reader.u64("stat value")?);
                values.extend(Stat::from_number(number).map(|stat| (stat, value)));
            }
            accounts.push(Self { of, values });
        }
        reader.end()?;
        Ok(accounts)
    }
}

/// Most accounts of one reply.
pub const ACCOUNTS_MAX: usize = 1024;
/// More than any account has.
const VALUES_MAX: usize = 64;
const NAMESPACE: u8 = 0;
const CLASS: u8 = 1;

const _: () = assert!(
    ACCOUNTS_MAX * (3 + NAMESPACE_BYTES_MAX + 1 + VALUES_MAX * 10) + 4
        <= crate::limits::BODY_BYTES_MAX as usize
);
