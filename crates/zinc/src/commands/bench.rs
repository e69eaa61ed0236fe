//! `zinc bench`: tokens per second, prompt and generation.

mod shapes;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use zinc_engine::{
    Engine, EngineOptions, Evaluator, Event, LoadedModel, PlanProfile, Request, SamplingParams,
    SequenceId, Speculation, Taps,
};

use crate::args::{DeviceArgs, ModelArgs, StepArgs, parse_speculation};
use crate::profile::{self, ProfileArgs};
use crate::progress::{Progress, Unit};
use crate::traffic::Traffic;
use crate::{model, output, report, tokens};

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt tokens to process; 0 skips this test
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512)]
    prompt: u32,
    /// Tokens to generate one by one; 0 skips this test
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 128)]
    generate: u32,
    /// Tokens that are in the cache before each test
    #[arg(short, long, value_name = "TOKENS", default_value_t = 0)]
    depth: u32,
    /// Sequences that generate at the same time; tokens per second are those of all of them
    #[arg(short = 'b', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    streams: u32,
    /// Measured runs of each test; the median is reported
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Draft tokens ahead: off, lookup, mtp or auto. What is generated here goes on from no real text,
    /// so this measures what drafts cost rather than what they gain
    #[arg(long, value_name = "HOW", default_value = "off", value_parser = parse_speculation)]
    speculate: Speculation,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Time every distinct operation of the model alone, with each choice of kernels that the device has,
    /// and compare with the reference: -n of a token of each of -b sequences, -p of a chunk of a prompt,
    /// both after -d others
    #[arg(long, conflicts_with_all = ["profile", "speculate"])]
    shapes: bool,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// More tokens than a step drafts.
const N_DRAFTED_MAX: u64 = 16;

/// Result of a test.
#[derive(Serialize)]
struct Measurement {
    test: String,
    tok_s: f64,
    tok_s_min: f64,
    tok_s_max: f64,
    /// Weights and cache read, by the sizes of the tensors, per second of the median run.
    gb_s: f64,
    device: String,
    model: String,
    depth: u32,
    streams: u32,
    chunk: u32,
    kv_type: &'static str,
    repetitions: u32,
    load_s: f64,
    /// Of two more runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<profile::Report>,
}

/// One of the tests.
#[derive(Clone, Copy)]
enum Test {
    /// So many prompt tokens, in chunks.
    Prompt(u32),
    /// So many tokens, one by one.
    Generate(u32),
}

