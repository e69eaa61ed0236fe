//! Whatever is wrong: one clear error, the next step, and exit code 1 (2 for wrong usage).

use crate::Place;
use crate::model::{self, Spec};

/// Runs `args`, which must fail with `code` and say each of `parts` on stderr, and nothing on stdout.
#[track_caller]
fn check(place: &Place, args: &[&str], code: i32, parts: &[&str]) {
    let outcome = place.zinc(args);
    let stderr = &outcome.stderr;
    assert_eq!(outcome.code, code, "{args:?}: {stderr}");
    assert_eq!(outcome.stdout, b"", "{args:?}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?}: {part:?} is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{args:?}: {stderr}");
}

#[test]
fn usage() {
    let place = Place::new();
    for args in [
        &[][..],
        &["fly"],
        &["run", "--tmep", "0", "hi"],
        &["run", "--kv", "q2_k", "hi"],
        &["chat", "--kv", "f64"],
        &["run", "--chunk", "0", "hi"],
        &["run", "--temp", "warm", "hi"],
        &["run", "--logit-bias", "7", "hi"],
        &["run", "--raw", "--system", "x", "hi"],
        &["run", "--file", "a", "hi"],
        &["tokenize", "-m", "m.gguf"],
        &["tokenize", "-m", "m.gguf", "--file", "a", "hi"],
        &["template", "-m", "m.gguf"],
        &["template", "-m", "m.gguf", "--template-file", "a", "--input", "b"],
        &["template", "-m", "m.gguf", "--input", "b", "--now", "today"],
        &["logits", "-m", "m.gguf", "--tokens", "1,x", "--out", "o"],
        &["logits", "-m", "m.gguf", "--tokens", "", "--out", "o"],
        &["bench", "-r", "0"],
        &["diff", "-m", "m.gguf", "--from", "layer"],
    ] {
        let outcome = place.zinc(args);
        assert_eq!(outcome.code, 2, "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, b"", "{args:?}");
    }
}

#[test]
fn missing_arguments_are_named() {
    let place = Place::new();
    check(&place, &["tokenize", "-m", "m.gguf"], 2, &["TEXT", "--file <FILE>"]);
}

#[test]
fn model_files() {
    let place = Place::new();
    let whole = model::chat_model();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    place.write("empty.gguf", b"");
    place.write("text.gguf", b"Once upon a time");
    place.write("new.gguf", &with(4, &9_u32.to_le_bytes()));
    place.write("big-endian.gguf", &with(4, &3_u32.to_be_bytes()));
    place.write("cut.gguf", &whole[..whole.len() - 1]);
    place.write("header.gguf", &whole[..2000]);
    place.write("count.gguf", &with(16, &u64::MAX.to_le_bytes()));
    place.write("arch.gguf", &model::build(&Spec { arch: "mamba", ..Spec::default() }));
    place.write("pre.gguf", &model::build(&Spec { pre: "klingon", ..Spec::default() }));
    std::fs::create_dir(place.path("dir.gguf")).unwrap();
    for (file, parts) in [
        ("missing.gguf", &["missing.gguf", "no such file", "hint:"][..]),
        ("dir.gguf", &["directory", ".gguf"]),
        ("empty.gguf", &["empty"]),
        ("text.gguf", &["not a GGUF file"]),
        ("new.gguf", &["version 9", "newer"]),
        ("big-endian.gguf", &["big-endian"]),
        ("cut.gguf", &["truncated"]),
        ("header.gguf", &["byte", "remaining bytes"]),
        ("count.gguf", &["18446744073709551615", "byte"]),
        ("arch.gguf", &["architecture mamba", "qwen3"]),
        ("pre.gguf", &["klingon", "tokenizer.ggml.pre"]),
    ] {
        check(&place, &["run", "-m", file, "hi"], 1, parts);
        check(&place, &["bench", "-m", file], 1, parts);
        check(&place, &["diff", "-m", file], 1, parts);
        if file != "arch.gguf" {
            check(&place, &["tokenize", "-m", file, "hi"], 1, parts);
        }
    }
}

#[cfg(unix)]
#[test]
fn files_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let path = place.path("m.gguf");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        eprintln!("skipped: this user may read every file");
        return;
    }
    check(&place, &["inspect", "-m", "m.gguf"], 1, &["permission denied", "hint:"]);
}

