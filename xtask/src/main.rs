//! Project tasks, run as `cargo xtask <task>`.

mod cuda;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <task>

  tidy     formatting, clippy with warnings denied, dependency arrows, caps on files and functions,
           justified dependencies, repository size, PTX as fresh as the kernels
  cuda     compile the CUDA kernels for every generation with limits on registers and spills, and
           write the PTX that the binary carries; with names, only those modules
";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("tidy") => tidy::run(&root()),
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

/// Root of the workspace. Cargo names the package's folder when it runs the program; the folder it
/// was built in may be another one when checkouts share a target directory.
fn root() -> PathBuf {
    let built_in = env!("CARGO_MANIFEST_DIR").into();
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or(built_in, PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}
