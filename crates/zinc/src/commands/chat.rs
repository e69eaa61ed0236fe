//! `zinc chat`: a conversation in the terminal.

mod models;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use rustyline::error::ReadlineError;
use rustyline::{Cmd, DefaultEditor, KeyCode, KeyEvent, Modifiers};
use serde_json::json;
use zinc_catalog::Sampling;
use zinc_engine::{FinishReason, SamplingParams};

use crate::args::{
    ChatArgs, DeviceArgs, EngineArgs, LimitArgs, ModelArgs, SamplingArgs, SpeculateArgs,
};
use crate::generate::{self, Answer, Piece};
use crate::session::{Message, Session};
use crate::terminal::{Screen, Thinking};
use crate::{env, interrupt, output, report};

/// Flags of `chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "\
/help            this list
/clear           forget the conversation; the system message stays
/save FILE       write the conversation to a new file: JSON if it ends in .json, else text
/system [TEXT]   set the system message, or show it; the conversation starts anew
/temp [X]        set the temperature, or show it
/think on|off    let the model think before it answers, if it can
/retry           answer the last message again
/edit [TEXT]     change the last message, and answer it anew
/model [NAME]    go on with another model, or show which there are
/pull NAME       download a model
/context         how full the context is
/stats           numbers of the last answer, and memory
/quit            leave, as does Ctrl-D

Alt-Enter begins a new line, as does \\ at the end of one; lines between two \"\"\" are one message.
Ctrl-C stops an answer.
";

