//! What a conversation's second turn computes anew, in tokens: `cargo bench -p zinc-engine --bench
//! second_turn -- MODEL.gguf [TOKENS]`.
//!
//! The first turn is a prompt of so many tokens (5000) and an answer of 64. The second turn's prompt
//! is all of it with 32 tokens more; then once more as templates write it that drop the reasoning of
//! past answers, so that it parts from the first prompt at its last ten tokens.

use std::path::Path;
use std::sync::Arc;

use zinc_cpu::{CpuDevice, Isa};
use zinc_engine::{
    Engine, EngineOptions, Event, LoadedModel, Model, Request, SamplingParams, Usage,
};

fn turn(engine: &mut Engine, prompt: &[u32], n: u32) -> (Vec<u32>, Usage) {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(n),
        sampling: SamplingParams::greedy(),
        ignore_eos: true,
        ..Request::default()
    };
    engine.submit(request).expect("the request is accepted");
    let (mut answer, mut end) = (Vec::new(), Usage::default());
    while !engine.is_idle() {
        engine
            .step(&mut |event| match event {
                Event::Token { id, .. } => answer.push(id),
                Event::Finished { usage, .. } => end = usage,
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            })
            .expect("the device runs");
    }
    (answer, end)
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(path) = args.next() else {
        println!("skipped: no model given; cargo bench --bench second_turn -- MODEL.gguf");
        return;
    };
    let n = args.next().map_or(5000, |n| n.parse().expect("a number of tokens"));
    let model = Arc::new(Model::open(Path::new(&path)).expect("the model opens"));
    let n_vocab = model.config().n_vocab;
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let device = Arc::new(CpuDevice::new(n_threads, Isa::best()).expect("threads start"));
    let loaded = LoadedModel::load(model, device, &mut |_, _| {}).expect("the model loads");
    let options = EngineOptions {
        n_ctx: Some(n as u32 + 256),
        // Both second turns go on from the first.
        checkpoints: 8,
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Arc::new(loaded), &options).expect("the engine starts");
    let first: Vec<u32> = (0..n as u32).map(|i| (i * 7919 + i * i % 1009) % n_vocab).collect();
    let (answer, usage) = turn(&mut engine, &first, 64);
    println!("turn    prompt    known  computed  computed anew");
    println!("1     {:8} {:8} {:9}", usage.n_prompt, 0, usage.n_prompt - usage.n_reused);
    let more = [11; 32];
    let dropped = [&first[..n - 10], &[5, 6], &answer[40..], &more].concat();
    let next = [&first[..], &answer, &more].concat();
    for (name, prompt, n_known) in
        [("2", &next, n + answer.len() - 1), ("2, reasoning dropped", &dropped, n - 10)]
    {
        let (_, usage) = turn(&mut engine, prompt, 8);
        let n_again = n_known - usage.n_reused;
        let share = 100.0 * n_again as f64 / n_known as f64;
        let n_computed = usage.n_prompt - usage.n_reused;
        println!(
            "{name:5} {:8} {n_known:8} {n_computed:9}  {n_again} tokens, {share:.2} %",
            usage.n_prompt
        );
    }
}
