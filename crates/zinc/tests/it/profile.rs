//! `--profile` and `bench --shapes`: what they count is what the plan says.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use zinc_backend::{Backend, Device};
use zinc_engine::sampler::N_LARGEST;
use zinc_engine::{EngineOptions, Model};
use zinc_models::PlanOptions;
use zinc_plan::{Bound, Builder, Limits, Plan, TopK, passes};
use zinc_quant::GgmlType;
use zinc_testkit::golden::goldens;

use crate::Place;

/// The plan of `m.gguf` for one token, prepared for the device; that of an engine gives the largest logits as well.
fn plan(model: &Path, device: &str, of_engine: bool) -> Plan {
    let model = Model::open(model).unwrap();
    let device: std::sync::Arc<dyn Device> = match device {
        "cpu" => zinc_cpu::CpuBackend::default().open("cpu").unwrap(),
        _ => zinc_reference::ReferenceBackend.open("reference").unwrap(),
    };
    let n_ctx = EngineOptions::default().n_ctx(&model).unwrap();
    let page_size = zinc_engine::kv::PAGE_SIZE;
    let pages_per_seq = n_ctx.div_ceil(page_size);
    let limits = Limits {
        page_size,
        pages_per_seq,
        n_pages: pages_per_seq,
        ..PlanOptions::ONE_TOKEN.limits
    };
    let mut plan = model.graph().plan(&PlanOptions { limits, kv_type: GgmlType::F16 }).unwrap();
    if of_engine {
        let outputs = plan.outputs.clone();
        let k = N_LARGEST.min(plan.tensor(outputs[0]).shape.cols);
        let mut builder = Builder::reopen(plan);
        let largest = builder.top_k("largest", TopK { k }, outputs[0]).unwrap();
        plan = builder.finish([outputs, largest.to_vec()].concat());
    }
    passes::prepare(plan, device.caps()).unwrap()
}

/// How often a step does what, and the bytes it reads; `attention` reads more with every token.
fn expected(plan: &Plan) -> BTreeMap<String, (f64, f64)> {
    let bound = Bound { tokens: 1, seqs: 1, out_rows: 1, mean_keys: 1 };
    let mut expected = BTreeMap::new();
    for node in &plan.nodes {
        let sum: &mut (f64, f64) = expected.entry(plan.node_kind(node).to_string()).or_default();
        sum.0 += 1.0;
        sum.1 += plan.node_cost(node, &bound).read_bytes as f64;
    }
    expected
}

