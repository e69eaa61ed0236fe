//! The threads, the way a step is handed to them, and the barrier inside a step.
//!
//! [`Pool::run`] calls one closure on every worker at once, the calling thread being worker 0, and returns when all are
//! done. Inside, workers meet at [`Worker::barrier`]. Waiting is a short spin and then sleep on a condition variable:
//! barriers are usually microseconds apart, but an idle pool, or one with more threads than free cores, burns nothing.
//! A panic in a worker releases everybody and comes back as an error; the pool stays usable.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Polls before a waiting thread goes to sleep: some tens of microseconds, the order of a sleep and wake-up.
const SPINS: u32 = 1000;

/// A worker panicked; what it said.
#[derive(Debug)]
pub(crate) struct Panicked(pub String);

/// Another worker panicked while this one waited.
#[derive(Debug)]
pub(crate) struct Aborted;

/// Lets threads wait for a condition over atomics.
#[derive(Default)]
struct Gate {
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    fn wait_until(&self, condition: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if condition() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.lock);
        while !condition() {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// To be called after the condition has become true.
    fn open(&self) {
        // Whoever saw the condition false under the lock is waiting by the time the lock is free.
        drop(lock(&self.lock));
        self.opened.notify_all();
    }
}

/// The data under these locks is `()` or replaced whole, so a panic cannot leave it half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Job = dyn Fn(&Worker<'_>) + Sync;

struct Shared {
    n_threads: usize,
    /// Counts the jobs; a change starts the workers.
    epoch: AtomicUsize,
    start: Gate,
    job: Mutex<Option<&'static Job>>,
    /// Workers that have not finished the job.
    running: AtomicUsize,
    finished: Gate,
    shutdown: AtomicBool,
    aborted: AtomicBool,
    panic: Mutex<Option<Panicked>>,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    barrier: Gate,
}

/// One thread's part in a running job.
pub(crate) struct Worker<'a> {
    /// 0 to `n_threads - 1`.
    pub idx: usize,
    shared: &'a Shared,
}

impl Worker<'_> {
    /// Waits until all workers are here; what they wrote before is visible after.
    ///
    /// # Errors
    /// A worker panicked and will never come; return from the job.
    pub(crate) fn barrier(&self) -> Result<(), Aborted> {
        let shared = self.shared;
        if shared.n_threads > 1 {
            let generation = shared.generation.load(Ordering::Acquire);
            if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.n_threads {
                shared.arrived.store(0, Ordering::Relaxed);
                shared.generation.store(generation.wrapping_add(1), Ordering::Release);
                shared.barrier.open();
            } else {
                shared.barrier.wait_until(|| {
                    shared.generation.load(Ordering::Acquire) != generation
                        || shared.aborted.load(Ordering::Acquire)
                });
            }
        }
        if shared.aborted.load(Ordering::Acquire) { Err(Aborted) } else { Ok(()) }
    }
}

impl Shared {
    fn work(&self, idx: usize, job: &Job) {
        let worker = Worker { idx, shared: self };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(&worker))) {
            lock(&self.panic).get_or_insert(Panicked(message(payload.as_ref())));
            self.aborted.store(true, Ordering::Release);
            self.barrier.open();
        }
    }

    fn worker_loop(&self, idx: usize) {
        let mut seen = 0;
        loop {
            self.start.wait_until(|| {
                self.epoch.load(Ordering::Acquire) != seen || self.shutdown.load(Ordering::Acquire)
            });
            if self.shutdown.load(Ordering::Acquire) {
                return;
            }
            seen = self.epoch.load(Ordering::Acquire);
            let job = *lock(&self.job);
            if let Some(job) = job {
                self.work(idx, job);
            }
            if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finished.open();
            }
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a worker panicked".into())
}

/// Threads that wait for jobs.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

impl Pool {
    /// `n_threads` workers, at least one, the caller of `run` included.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new(n_threads: usize) -> std::io::Result<Pool> {
        let n_threads = n_threads.max(1);
        let shared = Arc::new(Shared {
            n_threads,
            epoch: AtomicUsize::new(0),
            start: Gate::default(),
            job: Mutex::new(None),
            running: AtomicUsize::new(0),
            finished: Gate::default(),
            shutdown: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            panic: Mutex::new(None),
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            barrier: Gate::default(),
        });
        let mut pool =
            Pool { shared, threads: Vec::with_capacity(n_threads - 1), turn: Mutex::new(()) };
        for idx in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("zinc-cpu-{idx}"));
            pool.threads.push(thread.spawn(move || shared.worker_loop(idx))?);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub(crate) fn n_threads(&self) -> usize {
        self.shared.n_threads
    }

    /// Runs `job` on all workers; a second caller waits its turn. Must not be called from inside a job.
    ///
    /// # Errors
    /// What the first panicking worker said.
    pub(crate) fn run(&self, job: &(dyn Fn(&Worker<'_>) + Sync + '_)) -> Result<(), Panicked> {
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.aborted.store(false, Ordering::Relaxed);
        shared.arrived.store(0, Ordering::Relaxed);
        // SAFETY: the reference is only used by workers during this call: `running` counts them, and this function
        // does not return or unwind (`work` catches panics) before it is zero and the slot is empty again.
        let job =
            unsafe { std::mem::transmute::<&(dyn Fn(&Worker<'_>) + Sync + '_), &'static Job>(job) };
        if !self.threads.is_empty() {
            *lock(&shared.job) = Some(job);
            shared.running.store(self.threads.len(), Ordering::Relaxed);
            shared.epoch.fetch_add(1, Ordering::Release);
            shared.start.open();
        }
        shared.work(0, job);
        if !self.threads.is_empty() {
            shared.finished.wait_until(|| shared.running.load(Ordering::Acquire) == 0);
            *lock(&shared.job) = None;
        }
        lock(&shared.panic).take().map_or(Ok(()), Err)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        self.shared.start.open();
        for thread in self.threads.drain(..) {
            // A worker catches its panics, so there is nothing to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_run_and_meet() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            let count = AtomicUsize::new(0);
            for round in 1..200 {
                let result = pool.run(&|worker| {
                    for phase in 1..=3 {
                        count.fetch_add(1, Ordering::Relaxed);
                        worker.barrier().unwrap();
                        let so_far = ((round - 1) * 3 + phase) * n_threads;
                        assert!(
                            count.load(Ordering::Relaxed) >= so_far,
                            "worker {} went early",
                            worker.idx
                        );
                        worker.barrier().unwrap();
                    }
                });
                assert!(result.is_ok());
                assert_eq!(count.load(Ordering::Relaxed), round * 3 * n_threads);
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_survives() {
        let pool = Pool::new(3).unwrap();
        for panicking in 0..3 {
            let result = pool.run(&|worker| {
                assert!(worker.idx != panicking, "worker {panicking} fails");
                while worker.barrier().is_ok() {}
            });
            assert_eq!(result.unwrap_err().0, format!("worker {panicking} fails"));
            assert!(pool.run(&|worker| worker.barrier().unwrap()).is_ok());
        }
    }
}
