//! Names for requests and answers, and the time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other answer of this process has, and most probably none of another process:
/// 24 characters behind `prefix`.
pub fn new(prefix: &str) -> String {
    static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut hasher = RANDOM.build_hasher();
    hasher.write_u64(count);
    format!("{prefix}{:016x}{:08x}", hasher.finish(), count as u32)
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_differ() {
        let (a, b) = (super::new("chatcmpl-"), super::new("chatcmpl-"));
        assert_ne!(a, b);
        assert_eq!(a.len(), "chatcmpl-".len() + 24);
    }
}
