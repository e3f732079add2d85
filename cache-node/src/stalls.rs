//! Until when each connection may stand still, and which of them have stood too long.
//!
//! One sweep a tick looks at all of them, instead of a timer for each read: a cancelled timer costs
//! memory in the runtime, and most reads never wait. A connection cut off here sees its socket
//! closed and ends by its own code.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

/// The connections of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stalls(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    places: Vec<Option<Rc<Limit>>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Limit {
    socket: RawFd,
    until_ms: Cell<u64>,
    is_idle: Cell<bool>,
}

/// A connection's own entry; it must not outlive the socket that it was made for.
#[derive(Debug)]
pub(crate) struct Patience {
    table: Stalls,
    place: usize,
    limit: Rc<Limit>,
}

impl Stalls {
    /// Watches `socket`, which may stand still until `until_ms`.
    pub(crate) fn watch(&self, socket: RawFd, until_ms: u64) -> Patience {
        let until_ms = Cell::new(until_ms);
        let limit = Rc::new(Limit { socket, until_ms, is_idle: Cell::new(false) });
        let mut table = self.0.borrow_mut();
        let place = table.free.pop().unwrap_or(table.places.len());
        if place == table.places.len() {
            table.places.push(None);
        }
        table.places[place] = Some(Rc::clone(&limit));
        Patience { table: self.clone(), place, limit }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        let table = self.0.borrow();
        table.places.len() - table.free.len()
    }

    /// Calls `cut` for each socket that stood still for too long, once.
    pub(crate) fn sweep(&self, now_ms: u64, mut cut: impl FnMut(RawFd)) {
        for limit in self.0.borrow().places.iter().flatten() {
            if now_ms >= limit.until_ms.get() {
                limit.until_ms.set(NEVER);
                cut(limit.socket);
            }
        }
    }

    /// Calls `cut` for every connection.
    pub(crate) fn all(&self, mut cut: impl FnMut(RawFd)) {
        self.0.borrow().places.iter().flatten().for_each(|limit| cut(limit.socket));
    }

    /// Calls `cut` for each connection that waits for its next request.
    pub(crate) fn idle(&self, mut cut: impl FnMut(RawFd)) {
        for limit in self.0.borrow().places.iter().flatten().filter(|l| l.is_idle.get()) {
            cut(limit.socket);
        }
    }
}

impl Patience {
    /// The connection must move on by `until_ms`.
    pub(crate) fn until(&self, until_ms: u64) {
        self.limit.until_ms.set(until_ms);
        self.limit.is_idle.set(false);
    }

    /// Until when the connection may stand still.
    pub(crate) fn limit_ms(&self) -> u64 {
        self.limit.until_ms.get()
    }

    /// Whether the connection waits for its next request.
    pub(crate) fn is_idle(&self) -> bool {
        self.limit.is_idle.get()
    }

    /// The connection waits for its next request, for as long as it likes or until `until_ms`.
    pub(crate) fn idle(&self, until_ms: u64) {
        self.limit.until_ms.set(until_ms);
        self.limit.is_idle.set(true);
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        let mut table = self.table.0.borrow_mut();
        table.places[self.place] = None;
        table.free.push(self.place);
    }
}

/// A time that does not come.
pub(crate) const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_stands_too_long_is_cut_and_only_once() {
        let stalls = Stalls::default();
        let (first, second) = (stalls.watch(1, 100), stalls.watch(2, 200));
        let cut = |now| {
            let mut cut = Vec::new();
            stalls.sweep(now, |socket| cut.push(socket));
            cut
        };
        assert!(cut(99).is_empty());
        assert_eq!(cut(100), [1]);
        assert!(cut(150).is_empty(), "cut once");
        second.idle(NEVER);
        assert!(cut(1000).is_empty());
        let mut idle = Vec::new();
        stalls.idle(|socket| idle.push(socket));
        assert_eq!(idle, [2]);
        drop(first);
        let third = stalls.watch(3, 5);
        assert_eq!(stalls.len(), 2, "places are used again");
        third.until(2000);
        assert!(cut(1999).is_empty());
        assert_eq!(cut(2000), [3]);
    }
}
