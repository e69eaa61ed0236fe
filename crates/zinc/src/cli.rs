//! The command line: one subcommand per file of `commands/`.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, chat, completions, diff, doctor, imatrix, inspect, logits, man, models, perplexity,
    quantize, run, serve, template, tokenize,
};

const EXAMPLES: &str = "\
Examples:
  zinc run \"Write a haiku about zinc.\"           answer with the built-in model
  zinc model list --all                          what models there are, and which fit here
  zinc chat -m qwen3-4b                          get a model and talk to it
  zinc inspect -m qwen3-4b-q4_k_m.gguf           what is in a model file, and does it fit here?
  zinc serve -m qwen3-4b-q4_k_m.gguf             an OpenAI-compatible server
  zinc doctor                                    is this machine all right?";

/// Runs a language model from a GGUF file on this machine.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything zinc does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt
    Run(Box<run::Args>),
    /// Talk to a model in the terminal
    Chat(Box<chat::Args>),
    /// Answer programs over HTTP: OpenAI's and Anthropic's APIs
    Serve(Box<serve::Args>),
    /// Show a model file: metadata, sizes, memory need
    Inspect(inspect::Args),
    /// Check this machine, its devices and a model file
    Doctor(doctor::Args),
    /// Get models, list them, choose one
    Model(models::Args),
    /// Print the token ids of a text as a JSON array
    Tokenize(tokenize::Args),
    /// Print a conversation as the model's chat template renders it
    Template(template::Args),
    /// Write the logits of given tokens to a safetensors file
    Logits(logits::Args),
    /// Make a smaller file of the same model
    Quantize(Box<quantize::Args>),
    /// Measure speed
    Bench(bench::Args),
    /// Find the first tensor that differs between two devices or two chunk sizes
    ///
    /// Each router's experts must be those that the scores it read say. Where devices may differ by more than rounding
    /// of f32, tokens that then have other experts on the two sides are no longer compared, and how many are left is
    /// said. Logits are compared once more of a step with nothing tapped. Exits with 1 if anything differs.
    Diff(diff::Args),
    /// Measure how well a model predicts a text, and how far it is from another model
    Perplexity(perplexity::Args),
    /// Measure what drives each weight matrix, for better quantisation
    Imatrix(imatrix::Args),
    /// Print the completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}
