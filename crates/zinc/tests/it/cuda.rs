//! The program on a card, with a driver that runs the kernels on the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use zinc_testkit::kernel_host::KernelHost;
use zinc_testkit::paths;

use crate::serve::Serve;
use crate::{Outcome, Place};

const RUN: [&str; 8] = ["run", "-m", "m.gguf", "--device", "cuda0", "--temp", "0", "-n"];

const IN_USE: &str = "cuda0 is not available: another zinc process uses this card; stop it";

const NO_ROOM: &str = "\nhint: free memory, or take a shorter context (--ctx)";

fn driver() -> PathBuf {
    let kernels = paths::workspace().join("crates/zinc-cuda/kernels");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    KernelHost::driver(&kernels, &out).unwrap()
}

/// A place with a card of its own.
struct Machine {
    place: Place,
    uuid: String,
}

impl Machine {
    fn new() -> Machine {
        static N_MACHINES: AtomicU64 = AtomicU64::new(0);
        let n = N_MACHINES.fetch_add(1, Ordering::Relaxed);
        Machine { place: Place::new(), uuid: format!("{:016x}{n:016x}", std::process::id()) }
    }

    /// The program with the driver; `settings` are those of `host/driver.cpp`.
    fn command(&self, settings: &str, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        let settings = format!("uuid={},{settings}", self.uuid);
        command.env("LD_LIBRARY_PATH", driver()).env("ZINC_TEST_DRIVER", settings);
        command
    }

    fn zinc(&self, settings: &str, args: &[&str]) -> Outcome {
        self.command(settings, args).output().unwrap().into()
    }

    fn run(&self, settings: &str) -> Outcome {
        self.zinc(settings, &[&RUN[..], &["12", "Once upon"]].concat())
    }

    fn run_shared(&self) -> Outcome {
        self.zinc("", &[&RUN[..], &["12", "--share", "Once upon"]].concat())
    }

    /// A server that holds the card.
    fn serve(&self, flags: &[&str]) -> Serve {
        let args = ["serve", "-m", "m.gguf", "--device", "cuda0", "--port", "0"];
        let server = Serve::spawn(self.command("", &[&args[..], flags].concat()));
        // It listens before the model is there.
        server.ask("m", "Hello");
        server
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The card is gone; the directory of the locks is that of this real machine.
        let dir = zinc_cuda::CudaOptions::default().lock_dir;
        for kind in ["", "-shared"] {
            let _ = std::fs::remove_file(dir.join(format!("zinc-cuda-{}{kind}.lock", self.uuid)));
        }
    }
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
    let machine = Machine::new();
    let text = machine.run("").ok();
    assert_eq!(machine.run("").ok(), text);
    let on_cpu =
        machine.place.zinc(&[&RUN[..4], &["cpu", "--temp", "0", "-n", "12", "Once upon"]].concat());
    assert_eq!(on_cpu.ok(), text);
}

/// Steps of several sequences, and of tokens that are only guesses, between those that are queued ahead.
#[test]
fn drafts_and_company_change_no_token() {
    let machine = Machine::new();
    let drafted = [&RUN[..], &["12", "--speculate", "lookup", "Once upon"]].concat();
    assert_eq!(machine.zinc("", &drafted).ok(), machine.run("").ok());
    let three = [
        "bench", "-m", "m.gguf", "--device", "cuda0", "-p", "0", "-n", "4", "-b", "3", "-r", "1",
        "--json",
    ];
    let result = machine.zinc("", &three).json();
    assert_eq!(result[0]["test"], "tg4 x3", "{result}");
}

#[test]
fn an_old_driver_is_named() {
    let machine = Machine::new();
    let said = "it serves CUDA 12.4, zinc needs 13.0; install driver 580 or newer";
    refused(machine.run("version=12040"), &[said]);
    assert!(machine.zinc("version=12040", &["doctor"]).ok().contains(said));
    // What runs elsewhere says so.
    let elsewhere = machine.zinc("version=12040", &["run", "-m", "m.gguf", "-n", "1", "Once"]);
    assert!(elsewhere.stderr.contains(said), "{}", elsewhere.stderr);
    elsewhere.ok();
}

#[test]
fn a_card_without_room_says_what_is_needed_before_anything_is_loaded() {
    let machine = Machine::new();
    // Not even for the self-test.
    let parts =
        ["error: cuda0 has no memory for the weights: ", " needed, 97.7 KiB free\n", NO_ROOM];
    refused(machine.run("memory=100000"), &parts);
    let args = [&RUN[..], &["12", "--cache-size", "8", "Once upon"]].concat();
    let parts = [
        "error: cuda0 has 1.5 MiB of memory, 1.5 MiB free; a context of 512 tokens needs 9.1 MiB: weights ",
        "cache 8.0 MiB, ",
        "it does not fit at any context: one token needs ",
        "\nhint: free memory, or use a smaller model or quantisation",
    ];
    refused(machine.zinc("memory=1600000", &args), &parts);
}

/// What is taken after the plan of the memory said that everything fits, on the card and on the host.
#[test]
fn memory_that_goes_after_the_check_is_one_error_with_a_next_step() {
    let machine = Machine::new();
    // The calls before these are those of the self-test, whose weights are larger.
    let after_the_check = [
        ("cuMemAlloc:16", "the weights: 138.8 KiB needed, 4.0 GiB free"),
        ("cuMemAlloc:20", "cache blk.0.cache_v: "),
        ("cuMemAllocHost:20", "loading the weights in the host's memory: 32.2 KiB needed"),
        ("cuModuleGetFunction:1", "the kernels repack"),
        ("cuGraphInstantiate:4", "a recorded step"),
    ];
    for (call, what) in after_the_check {
        let outcome = machine.run(&format!("fail={call}:2"));
        let n_errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(n_errors, 1, "{call}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("restart zinc"), "{call}: {}", outcome.stderr);
        refused(outcome, &[&format!("error: cuda0 has no memory for {what}"), NO_ROOM]);
    }
}

/// A card that another process has, alone or sharing it, is refused to those who do not say that they share it.
#[test]
fn a_card_of_another_process_is_refused_or_shared() {
    for flags in [&[][..], &["--share"]] {
        let machine = Machine::new();
        let server = machine.serve(flags);
        refused(machine.run(""), &[IN_USE, "use both with --share"]);
        let text = machine.run_shared().ok();
        drop(server);
        assert_eq!(machine.run("").ok(), text, "{flags:?}");
    }
}

#[test]
fn a_lost_card_is_one_error() {
    // In the self-test, the prompt and the answer.
    for settings in ["cuGraphLaunch:2:719", "cuGraphLaunch:14:719", "cuEventSynchronize:40:46"] {
        let settings = &format!("fail={settings}");
        let outcome = Machine::new().run(settings);
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