fn name(kind: &Value) -> String {
    let part = |key: &str| kind[key].as_str().unwrap();
    format!("{} {} {}", part("op"), part("type"), part("shape"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Checks the profile of the plan that takes one token at a time.
fn check_decode(profile: &Value, plan: &Plan) {
    assert!(number(&profile["read_gb_s"]) > 0.0);
    let plans = profile["plans"].as_array().unwrap();
    let decode = plans.iter().find(|plan| plan["max_tokens"] == 1).unwrap();
    let expected = expected(plan);
    let operations = decode["operations"].as_array().unwrap();
    assert_eq!(operations.len(), expected.len());
    for operation in operations {
        let kinds = operation["operations"].as_array().unwrap();
        assert_eq!(kinds.len(), 1, "these devices join nothing");
        let name = name(&kinds[0]);
        let (n, read_bytes) = expected[&name];
        assert_eq!(number(&operation["n"]), n, "{name}");
        match name.starts_with("attention") {
            true => assert!(number(&operation["read_bytes"]) > read_bytes, "{name}"),
            false => assert_eq!(number(&operation["read_bytes"]), read_bytes, "{name}"),
        }
        assert!(number(&operation["us"]) >= 0.0 && number(&operation["of_bandwidth"]) >= 0.0);
    }
    let shares: f64 = operations.iter().map(|operation| number(&operation["share"])).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    assert_eq!(number(&decode["submissions_per_step"]), 1.0);
    assert_eq!(number(&decode["submissions_per_token"]), 1.0);
    assert_eq!(number(&decode["copies_per_step"]), 0.0);
    assert!(number(&decode["host_us"]["submit"]) > 0.0);
}

#[test]
fn a_profile_has_every_operation_of_the_plan() {
    let place = Place::new();
    for device in ["cpu", "reference"] {
        let plan = plan(&place.path("m.gguf"), device, true);
        let args = ["run", "-m", "m.gguf", "--raw", "--temp", "0", "-n", "6", "--device", device];
        let plain = place.zinc(&[&args[..], &["--json", "Hello"]].concat()).json();
        let run = place.zinc(&[&args[..], &["--json", "--profile", "Hello"]].concat()).json();
        assert_eq!(plain["profile"], Value::Null);
        assert_eq!(run["ids"], plain["ids"], "profiling changes no answer");
        check_decode(&run["profile"], &plan);
        let decode = &run["profile"]["plans"][0];
        // Of six tokens the first comes from the prompt's step.
        assert_eq!((&decode["timed_steps"], &decode["steps"]), (&3.into(), &2.into()));
        for phase in ["schedule", "prepare", "submit", "wait", "sample", "events", "draft"] {
            assert!(number(&decode["host_us"][phase]) >= 0.0, "{phase}");
        }

        let outcome = place.zinc(&[&args[..], &["--quiet", "--profile", "Hello"]].concat());
        let text = &outcome.stderr;
        assert!(text.contains("1.00 submissions a token"), "{text}");
        assert!(text.contains(&format!("{device} reads ")), "{text}");
        assert!(expected(&plan).keys().all(|name| text.contains(name)), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[test]
fn bench_profiles_each_test() {
    let place = Place::new();
    let common = ["bench", "-m", "m.gguf", "-n", "4", "-r", "1", "--profile"];
    let args = [&common[..], &["-p", "16"]].concat();
    let report = place.zinc(&[&args[..], &["--json", "-d", "3"]].concat()).json();
    let [prompt, generate] = &report.as_array().unwrap()[..] else { panic!("{report}") };
    let prompt = &prompt["profile"]["plans"][0];
    assert_eq!((&prompt["timed_steps"], &prompt["steps"]), (&1.into(), &1.into()));
    assert_eq!(number(&prompt["tokens_per_step"]), 16.0);
    assert_eq!(number(&prompt["submissions_per_token"]), 1.0 / 16.0);
    let decode = &generate["profile"]["plans"];
    assert_eq!(decode.as_array().unwrap().len(), 1, "the depth is no part of it");
    assert_eq!((&decode[0]["timed_steps"], &decode[0]["steps"]), (&4.into(), &4.into()));
    assert_eq!(number(&decode[0]["submissions_per_token"]), 1.0);
    let outcome = place.zinc(&args);
    assert!(outcome.stderr.contains("pp16: ") && outcome.stderr.contains("tg4: "));
    assert!(!outcome.ok().contains("submissions"), "the table of speeds stands alone on stdout");

    let streams = place.zinc(&[&common[..], &["--json", "-p", "0", "-b", "3"]].concat()).json();
    let plans = streams[0]["profile"]["plans"].as_array().unwrap();
    let decode = plans.iter().find(|plan| plan["max_tokens"] == 3).unwrap();
    assert_eq!(number(&decode["submissions_per_token"]), 1.0 / 3.0);
}

/// Checks the shapes of a model against its plan, all variants against their limits.
fn check_shapes(report: &Value) {
    for phase in report.as_array().unwrap() {
        for shape in phase["shapes"].as_array().unwrap() {
            let limit = number(&shape["limit"]);
            let variants = shape["variants"].as_array().unwrap();
            assert!(!variants.is_empty());
            for variant in variants {
                let (error, difference) = (&variant["error"], &variant["difference"]);
                assert!(number(error) <= limit && number(difference) <= limit, "{shape}");
                assert!(number(&variant["us"]) >= 0.0 && number(&variant["read_gb_s"]) >= 0.0);
            }
        }
    }
}

#[test]
fn shapes_are_those_of_the_plan() {
    let place = Place::new();
    let args = ["bench", "--shapes", "-m", "m.gguf", "-p", "7", "-r", "1"];
    let report = place.zinc(&[&args[..], &["--json"]].concat()).json();
    check_shapes(&report);
    let [decode, prefill] = &report.as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&decode["tokens"], &prefill["tokens"]), (&1.into(), &7.into()));
    let plan = plan(&place.path("m.gguf"), "cpu", false);
    let mut found: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for shape in decode["shapes"].as_array().unwrap() {
        let sum = found.entry(name(shape)).or_default();
        sum.0 += number(&shape["n"]);
        sum.1 += number(&shape["n"]) * number(&shape["read_bytes"]);
        let variants = shape["variants"].as_array().unwrap();
        let names: Vec<_> = variants.iter().map(|variant| variant["name"].as_str()).collect();
        let isas: Vec<_> = zinc_cpu::Isa::available().iter().map(|isa| isa.name()).collect();
        assert_eq!(names[0], Some(zinc_cpu::Isa::best().name()));
        assert_eq!(names.len(), isas.len());
        assert!(isas.iter().all(|isa| names.contains(&Some(*isa))));
    }
    let expected = expected(&plan);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, (n, read_bytes)) in &expected {
        assert_eq!(found[name].0, *n, "{name}");
        // Page tables are as long as the context.
        if !name.starts_with("attention") {
            assert_eq!(found[name].1, *read_bytes, "{name}");
        }
    }
    let text = place.zinc(&args).ok();
    assert!(text.contains("matmul") && text.contains("scalar"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for more in [&["--profile"][..], &["--speculate", "lookup"]] {
        assert_eq!(place.zinc(&[&args[..], more].concat()).code, 2);
    }
}

/// Of every family there is: windows, sinks, experts, latent attention, recurrent layers.
#[test]
fn shapes_of_golden_models_agree_with_the_reference() {
    let place = Place::new();
    for golden in goldens().unwrap() {
        let model = golden.gguf.display().to_string();
        let args = ["bench", "--shapes", "-m", &model, "-p", "9", "-d", "3", "-b", "2"];
        let more = ["-r", "1", "--chunk", "16", "--threads", "1", "--json"];
        let outcome = place.zinc(&[&args[..], &more].concat());
        eprintln!("{}: {}", golden.name, outcome.stderr);
        check_shapes(&outcome.json());
    }
}
