//! `zinc quantize`: files that are right, and refusals that leave nothing behind.

use serde_json::Value as Json;
use zinc_gguf::writer::Writer;
use zinc_gguf::{Gguf, Imatrix, ImatrixEntry, Value};
use zinc_quant::{GgmlType, dequantize};

use crate::Place;
use crate::model::{self, Spec};

/// Runs `zinc quantize` on `m.gguf` with `flags`.
#[track_caller]
fn quantize(place: &Place, flags: &[&str]) -> Gguf {
    let outcome = place.zinc(&[&["quantize", "-m", "m.gguf", "--out", "q.gguf"], flags].concat());
    assert_eq!(outcome.stdout, b"");
    outcome.ok();
    Gguf::open(&place.path("q.gguf")).unwrap()
}

/// Runs `zinc quantize` with `args`, which must fail with `code`, say each of `parts`, and write no file.
#[track_caller]
fn refused(place: &Place, args: &[&str], code: i32, parts: &[&str]) {
    let files = |place: &Place| {
        let entries = std::fs::read_dir(place.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files(place);
    let outcome = place.zinc(&[&["quantize"], args].concat());
    assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "{args:?}: {part:?} is not in: {}", outcome.stderr);
    }
    assert_eq!(files(place), before, "{args:?}");
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.n_elems() as usize];
    dequantize(tensor.ty, &gguf.data(tensor), &mut values).unwrap();
    values
}

/// Share of the energy of `name` that is lost between two files.
fn loss(old: &Gguf, new: &Gguf, name: &str) -> f32 {
    let (old, new) = (values(old, name), values(new, name));
    let energy: f32 = old.iter().map(|x| x * x).sum();
    old.iter().zip(&new).map(|(x, y)| (x - y) * (x - y)).sum::<f32>() / energy
}

#[test]
fn only_tensor_data_and_what_tells_of_it_change() {
    let place = Place::new();
    let old = Gguf::open(&place.path("m.gguf")).unwrap();
    for (ty, id, attn_q, limit) in [
        ("q8_0", 7, GgmlType::Q8_0, 5e-5),
        ("Q6_K", 18, GgmlType::Q8_0, 5e-5),
        ("q5_k_m", 17, GgmlType::Q5_1, 1e-3),
        ("q4_k_m", 15, GgmlType::Q5_0, 2e-3),
        ("q4_0", 2, GgmlType::Q4_0, 8e-3),
        ("iq4_xs", 30, GgmlType::IQ4_NL, 8e-3),
        ("mxfp4", 38, GgmlType::MXFP4, 2e-2),
        ("f16", 1, GgmlType::F16, 1e-6),
        ("bf16", 32, GgmlType::BF16, 1e-5),
    ] {
        let new = quantize(&place, &["--type", ty, "--force"]);
        let shape = |gguf: &Gguf| -> Vec<_> {
            gguf.tensors().iter().map(|t| (t.name.clone(), t.dims.clone())).collect()
        };
        assert_eq!(shape(&new), shape(&old), "{ty}");
        let metadata = new.metadata();
        assert_eq!(metadata.len(), old.metadata().len() + 2, "{ty}");
        for ((key, value), (old_key, old_value)) in metadata.iter().zip(old.metadata().iter()) {
            assert_eq!((key, value), (old_key, old_value), "{ty}");
        }
        assert_eq!(metadata.u32("general.file_type").unwrap(), Some(id));
        assert_eq!(metadata.u32("general.quantization_version").unwrap(), Some(2));
        assert_eq!(new.tensor("blk.0.attn_q.weight").unwrap().ty, attn_q, "{ty}");
        for tensor in old.tensors() {
            let name = &tensor.name;
            if name.contains("norm") {
                assert_eq!(new.data(new.tensor(name).unwrap()), old.data(tensor), "{ty}: {name}");
            } else {
                assert!(loss(&old, &new, name) < limit, "{ty}: {name}: {}", loss(&old, &new, name));
            }
        }
    }
}

#[test]
fn quantised_models_run() {
    let place = Place::new();
    for ty in ["q8_0", "q4_k_m", "iq4_xs", "mxfp4"] {
        quantize(&place, &["--type", ty, "--force"]);
        place.zinc(&["run", "-m", "q.gguf", "-n", "4", "hello"]).ok();
    }
}

#[test]
fn every_number_of_threads_writes_the_same_file() {
    let place = Place::new();
    let file = |threads: &str| {
        quantize(&place, &["--type", "q4_0", "--force", "--threads", threads]);
        std::fs::read(place.path("q.gguf")).unwrap()
    };
    let one = file("1");
    assert!(file("3") == one);
}

/// `m.gguf` in two parts with the metadata in the first.
fn split(place: &Place) {
    let whole = Gguf::open(&place.path("m.gguf")).unwrap();
    let half = whole.tensors().len() / 2;
    for (number, tensors) in [&whole.tensors()[..half], &whole.tensors()[half..]].iter().enumerate()
    {
        let mut part = Writer::new();
        if number == 0 {
            for (key, value) in whole.metadata().iter() {
                part.value(key, value.clone());
            }
        }
        part.value("split.no", Value::U16(number as u16)).value("split.count", Value::U16(2));
        part.value("split.tensors.count", Value::I32(whole.tensors().len() as i32));
        for tensor in *tensors {
            part.tensor(&tensor.name, tensor.ty, &tensor.dims, whole.data(tensor));
        }
        place.write(&format!("s-{:05}-of-00002.gguf", number + 1), &part.to_bytes());
    }
}