#[test]
fn prompts() {
    let place = Place::new();
    let long = "a".repeat(2 * model::N_CTX as usize);
    place.write("latin1.txt", b"caf\xe9");
    place.write("long.txt", long.as_bytes());
    check(&place, &["run", "-m", "m.gguf", ""], 1, &["the prompt is empty", "hint:"]);
    check(&place, &["run", "-m", "m.gguf", " \n"], 1, &["the prompt is empty"]);
    check(&place, &["run", "-m", "m.gguf"], 1, &["the prompt is empty"]);
    check(&place, &["run", "-m", "m.gguf", "--file", "none.txt"], 1, &["none.txt"]);
    check(
        &place,
        &["run", "-m", "m.gguf", "--file", "latin1.txt"],
        1,
        &["latin1.txt", "byte 3", "UTF-8"],
    );
    check(
        &place,
        &["tokenize", "-m", "m.gguf", "--file", "latin1.txt"],
        1,
        &["latin1.txt", "byte 3", "UTF-8"],
    );
    check(&place, &["run", "-m", "m.gguf", "--file", "long.txt"], 1, &["tokens", "512", "hint:"]);
    check(
        &place,
        &["run", "-m", "m.gguf", "--ctx", "16", "a long prompt"],
        1,
        &["context of 16", "--ctx"],
    );
}

/// Ranges that are known without a model: wrong usage, named as it was typed.
#[test]
fn values_out_of_range() {
    let place = Place::new();
    for (flag, value, allowed) in [
        ("--temp", "-1", "0 to 100"),
        ("--temp", "NaN", "0 to 100"),
        ("--top-p", "2", "0 to 1"),
        ("--min-p", "-1", "0 to 1"),
        ("--typical-p", "inf", "0 to 1"),
        ("--top-n-sigma", "-1", "0 to 100"),
        ("--xtc-probability", "2", "0 to 1"),
        ("--xtc-threshold", "2", "0 to 1"),
        ("--repeat-penalty", "0", "above 0, at most 100"),
        ("--presence-penalty", "101", "-100 to 100"),
        ("--frequency-penalty", "101", "-100 to 100"),
        ("--dry-multiplier", "-1", "0 to 100"),
        ("--dry-base", "0.5", "1 to 100"),
        ("--dry-allowed-length", "0", "at least 1"),
    ] {
        let message = format!("error: {flag} is {value}; allowed: {allowed}");
        check(&place, &["run", "-m", "m.gguf", flag, value, "hi"], 2, &[&message]);
        check(&place, &["chat", "-m", "m.gguf", flag, value], 2, &[&message]);
    }
    for (flag, value, part) in [
        ("--dry-breaker", "", "--dry-breaker is a string of 0 bytes; allowed"),
        ("--logit-bias", "3=inf", "--logit-bias is inf for token 3; allowed"),
        ("--stop", "", "--stop is empty"),
        ("--device", "", "'--device <NAME>'"),
    ] {
        check(&place, &["run", "-m", "m.gguf", flag, value, "hi"], 2, &[part]);
    }
    check(&place, &["bench", "-m", "m.gguf", "-b", "0"], 2, &["1..=1024", "--streams"]);
    check(&place, &["bench", "-m", "m.gguf", "-p", "0", "-n", "0"], 2, &["nothing to measure"]);
    check(&place, &["diff", "-m", "m.gguf", "--against", ""], 2, &["'--against <NAME>'"]);
}

#[test]
fn flags_out_of_range() {
    let place = Place::new();
    let m = ["-m", "m.gguf"];
    let with = |head: &[&'static str], tail: &[&'static str]| [head, &m, tail].concat();
    for (args, parts) in [
        (with(&["run"], &["--logit-bias", "999=1", "hi"]), &["--logit-bias is", "258"][..]),
        (with(&["run"], &["--ctx", "513", "hi"]), &["--ctx is 513", "1 to 512"]),
        (with(&["run"], &["--think", "hi"]), &["no switch for thinking", "hint:"]),
        (with(&["run"], &["--device", "abacus", "hi"]), &["no device called abacus", "reference"]),
        (with(&["logits"], &["--tokens", "1,258", "--out", "o"]), &["token 1", "258"]),
        (
            with(&["logits"], &["--tokens", "1", "--mtp", "--out", "o"]),
            &["qwen3", "multi-token-prediction"],
        ),
        (
            with(&["run"], &["--speculate", "mtp", "hi"]),
            &["architecture qwen3", "multi-token-prediction", "hint:", "--speculate"],
        ),
        (
            with(&["bench"], &["-p", "9", "--speculate", "mtp"]),
            &["multi-token-prediction", "hint:"],
        ),
        (
            with(&["serve"], &["--speculate", "mtp", "--port", "0"]),
            &["multi-token-prediction", "hint:"],
        ),
        (with(&["logits"], &["--tokens", "1", "--out", "no/such/dir"]), &["no/such/dir"]),
        (
            with(&["bench"], &["-p", "500", "-d", "13"]),
            &["--prompt 500", "--depth 13", "513", "512", "hint:"],
        ),
        (with(&["diff"], &["--device", "abacus"]), &["no device called abacus"]),
        (with(&["diff"], &["--from", "blk.9", "--to", "blk.12"]), &["--from", "hint:"]),
    ] {
        check(&place, &args, 1, parts);
    }
}

