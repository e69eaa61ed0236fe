//! The program on a card, with a driver that runs the kernels on the host.

use std::path::{Path, PathBuf};

use zinc_testkit::kernel_host::KernelHost;
use zinc_testkit::paths;

use crate::{Outcome, Place};

const RUN: [&str; 8] = ["run", "-m", "m.gguf", "--device", "cuda0", "--temp", "0", "-n"];

fn driver() -> PathBuf {
    let kernels = paths::workspace().join("crates/zinc-cuda/kernels");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    KernelHost::driver(&kernels, &out).unwrap()
}

/// Runs with the driver; `settings` are those of `host/driver.cpp`.
fn on_card(place: &Place, settings: &str, args: &[&str]) -> Outcome {
    let mut command = place.command(args);
    command.env("LD_LIBRARY_PATH", driver()).env("ZINC_TEST_DRIVER", settings);
    // Where the locks of cards are.
    command.env("TMPDIR", place.path(""));
    command.output().unwrap().into()
}

fn run(place: &Place, settings: &str) -> Outcome {
    on_card(place, settings, &[&RUN[..], &["12", "Once upon"]].concat())
}

/// A run that cannot be: exit code 1, nothing on stdout, and the error.
#[track_caller]
fn refused(outcome: Outcome, parts: &[&str]) {
    assert_eq!((outcome.code, outcome.stdout.as_slice()), (1, &b""[..]), "{}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in: {}", outcome.stderr);
    }
}

#[test]
fn the_same_text_every_time_and_as_on_the_cpu() {
    let place = Place::new();
    let text = run(&place, "").ok();
    assert_eq!(run(&place, "").ok(), text);
    let on_cpu =
        place.zinc(&[&RUN[..4], &["cpu", "--temp", "0", "-n", "12", "Once upon"]].concat());
    assert_eq!(on_cpu.ok(), text);
}

/// Steps of several sequences, and of tokens that are only guesses, between those that are queued ahead.
#[test]
fn drafts_and_company_change_no_token() {
    let place = Place::new();
    let drafted = [&RUN[..], &["12", "--speculate", "lookup", "Once upon"]].concat();
    assert_eq!(on_card(&place, "", &drafted).ok(), run(&place, "").ok());
    let three = [
        "bench", "-m", "m.gguf", "--device", "cuda0", "-p", "0", "-n", "4", "-b", "3", "-r", "1",
        "--json",
    ];
    let result = on_card(&place, "", &three).json();
    assert_eq!(result[0]["test"], "tg4 x3", "{result}");
}

#[test]
fn an_old_driver_is_named() {
    let place = Place::new();
    let said = "it serves CUDA 12.4, zinc needs 13.0; install driver 580 or newer";
    refused(run(&place, "version=12040"), &[said]);
    assert!(on_card(&place, "version=12040", &["doctor"]).ok().contains(said));
    // What runs elsewhere says so.
    let elsewhere = on_card(&place, "version=12040", &["run", "-m", "m.gguf", "-n", "1", "Once"]);
    assert!(elsewhere.stderr.contains(said), "{}", elsewhere.stderr);
    elsewhere.ok();
}

#[test]
fn a_card_without_room_says_what_is_needed_before_anything_is_loaded() {
    refused(run(&Place::new(), "memory=100000"), &["cuda0"]);
}

#[test]
fn a_lost_card_is_one_error() {
    // In the self-test, the prompt and the answer.
    for settings in ["cuGraphLaunch:2:719", "cuGraphLaunch:14:719", "cuEventSynchronize:40:46"] {
        let settings = &format!("fail={settings}");
        let outcome = run(&Place::new(), settings);
        assert_eq!(outcome.code, 1, "{settings}: {}", outcome.stderr);
        for part in ["cuda0", "restart zinc", "nvidia-smi"] {
            assert!(outcome.stderr.contains(part), "{part:?} is not in: {}", outcome.stderr);
        }
        // What came before it is a line.
        assert!(outcome.stdout.is_empty() || outcome.stdout.ends_with(b"\n"), "{settings}");
        let n_errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(n_errors, 1, "{}", outcome.stderr);
    }
}