#[test]
fn split_models_become_one_file() {
    let place = Place::new();
    split(&place);
    quantize(&place, &["--type", "q8_0"]);
    let args =
        ["quantize", "-m", "s-00001-of-00002.gguf", "--type", "q8_0", "--out", "from_split.gguf"];
    place.zinc(&args).ok();
    let read = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(read("from_split.gguf") == read("q.gguf"));
    let args = [
        "-m",
        "s-00001-of-00002.gguf",
        "--type",
        "q8_0",
        "--out",
        "s-00002-of-00002.gguf",
        "--force",
    ];
    refused(&place, &args, 1, &["is a file to be read"]);
}

#[test]
fn flags_choose_types() {
    let place = Place::new();
    let flags =
        ["--type", "q4_0", "--tensor-type", "blk.1.*ffn=f16", "--output-tensor-type", "q5_0"];
    let new = quantize(&place, &[&flags[..], &["--token-embedding-type", "bf16"]].concat());
    let ty = |name: &str| new.tensor(name).unwrap().ty;
    assert_eq!(ty("blk.0.ffn_up.weight"), GgmlType::Q4_0);
    assert_eq!(ty("blk.1.ffn_up.weight"), GgmlType::F16);
    assert_eq!(ty("output.weight"), GgmlType::Q5_0);
    assert_eq!(ty("token_embd.weight"), GgmlType::BF16);
}

#[test]
fn dry_runs_write_nothing() {
    let place = Place::new();
    let args = ["quantize", "-m", "m.gguf", "--type", "q4_k_m", "--dry-run"];
    let outcome = place.zinc(&args);
    assert!(
        outcome.stderr.contains("blk.0.attn_q.weight: q5_0 instead of q4_k"),
        "{}",
        outcome.stderr
    );
    let text = outcome.ok();
    assert!(text.contains("bits per weight") && text.contains("blk.1.ffn_down.weight"), "{text}");
    let report = place.zinc(&[&args[..], &["--json"]].concat()).json();
    quantize(&place, &["--type", "q4_k_m"]);
    let n_bytes = std::fs::metadata(place.path("q.gguf")).unwrap().len();
    assert_eq!(report["n_bytes_new"], n_bytes);
    assert_eq!(report["seconds"], Json::Null);
    let tensor =
        report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "output.weight");
    assert_eq!(tensor.unwrap()["type_new"], "q8_0");
}

/// An importance matrix for every matrix of the layers of `m.gguf`, in which column 0 is all that matters.
fn imatrix(place: &Place) -> Imatrix {
    let gguf = Gguf::open(&place.path("m.gguf")).unwrap();
    let layers = gguf.tensors().iter().filter(|t| t.name.starts_with("blk.") && t.dims.len() == 2);
    let entry = |width: u64| {
        let sums = (0..width).map(|col| if col == 0 { 8e6 } else { 8.0 }).collect();
        ImatrixEntry { sums, counts: vec![8.0] }
    };
    let entries = layers.map(|tensor| (tensor.name.clone(), entry(tensor.dims[0]))).collect();
    Imatrix { datasets: vec!["text.txt".into()], chunk_count: 3, chunk_size: 64, entries }
}

#[test]
fn importance_matrices_move_the_error() {
    let place = Place::new();
    place.write("i.gguf", &imatrix(&place).writer().to_bytes());
    let old = Gguf::open(&place.path("m.gguf")).unwrap();
    let new = quantize(&place, &["--type", "q4_0", "--imatrix", "i.gguf"]);
    let plain = quantize(&place, &["--type", "q4_0", "--force"]);
    let name = "blk.0.attn_q.weight";
    let error = |gguf: &Gguf| -> f32 {
        let pairs = values(&old, name).into_iter().zip(values(gguf, name)).step_by(32);
        pairs.map(|(x, y)| (x - y) * (x - y)).sum()
    };
    assert!(error(&new) < 0.2 * error(&plain), "{} {}", error(&new), error(&plain));
    let metadata = new.metadata();
    assert_eq!(metadata.str("quantize.imatrix.file").unwrap(), Some("i.gguf"));
    assert_eq!(metadata.str("quantize.imatrix.dataset").unwrap(), Some("text.txt"));
    assert_eq!(metadata.u32("quantize.imatrix.entries_count").unwrap(), Some(14));
    assert_eq!(metadata.u32("quantize.imatrix.chunks_count").unwrap(), Some(3));
}

