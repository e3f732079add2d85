//! What is counted by namespace and by class of objects.

use super::{Owner, Store};
use crate::account::Account;
use crate::namespace::NamespaceId;

impl Store {
    /// Counts something of an object of this namespace and class.
    pub(crate) fn count(&mut self, owner: Owner, how: impl Fn(&mut Account)) {
        how(&mut self.namespaces[owner.namespace].account);
        how(&mut self.classes[usize::from(owner.class)]);
    }

    /// Counts something of a namespace.
    pub(crate) fn account_of(&mut self, namespace: NamespaceId) -> &mut Account {
        &mut self.namespaces[namespace].account
    }

    /// What was counted of each class of which anything was.
    pub fn classes(&self) -> impl Iterator<Item = (u8, &Account)> {
        (0..=u8::MAX).zip(self.classes.iter()).filter(|(_, account)| !account.is_empty())
    }
}
