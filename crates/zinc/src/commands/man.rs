//! `zinc man`: manual pages, from the same definition as the flags.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::output;

/// Flags of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the pages of all commands into this directory instead of the first one to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// The directory or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let command = Cli::command();
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            clap_mangen::generate_to(command, dir).with_context(|| dir.display().to_string())?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).context("cannot write the page")?;
            output::bytes(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
