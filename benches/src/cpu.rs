//! CPU time of another process, to the microsecond.
//!
//! The kernel tells the time of a process in steps of 10 ms, but that of each of its threads to the
//! nanosecond. What a reader would get wrong: threads that ended are not in the sum, so this is for
//! servers whose threads live as long as they do.

use std::fs;
use std::io;

use larder_transport::process;

/// CPU time of all threads that `pid` has now, in microseconds.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time_us(pid: u32) -> io::Result<u64> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the two; its time is lost.
        let path = thread?.path().join("schedstat");
        nanos += fs::read_to_string(path).ok().as_deref().and_then(on_cpu_ns).unwrap_or(0);
    }
    // A kernel that was built without these figures tells zeros.
    if nanos == 0 { process::cpu_time_us(Some(pid)) } else { Ok(nanos / 1000) }
}

/// The first of three numbers: time on a core; then time waiting for one, and how often it had one.
fn on_cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_is_counted_and_a_missing_process_is_an_error() {
        assert_eq!(on_cpu_ns("2269948 17 1\n"), Some(2_269_948));
        assert_eq!(on_cpu_ns(""), None);
        let before = cpu_time_us(std::process::id()).unwrap();
        let until = Instant::now() + Duration::from_millis(30);
        while Instant::now() < until {}
        let used = cpu_time_us(std::process::id()).unwrap() - before;
        assert!(used > 1000, "{used} us");
        cpu_time_us(u32::MAX).unwrap_err();
    }
}
