//! What drafted tokens gain: `cargo bench -p zinc-engine --bench speculate [-- MODEL.gguf]`; without a
//! file, the demonstration model.
//!
//! Each line: a task, with and without drafts, tokens per step, share of the drafted tokens that were
//! accepted, and the medians of the time of a token and of its ratio to the time without drafts. All ways
//! run in turn, and a ratio is of one turn, so that what else runs on the machine weighs on all alike. The tasks are texts to go on with: one that repeats itself, as when
//! a model copies or edits, and one that does not.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{
    DraftSource, Engine, EngineError, EngineOptions, LoadedModel, Model, Request, SamplingParams,
    Speculation,
};
use zinc_token::EncodeOptions;

const N_TOKENS: u32 = 200;
const N_TURNS: usize = 9;

fn tasks() -> [(&'static str, String); 2] {
    let story = "Once there was a small fox who lived near a river. The fox liked to count the \
                 stones: one, two, three. Every day the fox told the river a new story.\n";
    [("copying", story.repeat(4)), ("new text", story.to_owned())]
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../builtin/zinc-demo.gguf");
    let model = Arc::new(Model::open(&file.map_or(demo, PathBuf::from))?);
    let device = Arc::new(CpuDevice::new(2, Isa::best())?);
    let auto = EngineOptions { speculation: Speculation::Auto, ..EngineOptions::default() };
    let loaded = LoadedModel::load_for(Arc::clone(&model), device, &auto, &mut |_, _| {})?;
    let loaded = Arc::new(loaded);
    let has_head = model.config().n_mtp_layers > 0;
    let all = [Speculation::Off, Speculation::Lookup, Speculation::Mtp, Speculation::Auto];
    for (task, text) in tasks() {
        let prompt = model.tokenizer().encode(&text, EncodeOptions::default());
        let ways = all.into_iter().filter(|it| has_head || *it != Speculation::Mtp);
        let engine = |speculation| {
            let options = EngineOptions { speculation, ..EngineOptions::default() };
            Ok((speculation, Engine::new(Arc::clone(&loaded), &options)?, Vec::new()))
        };
        let mut ways = ways.map(engine).collect::<Result<Vec<_>, EngineError>>()?;
        for _ in 0..N_TURNS {
            for (_, engine, times) in &mut ways {
                times.push(measure(engine, &prompt)?);
            }
        }
        let off = ways[0].2.clone();
        for (speculation, engine, times) in ways {
            let ratios = times.iter().zip(&off).map(|(time, off)| time / off).collect();
            tell(task, speculation, &engine, median(times), median(ratios));
        }
    }
    Ok(())
}

/// Seconds of all tokens but the first.
fn measure(engine: &mut Engine, prompt: &[u32]) -> Result<f64, Box<dyn Error>> {
    engine.submit(Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(N_TOKENS),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        ignore_eos: true,
        ..Request::default()
    })?;
    // The prompt, and the first token with it.
    while engine.stats().n_generated_tokens.is_multiple_of(u64::from(N_TOKENS)) {
        engine.step(&mut |_| ())?;
    }
    let begin = Instant::now();
    while !engine.is_idle() {
        engine.step(&mut |_| ())?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(task: &str, speculation: Speculation, engine: &Engine, time: f64, ratio: f64) {
    let stats = engine.stats();
    let [lookup, mtp] = [DraftSource::Lookup, DraftSource::Mtp].map(|it| stats.drafts(it));
    println!(
        "{task}, {speculation:?}: {:.2} tokens per step, {} of {} drafted tokens accepted, \
         {:.2} ms per token, {ratio:.3} of off",
        stats.n_generated_tokens as f64 / stats.n_steps as f64,
        lookup.n_accepted_tokens + mtp.n_accepted_tokens,
        lookup.n_drafted_tokens + mtp.n_drafted_tokens,
        time * 1e3 / f64::from(N_TOKENS - 1),
    );
}
