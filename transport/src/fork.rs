//! Which process this is, for whoever has to notice that it was forked.
//!
//! The kernel would say, but a system call for each request is more than the answer is worth. What
//! a reader would get wrong: the id is kept only once the C library was asked to tell of forks, so
//! that no child takes itself for its parent; only other handlers of the fork itself still may.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// This process's id, as [`std::process::id`] has it.
///
/// A child of `fork` gets its own. One that was made by a bare system call, behind the C library's
/// back, is given its parent's.
pub fn process_id() -> u32 {
    match ID.load(Ordering::Relaxed) {
        0 => ask(),
        id => id,
    }
}

/// Asks the kernel, and keeps what it said if we will be told of forks.
#[cold]
fn ask() -> u32 {
    let id = std::process::id();
    if !IS_BEING_ARRANGED.swap(true, Ordering::Relaxed) {
        // SAFETY: what is to run in a child only stores to an atomic, which is allowed there.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(forget)) };
        IS_TOLD.store(failed == 0, Ordering::Release);
    }
    if IS_TOLD.load(Ordering::Acquire) {
        ID.store(id, Ordering::Relaxed);
    }
    id
}

extern "C" fn forget() {
    ID.store(0, Ordering::Relaxed);
}

/// 0 if it is not kept.
static ID: AtomicU32 = AtomicU32::new(0);
static IS_BEING_ARRANGED: AtomicBool = AtomicBool::new(false);
/// Whether `forget` is called in every child.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "needs fork")]
    fn a_forked_child_and_its_child_know_that_they_are_others() {
        for _ in 0..3 {
            assert_eq!(process_id(), std::process::id());
        }
        assert_ne!(ID.load(Ordering::Relaxed), 0, "the kernel is asked each time");
        assert_eq!(in_a_child(|| is_own_id() && in_a_child(is_own_id) == 0), 0);
        assert_eq!(process_id(), std::process::id());
    }

    fn is_own_id() -> bool {
        process_id() == std::process::id() && process_id() == ID.load(Ordering::Relaxed)
    }

    /// The exit status of a child that finds out whether it `holds`: 0 if it does.
    fn in_a_child(holds: impl Fn() -> bool) -> i32 {
        // SAFETY: the child only loads and stores atomics, forks, waits and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(!holds());
            // SAFETY: ends the child, and runs nothing of the parent's on the way.
            unsafe { libc::_exit(status) };
        }
        assert!(child > 0, "fork: {}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the status is ours to write.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    }
}
