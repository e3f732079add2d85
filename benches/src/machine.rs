//! Where numbers were measured, and how much memory is colder than its caches.
//!
//! A result without its machine cannot be compared, so every JSON output carries this.

use std::fs;

use serde::Serialize;

/// The machine and the program that ran on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor, as the kernel names it.
    pub cpu: String,
    /// Bytes of the largest cache, 0 if unknown.
    pub cache_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of this program.
    pub version: &'static str,
    /// Whether the program was compiled for speed; numbers of another build mean nothing.
    pub is_release: bool,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu_model(&cpuinfo).unwrap_or("unknown").to_owned(),
            cache_bytes: largest_cache_bytes(),
            kernel: kernel.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            is_release: !cfg!(debug_assertions),
        }
    }

    /// How many bytes must be gone through before the first are out of every cache: four times the
    /// largest, 256 MiB where that is unknown, and no more than an eighth of the free memory.
    pub fn cold_bytes(&self) -> u64 {
        let wanted = self.cache_bytes.saturating_mul(4).max(COLD_BYTES_MIN);
        let free = larder_transport::process::memory_available_bytes().unwrap_or(u64::MAX);
        wanted.min(free / 8).max(COLD_BYTES_LEAST)
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn largest_cache_bytes() -> u64 {
    let file = |index| format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
    (0..8)
        .filter_map(|index| cache_bytes(&fs::read_to_string(file(index)).ok()?))
        .max()
        .unwrap_or(0)
}

/// `32K` or `36M`, as the kernel writes it.
fn cache_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

const COLD_BYTES_MIN: u64 = 256 << 20;
const COLD_BYTES_LEAST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(cache_bytes("32K\n"), Some(32 << 10));
        assert_eq!(cache_bytes("36M"), Some(36 << 20));
        for text in ["", "K", "32", "x K"] {
            assert_eq!(cache_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn this_machine_has_a_core_and_cold_memory() {
        let machine = Machine::this();
        assert!(machine.cores >= 1);
        assert!(machine.cold_bytes() >= COLD_BYTES_LEAST);
        assert_eq!(cpu_model("model name\t: X 5\nflags: y"), Some("X 5"));
    }
}
