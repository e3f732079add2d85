//! Answers what was counted by namespace and by class: for operators, so no request pays for it.

use std::cmp::Reverse;

use larder_protocol::message::{ACCOUNTS_MAX, Account, AccountOf};
use larder_protocol::{Code, Header};

use super::Shard;
use crate::account::CLASSES;
use crate::outbox::Outbox;

impl Shard {
    /// Answers what was counted. Of more namespaces than a reply has room for, it tells those that
    /// take most memory.
    pub(super) fn accounts(&self, header: &Header, out: &mut Outbox) {
        let mut namespaces: Vec<_> = self.store.namespaces().iter().collect();
        if namespaces.len() > NAMESPACES_TOLD_MAX {
            namespaces.sort_unstable_by_key(|namespace| Reverse(namespace.account.slot_bytes));
            namespaces.truncate(NAMESPACES_TOLD_MAX);
        }
        let namespaces = namespaces
            .into_iter()
            .map(|namespace| (AccountOf::Namespace(namespace.spec()), namespace.account.values()));
        let classes = self.store.classes();
        let classes = classes.map(|(class, account)| (AccountOf::Class(class), account.values()));
        let told: Vec<_> = namespaces.chain(classes).collect();
        let at = Header::begin(&mut out.bytes);
        Account::encode_all(told.into_iter(), &mut out.bytes);
        self.answer(header, Code::Ok).finish(0, at, &mut out.bytes);
    }
}

const NAMESPACES_TOLD_MAX: usize = ACCOUNTS_MAX - CLASSES;
