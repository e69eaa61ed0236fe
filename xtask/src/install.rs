//! Tools from package registries, installed below `target` and anew when what is wanted changes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where a folder says what it was made for.
const MADE_FOR: &str = "made-for";

/// Makes `venv` a virtual environment with the packages that a requirements file of this text names. Debian's own
/// Python takes no packages, and may be there without pip; an environment has its own.
pub fn python_packages(venv: &Path, requirements: &str) -> Result<()> {
    if is_current(venv, requirements) {
        return Ok(());
    }
    eprintln!("installing Python packages");
    finish(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
    let wanted = venv.join("requirements.txt");
    std::fs::write(&wanted, requirements)?;
    let mut install = Command::new(venv.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // Nothing is built and nothing compiled ahead: it would take longer than it saves.
    install.args(["--only-binary", ":all:", "--no-compile", "--requirement"]).arg(&wanted);
    finish(&mut install)?;
    mark_current(venv, requirements)
}

/// Whether `folder` was made for what is wanted now.
pub fn is_current(folder: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(folder.join(MADE_FOR)).is_ok_and(|made_for| made_for == wanted)
}

pub fn mark_current(folder: &Path, wanted: &str) -> Result<()> {
    std::fs::write(folder.join(MADE_FOR), wanted)?;
    Ok(())
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}
