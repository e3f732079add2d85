//! What a shard counts of a namespace, or of the objects of a class.

use larder_protocol::message::{Account, AccountOf};
use larder_protocol::stats::Stat;
use larder_protocol::{DecodeError, NamespaceSpec};

/// Whose an account is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccountName {
    /// A namespace.
    Namespace(NamespaceSpec),
    /// All objects that were put with this class hint, of whatever namespace.
    Class(u8),
}

/// What a shard has counted of a namespace or class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountInfo {
    /// Whose it is.
    pub name: AccountName,
    /// What was counted; what is not named is 0.
    pub values: Vec<(Stat, u64)>,
}

impl AccountInfo {
    /// Reads what a shard answered.
    pub(crate) fn decode_all(body: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let info = |account: Account<'_>| {
            let name = match account.of {
                AccountOf::Namespace(spec) => AccountName::Namespace(NamespaceSpec::decode(spec)?),
                AccountOf::Class(class) => AccountName::Class(class),
            };
            Ok(Self { name, values: account.values })
        };
        Account::decode_all(body)?.into_iter().map(info).collect()
    }
}
