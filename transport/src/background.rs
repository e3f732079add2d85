//! Threads that work for others, and are not to stop those who wake them.
//!
//! What a reader would get wrong: such a thread is not less important, and gets its full share of
//! the processor. Only its start is different: if the kernel wakes it on the core of whoever woke
//! it, it waits until that thread sleeps or its slice is over, instead of taking its place.

use std::mem::MaybeUninit;

/// From now on the calling thread does not take the core of a thread by being woken.
///
/// Answers whether that is so now and was not before. Where it may not be asked for, or where
/// somebody has chosen how this thread is scheduled, all stays as it was.
pub fn give_way_when_woken() -> bool {
    // SAFETY: it reads the scheduling of the calling thread, and takes no memory.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return false;
    }
    // SAFETY: all of it is numbers, for which zero is a value.
    let parameter: libc::sched_param = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the parameter lives through the call, which changes the calling thread alone.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) };
    failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_alone_and_once() {
        let policy = || {
            // Field 41 of the line, the 39th behind the name in brackets: 3 is a batch's.
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let mut fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace();
            fields.nth(38).unwrap().parse::<i32>().unwrap()
        };
        let before = policy();
        let thread = std::thread::spawn(move || {
            let is_changed = give_way_when_woken();
            let now = if is_changed { libc::SCHED_BATCH } else { before };
            assert_eq!(policy(), now);
            assert!(!is_changed || !give_way_when_woken());
        });
        thread.join().unwrap();
        assert_eq!(policy(), before);
    }
}
