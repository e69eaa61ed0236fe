//! Perplexity, divergence and importance matrices: against numbers computed here from logits, and
//! against themselves.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zinc_gguf::{Gguf, Imatrix};
use zinc_testkit::golden::golden_if_there;

use crate::Place;
use crate::data::{f32s, i32s};
use crate::model::{N_CTX, N_VOCAB};

const TEXT: &str =
    "Once upon a time there was a quick brown fox that jumped over a lazy dog, twice.";

/// Log-probabilities of a row of logits.
fn log_probs(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - sum.ln()).collect()
}

/// Mean surprise of the tokens that the rows of the second half of a chunk predict.
fn mean_nll(rows: &[Vec<f64>], tokens: &[u32]) -> f64 {
    let scored = tokens.len() / 2..tokens.len() - 1;
    let n = scored.len() as f64;
    scored.map(|at| -rows[at][tokens[at + 1] as usize]).sum::<f64>() / n
}

/// A base file of one chunk in the form that llama-perplexity writes, from its description.
fn base_file(n_vocab: u32, tokens: &[u32], rows: &[Vec<f64>]) -> Vec<u8> {
    let mut file = b"_logits_".to_vec();
    for value in [tokens.len() as u32, n_vocab, 1].iter().chain(tokens) {
        file.extend(value.to_le_bytes());
    }
    for row in &rows[tokens.len() / 2..tokens.len() - 1] {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = row.iter().copied().fold(f64::INFINITY, f64::min).max(max - 16.0);
        let scale = (max - min) / 65535.0;
        file.extend((scale as f32).to_le_bytes());
        file.extend((min as f32).to_le_bytes());
        for value in row {
            let code = ((value - min) / scale).round().clamp(0.0, 65535.0);
            file.extend((code as u16).to_le_bytes());
        }
        if row.len() % 2 == 1 {
            file.extend([0; 2]);
        }
    }
    file
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[track_caller]
fn close(found: &Value, expected: f64, tolerance: f64) {
    let found = number(found);
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

/// The file of the golden `name` and that of its numbers.
fn golden(name: &str) -> Option<(String, PathBuf)> {
    golden_if_there(name).map(|golden| (golden.gguf.display().to_string(), golden.numbers))
}

/// Rows of golden log-probabilities and the prompt's tokens.
fn golden_rows(numbers: &Path, tokens: &str, logits: &str) -> (Vec<u32>, Vec<Vec<f64>>) {
    let tokens: Vec<u32> = i32s(numbers, tokens).iter().map(|id| *id as u32).collect();
    let logits = f32s(numbers, logits);
    let rows = logits.chunks_exact(logits.len() / tokens.len()).map(log_probs).collect();
    (tokens, rows)
}

#[test]
fn perplexity_is_what_the_logits_say() {
    let place = Place::new();
    place.write("text", TEXT.as_bytes());
    let common = ["-m", "m.gguf", "--kv", "f32"];
    let chunk = 40;
    let mut nll = 0.0;
    for tokens in TEXT.as_bytes().chunks_exact(chunk) {
        let ids = tokens.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        place.zinc(&[&["logits", "--tokens", &ids, "--out", "l.st"][..], &common].concat()).ok();
        let logits = f32s(&place.path("l.st"), "logits");
        let rows: Vec<_> = logits.chunks_exact(N_VOCAB as usize).map(log_probs).collect();
        let tokens: Vec<u32> = tokens.iter().map(|byte| u32::from(*byte)).collect();
        nll += mean_nll(&rows, &tokens);
    }
    let ctx = chunk.to_string();
    let args = [&["perplexity", "--file", "text", "--ctx", &ctx, "--json"][..], &common].concat();
    let report = place.zinc(&args).json();
    let n_chunks = TEXT.len() / chunk;
    close(&report["perplexity"], (nll / n_chunks as f64).exp(), 1e-3);
    assert_eq!(report["n_chunks"], n_chunks);
    assert_eq!(report["n_scored"], n_chunks * (chunk - 1 - chunk / 2));
    assert_eq!(report["base"], Value::Null);
    // Neither the steps nor the threads change a bit.
    for more in [&["--chunk", "1"][..], &["--chunk", "7", "--threads", "1"]] {
        assert_eq!(place.zinc(&[&args, more].concat()).json()["perplexity"], report["perplexity"]);
    }
    let one = place.zinc(&[&args, &["--chunks", "1"][..]].concat()).json();
    assert_eq!(one["n_chunks"], 1);
    let people: Vec<_> = args.iter().copied().filter(|arg| *arg != "--json").collect();
    let outcome = place.zinc(&people);
    assert!(outcome.stderr.contains("[1/2] perplexity"), "{}", outcome.stderr);
    assert!(outcome.ok().starts_with("perplexity"));
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let place = Place::new();
    place.write("text", TEXT.as_bytes());
    let common = ["-m", "m.gguf", "--json"];
    let with = |more: &[&str]| place.zinc(&[&["perplexity"], &common[..], more].concat());
    let saved = with(&["--file", "text", "--ctx", "25", "--save-logits", "base"]).json();
    for more in
        [&["--kl-base", "base"][..], &["--kl-base", "base", "--file", "text", "--ctx", "25"]]
    {
        let report = with(more).json();
        assert_eq!(report["perplexity"], saved["perplexity"]);
        let base = &report["base"];
        close(&base["perplexity"], number(&saved["perplexity"]), 1e-3);
        close(&base["perplexity_ratio"], 1.0, 1e-6);
        close(&base["kl_mean"], 0.0, 1e-7);
        close(&base["kl_max"], 0.0, 1e-6);
        close(&base["p_difference_rms"], 0.0, 1e-6);
        assert_eq!(base["same_top"], 1.0);
    }
    let fewer = with(&["--kl-base", "base", "--chunks", "2"]).json();
    assert_eq!((&fewer["n_chunks"], &saved["n_chunks"]), (&json!(2), &json!(3)));
    let text = place.zinc(&["perplexity", "-m", "m.gguf", "--kl-base", "base"]).ok();
    assert!(text.contains("KL divergence, median") && text.contains("100.000 %"), "{text}");
}

/// Perplexity and divergence of a quantised model from its original, both known from golden logits.
#[test]
fn divergence_is_what_golden_logits_say() {
    let Some((model, numbers)) = golden("q_qwen3.q4_k_m") else {
        return;
    };
    let (tokens, base) = golden_rows(&numbers, "prompt0.tokens", "prompt0.logits_f32");
    let (_, rows) = golden_rows(&numbers, "prompt0.tokens", "prompt0.Q4_K_M.logits_dequant_f32");
    let n_vocab = rows[0].len() as u32;
    let place = Place::new();
    place.write("base", &base_file(n_vocab, &tokens, &base));
    let args = ["--kv", "f32", "--device", "reference", "--kl-base", "base", "--json"];
    let report = place.zinc(&[&["perplexity", "-m", &model][..], &args].concat()).json();

    let scored = tokens.len() / 2..tokens.len() - 1;
    let n = scored.len() as f64;
    let kl = |at: usize| -> f64 {
        base[at].iter().zip(&rows[at]).map(|(base, this)| base.exp() * (base - this)).sum()
    };
    let kls: Vec<f64> = scored.clone().map(kl).collect();
    let p_difference = |at: usize| {
        let next = tokens[at + 1] as usize;
        (rows[at][next].exp() - base[at][next].exp()).powi(2)
    };
    let rms = (scored.clone().map(p_difference).sum::<f64>() / n).sqrt();
    let top = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().position(|value| *value == max)
    };
    let n_same = scored.filter(|at| top(&rows[*at]) == top(&base[*at])).count();
    let (nll, nll_base) = (mean_nll(&rows, &tokens), mean_nll(&base, &tokens));
    close(&report["perplexity"], nll.exp(), 1e-3 * nll.exp());
    let found = &report["base"];
    close(&found["perplexity"], nll_base.exp(), 1e-3 * nll_base.exp());
    close(&found["perplexity_ratio"], (nll - nll_base).exp(), 1e-3);
    let mean = kls.iter().sum::<f64>() / n;
    assert!(mean > 1e-4, "the figure is larger than what rounding leaves: {mean}");
    close(&found["kl_mean"], mean, 1e-5);
    close(&found["kl_max"], kls.iter().copied().fold(0.0, f64::max), 1e-4);
    close(&found["p_difference_rms"], rms, 1e-4);
    close(&found["same_top"], n_same as f64 / n, 0.0);
}

/// The f32 model reproduces its golden logits, so it does not diverge from them.
#[test]
fn golden_logits_are_a_base() {
    let Some((model, numbers)) = golden("qwen3.f32") else {
        return;
    };
    let (tokens, rows) = golden_rows(&numbers, "prompt1.tokens", "prompt1.logits");
    let place = Place::new();
    place.write("base", &base_file(rows[0].len() as u32, &tokens, &rows));
    for device in ["cpu", "reference"] {
        let args = ["--kv", "f32", "--device", device, "--kl-base", "base", "--json"];
        let report = place.zinc(&[&["perplexity", "-m", &model][..], &args].concat()).json();
        let expected = mean_nll(&rows, &tokens).exp();
        close(&report["perplexity"], expected, 1e-4 * expected);
        close(&report["base"]["kl_mean"], 0.0, 1e-6);
        close(&report["base"]["same_top"], 1.0, 0.0);
    }
}

#[test]
fn importance_matrices_name_every_product() {
    let place = Place::new();
    place.write("text", TEXT.as_bytes());
    let imatrix = |out: &str, more: &[&str]| {
        let args = ["imatrix", "-m", "m.gguf", "--file", "text", "--ctx", "20", "-o", out];
        assert_eq!(place.zinc(&[&args[..], more].concat()).ok(), "");
        Imatrix::open(&place.path(out)).unwrap()
    };
    let found = imatrix("a.gguf", &[]);
    assert_eq!((found.chunk_count, found.chunk_size), (4, 20));
    assert_eq!(found.datasets, ["text"]);
    let gguf = Gguf::open(&place.path("m.gguf")).unwrap();
    let is_product = |name: &str| name.starts_with("blk.") && !name.contains("norm");
    let products: Vec<_> =
        gguf.tensors().iter().map(|t| t.name.as_str()).filter(|name| is_product(name)).collect();
    assert_eq!(found.entries.len(), products.len());
    for name in products {
        let entry = &found.entries[name];
        assert_eq!(entry.sums.len() as u64, gguf.tensor(name).unwrap().dims[0], "{name}");
        assert_eq!(entry.counts, [80.0], "{name}");
    }
    // Rows after a norm with weights of 1 have as many squares as columns.
    let q = &found.entries["blk.0.attn_q.weight"];
    let sum: f32 = q.sums.iter().sum();
    assert!((sum / (80.0 * 32.0) - 1.0).abs() < 1e-4, "{sum}");
    assert_eq!(q, &found.entries["blk.0.attn_v.weight"]);
    assert_ne!(q, &found.entries["blk.1.attn_q.weight"]);

    assert_eq!(imatrix("b.gguf", &["--chunk", "3"]), found);
    let fewer = imatrix("c.gguf", &["--chunks", "1", "--process-output"]);
    assert_eq!(fewer.entries.len(), found.entries.len() + 1);
    assert_eq!(fewer.entries["output.weight"].counts, [20.0]);

    let args = ["imatrix", "-m", "m.gguf", "--file", "text", "--ctx", "20", "-o"];
    refused(&place, &[&args[..], &["a.gguf"]].concat(), &["a.gguf", "--force"]);
    refused(&place, &[&args[..], &["m.gguf", "--force"]].concat(), &["m.gguf", "to be read"]);
    assert_eq!(place.zinc(&[&args[..], &["c.gguf", "--force"]].concat()).ok(), "");
    assert_eq!(Imatrix::open(&place.path("c.gguf")).unwrap(), found);
}

#[test]
fn experts_that_no_token_chose_are_told() {
    let Some((model, _)) = golden("qwen3_moe.f32") else {
        return;
    };
    let place = Place::new();
    place.write("text", b"ab");
    let args = ["--device", "reference", "--file", "text", "--ctx", "1", "--chunks", "1"];
    let outcome = place.zinc(&[&["imatrix", "-m", &model, "-o", "i"][..], &args].concat());
    assert!(outcome.stderr.contains("warning: no token chose"), "{}", outcome.stderr);
    let found = Imatrix::open(&place.path("i")).unwrap();
    let counts = &found.entries["blk.0.ffn_down_exps.weight"].counts;
    assert!(counts.contains(&0.0) && counts.contains(&1.0), "{counts:?}");
    outcome.ok();
}

#[track_caller]
fn refused(place: &Place, args: &[&str], parts: &[&str]) {
    let outcome = place.zinc(args);
    assert_eq!((outcome.code, outcome.stdout), (1, Vec::new()), "{args:?}: {}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "{args:?}: {part:?} is not in: {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.matches("error:").count(), 1, "{}", outcome.stderr);
}

#[test]
fn texts_that_do_not_fit() {
    let place = Place::new();
    place.write("short", b"abc");
    place.write("other", TEXT.replace("fox", "dog").as_bytes());
    place.write("text", TEXT.as_bytes());
    let long = (N_CTX + 1).to_string();
    let ppl = ["perplexity", "-m", "m.gguf", "--file"];
    let with = |more: &[&'static str]| [&ppl[..], more].concat();
    refused(&place, &with(&["short"]), &["short", "3 tokens", "512", "hint:"]);
    refused(&place, &with(&["no-such-file"]), &["no-such-file"]);
    refused(&place, &[&ppl[..], &["text", "--ctx", &long]].concat(), &["513", "512", "hint:"]);
    refused(&place, &with(&["text", "--ctx", "9", "--save-logits", "no/such"]), &["no/such"]);
    let imatrix = ["imatrix", "-m", "m.gguf", "-o", "i", "--file"];
    refused(&place, &[&imatrix[..], &["short"]].concat(), &["short", "3 tokens", "hint:"]);
    assert!(!place.path("i").exists());

    place.zinc(&with(&["text", "--ctx", "20", "--save-logits", "base"])).ok();
    // Nothing is overwritten by accident, least of all what is read.
    let again = ["text", "--ctx", "20", "--save-logits"];
    refused(&place, &with(&[&again[..], &["base"]].concat()), &["base", "--force"]);
    refused(&place, &with(&[&again[..], &["text", "--force"]].concat()), &["text", "to be read"]);
    place.zinc(&with(&[&again[..], &["base", "--force"]].concat())).ok();
    refused(&place, &with(&["other", "--kl-base", "base"]), &["token ", "other", "hint:"]);
    refused(&place, &with(&["text", "--kl-base", "base", "--ctx", "30"]), &["--ctx is 30", "20"]);
    for usage in [&["perplexity", "-m", "m.gguf"][..], &with(&["text", "--ctx", "2"])] {
        assert_eq!(place.zinc(usage).code, 2, "{usage:?}");
    }
}

#[test]
fn bases_that_are_damaged() {
    let place = Place::new();
    place.write("text", TEXT.as_bytes());
    let save = ["perplexity", "-m", "m.gguf", "--file", "text", "--ctx", "20"];
    place.zinc(&[&save[..], &["--save-logits", "base"]].concat()).ok();
    let whole = std::fs::read(place.path("base")).unwrap();
    let n_chunks = TEXT.len() / 20;
    let rows = 20 + 4 * 20 * n_chunks;
    let check = |bytes: &[u8], parts: &[&str]| {
        place.write("bad", bytes);
        refused(&place, &["perplexity", "-m", "m.gguf", "--kl-base", "bad"], parts);
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    check(b"", &["not a file of saved logits"]);
    check(&whole[..19], &["not a file of saved logits"]);
    check(&with(0, b"GGUF"), &["not a file of saved logits", "hint:"]);
    for length in [20, rows, rows + 9, whole.len() - 1] {
        check(&whole[..length], &["bad", "incomplete or damaged"]);
    }
    check(&[&whole[..], b"x"].concat(), &["incomplete or damaged"]);
    for sizes in [[u32::MAX; 3], [20, 258, u32::MAX], [u32::MAX, 258, 1], [20, u32::MAX, 4]] {
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        check(&with(8, &bytes), &["incomplete or damaged"]);
    }
    check(&with(8, &2u32.to_le_bytes()), &["chunks of 2 tokens"]);
    check(&with(16, &0u32.to_le_bytes()), &["0 chunks"]);
    check(&with(24, &258u32.to_le_bytes()), &["token id 258", "258"]);
    check(&with(rows, &f32::NAN.to_le_bytes()), &["row 0 holds no log-probabilities"]);
    check(&with(rows + 4, &f32::INFINITY.to_le_bytes()), &["row 0 holds no log-probabilities"]);
    check(&with(whole.len() - 4, &f32::NAN.to_le_bytes()), &["behind the rows is damaged"]);
    let n_rows = n_chunks * 9;
    check(&with(whole.len() - 4 * n_rows - 8, b"?"), &["behind the rows is damaged"]);
    // Another vocabulary, in a file that is whole.
    let rows = vec![vec![0.5f64.ln(); 2]; 20];
    check(&base_file(2, &[1; 20], &rows), &["vocabulary of 2 tokens", "258", "hint:"]);
    // Without what is behind the rows the file is as llama-perplexity writes it.
    let plain = whole.len() - 4 * n_rows - 8;
    place.write("plain", &whole[..plain]);
    let report = place.zinc(&["perplexity", "-m", "m.gguf", "--kl-base", "plain", "--json"]).json();
    close(&report["base"]["perplexity_ratio"], 1.0, 1e-4);
}