/// Runs the command.
///
/// # Errors
/// The model cannot be run, it has no chat template, or the device fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.sampling.params(&Sampling::default())?;
    args.limits.check()?;
    let sampling = args.sampling.params(&args.model.choose()?.sampling())?;
    let mut session = Session::open(&args.model, &args.device, &args.engine, &args.speculate)?;
    session.use_template(&args.model, &args.chat)?;
    if session.format.is_none() {
        let what = format!("{} has no chat template", args.model.name());
        return Err(report::with_hint(what, "let it continue a text: zinc run --raw"));
    }
    let mut lines = Lines::new()?;
    // After the line editor, which sets a handler of its own.
    interrupt::install()?;
    let screen = Screen::look();
    let mut chat = Chat {
        screen,
        args,
        model: args.model.choose()?.name.clone(),
        sampling,
        messages: args.chat.system.iter().map(|text| Message::new("system", text)).collect(),
        last: None,
        session: Some(session),
    };
    if screen.stderr {
        let memory = chat.session()?.memory_line();
        let model = report::printable(&chat.model);
        screen.dim(&format!("{model} · {memory}\n/help shows the commands, Ctrl-D ends\n\n"));
    }
    let mut failed = false;
    while let Some(text) = lines.message()? {
        interrupt::clear();
        let outcome = match text.strip_prefix('/') {
            Some(command) => chat.command(command, &mut lines),
            None => chat.say(&text).map(|()| Next::Go),
        };
        match outcome {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => break,
            Err(error) if report::is_broken_pipe(&error) => return Err(error),
            // A mistake, a full context or a refusing template do not end the conversation.
            Err(error) => {
                failed = true;
                report::note(report::render(&error));
            }
        }
    }
    lines.save_history();
    // Who types has read what went wrong; a program that pipes messages in sees the exit code alone.
    let untold = failed && !std::io::stdin().is_terminal();
    Ok(if untold { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

enum Next {
    Go,
    Quit,
}

/// The state of the conversation.
struct Chat<'a> {
    /// None only after a switch of models that failed both ways.
    session: Option<Session>,
    screen: Screen,
    args: &'a Args,
    /// What messages call the model.
    model: String,
    sampling: SamplingParams,
    messages: Vec<Message>,
    last: Option<Answer>,
}

impl Chat<'_> {
    fn session(&mut self) -> anyhow::Result<&mut Session> {
        let none = || report::with_hint("no model is loaded", "/model NAME loads one");
        self.session.as_mut().ok_or_else(none)
    }

    /// Adds a message and answers it. A message that gets no answer is taken back.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        let result = self.answer();
        if self.messages.last().is_some_and(|message| message.role == "user") {
            self.messages.pop();
        }
        result
    }

    /// Answers the last message.
    fn answer(&mut self) -> anyhow::Result<()> {
        let screen = self.screen;
        let mut thinking = Thinking::new(screen);
        let mut markdown = screen.markdown();
        let (messages, limits) = (self.messages.clone(), &self.args.limits);
        let sampling = self.sampling.clone();
        let mut has_text = false;
        let mut show = |piece: Piece<'_>| match piece {
            Piece::Reasoning(text) => {
                thinking.push(text);
                Ok(())
            }
            Piece::Text(text) => {
                thinking.end("\n\n");
                has_text = true;
                screen.render(text, &mut markdown)
            }
        };
        let answer = self.session()?.answer(&messages, &sampling, limits, &mut show);
        // An error begins its own line, below what there is of the answer.
        thinking.end(if answer.is_ok() { "" } else { "\n" });
        if answer.is_ok() || has_text {
            if let Some(mut markdown) = markdown {
                output::text(&markdown.finish())?;
            }
            screen.text("\n")?;
        }
        let answer = answer.map_err(|error| match generate::prompt_too_long(&error) {
            Some((n_prompt, n_ctx)) => {
                let what = format!("the conversation has {n_prompt} tokens with this message, the context holds {n_ctx}");
                report::with_hint(what, "/clear forgets the conversation; zinc chat --ctx N gives a longer context")
            }
            None => error,
        })?;
        self.after(&answer)?;
        if !answer.text.is_empty() {
            let reasoning = Some(answer.reasoning.clone()).filter(|text| !text.is_empty());
            self.messages.push(Message {
                role: "assistant",
                content: answer.text.clone(),
                reasoning,
            });
        }
        self.last = Some(answer);
        Ok(())
    }

    /// Tells what the reader should know about an answer.
    fn after(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let (n_used, n_ctx) =
            (answer.usage.n_prompt + answer.usage.n_generated, self.session()?.engine.n_ctx());
        match &answer.reason {
            FinishReason::Cancelled => self.screen.dim("[stopped]\n"),
            FinishReason::Length if generate::is_full(&answer.usage, n_ctx) => {
                report::note(format!(
                    "The context of {n_ctx} tokens is full, the answer is cut. /clear starts anew; zinc chat --ctx N gives more room."
                ))
            }
            FinishReason::Length => self.screen.dim("[cut at the token limit of -n]\n"),
            FinishReason::TimeLimit => self.screen.dim("[cut at the time limit]\n"),
            FinishReason::StopToken(_)
            | FinishReason::StopString(_)
            | FinishReason::Steered
            | FinishReason::Pooled => {}
        }
        if self.screen.stderr {
            let rate = answer.usage.decode_tokens_per_second();
            let rate = rate.map_or_else(String::new, |rate| format!(" · {rate:.1} tok/s"));
            self.screen.dim(&format!(
                "[{} tokens{rate} · context {n_used} of {n_ctx}]\n\n",
                answer.usage.n_generated
            ));
        }
        Ok(())
    }

    fn command(&mut self, command: &str, lines: &mut Lines) -> anyhow::Result<Next> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" | "?" => report::note(HELP),
            "quit" | "exit" | "bye" => return Ok(Next::Quit),
            "clear" => {
                self.messages.retain(|message| message.role == "system");
                self.last = None;
                report::note("The conversation is forgotten.");
            }
            "save" => self.save(rest)?,
            "system" => self.system(rest),
            "temp" => self.temperature(rest)?,
            "think" => self.think(rest)?,
            "retry" => self.retry()?,
            "edit" => self.edit(rest, lines)?,
            "model" => self.switch_model(rest)?,
            "pull" => self.pull(rest)?,
            "context" => self.context()?,
            "stats" => self.stats()?,
            _ => {
                return Err(report::with_hint(
                    format!("there is no command /{}", report::printable(name)),
                    "/help lists them",
                ));
            }
        }
        Ok(Next::Go)
    }

    fn save(&self, path: &str) -> anyhow::Result<()> {
        if path.is_empty() {
            return Err(report::with_hint("no file is named", "/save FILE"));
        }
        let path = PathBuf::from(path);
        let text = match path.extension().is_some_and(|extension| extension == "json") {
            true => self.as_json()?,
            false => self.as_text(),
        };
        // Never writes over a file.
        let mut file =
            std::fs::File::create_new(&path).with_context(|| path.display().to_string())?;
        std::io::Write::write_all(&mut file, text.as_bytes())
            .with_context(|| path.display().to_string())?;
        report::note(format!("Saved {} messages to {}.", self.messages.len(), path.display()));
        Ok(())
    }

    /// The form that `zinc template --input` reads.
    fn as_json(&self) -> anyhow::Result<String> {
        let messages: Vec<_> = self.messages.iter().map(Message::wire).collect();
        Ok(serde_json::to_string_pretty(&json!({ "messages": messages }))? + "\n")
    }

    fn as_text(&self) -> String {
        let part = |message: &Message| format!("## {}\n\n{}\n\n", message.role, message.content);
        self.messages.iter().map(part).collect()
    }

    fn system(&mut self, text: &str) {
        if text.is_empty() {
            let system = self.messages.iter().find(|message| message.role == "system");
            report::note(system.map_or("There is no system message.", |message| &message.content));
            return;
        }
        self.messages = vec![Message::new("system", text)];
        self.last = None;
        report::note("The system message is set; the conversation starts anew.");
    }

    fn temperature(&mut self, text: &str) -> anyhow::Result<()> {
        if !text.is_empty() {
            let temperature = text
                .parse()
                .map_err(|_| report::with_hint(format!("{text:?} is no number"), "/temp 0.7"))?;
            let params = SamplingParams { temperature, ..self.sampling.clone() };
            params.validate()?;
            self.sampling = params;
        }
        report::note(format!("The temperature is {}.", self.sampling.temperature));
        Ok(())
    }

    fn think(&mut self, text: &str) -> anyhow::Result<()> {
        match text {
            "on" => self.session()?.set_thinking(Some(true))?,
            "off" => self.session()?.set_thinking(Some(false))?,
            _ => return Err(report::with_hint("expected on or off", "/think on")),
        }
        report::note(format!("Thinking is {text}."));
        Ok(())
    }

    fn retry(&mut self) -> anyhow::Result<()> {
        let Some(answered) = self.messages.pop_if(|message| message.role == "assistant") else {
            return Err(report::with_hint("there is no answer to replace", "say something first"));
        };
        let n_messages = self.messages.len();
        let result = self.answer();
        if self.messages.len() == n_messages {
            // The old answer is better than none.
            self.messages.push(answered);
        }
        result
    }

    /// Takes the last message back, lets its text be changed, and answers it.
    fn edit(&mut self, text: &str, lines: &mut Lines) -> anyhow::Result<()> {
        let Some(at) = self.messages.iter().rposition(|message| message.role == "user") else {
            return Err(report::with_hint("there is no message to change", "say something first"));
        };
        let text = match text {
            "" => lines.edit(&self.messages[at].content)?,
            text => Some(text.to_owned()),
        };
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            report::note("The message stays as it is.");
            return Ok(());
        };
        let before = self.messages.split_off(at);
        let result = self.say(&text);
        if self.messages.len() == at {
            // The old message and its answer are better than none.
            self.messages.extend(before);
        }
        result
    }

    fn stats(&mut self) -> anyhow::Result<()> {
        let n_ctx = self.session()?.engine.n_ctx();
        match &self.last {
            Some(answer) => report::note(generate::summary(answer, n_ctx)),
            None => report::note("There is no answer yet."),
        }
        report::note(self.session()?.memory_line());
        Ok(())
    }
}

