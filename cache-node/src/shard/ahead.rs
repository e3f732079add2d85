//! Looks at the requests that wait behind the next one, so that memory is ready for all of them.
//!
//! A small get mostly waits for memory: four loads, each at an address that the one before it gave.
//! Requests that came together can wait together. What a reader would get wrong: nothing is decided
//! here. Nobody has checked these bytes yet: what is wrong with them is found in their turn.

use larder_protocol::message::Glimpse;

use super::{Peer, Shard};
use crate::namespace::NamespaceId;
use crate::store::GROUP_KEYS;

impl Shard {
    /// Looks at the next requests, which are at the front of `received`; answers how many it saw.
    pub(crate) fn look_ahead(&self, peer: &Peer, received: &[u8]) -> usize {
        let mut names = [(NamespaceId(0), &[][..]); GROUP_KEYS];
        let (mut seen, mut count, mut rest) = (0, 0, received);
        while seen < GROUP_KEYS {
            let Some(glimpse) = Glimpse::first_of(rest) else { break };
            seen += 1;
            if let Some(key) = glimpse.key
                && let Some(namespace) = peer.handles.find(glimpse.namespace)
            {
                names[count] = (namespace, key);
                count += 1;
            }
            let next = usize::try_from(glimpse.frame_bytes).unwrap_or(usize::MAX);
            rest = rest.get(next..).unwrap_or_default();
        }
        if count > 1 {
            self.store.warm(&names[..count]);
        }
        seen
    }
}
