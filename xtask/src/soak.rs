//! `cargo xtask soak`: many clients of every sort at once, for a while.
//!
//! Every answer must be the one that the same request got alone, also where the client has closed its
//! sending side; only a whole answer may be refused then, with a status and counted. Memory must not grow once the server
//! is warm; a SIGTERM in the middle must let running answers finish.

mod client;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::server::Server;
use client::{Client, Manner, Random};

/// Clients at a time.
const N_CLIENTS: u64 = 64;
/// Different requests.
const N_QUESTIONS: u64 = 12;
/// After this time the server is warm.
const WARM: Duration = Duration::from_secs(60);
/// How much memory may grow afterwards, for caches of the allocator.
const SLACK_BYTES: u64 = 6 << 20;
const FLAGS: [&str; 10] = [
    "--parallel",
    "16",
    "--ctx",
    "512",
    "--max-body",
    "1",
    "--write-timeout",
    "10",
    "--log-level",
    "error",
];

/// What clients report.
#[derive(Default)]
pub struct Tally {
    answers: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    halves: AtomicU64,
    /// Of those, whole answers that the server did not go on with, and said so.
    gone: AtomicU64,
    /// Microseconds between tokens.
    gaps: Mutex<Vec<u32>>,
    /// The first thing that went wrong.
    wrong: Mutex<Option<String>>,
    /// The server is being told to end, so that new requests may be refused.
    ending: AtomicBool,
}

/// Runs the clients for `seconds` and prints what happened; returns whether all was right.
pub fn run(root: &Path, seconds: u64) -> Result<bool> {
    let server = Server::start(root, &FLAGS)?;
    let client = Client::new(server.address());
    let expected: Vec<String> = (0..N_QUESTIONS)
        .map(|question| client.answer_alone(question))
        .collect::<Result<_>>()
        .context("alone")?;
    let tally = Tally::default();
    let time = Duration::from_secs(seconds);
    let begin = Instant::now();
    let memory = std::thread::scope(|scope| {
        for seed in 0..N_CLIENTS {
            let (client, expected, tally) = (&client, &expected, &tally);
            scope.spawn(move || {
                let mut random = Random::new(seed + 1);
                while !tally.is_over() {
                    if let Err(error) = one(client, expected, tally, &mut random) {
                        tally.fail(format!("{error:#}"));
                    }
                }
            });
        }
        let memory = watch(&server, &tally, begin, time);
        let memory = memory.and_then(|memory| tally.check_gone(&client).map(|()| memory));
        tally.ending.store(true, Ordering::SeqCst);
        memory.and_then(|memory| server.tell_to_end().map(|()| memory))
    });
    server.wait().context("after SIGTERM")?;
    report(&tally, memory?, begin.elapsed())
}

/// Watches the server's memory until the time is over: when it was warm, and at the end.
fn watch(server: &Server, tally: &Tally, begin: Instant, time: Duration) -> Result<(u64, u64)> {
    let warm = WARM.min(time / 2);
    let (mut at_warm, mut now) = (0, 0);
    while begin.elapsed() < time && !tally.has_failed() {
        std::thread::sleep(Duration::from_millis(500));
        now = server.resident_bytes()?;
        if begin.elapsed() < warm {
            at_warm = at_warm.max(now);
        }
    }
    Ok((at_warm, now))
}

/// One client's turn: most stream an answer, some misbehave.
fn one(client: &Client, expected: &[String], tally: &Tally, random: &mut Random) -> Result<()> {
    let question = random.below(N_QUESTIONS);
    let right = |text: &str| {
        let alone = &expected[question as usize];
        ensure!(
            text == alone,
            "question {question} was answered with {text:?}, alone with {alone:?}"
        );
        Ok(())
    };
    let ok = match random.below(20) {
        0 => client
            .cancel(question, random)
            .map(|()| tally.cancelled.fetch_add(1, Ordering::Relaxed)),
        1 => client.malformed(random).map(|()| tally.refused.fetch_add(1, Ordering::Relaxed)),
        2 => client.oversized().map(|()| tally.refused.fetch_add(1, Ordering::Relaxed)),
        3 if random.below(2) == 0 => client.half_closed_whole(question).and_then(|text| {
            match text {
                Some(text) => right(&text)?,
                None => drop(tally.gone.fetch_add(1, Ordering::Relaxed)),
            }
            Ok(tally.halves.fetch_add(1, Ordering::Relaxed))
        }),
        kind => {
            let (manner, counter) = match kind {
                3 => (Manner::HalfClosed, &tally.halves),
                4 => (Manner::Slow, &tally.answers),
                _ => (Manner::Quick, &tally.answers),
            };
            client.stream(question, manner, &tally.gaps).and_then(|text| {
                right(&text)?;
                Ok(counter.fetch_add(1, Ordering::Relaxed))
            })
        }
    };
    match ok {
        Ok(_) => Ok(()),
        // Refused connections and 503 are what a server that ends owes to new requests.
        Err(error) if tally.ending.load(Ordering::SeqCst) && client::is_refusal(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn report(tally: &Tally, (at_warm, now): (u64, u64), time: Duration) -> Result<bool> {
    if let Some(wrong) = tally.wrong.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.take() {
        bail!("a client failed: {wrong}");
    }
    let mut gaps = tally.gaps.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    gaps.sort_unstable();
    let at = |share: f64| gaps.get((gaps.len() as f64 * share) as usize).copied().unwrap_or(0);
    let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "soak: {:.0} s, {} answers, {} cancelled, {} refused, {} half closed ({} told that they \
         were taken for gone), {} tokens timed",
        time.as_secs_f64(),
        n(&tally.answers),
        n(&tally.cancelled),
        n(&tally.refused),
        n(&tally.halves),
        n(&tally.gone),
        gaps.len(),
    );
    println!(
        "soak: between tokens p50 {:.1} ms, p99 {:.1} ms; memory {:.1} MiB warm, {:.1} MiB at the end",
        f64::from(at(0.5)) / 1e3,
        f64::from(at(0.99)) / 1e3,
        mib(at_warm),
        mib(now),
    );
    ensure!(
        now <= at_warm + SLACK_BYTES,
        "memory grew from {:.1} to {:.1} MiB",
        mib(at_warm),
        mib(now)
    );
    ensure!(n(&tally.answers) > 0, "there was no answer at all");
    Ok(true)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Tally {
    fn fail(&self, what: String) {
        if let Ok(mut wrong) = self.wrong.lock() {
            wrong.get_or_insert(what);
        }
    }

    /// Every client that was taken for gone is counted by the server.
    fn check_gone(&self, client: &Client) -> Result<()> {
        let told = self.gone.load(Ordering::Relaxed);
        let counted = client.n_gone()?;
        ensure!(counted >= told, "{told} clients were taken for gone, {counted} are counted");
        Ok(())
    }

    fn has_failed(&self) -> bool {
        self.wrong.lock().is_ok_and(|wrong| wrong.is_some())
    }

    /// Whether clients stop: something is wrong, or the server is told to end.
    fn is_over(&self) -> bool {
        self.has_failed() || self.ending.load(Ordering::SeqCst)
    }
}