/// Messages typed by a person, or lines from a pipe.
struct Lines {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Lines {
    fn new() -> anyhow::Result<Self> {
        let mut editor = DefaultEditor::new().context("cannot read from this terminal")?;
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let history = env::state_dir()
            .filter(|_| std::io::stdin().is_terminal())
            .map(|dir| dir.join("chat_history"));
        if let Some(path) = &history {
            // The first chat has no history.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// The next message that is not empty; `None` at the end.
    fn message(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            let Some(line) = self.line("> ")? else {
                return Ok(None);
            };
            let text = match line.trim() {
                "" => continue,
                first if first.starts_with("\"\"\"") => self.block(&line)?,
                _ => self.continued(line)?,
            };
            // A history that cannot take the line is no reason to stop.
            let _ = self.editor.add_history_entry(&text);
            return Ok(Some(text));
        }
    }

    /// Lines up to one that ends in three quotes.
    fn block(&mut self, first: &str) -> anyhow::Result<String> {
        let mut text = first.trim().trim_start_matches("\"\"\"").to_owned();
        while !text.trim_end().ends_with("\"\"\"") {
            let Some(line) = self.line(". ")? else {
                break;
            };
            if !text.is_empty() {
                text.push('\n');
            }
            text += &line;
        }
        Ok(text.trim_end().trim_end_matches("\"\"\"").to_owned())
    }

    /// Lines joined at backslashes.
    fn continued(&mut self, first: String) -> anyhow::Result<String> {
        let mut text = first;
        while text.ends_with('\\') {
            text.pop();
            text.push('\n');
            let Some(line) = self.line(". ")? else {
                break;
            };
            text += &line;
        }
        Ok(text.trim().to_owned())
    }

    /// A line; `None` at the end of the input. Ctrl-C gives up the line.
    fn line(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Some(line)),
            Err(ReadlineError::Eof) => Ok(None),
            Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
            Err(error) => Err(error).context("cannot read a line"),
        }
    }

    /// A text to be changed; `None` if it is given up.
    fn edit(&mut self, text: &str) -> anyhow::Result<Option<String>> {
        match self.editor.readline_with_initial("> ", (text, "")) {
            Ok(line) => Ok(Some(line)),
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
            Err(error) => Err(error).context("cannot read a line"),
        }
    }

    fn save_history(&mut self) {
        let Some(path) = &self.history else {
            return;
        };
        let saved = create_parent(path).and_then(|()| Ok(self.editor.save_history(path)?));
        if let Err(error) = saved {
            report::note(format!("note: the history was not saved: {error:#}"));
        }
    }
}

fn create_parent(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(parent) => Ok(std::fs::create_dir_all(parent)?),
        None => Ok(()),
    }
}
