//! Project tasks, run as `cargo xtask <task>`.

mod clients;
mod cuda;
mod install;
mod server;
mod soak;
mod tidy;
mod ui;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

const HELP: &str = "\
cargo xtask <task>

  tidy            formatting, clippy with warnings denied, dependency arrows, caps on files and
                  functions, justified dependencies, repository size
  clients         real clients from their registries against a live server; needs python3-venv, node,
                  npm and curl
  soak [SECONDS]  64 clients of every sort against a live server, 300 seconds if not said otherwise
  ui [--write]    builds the chat page, compares it with what is committed, drives it in a browser;
                  needs node, npm and Chromium. --write builds it into the repository
  cuda [MODULE]   compiles the CUDA kernels that are stale, or those named, for every generation with limits
                  on registers and spills, and writes the PTX that the binary carries; --ptx leaves the
                  limits out. --check compiles all, compares, and writes nothing. Needs python3-venv and g++
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("tidy") => tidy::run(&root()),
        Some("ui") => ui::run(&root(), std::env::args().nth(2).as_deref() == Some("--write")),
        Some("clients") => clients::run(&root()),
        Some("soak") => soak_seconds().and_then(|seconds| soak::run(&root(), seconds)),
        Some("cuda") => cuda::run(&root(), &std::env::args().skip(2).collect::<Vec<_>>()),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("error: no task called {other}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long `soak` runs.
fn soak_seconds() -> anyhow::Result<u64> {
    match std::env::args().nth(2) {
        Some(text) => text.parse().with_context(|| format!("{text:?} is no number of seconds")),
        None => Ok(300),
    }
}

/// Root of the workspace. Cargo names the package's folder when it runs the program; the folder it
/// was built in may be another one when checkouts share a target directory.
fn root() -> PathBuf {
    let built_in = env!("CARGO_MANIFEST_DIR").into();
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or(built_in, PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}
