//! `zinc run`: one prompt, one answer.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use zinc_catalog::Sampling;
use zinc_engine::{FinishReason, SamplingParams};

use crate::args::{
    ChatArgs, DeviceArgs, EngineArgs, LimitArgs, ModelArgs, SamplingArgs, SpeculateArgs,
};
use crate::generate::{self, Answer, Counts, Piece, Timings};
use crate::profile::{self, ProfileArgs};
use crate::progress::{Progress, Unit};
use crate::session::{Message, Session};
use crate::terminal::{Screen, Thinking};
use crate::{input, interrupt, output, report};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Continue the text as it is, without the model's chat template
    #[arg(long, conflicts_with_all = ["system", "think", "no_think"])]
    raw: bool,
    /// With --raw: turn the text of control tokens, such as <|im_end|>, into those tokens
    #[arg(long, requires = "raw")]
    parse_special: bool,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Read the prompt from a file; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Print one JSON object with text, ids, usage and timings instead of text
    #[arg(long)]
    json: bool,
    /// No statistics on stderr
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The prompt. Without it and --file, stdin is read
    prompt: Option<String>,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    device: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    ids: &'a [u32],
    finish_reason: &'static str,
    usage: Counts,
    timings: Timings,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a profile::Report>,
}

/// Runs the command.
///
/// # Errors
/// The prompt cannot be read, the model cannot be run, or the device fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.sampling.params(&Sampling::default())?;
    args.limits.check()?;
    let prompt = read_prompt(args)?;
    if prompt.trim().is_empty() {
        return Err(report::with_hint(
            "the prompt is empty",
            "give it as an argument, with --file or on stdin",
        ));
    }
    let sampling = args.sampling.params(&args.model.choose()?.sampling())?;
    let mut session = Session::open(&args.model, &args.device, &args.engine, &args.speculate)?;
    if !args.raw {
        session.use_template(&args.model, &args.chat)?;
    }
    interrupt::install()?;
    let screen = Screen::look();
    session.engine.set_profiling(args.profile.profile);
    // Answers are lines, for files and pipes as well; the continuation of a text is what it is.
    let ends_as_line = screen.stdout || (!args.raw && session.format.is_some());
    let mut is_in_line = false;
    let answer = answer(args, &sampling, &mut session, &prompt, screen, &mut is_in_line);
    if ends_as_line && is_in_line {
        output::text("\n")?;
    }
    let answer = answer?;
    let profile = match args.profile.profile {
        true => {
            let plans = session.engine.take_profile();
            Some(profile::Report::new(session.engine.device().as_ref(), &plans)?)
        }
        false => None,
    };
    if args.json {
        output::json(&Report {
            model: args.model.name(),
            device: &session.device,
            text: &answer.text,
            reasoning: &answer.reasoning,
            ids: &answer.ids,
            finish_reason: generate::reason_name(&answer.reason),
            usage: Counts::from(&answer.usage),
            timings: Timings::from(&answer.usage),
            profile: profile.as_ref(),
        })?;
    }
    if !args.quiet {
        screen.dim(&format!(
            "{}\n{}\n",
            generate::summary(&answer, session.engine.n_ctx()),
            session.memory_line()
        ));
    }
    if let Some(profile) = profile.filter(|_| !args.json) {
        report::note(format_args!("\n{}", profile.for_people().trim_end()));
    }
    Ok(match answer.reason {
        FinishReason::Cancelled => ExitCode::from(interrupt::EXIT_CODE),
        _ => ExitCode::SUCCESS,
    })
}

fn read_prompt(args: &Args) -> anyhow::Result<String> {
    match (&args.prompt, &args.file) {
        (Some(prompt), _) => Ok(prompt.clone()),
        (None, Some(path)) => input::read_text(path),
        (None, None) if std::io::stdin().is_terminal() => Err(report::with_hint(
            "there is no prompt",
            "zinc run \"your question\"; zinc chat is for conversations",
        )),
        (None, None) => input::read_stdin(),
    }
}

/// Shows the answer as it comes; `is_in_line` tells whether its last line has no end yet, also where it fails.
fn answer(
    args: &Args,
    sampling: &SamplingParams,
    session: &mut Session,
    prompt: &str,
    screen: Screen,
    is_in_line: &mut bool,
) -> anyhow::Result<Answer> {
    let mut thinking = Thinking::new(screen);
    let mut n_pieces = 0;
    let limit = args.limits.max_tokens.unwrap_or(session.engine.n_ctx());
    let mut progress = Progress::new("generating", Unit::Tokens);
    let mut show = |piece: Piece<'_>| match piece {
        _ if args.json => {
            n_pieces += 1;
            progress.update(n_pieces, limit.into());
            Ok(())
        }
        Piece::Reasoning(text) => {
            // Reasoning is no answer: a person may watch it, a program that wants it asks for --json.
            if screen.stderr && !args.quiet {
                thinking.push(text);
            }
            Ok(())
        }
        Piece::Text(text) => {
            thinking.end("\n");
            *is_in_line = text.chars().last().map_or(*is_in_line, |last| last != '\n');
            screen.text(text)
        }
    };
    if args.raw || session.format.is_none() {
        if !args.raw {
            if args.chat.system.is_some() {
                let what = "this model has no chat template, so it takes no system message";
                return Err(report::with_hint(what, "leave out --system"));
            }
            report::note(
                "note: this model has no chat template; it continues the prompt as plain text (--raw)",
            );
        }
        return session.complete(prompt, args.parse_special, sampling, &args.limits, &mut show);
    }
    let system = args.chat.system.as_ref().map(|text| Message::new("system", text));
    let user = Message::new("user", prompt.trim_end_matches(['\r', '\n']));
    let messages: Vec<_> = system.into_iter().chain([user]).collect();
    let answer = session.answer(&messages, sampling, &args.limits, &mut show);
    thinking.end("\n");
    answer
}