#[test]
fn importance_matrices_of_another_model() {
    let place = Place::new();
    let args = ["-m", "m.gguf", "--type", "q4_0", "--out", "q.gguf", "--imatrix", "i.gguf"];
    let whole = imatrix(&place);
    let name = "blk.1.ffn_up.weight";
    let mut lacking = whole.clone();
    lacking.entries.remove(name);
    place.write("i.gguf", &lacking.writer().to_bytes());
    refused(&place, &args, 1, &["lacks tensor \"blk.1.ffn_up.weight\"", "--imatrix-incomplete"]);
    let incomplete = [&["quantize"], &args[..], &["--imatrix-incomplete"]].concat();
    assert!(place.zinc(&incomplete).stderr.contains("blk.1.ffn_up.weight: not in"));
    std::fs::remove_file(place.path("q.gguf")).unwrap();
    let mut wider = whole;
    wider.entries.get_mut(name).unwrap().sums.push(1.0);
    place.write("i.gguf", &wider.writer().to_bytes());
    refused(&place, &args, 1, &["i.gguf", name, "33 values", "1 x 32"]);
    place.write("i.gguf", b"no importance");
    refused(&place, &args, 1, &["i.gguf", "importance matrix"]);
    refused(
        &place,
        &["-m", "m.gguf", "--type", "q4_0", "--out", "q", "--imatrix", "none"],
        1,
        &["none"],
    );
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    let with = |flags: &[&'static str]| [&["-m", "m.gguf", "--out", "q.gguf"], flags].concat();
    refused(&place, &with(&["--type", "q9_9"]), 2, &["q4_k_m"]);
    refused(&place, &with(&[]), 2, &["--type"]);
    refused(&place, &["-m", "m.gguf", "--type", "q4_0"], 2, &["--out"]);
    for wrong in ["attn_v", "=q8_0", "attn_v=q2_k", "attn_v=i32"] {
        refused(&place, &with(&["--type", "q4_0", "--tensor-type", wrong]), 2, &["--tensor-type"]);
    }
    refused(&place, &with(&["--type", "q4_0", "--imatrix-incomplete"]), 2, &["--imatrix"]);
    let unused = with(&["--type", "q4_0", "--tensor-type", "attn_w=q8_0"]);
    refused(&place, &unused, 1, &["attn_w", "zinc inspect --tensors"]);
}

#[test]
fn files_are_not_lost() {
    let place = Place::new();
    place.write("q.gguf", b"precious");
    let with = |out: &'static str| ["-m", "m.gguf", "--type", "q8_0", "--out", out];
    refused(&place, &with("q.gguf"), 1, &["is there already", "--force"]);
    refused(&place, &[&with("m.gguf")[..], &["--force"]].concat(), 1, &["is a file to be read"]);
    refused(&place, &[&with("./m.gguf")[..], &["--force"]].concat(), 1, &["is a file to be read"]);
    refused(&place, &with("nowhere/q.gguf"), 1, &["nowhere"]);
    std::fs::create_dir(place.path("folder")).unwrap();
    refused(&place, &[&with("folder")[..], &["--force"]].concat(), 1, &["is a directory"]);
    assert_eq!(std::fs::read(place.path("q.gguf")).unwrap(), b"precious");
    quantize(&place, &["--type", "q8_0", "--force"]);
}

#[test]
fn weights_that_are_no_numbers() {
    for (value, words) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let place = Place::new();
        let spec = Spec { ffn_down: Some(value), ..Spec::default() };
        place.write("m.gguf", &model::build(&spec));
        let args = ["-m", "m.gguf", "--type", "q4_k_m", "--out", "q.gguf"];
        refused(&place, &args, 1, &["blk.1.ffn_down.weight", words, "row 0, column 0"]);
    }
    let place = Place::new();
    place.write("m.gguf", &model::build(&Spec { ffn_down: Some(1e5), ..Spec::default() }));
    let args = ["-m", "m.gguf", "--type", "f16", "--out", "q.gguf"];
    refused(&place, &args, 1, &["blk.1.ffn_down.weight", "100000", "row 0", "bf16"]);
}

#[test]
fn quantised_sources_must_be_asked_for() {
    let place = Place::new();
    quantize(&place, &["--type", "q8_0"]);
    let args = ["-m", "q.gguf", "--type", "q4_0", "--out", "r.gguf"];
    refused(&place, &args, 1, &["token_embd.weight", "q8_0 already", "--allow-requantize"]);
    place.zinc(&[&["quantize"], &args[..], &["--allow-requantize"]].concat()).ok();
    // What does not change is not requantised.
    let args = ["quantize", "-m", "q.gguf", "--type", "q8_0", "--out", "same.gguf"];
    place.zinc(&args).ok();
    let read = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(read("same.gguf") == read("q.gguf"));
}

#[cfg(feature = "builtin-model")]
#[test]
fn the_built_in_model_survives() {
    let place = Place::new();
    let args = ["quantize", "--allow-requantize", "--out", "q.gguf", "--force", "--type"];
    for ty in ["q4_k_m", "iq4_xs"] {
        place.zinc(&[&args[..], &[ty]].concat()).ok();
        let answer = place.zinc(&["run", "-m", "q.gguf", "--temp", "0", "What is 17 + 25?"]).ok();
        assert_eq!(answer.trim(), "17 + 25 = 42.", "{ty}");
    }
}
