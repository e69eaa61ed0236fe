//! `zinc template`: a conversation as the model's chat template renders it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use zinc_chat::{SpecialTexts, template_source};
use zinc_token::template::{ChatTemplate, DateTime, TemplateInput, TemplateLimits};

use crate::args::ModelArgs;
use crate::{input, output, report};

/// Flags of `template`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Use this Jinja template instead of a model's
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    template_file: Option<PathBuf>,
    /// Conversation as JSON: an object with messages, and if wanted tools, add_generation_prompt
    /// (default true) and further template variables; - is stdin
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Text of the beginning-of-sequence token. Default: the model's
    #[arg(long, value_name = "TEXT")]
    bos_token: Option<String>,
    /// Text of the end-of-sequence token. Default: the model's
    #[arg(long, value_name = "TEXT")]
    eos_token: Option<String>,
    /// Date and time that the template sees, as 2026-01-31 or 2026-01-31T12:00:00. Default: now, in UTC
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    now: Option<DateTime>,
}

/// Runs the command.
///
/// # Errors
/// The template or the input cannot be read, or the template refuses the conversation.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut input = read_input(args)?;
    input.bos_token = args.bos_token.clone().or(input.bos_token);
    input.eos_token = args.eos_token.clone().or(input.eos_token);
    input.now = args.now.or(input.now);
    let template = match &args.template_file {
        Some(path) => {
            let source = input::read_text(path)?;
            ChatTemplate::new(&source, TemplateLimits::default())
                .with_context(|| path.display().to_string())?
        }
        None => {
            let gguf = args.model.open_gguf()?;
            SpecialTexts::of(args.model.tokenizer(&gguf)?.vocab()).fill(&mut input);
            let source = template_source(gguf.metadata(), input.tools.is_some());
            let source = source.with_context(|| args.model.name())?.ok_or_else(|| {
                let what = format!("{} has no chat template", args.model.name());
                report::with_hint(what, "name one with --template-file FILE.jinja")
            })?;
            ChatTemplate::new(source, TemplateLimits::default())
                .with_context(|| args.model.name())?
        }
    };
    output::text(&template.render(&input)?)?;
    Ok(ExitCode::SUCCESS)
}

fn read_input(args: &Args) -> anyhow::Result<TemplateInput> {
    let name = || args.input.display().to_string();
    let text = input::read_text(&args.input)?;
    let json = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", name()))?;
    TemplateInput::from_json(json).with_context(name)
}

fn parse_time(text: &str) -> Result<DateTime, String> {
    let wrong = || "expected a time such as 2026-01-31T12:00:00".to_owned();
    let mut parts = text.split(['-', 'T', ' ', ':']);
    let mut next = |min: u32, max: u32, default: Option<u32>| match parts.next() {
        Some(part) => part.parse().ok().filter(|n| (min..=max).contains(n)).ok_or_else(wrong),
        None => default.ok_or_else(wrong),
    };
    let time = DateTime {
        year: next(0, 9999, None)?.into(),
        month: next(1, 12, None)?,
        day: next(1, 31, None)?,
        hour: next(0, 23, Some(0))?,
        minute: next(0, 59, Some(0))?,
        second: next(0, 59, Some(0))?,
    };
    match parts.next() {
        None => Ok(time),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |text| {
            parse_time(text).map(|t| (t.year, t.month, t.day, t.hour, t.minute, t.second)).ok()
        };
        assert_eq!(time("2026-01-15"), Some((2026, 1, 15, 0, 0, 0)));
        assert_eq!(time("2026-01-15T12:30:05"), Some((2026, 1, 15, 12, 30, 5)));
        for wrong in ["", "2026", "2026-13-01", "2026-01-15T12:00:00:1", "a-b-c"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }
}
