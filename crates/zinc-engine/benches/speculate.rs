//! What drafted tokens gain: `cargo bench -p zinc-engine --bench speculate [-- MODEL.gguf]`; without a
//! file, the demonstration model.
//!
//! Each line: a task, with and without drafts, tokens per step, share of the drafted tokens that were
//! accepted, and the time of a token. The tasks are texts to go on with: one that repeats itself, as when
//! a model copies or edits, and one that does not.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{
    DraftSource, Engine, EngineOptions, LoadedModel, Model, Request, SamplingParams, Speculation,
};
use zinc_token::EncodeOptions;

const N_TOKENS: u32 = 200;

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
    for (task, text) in tasks() {
        let prompt = model.tokenizer().encode(&text, EncodeOptions::default());
        let all = [Speculation::Off, Speculation::Lookup, Speculation::Mtp, Speculation::Auto];
        let has_head = model.config().n_mtp_layers > 0;
        for speculation in all.into_iter().filter(|it| has_head || *it != Speculation::Mtp) {
            measure(task, &loaded, &prompt, speculation)?;
        }
    }
    Ok(())
}

fn measure(
    task: &str,
    loaded: &Arc<LoadedModel>,
    prompt: &[u32],
    speculation: Speculation,
) -> Result<(), Box<dyn Error>> {
    let options = EngineOptions { speculation, ..EngineOptions::default() };
    let mut engine = Engine::new(Arc::clone(loaded), &options)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
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
        best = best.min(begin.elapsed().as_secs_f64());
    }
    let stats = engine.stats();
    let [lookup, mtp] = [DraftSource::Lookup, DraftSource::Mtp].map(|it| stats.drafts(it));
    println!(
        "{task}, {speculation:?}: {:.2} tokens per step, {} of {} drafted tokens accepted, {:.2} ms per token",
        stats.n_generated_tokens as f64 / stats.n_steps as f64,
        lookup.n_accepted_tokens + mtp.n_accepted_tokens,
        lookup.n_drafted_tokens + mtp.n_drafted_tokens,
        best * 1e3 / f64::from(N_TOKENS - 1),
    );
    Ok(())
}
