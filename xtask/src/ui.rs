//! The chat page: installs its tools, builds it, compares it with what is committed, drives it in a
//! browser.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};

/// Where the page lives.
const UI: &str = "crates/zinc-server/ui";
/// What of it is sources; `dist` is built from them.
const SOURCES: [&str; 6] =
    ["build.mjs", "package.json", "package-lock.json", "src", "test", "tsconfig.json"];
/// Browsers by the names that distributions give them.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Builds the page; with `write` puts it into the repository, else checks and tests what is there.
///
/// # Errors
/// A tool is missing or cannot be run.
pub fn run(root: &Path, write: bool) -> Result<bool> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let work = target.join("ui");
    let ui = root.join(UI);
    copy_sources(&ui, &work)?;
    install(&work)?;
    let built = node(&work, ["node_modules/.bin/tsc", "--noEmit"])? && node(&work, ["build.mjs"])?;
    if !built {
        return Ok(false);
    }
    let (built, committed) = (files(&work.join("dist"))?, files(&ui.join("dist"))?);
    if write {
        replace(&ui.join("dist"), &packed(built)?)?;
        eprintln!("ui: {UI}/dist is written");
        return Ok(true);
    }
    let committed = unpacked(committed)?;
    if built != committed {
        let differs = |name: &&String| built.get(*name) != committed.get(*name);
        let names: Vec<_> = built.keys().chain(committed.keys()).filter(differs).take(5).collect();
        eprintln!("ui: {UI}/dist is not what its sources give: {names:?}");
        eprintln!("hint: cargo xtask ui --write");
        return Ok(false);
    }
    eprintln!("ui: {UI}/dist is what its sources give");
    test(root, &target, &work)
}

/// Everything is built below `target`, so that no tool leaves anything among the sources and paths
/// are the same in every clone.
fn copy_sources(ui: &Path, work: &Path) -> Result<()> {
    std::fs::create_dir_all(work).with_context(|| format!("{}", work.display()))?;
    for name in SOURCES {
        let to = work.join(name);
        if to.is_dir() {
            std::fs::remove_dir_all(&to).with_context(|| format!("{}", to.display()))?;
        }
        copy(&ui.join(name), &to)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to).with_context(|| format!("{}", to.display()))?;
        for entry in std::fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    std::fs::copy(from, to).map(drop).with_context(|| format!("{}", from.display()))
}

/// Installs exactly what the lockfile names, unless that is installed.
fn install(work: &Path) -> Result<()> {
    let lock = std::fs::read(work.join("package-lock.json"))?;
    let stamp = work.join("node_modules/.installed");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    // No package needs its scripts here, so none may run any.
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let status = Command::new("npm").args(arguments).current_dir(work).status();
    let status = status.context("cannot run npm; install Node 20 or newer")?;
    anyhow::ensure!(status.success(), "npm ci failed");
    std::fs::write(&stamp, lock).with_context(|| format!("{}", stamp.display()))
}

fn node<S: AsRef<OsStr>>(work: &Path, arguments: impl IntoIterator<Item = S>) -> Result<bool> {
    let status = Command::new("node").args(arguments).current_dir(work).status();
    Ok(status.context("cannot run node; install Node 20 or newer")?.success())
}

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&at) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder)?.to_string_lossy().replace('\\', "/");
            found
                .insert(name, std::fs::read(&path).with_context(|| format!("{}", path.display()))?);
        }
    }
    Ok(found)
}

/// The files as the server embeds them: long texts packed, since browsers take them so.
fn packed(files: BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>> {
    let pack = |(name, bytes): (String, Vec<u8>)| {
        if ![".js", ".css", ".txt"].iter().any(|ending| name.ends_with(ending)) {
            return Ok((name, bytes));
        }
        // Neither a time nor a system in the header.
        let mut packer = GzBuilder::new().write(Vec::new(), Compression::best());
        packer.write_all(&bytes)?;
        Ok((format!("{name}.gz"), packer.finish()?))
    };
    files.into_iter().map(pack).collect()
}

/// The files as they were before they were packed, which another version of the packer may do otherwise.
fn unpacked(files: BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>> {
    let unpack = |(name, bytes): (String, Vec<u8>)| {
        let Some(plain) = name.strip_suffix(".gz") else { return Ok((name, bytes)) };
        let mut text = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut text).with_context(|| name.clone())?;
        Ok((plain.to_owned(), text))
    };
    files.into_iter().map(unpack).collect()
}

fn replace(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if folder.is_dir() {
        std::fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("{}", parent.display()))?;
        }
        std::fs::write(&path, bytes).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

/// Drives the page in a browser, against an imitated server and against `zinc serve`.
fn test(root: &Path, target: &Path, work: &Path) -> Result<bool> {
    let build =
        Command::new(env!("CARGO")).args(["build", "-p", "zinc"]).current_dir(root).status();
    anyhow::ensure!(build.context("cannot run cargo")?.success(), "cargo build failed");
    let mut tests: Vec<_> = files(&work.join("test"))?.into_keys().collect();
    tests.retain(|name| name.ends_with(".test.mjs"));
    let tests = tests.iter().map(|name| format!("test/{name}"));
    let status = Command::new("node")
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec"])
        .args(tests)
        .current_dir(work)
        .env("CHROMIUM", browser()?)
        .env("ZINC", target.join("debug/zinc"))
        .env("ZINC_DEMO", root.join("builtin/zinc-demo.gguf"))
        .status();
    Ok(status.context("cannot run node")?.success())
}

/// The browser that `CHROMIUM` names, or the first of the usual names that runs.
fn browser() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let mut candidates =
        BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates
        .find(|candidate| candidate.is_file())
        .context("there is no Chromium; install it (apt install chromium), or name one in CHROMIUM")
}