impl Test {
    fn name(self, streams: u32) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generate(n) if streams > 1 => format!("tg{n} x{streams}"),
            Test::Generate(n) => format!("tg{n}"),
        }
    }

    /// Sequences that take part.
    fn streams(self, streams: u32) -> u32 {
        match self {
            Test::Prompt(_) => 1,
            Test::Generate(_) => streams,
        }
    }

    fn n_tokens(self) -> u32 {
        let (Test::Prompt(n) | Test::Generate(n)) = self;
        n
    }

    /// The same with fewer tokens, to warm up.
    fn shortened(self, chunk: u32) -> Test {
        match self {
            Test::Prompt(n) => Test::Prompt(n.min(chunk)),
            Test::Generate(n) => Test::Generate(n.min(2)),
        }
    }

    /// Most tokens of a step.
    fn step(self, chunk: u32) -> u32 {
        match self {
            Test::Prompt(_) => chunk,
            Test::Generate(_) => 1,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The model cannot be run with these sizes, or the device fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tests = [Test::Prompt(args.prompt), Test::Generate(args.generate)];
    let tests: Vec<_> = tests.into_iter().filter(|test| test.n_tokens() > 0).collect();
    let n_tokens = |test: &Test| match *test {
        Test::Prompt(n) => u64::from(n),
        Test::Generate(n) => u64::from(n) + args.n_waiting_steps(),
    };
    let Some(longest) = tests.iter().map(n_tokens).max() else {
        let hint = "give -p or -n more than 0 tokens";
        return Err(report::usage("there is nothing to measure", hint).into());
    };
    let model = args.model.open()?;
    let n_ctx = u64::from(args.depth) + longest;
    let what =
        format!("--prompt {}, --generate {}, --depth {}", args.prompt, args.generate, args.depth);
    model::check_context(&model, n_ctx, &what, "give smaller numbers")?;
    if args.shapes {
        return shapes::run(args, &model, &args.device.open()?);
    }
    let options = args.step.options(u32::try_from(n_ctx).ok());
    let options = EngineOptions {
        max_seqs: args.streams,
        busy_chunk: args.step.chunk,
        speculation: args.speculate,
        ..options
    };
    let begin = Instant::now();
    let (loaded, _) = model::load(Arc::clone(&model), args.device.open()?, &options)?;
    let load_time = begin.elapsed();
    let traffic = Traffic::of(&model, &options)?;
    let n_runs = tests.len() as u64 * u64::from(args.repetitions + 1);
    let mut progress = Progress::new("measuring", Unit::Runs);
    let mut n_done = 0;
    let mut results = Vec::new();
    for test in tests {
        let mut tick = || {
            n_done += 1;
            progress.update(n_done, n_runs);
        };
        // One after the other, so that the caches of both need not fit.
        let mut bench = Bench::new(&loaded, &options, args, test)?;
        bench.measure(test.shortened(args.step.chunk))?;
        tick();
        let mut times = Vec::new();
        for _ in 0..args.repetitions {
            times.push(bench.measure(test)?);
            tick();
        }
        let mut result = measurement(args, test, times, &traffic, &loaded, load_time);
        if args.profile.profile {
            let plans = bench.profile(test)?;
            result.profile = Some(profile::Report::new(loaded.device().as_ref(), &plans)?);
        }
        results.push(result);
    }
    progress.finish();
    if args.json {
        output::json(&results)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::text(&people(&results))?;
    for result in &results {
        if let Some(profile) = &result.profile {
            report::note(format_args!("\n{}: {}", result.test, profile.for_people().trim_end()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Tokens of steps in which some sequences generate while others still read what is before them,
    /// and of the last step.
    fn n_waiting_steps(&self) -> u64 {
        let n_drafted = if self.speculate == Speculation::Off { 0 } else { N_DRAFTED_MAX };
        let n_tokens = u64::from(self.streams) * (u64::from(self.depth) + 1);
        let n_each = u64::from(self.step.chunk.saturating_sub(self.streams)) + 1;
        n_tokens.div_ceil(n_each) + u64::from(self.streams) + 1 + n_drafted
    }
}

/// What runs a test: prompts alone, or answers as users get them.
enum Runs {
    Prompt(Box<Evaluator>),
    Generate(Box<Engine>),
}

/// What runs the repetitions of one test.
struct Bench<'a> {
    args: &'a Args,
    runs: Runs,
    n_vocab: u32,
    /// Whether runs are profiled.
    profiling: bool,
}

impl<'a> Bench<'a> {
    fn new(
        loaded: &Arc<LoadedModel>,
        options: &EngineOptions,
        args: &'a Args,
        test: Test,
    ) -> anyhow::Result<Bench<'a>> {
        let runs = match test {
            Test::Prompt(_) => {
                let evaluator = Evaluator::new(Arc::clone(loaded), options, &Taps::default())?;
                Runs::Prompt(Box::new(evaluator))
            }
            Test::Generate(_) => {
                Runs::Generate(Box::new(Engine::new(Arc::clone(loaded), options)?))
            }
        };
        let n_vocab = loaded.model().config().n_vocab;
        Ok(Bench { args, runs, n_vocab, profiling: false })
    }

    /// What the steps of `test` do, of a first run with their operations timed and a second one.
    fn profile(&mut self, test: Test) -> anyhow::Result<Vec<PlanProfile>> {
        self.profiling = true;
        for _ in 0..2 {
            self.measure(test)?;
        }
        self.profiling = false;
        Ok(match &mut self.runs {
            Runs::Prompt(evaluator) => evaluator.take_profile(),
            Runs::Generate(engine) => engine.take_profile(),
        })
    }

    /// Time of one run of `test` after filling the cache to the depth asked for.
    fn measure(&mut self, test: Test) -> anyhow::Result<Duration> {
        let Bench { args, n_vocab, profiling, .. } = *self;
        let evaluator = match &mut self.runs {
            Runs::Prompt(evaluator) => evaluator,
            Runs::Generate(engine) => {
                return generate(engine, args, test.n_tokens(), n_vocab, profiling);
            }
        };
        let ids = tokens::pseudo_random((args.depth + test.n_tokens()) as usize, n_vocab);
        let (before, measured) = ids.split_at(args.depth as usize);
        evaluator.reset();
        if !before.is_empty() {
            evaluator.eval(before)?;
        }
        evaluator.set_profiling(profiling);
        let begin = Instant::now();
        evaluator.eval(measured)?;
        let time = begin.elapsed();
        evaluator.set_profiling(false);
        Ok(time)
    }
}

/// Time in which all sequences generate, `n` tokens each on average, after each has read a prompt of
/// its own.
fn generate(
    engine: &mut Engine,
    args: &Args,
    n: u32,
    n_vocab: u32,
    profiling: bool,
) -> anyhow::Result<Duration> {
    let n_prompt = args.depth as usize + 1;
    let ids = tokens::pseudo_random(n_prompt * args.streams as usize, n_vocab);
    let mut seqs = Vec::new();
    for prompt in ids.chunks_exact(n_prompt) {
        let sampling = SamplingParams::greedy();
        let prompt = prompt.to_vec();
        let request = Request { prompt, sampling, ignore_eos: true, ..Request::default() };
        seqs.push(engine.submit(request)?);
    }
    let mut failure = None;
    let mut step = |engine: &mut Engine, on_token: &mut dyn FnMut(SequenceId)| {
        engine.step(&mut |event| match event {
            Event::Token { seq, .. } => on_token(seq),
            Event::Failed { error, .. } => failure = Some(error),
            _ => {}
        })?;
        failure.take().map_or(Ok(()), |error| Err(anyhow::Error::from(error)))
    };
    // By name: a step with drafts gives several tokens of one sequence.
    let mut waiting = seqs.clone();
    while !waiting.is_empty() {
        step(engine, &mut |seq| waiting.retain(|other| *other != seq))?;
        // Not reached while the context is long enough for the steps in which some wait.
        anyhow::ensure!(!engine.is_idle(), "the sequences ended before all of them generated");
    }
    engine.set_profiling(profiling);
    let n_tokens = n as usize * seqs.len();
    let (mut n_done, begin) = (0, Instant::now());
    while n_done < n_tokens {
        step(engine, &mut |_| n_done += 1)?;
        anyhow::ensure!(!engine.is_idle(), "the sequences ended before all of them generated");
    }
    // A step may give a few tokens more than were asked for.
    let time = begin.elapsed().mul_f64(n_tokens as f64 / n_done.max(1) as f64);
    engine.set_profiling(false);
    for seq in seqs {
        engine.cancel(seq);
    }
    engine.step(&mut |_| ())?;
    Ok(time)
}

fn measurement(
    args: &Args,
    test: Test,
    mut times: Vec<Duration>,
    traffic: &Traffic,
    loaded: &LoadedModel,
    load_time: Duration,
) -> Measurement {
    times.sort_unstable();
    let seconds = |time: Duration| time.as_secs_f64().max(1e-9);
    let streams = test.streams(args.streams);
    let rate = |time: Duration| f64::from(test.n_tokens()) * f64::from(streams) / seconds(time);
    // Of an even number of runs, the slower of the two in the middle.
    let median = times[times.len() / 2];
    let mut n_bytes = traffic.bytes(args.depth, test.n_tokens(), test.step(args.step.chunk));
    if streams > 1 {
        // The weights are read once for all, the caches for each.
        let n_steps = u64::from(test.n_tokens());
        let caches = n_bytes - n_steps * traffic.step_bytes(1);
        n_bytes = n_steps * traffic.step_bytes(streams) + u64::from(streams) * caches;
    }
    Measurement {
        test: test.name(args.streams),
        tok_s: rate(median),
        tok_s_min: rate(times[times.len() - 1]),
        tok_s_max: rate(times[0]),
        gb_s: n_bytes as f64 / seconds(median) / 1e9,
        device: loaded.device().info().name.clone(),
        model: args.model.name(),
        depth: args.depth,
        streams,
        chunk: args.step.chunk,
        kv_type: args.step.kv.name(),
        repetitions: args.repetitions,
        load_s: load_time.as_secs_f64(),
        profile: None,
    }
}

fn people(results: &[Measurement]) -> String {
    let header =
        ["test", "depth", "tok/s", "min", "max", "GB/s", "device"].map(str::to_owned).to_vec();
    let row = |m: &Measurement| {
        let number = |value: f64| format!("{value:.2}");
        let rates = [m.tok_s, m.tok_s_min, m.tok_s_max, m.gb_s].map(number);
        let mut row = vec![m.test.clone(), m.depth.to_string()];
        row.extend(rates);
        row.push(m.device.clone());
        row
    };
    let rows: Vec<_> = std::iter::once(header).chain(results.iter().map(row)).collect();
    output::table(&rows)
}
