//! Facts about the machine, as far as the operating system tells.

use std::collections::BTreeSet;
use std::fs;

/// Model name of the processor.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        ["model name", "Model"].contains(&key.trim()).then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// Bytes of memory: all, and what could be had now. Zero where the system does not tell.
pub(crate) fn memory() -> (u64, u64) {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 =
            line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    let (total, free) = (field("MemTotal").unwrap_or(0), field("MemAvailable").unwrap_or(0));
    // A container may have less than the machine.
    let cgroup = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    match cgroup("memory.max") {
        Some(limit) if limit < total => {
            let stat = fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
            let used = cgroup("memory.current").unwrap_or(0).saturating_sub(file_pages(&stat));
            (limit, free.min(limit.saturating_sub(used)))
        }
        _ => (total, free),
    }
}

/// Bytes of a group's memory that hold parts of files, a mapped model among them: they are in use and can be had, as
/// `MemAvailable` counts them.
fn file_pages(stat: &str) -> u64 {
    let value = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(' ')?;
        ["inactive_file", "active_file"].contains(&name).then(|| value.trim().parse().ok())?
    };
    stat.lines().filter_map(value).sum()
}

/// Threads worth running: physical cores that this process may use. A second thread on a core shares its vector
/// units and its cache, and the kernels keep both busy.
pub(crate) fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical_cores().map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// Cores among the processors this process may run on.
fn physical_cores() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = BTreeSet::new();
    for processor in parse_list(list.trim())? {
        let path = format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
        cores.insert(fs::read_to_string(path).ok()?);
    }
    Some(cores.len())
}

/// Numbers of a list such as `0-3,8`.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        numbers.extend(first..=last.min(first + 4096));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_can_be_had() {
        let stat = "anon 100\nfile 90\ninactive_file 30\nactive_file 12\nunevictable 0\n";
        assert_eq!(file_pages(stat), 42);
        assert_eq!(file_pages(""), 0);
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list("7"), Some(vec![7]));
        assert_eq!(parse_list("x"), None);
        assert!(default_threads() >= 1);
        assert!(!processor().is_empty());
    }
}
