//! Exactness against recorded tokenizations: real vocabularies with `.inp`/`.out` pairs and `corpus.json`, and the
//! `tokenizer_cases` of the golden models. Data sets that are not there are skipped, with the reason on stderr.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::{Path, PathBuf};

use zinc_gguf::Gguf;
use zinc_token::{EncodeOptions, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const WITH_BOS: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

/// The reference data folder: `ZINC_SHARED`, else `../shared` beside the workspace.
fn shared() -> PathBuf {
    match std::env::var_os("ZINC_SHARED") {
        Some(path) => path.into(),
        None => workspace().join("../shared"),
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    if found.is_empty() {
        eprintln!("skipped: no *{suffix} in {}", folder.display());
    }
    found
}

fn load(path: &Path) -> Tokenizer {
    let file = Gguf::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Tokenizer::from_gguf(file.metadata())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Compares and, on a difference, shows only where it starts.
fn check(
    what: &str,
    tokenizer: &Tokenizer,
    text: &str,
    options: EncodeOptions,
    want: &[u32],
) -> bool {
    let got = tokenizer.encode(text, options);
    if got == want {
        return true;
    }
    let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(3);
    let show = |ids: &[u32]| {
        let part = &ids[from.min(ids.len())..ids.len().min(at + 8)];
        let pieces: Vec<_> =
            part.iter().map(|&id| String::from_utf8_lossy(tokenizer.vocab().piece(id))).collect();
        format!("{part:?} {pieces:?}")
    };
    let start: String = text.chars().take(60).collect();
    eprintln!(
        "{what}: {start:?} differs at token {at}:\n  got  {}\n  want {}",
        show(&got),
        show(want)
    );
    false
}

#[test]
fn recorded_pairs() {
    let mut n_failed = 0;
    for path in files(&shared().join("vocab"), ".gguf.inp") {
        let input = std::fs::read_to_string(&path).unwrap();
        let output = std::fs::read_to_string(path.with_extension("out")).unwrap();
        let tokenizer = load(&path.with_extension(""));
        let cases: Vec<_> = input.split("\n__ggml_vocab_test__\n").zip(output.lines()).collect();
        assert!(cases.len() > 20, "{}", path.display());
        for (text, line) in cases {
            let want: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            n_failed +=
                usize::from(!check(&path.display().to_string(), &tokenizer, text, PLAIN, &want));
        }
    }
    assert_eq!(n_failed, 0);
}

#[test]
fn recorded_corpus() {
    let folder = shared().join("vocab");
    let mut n_failed = 0;
    for path in files(&folder, ".corpus.json") {
        // The tool that recorded the ids read the two characters `\n` as a newline: decoding the ids shows it.
        let text = std::fs::read_to_string(folder.join("corpus.txt")).unwrap().replace("\\n", "\n");
        let vocab = path.to_string_lossy().replace(".corpus.json", ".gguf");
        let tokenizer = load(Path::new(&vocab));
        n_failed += usize::from(!check(&vocab, &tokenizer, &text, PLAIN, &ids(&json(&path))));
    }
    assert_eq!(n_failed, 0);
}

#[test]
fn golden_models() {
    let mut n_failed = 0;
    for folder in [shared().join("golden"), workspace().join("testdata/golden")] {
        for path in files(&folder, ".gguf") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let description = folder.join(name.split('.').next().unwrap()).with_extension("json");
            if !description.exists() {
                eprintln!("skipped: {} has no description beside it", path.display());
                continue;
            }
            let Some(cases) = json(&description)["tokenizer_cases"].as_array().cloned() else {
                continue;
            };
            let tokenizer = load(&path);
            for case in cases {
                let text = case["text"].as_str().unwrap();
                n_failed +=
                    usize::from(!check(&name, &tokenizer, text, WITH_BOS, &ids(&case["ids"])));
                let decoded = tokenizer.decode(&ids(&case["ids"]), true);
                if decoded != text {
                    eprintln!("{name}: {text:?} decodes as {decoded:?}");
                    n_failed += 1;
                }
            }
        }
    }
    assert_eq!(n_failed, 0);
}
