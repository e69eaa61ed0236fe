//! `zinc tokenize`: a text's token ids.

use std::path::PathBuf;
use std::process::ExitCode;

use zinc_token::EncodeOptions;

use crate::args::ModelArgs;
use crate::{input, output};

/// Flags of `tokenize`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["text", "file"])))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Begin with the beginning-of-sequence token, if the model expects one
    #[arg(long)]
    bos: bool,
    /// Turn the text of control tokens, such as <|im_end|>, into those tokens
    #[arg(long)]
    parse_special: bool,
    /// Read the text from a file; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The text
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The model has no usable tokenizer, or the text cannot be read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tokenizer = args.model.tokenizer(&args.model.open_gguf()?)?;
    let text = match (&args.file, &args.text) {
        (Some(path), _) => input::read_text(path)?,
        (None, text) => text.clone().unwrap_or_default(),
    };
    let options = EncodeOptions { add_special: false, parse_special: args.parse_special };
    let mut ids = tokenizer.encode(&text, options);
    if args.bos && tokenizer.adds_bos() {
        ids.splice(0..0, tokenizer.vocab().bos());
    }
    output::json(&ids)?;
    Ok(ExitCode::SUCCESS)
}
