//! Room on disks.

use std::path::Path;

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
