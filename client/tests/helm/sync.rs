//! Loom's stand-ins for what `client/src/sync.rs` names, so that loom decides who runs when.
//!
//! What a reader would get wrong: loom takes `SeqCst` loads and stores for weaker than they are,
//! and would find faults that cannot be. It has read-modify-writes see the latest value, so here
//! `SeqCst` accesses are those, which is all that `SeqCst` says of places that are accessed in no
//! other way. Weaker accesses are loom's own, and may be stale. Nor does loom know time-outs: a
//! wait with one ends when it is told to, or when the model's clock strikes, at any time after.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LockResult};
use std::time::Duration;

pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::sync::atomic::AtomicU64;

macro_rules! atomic {
    ($name:ident, $of:ty, $nothing:literal) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $of) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $of {
                match order {
                    Ordering::SeqCst => self.0.fetch_or($nothing, Ordering::Acquire),
                    weaker => self.0.load(weaker),
                }
            }

            pub(crate) fn store(&self, value: $of, order: Ordering) {
                match order {
                    Ordering::SeqCst => drop(self.0.swap(value, Ordering::Release)),
                    weaker => self.0.store(value, weaker),
                }
            }

            #[allow(dead_code, reason = "not every width is swapped")]
            pub(crate) fn swap(&self, value: $of, order: Ordering) -> $of {
                self.0.swap(value, order)
            }
        }
    };
}

atomic!(AtomicBool, bool, false);
atomic!(AtomicU8, u8, 0);

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.0.lock()
    }

    /// Loom's are never poisoned: a panic ends the model.
    pub(crate) fn clear_poison(&self) {}
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(Arc<loom::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        if STRIKES.replace(STRIKES.get().saturating_sub(1)) > 0 {
            let sleepers = Arc::clone(&self.0);
            loom::thread::spawn(move || sleepers.notify_all());
        }
        Ok((self.0.wait(guard).expect("never poisoned"), ()))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

/// How many waits of this run of the model may time out. The rest waits until it is told.
pub(crate) fn set_clock(strikes: u32) {
    STRIKES.set(strikes);
}

/// As mio's over an eventfd: what rings while nobody sleeps is heard by the next who would.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waker(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Waker {
    pub(crate) fn wake(&self) -> std::io::Result<()> {
        *self.0.has_rung.lock().expect("never poisoned") = true;
        self.0.rings.notify_one();
        Ok(())
    }

    /// Sleeps until it rings, or only looks, and is silent then.
    pub(crate) fn listen(&self, sleeps: bool) {
        let mut has_rung = self.0.has_rung.lock().expect("never poisoned");
        while sleeps && !*has_rung {
            has_rung = self.0.rings.wait(has_rung).expect("never poisoned");
        }
        *has_rung = false;
    }
}

thread_local! {
    // All threads of a model run on the thread of its test.
    static STRIKES: Cell<u32> = const { Cell::new(0) };
}
