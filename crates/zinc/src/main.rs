//! The command `zinc`: reads the command line, runs one command, and turns its result into output
//! and an exit code.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 error (or `diff` and
//! `doctor` found something), 2 wrong usage, 130 stopped by Ctrl-C.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod advice;
mod args;
mod backends;
mod builtin;
mod cli;
mod commands;
mod compare;
mod env;
mod generate;
mod input;
mod interrupt;
mod library;
mod machine;
mod markdown;
mod model;
mod need;
mod new_file;
mod output;
mod profile;
mod progress;
mod pull_progress;
mod quantize;
mod report;
mod safetensors;
mod saved_logits;
mod scores;
mod selftest;
mod session;
mod shapes;
mod terminal;
mod text_chunks;
mod tokens;
mod traffic;
mod values;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Template(args) => commands::template::run(args),
        Command::Logits(args) => commands::logits::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Diff(args) => commands::diff::run(args),
        Command::Perplexity(args) => commands::perplexity::run(args),
        Command::Imatrix(args) => commands::imatrix::run(args),
        Command::Model(args) => commands::models::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough; `zinc ... | head` is no error.
        Err(error) if report::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::note(report::render(&error));
            if error.is::<report::UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
