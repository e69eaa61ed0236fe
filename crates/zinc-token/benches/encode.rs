//! Encoding speed: `cargo bench -p zinc-token --bench encode [-- VOCABULARY.gguf ...]`.
//!
//! For each vocabulary (those named, else all under `ZINC_SHARED`'s `vocab/`): load time; MB/s on `corpus.txt` repeated to
//! 8 MB, which the word cache flatters; MB/s on the same text with every word made unlike all others, which it cannot
//! help; and milliseconds for hostile inputs of 1 MB and 2 MB with their ratio, which is about 2 where time is linear.
//! Times are of this thread on a processor where Linux tells them, so that other work on the machine disturbs less.

use std::path::{Path, PathBuf};
use std::time::Instant;

use zinc_gguf::Gguf;
use zinc_token::{EncodeOptions, Tokenizer};

const CORPUS_BYTES: usize = 8_000_000;
const HOSTILE_BYTES: usize = 1_000_000;

fn main() {
    let shared = match std::env::var_os("ZINC_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let folder = shared.join("vocab");
    let corpus = std::fs::read_to_string(folder.join("corpus.txt")).unwrap_or_default();
    if corpus.is_empty() {
        eprintln!("skipped: no corpus.txt in {}", folder.display());
        return;
    }
    let named = std::env::args().skip(1).filter(|argument| argument.ends_with(".gguf"));
    let mut paths: Vec<PathBuf> = named.map(PathBuf::from).collect();
    if paths.is_empty() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        paths = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
            .collect();
        paths.sort();
    }
    let repeated = corpus.repeat(CORPUS_BYTES / corpus.len() + 1);
    let fresh = fresh(&corpus);
    for path in paths {
        measure(&path, &repeated, &fresh);
    }
}

/// The corpus to 8 MB, with a different number written in letters behind every word.
fn fresh(corpus: &str) -> String {
    let mut text = String::with_capacity(CORPUS_BYTES + 100);
    let mut n_words = 0u32;
    while text.len() < CORPUS_BYTES {
        for word in corpus.split_inclusive(' ') {
            let (word, blank) = word.strip_suffix(' ').map_or((word, ""), |word| (word, " "));
            text.push_str(word);
            if word.chars().last().is_some_and(char::is_alphabetic) {
                let mut n = n_words;
                while n > 0 {
                    text.push((b'a' + (n % 26) as u8) as char);
                    n /= 26;
                }
                n_words += 1;
            }
            text.push_str(blank);
        }
    }
    text
}

fn measure(path: &Path, repeated: &str, fresh: &str) {
    let file = match Gguf::open(path) {
        Ok(file) => file,
        Err(error) => return eprintln!("skipped: {}: {error}", path.display()),
    };
    let start = Instant::now(); // loading uses several threads
    let tokenizer = match Tokenizer::from_gguf(file.metadata()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return eprintln!("skipped: {}: {error}", path.display()),
    };
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    println!("{name}: {} tokens, load {load_ms:.0} ms", tokenizer.vocab().n_tokens());
    for (what, text) in [("corpus", repeated), ("fresh words", fresh)] {
        let best = (0..3).map(|_| seconds(&tokenizer, text)).fold(f64::INFINITY, f64::min);
        println!("  {what:<12} {:6.1} MB/s", text.len() as f64 / best / 1e6);
    }
    let hostile = [
        ("one letter", "a"),
        ("blanks", " "),
        ("emoji", "🔥"),
        ("newlines", "\n"),
        ("digits", "7"),
        ("mixed case", "aB"),
        ("marks", "e\u{301}"),
        ("punctuation", "!"),
        ("apostrophes", "'s"),
        ("blanks, CR", " \r"),
    ];
    for (what, unit) in hostile {
        let text = unit.repeat(2 * HOSTILE_BYTES / unit.len());
        let one = seconds(&tokenizer, &text[..text.floor_char_boundary(HOSTILE_BYTES)]);
        let two = seconds(&tokenizer, &text);
        println!(
            "  {what:<12} {:6.1} ms, twice as long {:6.1} ms (x {:.2})",
            one * 1e3,
            two * 1e3,
            two / one
        );
    }
}

fn seconds(tokenizer: &Tokenizer, text: &str) -> f64 {
    let start = Stopwatch::start();
    let ids = tokenizer.encode(text, EncodeOptions::default());
    std::hint::black_box(ids);
    start.seconds()
}

/// Processor time of this thread, or wall time where that cannot be had.
struct Stopwatch {
    wall: Instant,
    on_cpu_ns: Option<u64>,
}

impl Stopwatch {
    fn start() -> Self {
        Self { wall: Instant::now(), on_cpu_ns: on_cpu_ns() }
    }

    fn seconds(&self) -> f64 {
        match (self.on_cpu_ns, on_cpu_ns()) {
            (Some(start), Some(end)) => (end - start) as f64 * 1e-9,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}

/// First number of Linux's `schedstat`. It is brought up to date when the thread is scheduled, which yielding forces.
fn on_cpu_ns() -> Option<u64> {
    std::thread::yield_now();
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    line.split(' ').next()?.parse().ok()
}
