//! What a process has used and what it may still use, as the kernel counts it.
//!
//! What a reader would get wrong: the memory that is left is not what the host has left. A
//! container is killed at its cgroup's limit, long before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The user that this process acts as.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// User and system CPU time since the process started, in microseconds; `None` means this process.
///
/// Threads that ended are included. Of another process the kernel tells it in clock ticks only, so
/// the answer is a multiple of 10 ms there.
///
/// # Errors
///
/// If there is no such process, or its figures cannot be read.
pub fn cpu_time_us(pid: Option<u32>) -> io::Result<u64> {
    match pid {
        None => own_cpu_time_us(),
        Some(pid) => {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let ticks = cpu_ticks(&stat).ok_or_else(|| odd("/proc/PID/stat"))?;
            Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
        }
    }
}

/// The calling thread, as the kernel numbers threads; never 0.
pub fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// What a thread has had of the processors, and what it does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadUse {
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// As the kernel has it: `R` runs, or would if it were given a core, `S` sleeps, `D` waits for
    /// the kernel.
    pub state: char,
    /// How long it has run.
    pub ran: Duration,
}

impl ThreadUse {
    /// Whether it runs, or would if it were given a core.
    pub const fn is_runnable(&self) -> bool {
        self.state == 'R'
    }
}

/// What thread `id` of this process has had so far.
///
/// # Errors
///
/// If there is no such thread, or the kernel keeps no account of it.
pub fn thread_use(id: u32) -> io::Result<ThreadUse> {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{id}/{file}"));
    let ran_ns = nth_number(&read("schedstat")?, 0).ok_or_else(|| odd("schedstat"))?;
    let (name, state) = name_and_state(&read("stat")?).ok_or_else(|| odd("stat of a thread"))?;
    Ok(ThreadUse { name, state, ran: Duration::from_nanos(ran_ns) })
}

/// The threads of this process, as [`thread_id`] numbers them; some may have ended since.
///
/// # Errors
///
/// If the kernel does not list them.
pub fn threads() -> io::Result<Vec<u32>> {
    let tasks = fs::read_dir("/proc/self/task")?;
    Ok(tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Memory of a process that is present right now, in bytes; `None` means this process.
///
/// A region counts as soon as it is touched, which is at start.
///
/// # Errors
///
/// If there is no such process, or its figures cannot be read.
pub fn rss_bytes(pid: Option<u32>) -> io::Result<u64> {
    let path = pid.map_or_else(|| "/proc/self/statm".into(), |pid| format!("/proc/{pid}/statm"));
    let statm = fs::read_to_string(path)?;
    let pages: u64 = nth_number(&statm, 1).ok_or_else(|| odd("/proc/PID/statm"))?;
    Ok(pages * page_bytes())
}

/// How long a page of the host's memory is, in bytes: 4,096 on most, 65,536 on some ARM.
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// How many descriptors this process may have open: `(now, at most)`, the second being what it may
/// raise the first to. `u64::MAX` where there is no limit.
pub fn open_files_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the limit of open descriptors as far as it goes; the limit after that.
///
/// # Errors
///
/// If the kernel refuses.
pub fn raise_open_files_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(open_files_limit().0)
}

/// Memory this process could take now without swapping, and without being killed, in bytes: what
/// the host has available, or the tightest cgroup (version 2) it is in.
///
/// # Errors
///
/// If `/proc/meminfo` cannot be read.
pub fn memory_available_bytes() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let host = meminfo_bytes(&meminfo, "MemAvailable:").ok_or_else(|| odd("/proc/meminfo"))?;
    let cgroup = own_cgroup().map_or(u64::MAX, |path| cgroup_room_bytes(&path));
    Ok(host.min(cgroup))
}

