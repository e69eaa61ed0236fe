//! Runs the real program: exit codes, stdout byte for byte, and what people read on stderr.
//!
//! The models are made here (`model.rs`), so these tests need no file from elsewhere.

#![allow(clippy::unwrap_used, missing_docs)]

#[cfg(feature = "builtin-model")]
mod builtin;
mod chat;
#[cfg(target_os = "linux")]
mod cuda;
mod data;
mod errors;
#[path = "../../../zinc-catalog/tests/it/hub.rs"]
#[allow(dead_code)]
mod hub;
mod measure;
mod model;
mod profile;
mod pull;
mod quantize;
mod serve;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory with a model, gone after the test.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        place.write("m.gguf", &model::chat_model());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zinc"));
        command.current_dir(self.dir.path()).args(args);
        command.env("XDG_STATE_HOME", self.dir.path()).env("HOME", self.dir.path());
        for name in ["XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN", "OLLAMA_MODELS"] {
            command.env_remove(name);
        }
        // Nothing of these tests leaves this machine.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("ZINC_HOME", self.path("zinc"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs with nothing on stdin.
    fn zinc(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    /// Runs with `input` on stdin.
    fn zinc_with(&self, args: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.command(args);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        // A program that refuses its flags may not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap().into()
    }
}

/// How a run ended.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).unwrap();
        Outcome { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
    }
}

impl Outcome {
    /// The program did what it was asked; its stdout as text.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        String::from_utf8(self.stdout).unwrap()
    }

    #[track_caller]
    fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

/// Text of a file that the program wrote.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
