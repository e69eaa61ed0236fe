//! Commands whose output programs read.

use std::path::Path;

use serde_json::{Value, json};
use zinc_testkit::compare::max_abs;
use zinc_testkit::golden::{golden, golden_if_there, goldens};

use crate::model::{self, N_VOCAB, Spec};
use crate::{Outcome, Place};

/// A tensor of a safetensors file: type, shape, bytes.
fn tensor(place: &Place, file: &str, name: &str) -> (Value, Value, Vec<u8>) {
    tensor_of(&place.path(file), name)
}

/// Values of an f32 tensor of a safetensors file.
pub fn f32s(path: &Path, name: &str) -> Vec<f32> {
    let (dtype, _, bytes) = tensor_of(path, name);
    assert_eq!(dtype, "F32", "{name}");
    bytes.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

/// Values of an i32 tensor of a safetensors file.
pub fn i32s(path: &Path, name: &str) -> Vec<i32> {
    let (dtype, _, bytes) = tensor_of(path, name);
    assert_eq!(dtype, "I32", "{name}");
    bytes.as_chunks().0.iter().map(|raw| i32::from_le_bytes(*raw)).collect()
}

fn tensor_of(path: &Path, name: &str) -> (Value, Value, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    let entry = &header[name];
    let offset = |idx: usize| 8 + n_header + entry["data_offsets"][idx].as_u64().unwrap() as usize;
    (entry["dtype"].clone(), entry["shape"].clone(), bytes[offset(0)..offset(1)].to_vec())
}

fn logits(place: &Place, out: &str, more: &[&str]) -> Outcome {
    let args =
        ["logits", "-m", "m.gguf", "--tokens", "72,101,108,108,111", "--kv", "f32", "--out", out];
    place.zinc(&[&args[..], more].concat())
}

#[test]
fn logits_do_not_depend_on_the_chunk() {
    let place = Place::new();
    assert_eq!(logits(&place, "a.st", &["--hidden", "--greedy", "4"]).ok(), "");
    assert_eq!(logits(&place, "b.st", &["--hidden", "--greedy", "4", "--chunk", "2"]).ok(), "");
    assert_eq!(tensor(&place, "a.st", "logits").1, json!([5, N_VOCAB]));
    assert_eq!(tensor(&place, "a.st", "greedy").0, "I32");
    assert_eq!(tensor(&place, "a.st", "greedy").1, json!([4]));
    for name in ["logits", "greedy", "hidden.embed", "hidden.0", "hidden.1", "hidden.final_norm"] {
        assert_eq!(tensor(&place, "a.st", name), tensor(&place, "b.st", name), "{name}");
    }
    assert_eq!(tensor(&place, "a.st", "hidden.1").1, json!([5, 32]));
    logits(&place, "c.st", &[]).ok();
    assert_eq!(tensor(&place, "c.st", "logits"), tensor(&place, "a.st", "logits"));
}

#[test]
fn bench_reports_both_tests() {
    let place = Place::new();
    let args = ["bench", "-m", "m.gguf", "-p", "16", "-n", "4", "-r", "2", "-d", "8"];
    let report = place.zinc(&[&args[..], &["--json"]].concat()).json();
    for (result, test) in report.as_array().unwrap().iter().zip(["pp16", "tg4"]) {
        assert_eq!(
            (&result["test"], &result["device"], &result["depth"]),
            (&json!(test), &json!("cpu"), &json!(8))
        );
        let number = |key: &str| result[key].as_f64().unwrap();
        assert!(number("tok_s_min") <= number("tok_s") && number("tok_s") <= number("tok_s_max"));
        assert!(number("tok_s_min") > 0.0 && number("gb_s") > 0.0);
    }
    assert!(place.zinc(&args).ok().starts_with("test"));
    let only =
        place.zinc(&["bench", "-m", "m.gguf", "-p", "0", "-n", "1", "-r", "1", "--json"]).json();
    assert_eq!(only.as_array().unwrap().len(), 1);
}

#[test]
fn devices_and_chunks_agree() {
    let place = Place::new();
    let report = place
        .zinc(&["diff", "-m", "m.gguf", "--device", "cpu", "--against", "reference", "--json"])
        .json();
    assert_eq!(report["first"], Value::Null);
    assert!(report["n_compared"].as_u64().unwrap() > 10);
    let args = [
        "diff",
        "-m",
        "m.gguf",
        "--device",
        "cpu",
        "--against",
        "cpu",
        "--chunk",
        "1",
        "--against-chunk",
        "16",
    ];
    assert!(place.zinc(&args).ok().contains("no tensor differs"));
    let layer = place
        .zinc(&["diff", "-m", "m.gguf", "--tokens", "1,2", "--from", "blk.1", "--to", "blk.1"])
        .ok();
    assert!(layer.contains("no tensor differs"), "{layer}");
}

/// The validate mode on every golden model there is: a device against itself with other steps, and
/// against the reference with other steps than that.
#[test]
fn steps_do_not_change_golden_models() {
    let place = Place::new();
    for golden in goldens().unwrap() {
        let model = golden.gguf.display().to_string();
        let diff = |more: &[&str]| {
            let args = [&["diff", "-m", &model, "--json"][..], more].concat();
            let report = place.zinc(&args).json();
            assert_eq!(report["first"], Value::Null, "{}: {more:?}: {report}", golden.name);
            assert!(report["n_compared"].as_u64().unwrap() > 10, "{}", golden.name);
        };
        diff(&["--device", "reference", "--chunk", "16", "--against-chunk", "1"]);
        diff(&["--device", "cpu", "--chunk", "16", "--against-chunk", "1"]);
        diff(&["--device", "cpu", "--chunk", "7", "--against-chunk", "128"]);
        let against = ["--against", "reference", "--against-chunk", "128"];
        diff(&[&["--device", "cpu", "--chunk", "7"][..], &against].concat());
    }
}

/// Tokens whose routers chose other experts in layers that are not asked for are known, too.
#[test]
fn routers_before_the_first_layer_count() {
    let place = Place::new();
    let model = golden("gpt_oss.mxfp4").unwrap().gguf.display().to_string();
    let diff = |more: &[&str]| {
        let args = ["diff", "-m", &model, "--device", "cpu", "--json"];
        let report = place.zinc(&[&args[..], more].concat()).json();
        assert_eq!(report["first"], Value::Null, "{report}");
        report
    };
    let [whole, part] = [diff(&[]), diff(&["--from", "blk.2"])];
    assert!(whole["n_parted"].as_u64().unwrap() > 0, "{whole}");
    for key in ["n_parted", "parted_at", "untapped_nmse", "tolerance"] {
        assert_eq!(whole[key], part[key], "{key}");
    }
    assert!(part["n_compared"].as_u64() < whole["n_compared"].as_u64());
    let one = diff(&["--from", "blk.1", "--to", "blk.1"]);
    assert_eq!((&one["untapped_nmse"], &one["parted_at"]), (&Value::Null, &whole["parted_at"]));
}

/// Weights of experts chosen with a selection bias are in no order.
#[test]
fn routers_with_a_selection_bias() {
    let name = "deepseek_v3.f32";
    let Some(golden) = golden_if_there(name) else { return };
    let place = Place::new();
    let model = golden.gguf.display().to_string();
    place.zinc(&["quantize", "-m", &model, "--type", "q4_0", "--out", "q.gguf"]).ok();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % 200
    };
    let tokens = (0..120).map(|_| random().to_string()).collect::<Vec<_>>().join(",");
    let args = ["diff", "-m", "q.gguf", "--device", "cpu", "--tokens", &tokens, "--json"];
    let report = place.zinc(&args).json();
    assert_eq!(report["first"], Value::Null, "{report}");
    assert!(report["n_parted"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn the_multi_token_prediction_head() {
    let name = "qwen3_5_mtp.f32";
    let Some(golden) = golden_if_there(name) else { return };
    let place = Place::new();
    let model = golden.gguf.display().to_string();
    for prompt in golden.prompts().unwrap() {
        let expected = prompt.mtp.as_ref().unwrap();
        let ids = prompt.tokens.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        for (device, chunk) in ["cpu", "reference"]
            .iter()
            .flat_map(|device| ["1", "7", "16", "128"].map(|c| (device, c)))
        {
            let args = ["logits", "-m", &model, "--tokens", &ids, "--kv", "f32", "--out", "o.st"];
            let more = ["--mtp", "--greedy", "3", "--device", device, "--chunk", chunk];
            place.zinc(&[&args[..], &more].concat()).ok();
            let file = place.path("o.st");
            for (name, values) in [
                ("logits", &prompt.logits),
                ("mtp_logits", &expected.logits),
                ("mtp_hidden", &expected.hidden),
                ("mtp_chain_logits", &expected.chain_logits),
            ] {
                let found = f32s(&file, name);
                assert_eq!(found.len(), values.len(), "{name}");
                let (error, _) = max_abs(&found, values);
                assert!(error <= golden.tolerance, "{device}, chunk {chunk}: {name}: {error:e}");
            }
            assert_eq!(i32s(&file, "mtp_chain_tokens"), expected.chain_tokens);
            assert_eq!(i32s(&file, "greedy"), prompt.greedy[..3]);
            // What was not asked for is not there.
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(10).any(|window| window == b"\"hidden.fi"));
        }
    }
    let args = ["logits", "-m", &model, "--device", "reference", "--tokens", "5,6", "--mtp"];
    place.zinc(&[&args[..], &["--hidden", "--out", "o.st"]].concat()).ok();
    let file = place.path("o.st");
    assert_eq!(f32s(&file, "hidden.final_norm").len(), 2 * f32s(&file, "mtp_hidden").len());

    // Whatever drafts, the text is the same.
    let args = ["run", "-m", &model, "--raw", "--temp", "0", "-n", "60", "once upon a time"];
    let texts = ["off", "lookup", "mtp", "auto"]
        .map(|how| place.zinc(&[&args[..], &["--speculate", how]].concat()).ok());
    assert!(!texts[0].is_empty());
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let args = ["bench", "-m", &model, "-p", "0", "-n", "20", "-r", "1", "--json"];
    for streams in ["1", "2"] {
        let more = ["--speculate", "mtp", "-b", streams];
        let text = place.zinc(&[&args[..], &more].concat()).ok();
        let measured: Value = serde_json::from_str(&text).unwrap();
        assert!(measured[0]["tok_s"].as_f64().unwrap() > 0.0, "{text}");
    }
}

#[test]
fn values_that_are_not_finite_are_found() {
    let place = Place::new();
    for value in [f32::NAN, f32::INFINITY] {
        place.write("m.gguf", &model::build(&Spec { ffn_down: Some(value), ..Spec::default() }));
        let diff = place.zinc(&["diff", "-m", "m.gguf", "--device", "cpu", "--against", "cpu"]);
        assert_eq!(diff.code, 1, "{}", diff.stderr);
        let text = String::from_utf8(diff.stdout).unwrap();
        assert!(text.starts_with("blk.1.") && text.contains(" is not finite at row 0"), "{text}");
        for more in [&[][..], &["--greedy", "2"]] {
            let outcome = logits(&place, "broken.st", more);
            assert_eq!(outcome.code, 1);
            assert!(outcome.stderr.contains("row 0 of the logits"), "{}", outcome.stderr);
            assert!(!place.path("broken.st").exists());
        }
    }
}

#[test]
fn inspect_and_doctor() {
    let place = Place::new();
    let report =
        place.zinc(&["inspect", "-m", "m.gguf", "--json", "--tensors", "--ctx", "100"]).json();
    assert_eq!(report["model"]["n_layers"], 2);
    assert_eq!(report["memory"]["n_ctx"], 100);
    assert_eq!(report["metadata"]["tokenizer.ggml.tokens"]["n_elements"], N_VOCAB);
    assert_eq!(report["tensors"].as_array().unwrap().len(), report["file"]["n_tensors"]);
    let text = place.zinc(&["inspect", "-m", "m.gguf"]).ok();
    assert!(text.contains("n_kv_heads    1") && text.contains("fits"), "{text}");
    let report = place.zinc(&["doctor", "-m", "m.gguf", "--json"]).json();
    assert_eq!(report["healthy"], true);
    assert_eq!(report["model"]["memory"]["fits"], true);
    assert_eq!(report["model"]["memory"]["n_ctx"], 512);
    let devices: Vec<_> =
        report["devices"].as_array().unwrap().iter().map(|device| &device["name"]).collect();
    assert_eq!(devices, ["cpu", "reference"]);
}

#[test]
fn help_completions_and_version() {
    let place = Place::new();
    assert_eq!(place.zinc(&["help", "run"]).ok(), place.zinc(&["run", "--help"]).ok());
    assert!(place.zinc(&["help"]).ok().contains("Examples:"));
    assert!(place.zinc(&["completions", "bash"]).ok().contains("zinc"));
    assert_eq!(place.zinc(&["--version"]).ok(), concat!("zinc ", env!("CARGO_PKG_VERSION"), "\n"));
}
