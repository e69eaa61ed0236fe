//! The whole backend, with a driver that runs the kernels on the host: steps, copies, and what a card says when
//! something is wrong. Each test runs itself again as a process that finds that driver.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use zinc_backend::{Backend, Device};
use zinc_cuda::{CudaBackend, CudaOptions};
use zinc_gguf::Gguf;
use zinc_models::{Model, PlanOptions};
use zinc_plan::{Dim, Limits};
use zinc_testkit::golden::goldens;
use zinc_testkit::golden_check::{Outcome, check};
use zinc_testkit::kernel_host::KernelHost;
use zinc_testkit::paths;

/// Set in the processes that do the work.
const INSIDE: &str = "ZINC_TEST_INSIDE";

fn driver() -> PathBuf {
    let kernels = paths::workspace().join("crates/zinc-cuda/kernels");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    KernelHost::driver(&kernels, &out).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether this is the process for the work of `test`; if not, that process has run, and its output is given.
fn outside(test: &str, settings: &str) -> Option<Output> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().expect("its own path"));
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    command.env("LD_LIBRARY_PATH", driver()).env("ZINC_TEST_DRIVER", settings);
    let output = command.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    Some(output)
}

fn device() -> Arc<dyn Device> {
    let lock_dir = env!("CARGO_TARGET_TMPDIR").into();
    let options =
        CudaOptions { share: true, batch_invariant: true, lock_dir, ..CudaOptions::default() };
    CudaBackend { options }.open("cuda0").expect("the driver's card")
}

/// Steps of one token are queued ahead, prompts and other plans come between.
#[test]
fn goldens_agree() {
    if outside("goldens_agree", "").is_some() {
        return;
    }
    let device = device();
    for golden in goldens().expect("golden models") {
        if ["qwen3.f32", "q_qwen3_small.q4_0"].iter().any(|name| golden.name.starts_with(name)) {
            match check(&golden, &device) {
                Outcome::Passed(note) => eprintln!("{}: {note}", golden.name),
                Outcome::Skipped(why) | Outcome::Failed(why) => panic!("{}: {why}", golden.name),
            }
        }
    }
}

/// Rows of caches come back as they were written, and no others change.
#[test]
fn caches_are_copied() {
    if outside("caches_are_copied", "").is_some() {
        return;
    }
    let device = device();
    let golden = goldens().expect("golden models").into_iter().find(|it| it.name == "qwen3.f32");
    let gguf = Gguf::open(&golden.expect("in every clone").gguf).expect("a golden");
    let model = Model::from_gguf(&gguf).expect("a golden");
    let limits = Limits { n_pages: 2, page_size: 16, ..PlanOptions::ONE_TOKEN.limits };
    let plan = model.plan(&PlanOptions { limits, ..PlanOptions::ONE_TOKEN }).expect("a plan");
    let states = device.alloc_states(&plan).expect("room");
    let access = device.state_access().expect("a card has them");
    let read = |rows| {
        let mut bytes = Vec::new();
        access.read_rows(&states, Dim::CacheRows, rows, &mut bytes).map(|()| bytes)
    };
    let before = read(0..32).expect("all rows");
    assert!(!before.is_empty() && before.iter().all(|byte| *byte == 0), "zeros at first");
    let bytes: Vec<u8> = (0..before.len() / 32 * 5).map(|idx| (idx % 251) as u8 + 1).collect();
    access.write_rows(&states, Dim::CacheRows, 3..8, &bytes).expect("five rows");
    assert_eq!(read(3..8).expect("five rows"), bytes);
    let n_set = read(0..32).expect("all rows").iter().filter(|byte| **byte != 0).count();
    assert_eq!(n_set, bytes.len());
    assert!(read(30..33).is_err(), "rows that are not there");
    assert!(
        access.write_rows(&states, Dim::CacheRows, 0..4, &bytes).is_err(),
        "bytes of five rows"
    );
}

/// Prints what opening the card, or using it, says.
#[test]
fn errors_name_the_next_step() {
    if std::env::var_os(INSIDE).is_some() {
        eprintln!("why_none: {:?}", zinc_cuda::why_none());
        return;
    }
    let said = |settings: &str| {
        let output = outside("errors_name_the_next_step", settings).expect("a process");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said("").contains("why_none: None"));
    let old = said("version=12040");
    assert!(
        old.contains("it serves CUDA 12.4, zinc needs 13.0; install driver 580 or newer"),
        "{old}"
    );
    let dead = said("fail=cuInit:1:999");
    assert!(dead.contains("the NVIDIA driver does not start: cuInit"), "{dead}");
    assert!(dead.contains("; see `nvidia-smi` and the kernel log"), "{dead}");
}
