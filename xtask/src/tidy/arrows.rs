//! Dependency arrows between the crates of the workspace.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Violation;

/// What each crate may depend on; anything in the workspace that is not listed is refused.
const ARROWS: [(&str, &[&str]); 15] = [
    ("zinc-quant", &[]),
    ("zinc-gguf", &["zinc-quant"]),
    ("zinc-token", &["zinc-gguf"]),
    ("zinc-plan", &["zinc-quant"]),
    ("zinc-models", &["zinc-plan", "zinc-gguf", "zinc-quant"]),
    ("zinc-backend", &["zinc-plan", "zinc-quant"]),
    ("zinc-reference", &["zinc-backend", "zinc-plan", "zinc-quant"]),
    ("zinc-cpu", &["zinc-backend", "zinc-plan", "zinc-quant"]),
    ("zinc-cuda", &["zinc-backend", "zinc-plan", "zinc-quant"]),
    (
        "zinc-engine",
        &["zinc-backend", "zinc-models", "zinc-token", "zinc-plan", "zinc-gguf", "zinc-quant"],
    ),
    ("zinc-catalog", &["zinc-engine", "zinc-backend", "zinc-gguf"]),
    ("zinc-chat", &["zinc-engine", "zinc-token", "zinc-gguf"]),
    ("zinc-server", &["zinc-engine", "zinc-chat", "zinc-token"]),
    (
        "zinc",
        &[
            "zinc-catalog",
            "zinc-server",
            "zinc-chat",
            "zinc-engine",
            "zinc-backend",
            "zinc-models",
            "zinc-token",
            "zinc-plan",
            "zinc-gguf",
            "zinc-quant",
            "zinc-reference",
            "zinc-cpu",
            "zinc-cuda",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that only tests may depend on; they may depend on everything below the binary.
const DEV_ONLY: [&str; 1] = ["zinc-testkit"];

pub fn check(root: &Path) -> Result<Vec<Violation>> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output();
    let output = output.context("cannot run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("metadata without packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    Ok(packages.iter().flat_map(|package| check_package(package, &names)).collect())
}

fn check_package(package: &Value, workspace: &[&str]) -> Vec<Violation> {
    let name = package["name"].as_str().unwrap_or_default();
    let at = package["manifest_path"].as_str().unwrap_or(name);
    let allowed = ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    if allowed.is_none() && !DEV_ONLY.contains(&name) {
        let what = "crate has no line in xtask/src/tidy/arrows.rs; say what it may depend on";
        return vec![Violation::new(at, what)];
    }
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refused = dependencies.iter().filter_map(|dependency| {
        let to = dependency["name"].as_str()?;
        let is_dev = dependency["kind"].as_str() == Some("dev");
        let is_free = is_dev || DEV_ONLY.contains(&name) && to != "zinc";
        let is_allowed = allowed.is_some_and(|allowed| allowed.contains(&to));
        let refused = workspace.contains(&to) && !is_free && !is_allowed;
        refused.then(|| {
            let what = format!("{name} must not depend on {to}; see ARCHITECTURE.md, code map");
            Violation::new(at, what)
        })
    });
    refused.collect()
}
