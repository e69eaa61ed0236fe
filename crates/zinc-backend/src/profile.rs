//! What executables measure of themselves, and how fast memory can be read at all.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// What an executable measures while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profiling {
    /// Nothing, at no cost.
    #[default]
    Off,
    /// Steps run as always; what they hand to the device is counted.
    Steps,
    /// Nodes run one after the other with their times taken. A step takes longer so, and is handed
    /// over in parts.
    Nodes,
}

/// Time spent in neighbouring nodes of the plan that a device computes as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeTime {
    /// Indices in `Plan::nodes`; together the spans of a step are all nodes, in order.
    pub nodes: Range<usize>,
    /// Time from start to end.
    pub time: Duration,
    /// What computed them, each with its shape; empty where the device does not tell.
    pub kernels: Vec<String>,
}

/// What an executable measured of the newest step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Profile {
    /// How often the step handed work to the device: a graph, a kernel, a walk through the nodes.
    pub n_submissions: u64,
    /// Copies to and from the device that it asked for besides.
    pub n_copies: u64,
    /// Times of the nodes under [`Profiling::Nodes`]. Which nodes are computed as one may depend on the
    /// size of the step.
    pub nodes: Vec<NodeTime>,
}

/// Passes over the memory; the fastest counts.
const N_PASSES: usize = 5;

/// Bytes per second that `n_threads` threads read from the machine's memory together. They read
/// `n_bytes` in all, which should be several times what caches hold.
pub fn host_read_bandwidth(n_threads: usize, n_bytes: usize) -> f64 {
    let n_threads = n_threads.max(1);
    let n_words = (n_bytes / size_of::<u64>() / n_threads).max(1);
    let barrier = Barrier::new(n_threads);
    let read = || {
        // Made by the thread that reads it, so that it lies near it.
        let words: Vec<u64> = (0..n_words as u64).collect();
        let mut spans = [(Instant::now(), Instant::now()); N_PASSES];
        for span in &mut spans {
            barrier.wait();
            let begin = Instant::now();
            black_box(sum(black_box(&words)));
            *span = (begin, Instant::now());
        }
        spans
    };
    let spans: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..n_threads).map(|_| scope.spawn(read)).collect();
        let own = read();
        let others = threads.into_iter().filter_map(|thread| thread.join().ok());
        std::iter::once(own).chain(others).collect()
    });
    let read_bytes = (n_words * size_of::<u64>() * spans.len()) as f64;
    let pass_seconds = (0..N_PASSES).filter_map(|pass| {
        let begin = spans.iter().map(|span| span[pass].0).min()?;
        let end = spans.iter().map(|span| span[pass].1).max()?;
        Some((end - begin).as_secs_f64())
    });
    read_bytes / pass_seconds.fold(f64::INFINITY, f64::min).max(1e-9)
}

/// Sum of `words`, in as many chains as keep loads in flight.
fn sum(words: &[u64]) -> u64 {
    const N_CHAINS: usize = 32;
    let mut sums = [0u64; N_CHAINS];
    for chunk in words.chunks_exact(N_CHAINS) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_some_speed() {
        for n_threads in [0, 1, 3] {
            let bandwidth = host_read_bandwidth(n_threads, 1 << 16);
            assert!(bandwidth.is_finite() && bandwidth > 0.0, "{n_threads}: {bandwidth}");
        }
        assert_eq!(sum(&(0..64).collect::<Vec<_>>()), 63 * 64 / 2);
    }
}