#[test]
fn the_context_of_logits() {
    let place = Place::new();
    let ids = vec!["1"; model::N_CTX as usize - 1].join(",");
    let logits = |ids: &str, greedy: &str| {
        let args = ["logits", "-m", "m.gguf", "--tokens", ids, "--greedy", greedy, "--out", "o"];
        place.zinc(&args)
    };
    // The last greedy token is chosen, not computed.
    assert_eq!(logits(&ids, "2").ok(), "");
    assert_eq!(logits(&format!("{ids},1"), "1").ok(), "");
    let outcome = logits(&ids, "3");
    assert_eq!(outcome.code, 1);
    for part in ["--tokens with 511 ids", "--greedy 3", "513 tokens", "512", "hint:"] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    let ids = format!("{ids},1,1");
    check(
        &place,
        &["diff", "-m", "m.gguf", "--tokens", &ids],
        1,
        &["--tokens with 513 ids", "512"],
    );
}

#[test]
fn cache_types_that_do_not_suit() {
    let place = Place::new();
    for head in [&["run", "hi"][..], &["bench"], &["diff"], &["logits", "--tokens=1", "--out=o"]] {
        let args = [head, &["-m", "m.gguf", "--kv", "q8_0"]].concat();
        check(&place, &args, 1, &["--kv q8_0", "32", "rows of 16", "hint: use --kv f16"]);
    }
    let outcome = place.zinc(&["inspect", "-m", "m.gguf", "--kv", "q8_0"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("hint: use --kv f16"), "{}", outcome.stderr);
}

/// A context that no machine has room for: refused before anything is loaded, with the numbers.
#[test]
fn contexts_that_cannot_fit() {
    let place = Place::new();
    let spec = Spec { n_layers: 50, n_ctx: 1 << 27, ..Spec::default() };
    place.write("long.gguf", &model::build(&spec));
    let parts =
        ["free", "134217728 tokens", "cache 400.0 GiB", "hint: a context of", "tokens fits"];
    for args in [
        &["run", "-m", "long.gguf", "--ctx", "134217728", "hi"][..],
        &["bench", "-m", "long.gguf", "-p", "134217728", "-n", "0"],
    ] {
        check(&place, args, 1, &parts);
    }
    let inspect = ["inspect", "-m", "long.gguf", "--ctx", "134217728"];
    let text = place.zinc(&inspect).ok();
    assert!(text.contains("full layers") && text.contains("400.0 GiB in 50"), "{text}");
    assert!(text.contains("does not fit; a context of"), "{text}");
    let report = place.zinc(&[&inspect[..], &["--json"]].concat()).json();
    let memory = &report["memory"];
    assert_eq!(memory["fits"], false);
    assert_eq!(memory["caches"][0]["kind"], "full");
    assert_eq!(memory["caches"][0]["n_bytes"], 50_u64 * 64 * (1 << 27));
    let longest = memory["longest_ctx"].as_u64().unwrap();
    assert!((32..1 << 27).contains(&longest));
    // What is said to fit does.
    let longest = longest.to_string();
    let report = place.zinc(&["inspect", "-m", "long.gguf", "--ctx", &longest, "--json"]).json();
    assert_eq!(report["memory"]["n_ctx"].as_u64().unwrap().to_string(), longest);
}

#[test]
fn templates() {
    let place = Place::new();
    place.write("hi.json", br#"{"messages": [{"role": "user", "content": "hi"}]}"#);
    place.write("tool.json", br#"{"messages": [{"role": "tool", "content": "hi"}]}"#);
    place.write("list.json", b"[1]");
    place.write("broken.json", b"{");
    place.write("syntax.jinja", b"{% if %}");
    place.write(
        "endless.jinja",
        b"{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    );
    place.write("deep.jinja", b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    place.write("plain.gguf", &model::build(&Spec { template: None, ..Spec::default() }));
    let with_model = |input: &'static str| ["template", "-m", "m.gguf", "--input", input];
    check(&place, &with_model("tool.json"), 1, &["no tools here"]);
    check(&place, &with_model("list.json"), 1, &["list.json"]);
    check(&place, &with_model("broken.json"), 1, &["broken.json", "JSON"]);
    check(&place, &with_model("none.json"), 1, &["none.json"]);
    for file in ["syntax.jinja", "endless.jinja", "deep.jinja"] {
        check(
            &place,
            &["template", "--template-file", file, "--input", "hi.json"],
            1,
            &["template"],
        );
    }
    check(
        &place,
        &["template", "-m", "plain.gguf", "--input", "hi.json"],
        1,
        &["no chat template", "--template-file"],
    );
    check(&place, &["chat", "-m", "plain.gguf"], 1, &["no chat template", "--raw"]);
    check(&place, &["run", "-m", "plain.gguf", "--system", "x", "hi"], 1, &["no chat template"]);
}

#[test]
fn inspect_shows_what_it_cannot_run() {
    let place = Place::new();
    place.write("arch.gguf", &model::build(&Spec { arch: "mamba", ..Spec::default() }));
    let outcome = place.zinc(&["inspect", "-m", "arch.gguf"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("architecture mamba"), "{}", outcome.stderr);
    assert!(String::from_utf8(outcome.stdout).unwrap().contains("mamba.block_count"));
    let outcome = place.zinc(&["doctor", "-m", "arch.gguf"]);
    assert_eq!(outcome.code, 1);
    assert!(String::from_utf8(outcome.stdout).unwrap().contains("FAILED"));
}

#[test]
fn what_cannot_be_served_is_said_before_the_address() {
    let place = Place::new();
    place.write("no.gguf", b"no model");
    let serve = |args: &[&str], parts: &[&str]| {
        let args = [&["serve", "--port", "0"], args].concat();
        check(&place, &args, 1, parts);
        let stderr = place.zinc(&args).stderr;
        assert!(!stderr.contains("listens on") && !stderr.contains("curl"), "{stderr}");
    };
    serve(&["-m", "none.gguf"], &["none.gguf: no such file", "after -m"]);
    serve(&["-m", "no.gguf"], &["no.gguf"]);
    serve(&["-m", "m.gguf", "-m", "none.gguf"], &["none.gguf: no such file"]);
    serve(&["-m", "m.gguf", "--device", "tpu7"], &["no device called tpu7", "cpu"]);
    serve(&["-m", "m.gguf", "--ctx", "4096"], &["4096", "512"]);
    // A template that clients would be blamed for.
    place.write("broken.jinja", b"{% for %}");
    for (template, part) in [("none.jinja", "No such file"), ("broken.jinja", "broken.jinja")] {
        let config =
            format!("[models.m]\npath = \"m.gguf\"\ndefaults = {{ chat_template = {template:?} }}");
        place.write("c.toml", config.as_bytes());
        serve(&["--config", "c.toml"], &["--config: the chat template of m", part]);
    }
    // Folders of which nothing can be served.
    std::fs::create_dir(place.path("models")).unwrap();
    place.write("models/no.gguf", b"no model");
    serve(&["--models", "models"], &["models has no model that can be used", "no.gguf"]);
    std::fs::copy(place.path("m.gguf"), place.path("models/zinc-demo.gguf")).unwrap();
    serve(&["--models", "models"], &["only the built-in model is called zinc-demo", "--config"]);
}

#[test]
fn origins_and_addresses_that_mean_nothing_are_refused() {
    let place = Place::new();
    for origin in [
        "foo",
        "app.test",
        "http://app.test/",
        "http://App.test",
        "http://app.test:80",
        "file:///x",
        "tauri://localhost/",
    ] {
        check(&place, &["serve", "--cors", origin], 2, &["--cors"]);
    }
    check(&place, &["serve", "--host", "example.com"], 2, &["--host", "localhost"]);
}
