//! Until when each connection may stand still, and which of them have stood too long.
//!
//! One sweep a tick looks at all of them, instead of a timer for each read: a cancelled timer costs
//! memory in the runtime, and most reads never wait. A connection cut off here sees its socket
//! closed and ends by its own code. One from this host is told instead: it may hold leases until
//! its peer is gone, which a socket that was closed on this side would not say any more.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Waker};

use larder_transport::PeerProcess;

use crate::places::Places;

/// The connections of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stalls(Rc<RefCell<Places<Rc<Limit>>>>);

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Limit {
    socket: RawFd,
    until_ms: Cell<u64>,
    is_idle: Cell<bool>,
    told: Option<Told>,
}

/// How a connection from this host is told that it ends.
#[derive(Debug)]
struct Told {
    process: PeerProcess,
    holds_leases: Cell<bool>,
    word: Cell<Option<Word>>,
    waker: RefCell<Option<Waker>>,
}

/// Why a connection is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It stood still, or the node stops.
    End,
    /// The process that made it is dead, whoever has its socket.
    Dead,
}

/// Where a connection hears that it ends.
#[derive(Debug)]
pub(crate) struct Notice(Rc<Limit>);

impl Notice {
    /// What was said since the last time, if anything.
    pub(crate) fn take(&self) -> Option<Word> {
        self.0.told.as_ref()?.word.take()
    }

    /// As [`Notice::take`]; if nothing was said, the task is woken when something is.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Option<Word> {
        let told = self.0.told.as_ref()?;
        let word = told.word.take();
        if word.is_none() {
            let mut waker = told.waker.borrow_mut();
            match waker.as_mut() {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        word
    }
}

impl Limit {
    /// The socket to cut, if the connection is not one that was told just now.
    pub(crate) fn end(&self) -> Option<RawFd> {
        let Some(told) = &self.told else { return Some(self.socket) };
        told.say(Word::End);
        None
    }
}

impl Told {
    fn say(&self, word: Word) {
        if self.word.get() != Some(Word::Dead) {
            self.word.set(Some(word));
        }
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection's own entry; it must not outlive the socket that it was made for.
#[derive(Debug)]
pub(crate) struct Patience {
    table: Stalls,
    place: usize,
    limit: Rc<Limit>,
}

impl Stalls {
    /// Watches `socket`, which may stand still until `until_ms`. With `process`, which made it on
    /// this host, it is told when that time is over, not cut.
    pub(crate) fn watch(
        &self,
        socket: RawFd,
        until_ms: u64,
        process: Option<PeerProcess>,
    ) -> Patience {
        let until_ms = Cell::new(until_ms);
        let told = process.map(|process| Told {
            process,
            holds_leases: Cell::new(false),
            word: Cell::new(None),
            waker: RefCell::new(None),
        });
        let limit = Rc::new(Limit { socket, until_ms, is_idle: Cell::new(false), told });
        let place = self.0.borrow_mut().enter(Rc::clone(&limit));
        Patience { table: self.clone(), place, limit }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Calls `cut` for each connection that stood still for too long, once.
    pub(crate) fn sweep(&self, now_ms: u64, mut cut: impl FnMut(&Limit)) {
        for limit in self.0.borrow().iter() {
            if now_ms >= limit.until_ms.get() {
                limit.until_ms.set(NEVER);
                cut(limit);
            }
        }
    }

    /// Tells connections that hold leases when the process that they were given to is dead.
    ///
    /// Most are closed with it; this is for sockets that a child of it still has.
    pub(crate) fn bury(&self) {
        let table = self.0.borrow();
        let told = table.iter().filter_map(|limit| limit.told.as_ref());
        for told in told.filter(|told| told.holds_leases.get() && told.process.is_dead()) {
            told.say(Word::Dead);
        }
    }

    /// Calls `cut` for every connection.
    pub(crate) fn all(&self, mut cut: impl FnMut(&Limit)) {
        self.0.borrow().iter().for_each(|limit| cut(limit));
    }

    /// Calls `cut` for each connection that waits for its next request.
    pub(crate) fn idle(&self, mut cut: impl FnMut(&Limit)) {
        for limit in self.0.borrow().iter().filter(|l| l.is_idle.get()) {
            cut(limit);
        }
    }
}

impl Patience {
    /// The connection must move on by `until_ms`.
    pub(crate) fn until(&self, until_ms: u64) {
        self.limit.until_ms.set(until_ms);
        self.limit.is_idle.set(false);
    }

    /// Where the connection hears that it ends, if it is told.
    pub(crate) fn notice(&self) -> Notice {
        Notice(Rc::clone(&self.limit))
    }

    /// Notes whether the connection reads slots in place.
    pub(crate) fn note_leases(&self, holds: bool) {
        if let Some(told) = &self.limit.told {
            told.holds_leases.set(holds);
        }
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
        self.table.0.borrow_mut().leave(self.place);
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
        let (first, second) = (stalls.watch(1, 100, None), stalls.watch(2, 200, None));
        let cut = |now| {
            let mut cut = Vec::new();
            stalls.sweep(now, |limit| cut.extend(limit.end()));
            cut
        };
        assert!(cut(99).is_empty());
        assert_eq!(cut(100), [1]);
        assert!(cut(150).is_empty(), "cut once");
        second.idle(NEVER);
        assert!(cut(1000).is_empty());
        let mut idle = Vec::new();
        stalls.idle(|limit| idle.extend(limit.end()));
        assert_eq!(idle, [2]);
        drop(first);
        let third = stalls.watch(3, 5, None);
        assert_eq!(stalls.len(), 2, "places are used again");
        third.until(2000);
        assert!(cut(1999).is_empty());
        assert_eq!(cut(2000), [3]);
    }

    #[test]
    fn connection_from_this_host_is_told_and_woken_and_death_has_the_last_word() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let stalls = Stalls::default();
        let process = PeerProcess::of(&near).unwrap();
        let patience = stalls.watch(1, 100, Some(process));
        let notice = patience.notice();
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(notice.poll(&cx), None);
        stalls.sweep(100, |limit| assert_eq!(limit.end(), None, "not cut"));
        assert_eq!(notice.take(), Some(Word::End));
        assert_eq!(notice.take(), None, "said once");
        patience.note_leases(true);
        stalls.bury();
        assert_eq!(notice.poll(&cx), None, "it lives");
        let told = patience.limit.told.as_ref().unwrap();
        told.say(Word::Dead);
        stalls.all(|limit| assert_eq!(limit.end(), None));
        assert_eq!(notice.poll(&cx), Some(Word::Dead));
    }
}
