//! Numbers in messages, and room on disks.

use std::path::Path;

/// `1536` as `1.5 KiB`.
pub fn human_bytes(n_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n_bytes as f64, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n_bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Bytes that this user can still write to the disk of `path` or of its nearest parent that exists;
/// `None` where the system does not tell.
pub fn free_space(path: &Path) -> Option<u64> {
    free_at(path.ancestors().find(|path| path.exists())?)
}

#[cfg(unix)]
fn free_at(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free_at(_: &Path) -> Option<u64> {
    None
}
