//! Which cores the shards stay on, when they shall stay on some.
//!
//! Only cores that this process may use count (cpuset, `taskset`), and their numbers need not start
//! at 0. Two nodes that may use the same cores choose the same ones: give each its own, or turn
//! pinning off.

/// A core for each shard, or none at all if none would be left over: a shard that stays on a core
/// waits there for whoever else is on it.
pub(super) fn spare_cores_for(shards: u16) -> Vec<usize> {
    let cores = cores_for(u32::from(shards) + 1).map(|cores| cores[1..].to_vec());
    cores.unwrap_or_default()
}

/// So many cores, if there are as many.
pub(super) fn cores_for(shards: u32) -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cores: Vec<_> = allowed(&status).take(shards as usize).collect();
    (cores.len() == shards as usize).then_some(cores)
}

/// The cores of the line `Cpus_allowed_list: 0-3,8`; what cannot be read is left out.
fn allowed(status: &str) -> impl Iterator<Item = usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.unwrap_or_default().trim().split(',');
    ranges.flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => first..last + 1,
            _ => 0..0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_cores_is_read() {
        let cores = |list: &str| {
            let status =
                format!("Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t{list}\nMems:\t0\n");
            allowed(&status).collect::<Vec<_>>()
        };
        assert_eq!(cores("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cores("5"), [5]);
        assert!(cores("").is_empty() && cores("x-y").is_empty());
        assert_eq!(allowed("").count(), 0);
    }

    #[test]
    fn this_process_has_a_core_but_not_a_thousand() {
        assert_eq!(cores_for(1).unwrap().len(), 1);
        assert_eq!(cores_for(60_000), None);
        assert!(spare_cores_for(60_000).is_empty());
        // Not what a quota leaves of them.
        let all = allowed(&std::fs::read_to_string("/proc/self/status").unwrap()).count();
        assert!(spare_cores_for(all as u16).is_empty(), "none would be left over");
        assert_eq!(spare_cores_for(all as u16 - 1).len(), all - 1);
    }
}
