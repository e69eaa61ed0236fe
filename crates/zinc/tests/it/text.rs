//! `run`, `tokenize`, `template` and how text reaches stdout.

use std::io::Read;
use std::process::Stdio;

use serde_json::json;

use crate::model::{self, Spec};
use crate::{Outcome, Place};

const GREEDY: [&str; 6] = ["run", "-m", "m.gguf", "--temp", "0", "-n"];

#[test]
fn run_prints_the_text_alone() {
    let place = Place::new();
    let args = [&GREEDY[..], &["12", "Hello"]].concat();
    let outcome = place.zinc(&args);
    assert!(
        outcome.stderr.contains("generated") && outcome.stderr.contains("device cpu"),
        "{}",
        outcome.stderr
    );
    let text = outcome.ok();
    assert!(!text.is_empty());
    assert_eq!(place.zinc(&args).ok(), text, "greedy is exact");
    let report = place.zinc(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(format!("{}\n", report["text"].as_str().unwrap()), text, "a line for pipes");
    assert_eq!(report["ids"].as_array().unwrap().len(), 12);
    assert_eq!(report["finish_reason"], "length");
    assert_eq!(report["usage"]["completion_tokens"], 12);
    assert_eq!(report["device"], "cpu");
    let quiet = place.zinc(&[&args[..], &["-q"]].concat());
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.ok(), text);
    for variant in [&["--chunk", "1"][..], &["--device", "cpu", "--threads", "1"], &["--ctx", "64"]]
    {
        assert_eq!(place.zinc(&[&args[..], variant].concat()).ok(), text, "{variant:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_named() {
    let place = Place::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = place.command(&["tokenize", "-m", "m.gguf", "hi"]);
    let outcome: Outcome = command.stdout(full).output().unwrap().into();
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.starts_with("error: cannot write to stdout: "), "{}", outcome.stderr);
}

#[test]
fn the_prompt_comes_from_anywhere() {
    let place = Place::new();
    place.write("p.txt", b"Hello\n");
    let args = [&GREEDY[..], &["8"]].concat();
    let expected = place.zinc(&[&args[..], &["Hello"]].concat()).ok();
    assert_eq!(place.zinc(&[&args[..], &["--file", "p.txt"]].concat()).ok(), expected);
    assert_eq!(place.zinc_with(&args, b"Hello\n").ok(), expected);
    assert_eq!(place.zinc_with(&[&args[..], &["--file", "-"]].concat(), b"Hello").ok(), expected);
    let system = place.zinc(&[&args[..], &["--system", "Be brief.", "Hello"]].concat()).ok();
    assert_ne!(system, expected);
}

#[test]
fn without_a_template_the_text_is_continued() {
    let place = Place::new();
    place.write("plain.gguf", &model::build(&Spec { template: None, ..Spec::default() }));
    let raw = place.zinc(&["run", "-m", "m.gguf", "--temp", "0", "-n", "8", "--raw", "Hello"]).ok();
    let outcome = place.zinc(&["run", "-m", "plain.gguf", "--temp", "0", "-n", "8", "Hello"]);
    assert!(outcome.stderr.contains("no chat template"), "{}", outcome.stderr);
    assert_eq!(outcome.ok(), raw);
}

#[test]
fn seeds_and_limits() {
    let place = Place::new();
    let run = |more: &[&str]| {
        place.zinc(&[&["run", "-m", "m.gguf", "--raw", "Hello", "--json"], more].concat()).json()
    };
    let a = run(&["-n", "20", "--seed", "7", "--temp", "1.5"]);
    assert_eq!(a["ids"], run(&["-n", "20", "--seed", "7", "--temp", "1.5"])["ids"]);
    assert_ne!(a["ids"], run(&["-n", "20", "--seed", "8", "--temp", "1.5"])["ids"]);
    assert_eq!(run(&["-n", "0"])["ids"], json!([]));
    // The context bounds what is not bounded otherwise: five tokens of prompt, eleven of answer.
    let full = run(&["--temp", "0", "--ctx", "16", "--logit-bias", "257=-inf"]);
    assert_eq!(
        (full["ids"].as_array().unwrap().len(), &full["finish_reason"]),
        (11, &json!("length"))
    );
    let biased = run(&["--temp", "0", "-n", "3", "--logit-bias", "65=100"]);
    assert_eq!(biased["text"], "AAA");
    let stopped = run(&["--temp", "0", "-n", "9", "--logit-bias", "65=100", "--stop", "AA"]);
    assert_eq!((&stopped["text"], &stopped["finish_reason"]), (&json!(""), &json!("stop")));
    let ended = run(&["--temp", "0", "-n", "9", "--logit-bias", "257=100"]);
    assert_eq!((&ended["text"], &ended["finish_reason"]), (&json!(""), &json!("stop")));
}

#[test]
fn tokens() {
    let place = Place::new();
    let ids = |args: &[&str]| place.zinc(&[&["tokenize", "-m", "m.gguf"], args].concat()).ok();
    assert_eq!(ids(&["Hi!"]), "[72,105,33]\n");
    assert_eq!(ids(&[""]), "[]\n");
    assert_eq!(ids(&["-n"]), "[45,110]\n");
    assert_eq!(ids(&["--bos", "a"]), "[97]\n", "this model expects no such token");
    assert_eq!(ids(&["--parse-special", "<|im_end|>"]), format!("[{}]\n", model::IM_END));
    assert_eq!(ids(&["<|im_end|>"]).matches(',').count(), 9);
    place.write("t.txt", "é\n".as_bytes());
    assert_eq!(ids(&["--file", "t.txt"]), "[195,169,10]\n");
}

#[test]
fn templates_are_rendered_byte_for_byte() {
    let place = Place::new();
    place.write(
        "hi.json",
        br#"{"messages": [{"role": "user", "content": " hi "}], "name": "zinc"}"#,
    );
    let expected = "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(place.zinc(&["template", "-m", "m.gguf", "--input", "hi.json"]).ok(), expected);
    place.write(
        "t.jinja",
        b"{{ bos_token }}{{ name }}{{ eos_token }} {{ strftime_now('%d %b %Y') }}",
    );
    let args = [
        "template",
        "--template-file",
        "t.jinja",
        "--input",
        "hi.json",
        "--bos-token",
        "<s>",
        "--eos-token",
        "</s>",
    ];
    let rendered = place.zinc(&[&args[..], &["--now", "2026-01-15"]].concat()).ok();
    assert_eq!(rendered, "<s>zinc</s> 15 Jan 2026");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command(&[
            "run",
            "-m",
            "m.gguf",
            "--raw",
            "-n",
            "400",
            "--logit-bias",
            "257=-inf",
            "Hello",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_answer() {
    let place = Place::new();
    let mut child = place
        .command(&[
            "run",
            "-m",
            "m.gguf",
            "--raw",
            "--device",
            "reference",
            "--logit-bias",
            "257=-inf",
            "Hello",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    // A machine that is fast enough may be done before the signal arrives.
    if !stderr.contains("is full") {
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("stopped by Ctrl-C"), "{stderr}");
    }
}