fn own_cpu_time_us() -> io::Result<u64> {
    use std::mem::MaybeUninit;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory of the right size, and writable.
    let answer = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getrusage succeeded, so it filled the whole structure.
    let usage = unsafe { usage.assume_init() };
    let us = |time: libc::timeval| {
        u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).map_err(|_| odd("getrusage"))
    };
    Ok(us(usage.ru_utime)? + us(usage.ru_stime)?)
}

/// utime + stime of `/proc/PID/stat`. The second field is the command's name in brackets, and may
/// hold spaces and brackets itself.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(nth_number(after_name, 11)? + nth_number(after_name, 12)?)
}

/// The name stands in brackets and may hold any.
fn name_and_state(stat: &str) -> Option<(String, char)> {
    let (before, after) = stat.rsplit_once(')')?;
    Some((before.split_once('(')?.1.to_owned(), after.trim_start().chars().next()?))
}

fn nth_number(words: &str, n: usize) -> Option<u64> {
    words.split_ascii_whitespace().nth(n)?.parse().ok()
}

fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(nth_number(line, 0)? * 1024)
}

fn own_cgroup() -> Option<PathBuf> {
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(CGROUP_ROOT).join(path))
}

/// The least that any group from this one up has left; no limit where the files are not there.
fn cgroup_room_bytes(path: &Path) -> u64 {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = path.ancestors().take_while(|group| group.starts_with(CGROUP_ROOT));
    let rooms = groups.filter_map(|group| {
        let most = number(group.join("memory.max"))?;
        Some(most.saturating_sub(number(group.join("memory.current"))?))
    });
    rooms.min().unwrap_or(u64::MAX)
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not as documented"))
}

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before_us = cpu_time_us(None).unwrap();
        let mut sum = 0u64;
        while cpu_time_us(None).unwrap() < before_us + 30_000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let as_told_by_proc_us = cpu_time_us(Some(std::process::id())).unwrap();
        assert!(as_told_by_proc_us >= 20_000, "{as_told_by_proc_us}");
    }

    #[test]
    fn a_name_with_spaces_and_brackets_is_no_number() {
        let stat = "7 (a b) 1 2) S 1 7 7 0 -1 4194560 2 0 0 0 11 22 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(33));
        assert_eq!(cpu_ticks("7 (a"), None);
        assert_eq!(name_and_state(stat), Some(("a b) 1 2".into(), 'S')));
        assert_eq!(name_and_state("7 (a) "), None);
    }

    #[test]
    fn a_thread_that_runs_and_one_that_waits_are_told_apart() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waits = move || {
            tell.send(thread_id()).unwrap();
            ended.recv().unwrap_err();
        };
        let waits = std::thread::Builder::new().name("waits (long)".into()).spawn(waits).unwrap();
        let id = told.recv().unwrap();
        let sleeps = || thread_use(id).unwrap().state == 'S';
        while !sleeps() {
            std::thread::yield_now();
        }
        let (mine, its) = (thread_use(thread_id()).unwrap(), thread_use(id).unwrap());
        assert!(mine.is_runnable() && mine.ran > Duration::ZERO);
        assert!(!its.is_runnable() && its.name == "waits (long)");
        assert!([thread_id(), id].iter().all(|id| threads().unwrap().contains(id)));
        drop(end);
        waits.join().unwrap();
        // The kernel may list it for a moment more.
        while thread_use(id).is_ok() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert_eq!(cpu_time_us(Some(u32::MAX)).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(rss_bytes(Some(u32::MAX)).is_err());
    }

    #[test]
    fn this_process_has_memory_and_may_open_files() {
        assert!(rss_bytes(None).unwrap() > 1 << 16);
        let (now, most) = open_files_limit();
        assert!(now >= 3 && most >= now);
        let available = memory_available_bytes().unwrap();
        assert!(available > 0);
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let meminfo = "MemTotal:       1000 kB\nMemAvailable:    12 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemAvailable:"), Some(12_288));
        assert_eq!(meminfo_bytes(meminfo, "Swap:"), None);
    }
}
