//! Counters and histograms in Prometheus' text form.
//!
//! The names that begin with `vllm:` are those that the endpoint picker of the Kubernetes Gateway API
//! Inference Extension and llm-d read by default: its model server protocol (proposal 003) wants
//! queued requests, running requests and the share of the cache in use as gauges, and the cache's
//! block size and number of blocks as labels. What vLLM has no name for begins with `zinc_`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zinc_engine::{DraftSource, DraftStats};

/// Upper bounds of the buckets of times, in seconds.
const TIME_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Upper bounds of the buckets of lengths, in tokens.
const TOKEN_BOUNDS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5];

/// A histogram of times or lengths.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than `bounds`.
    counts: Vec<AtomicU64>,
    /// In millionths.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one time.
    pub fn observe(&self, time: Duration) {
        self.count(time.as_secs_f64(), time.as_micros() as u64);
    }

    /// Counts one length in tokens.
    pub fn observe_tokens(&self, n: usize) {
        self.count(n as f64, n as u64 * 1_000_000);
    }

    fn count(&self, value: f64, millionths: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound);
        self.counts[at.unwrap_or(self.bounds.len())].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(millionths, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {total}");
    }
}

/// What has been counted of a model since the server started, over all its loads.
#[derive(Debug)]
pub struct ModelMetrics {
    /// From the request's arrival to its first token.
    pub time_to_first_token: Histogram,
    /// Between tokens of an answer.
    pub inter_token: Histogram,
    /// The mean of that for each answer of two tokens and more.
    pub time_per_token: Histogram,
    /// From submission to the first step.
    pub queue_time: Histogram,
    /// From the request's arrival to the end of its answer.
    pub request_time: Histogram,
    /// Tokens of each prompt.
    pub prompt_length: Histogram,
    /// Tokens of each answer.
    pub answer_length: Histogram,
    /// Prompt tokens of answered requests.
    pub prompt_tokens: AtomicU64,
    /// Those found in the prefix cache.
    pub prefix_hit_tokens: AtomicU64,
    /// Tokens generated.
    pub generation_tokens: AtomicU64,
    /// Answers that ended because the client went away.
    pub cancelled: AtomicU64,
    /// Answers that were cut because the client read too slowly.
    pub too_slow: AtomicU64,
    /// Answers by why they ended.
    finished: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for ModelMetrics {
    fn default() -> ModelMetrics {
        let [times, lengths] =
            [TIME_BOUNDS, TOKEN_BOUNDS].map(|bounds| move || Histogram::new(bounds));
        ModelMetrics {
            time_to_first_token: times(),
            inter_token: times(),
            time_per_token: times(),
            queue_time: times(),
            request_time: times(),
            prompt_length: lengths(),
            answer_length: lengths(),
            prompt_tokens: AtomicU64::new(0),
            prefix_hit_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            too_slow: AtomicU64::new(0),
            finished: Mutex::default(),
        }
    }
}

impl ModelMetrics {
    /// Counts an answer that ended.
    pub fn count_finished(&self, reason: &'static str) {
        *lock(&self.finished).entry(reason).or_default() += 1;
    }
}

/// What the server has counted since it started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections open now.
    pub connections: AtomicU64,
    /// Loads of models.
    pub model_loads: AtomicU64,
    /// Those of the models that were loaded once, by their ids.
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
    /// Responses by route and status.
    responses: Mutex<BTreeMap<(String, u16), u64>>,
}

/// What a model tells at the moment of asking; one that is not loaded has zeros.
#[derive(Debug, Clone, Default)]
pub struct ModelGauges {
    /// The model's name.
    pub model: String,
    /// Requests that are computed.
    pub n_running: usize,
    /// Requests that wait in its engine.
    pub n_waiting: usize,
    /// Requests that wait until it is loaded.
    pub n_waiting_for_load: usize,
    /// Share of the cache in use, 0 to 1.
    pub kv_usage: f64,
    /// Tokens of a page of the cache.
    pub block_size: u32,
    /// Pages of the cache; 0 if the model is not loaded.
    pub n_blocks: u64,
    /// Cached prefixes that were evicted, in pages.
    pub n_evicted: u64,
    /// What was drafted ahead, by its source.
    pub drafts: Vec<(DraftSource, DraftStats)>,
}

impl Metrics {
    /// The counters of a model.
    pub fn of_model(&self, id: &str) -> Arc<ModelMetrics> {
        Arc::clone(lock(&self.models).entry(id.to_owned()).or_default())
    }

    /// Counts a response.
    pub fn count_response(&self, route: &str, status: u16) {
        *lock(&self.responses).entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Everything in Prometheus' text form, version 0.0.4.
    pub fn render(&self, models: &[ModelGauges]) -> String {
        let mut out = String::new();
        gauges(&mut out, models);
        self.server(&mut out, models);
        drafts(&mut out, models);
        let counted: Vec<(String, Arc<ModelMetrics>)> = lock(&self.models)
            .iter()
            .map(|(id, counted)| (format!("model_name=\"{}\"", escape(id)), Arc::clone(counted)))
            .collect();
        counters(&mut out, &counted);
        histograms(&mut out, &counted);
        out
    }

    /// What is counted of the server as a whole.
    fn server(&self, out: &mut String, models: &[ModelGauges]) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let n_evicted = models.iter().map(|model| model.n_evicted).sum();
        for (name, kind, help, value) in [
            ("zinc_model_loads_total", "counter", "Models loaded.", read(&self.model_loads)),
            (
                "zinc_prefix_evicted_blocks_total",
                "counter",
                "Cache blocks of prefixes evicted.",
                n_evicted,
            ),
            ("zinc_connections", "gauge", "Open connections.", read(&self.connections)),
        ] {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
        head(out, "zinc_responses_total", "counter", "Responses by route and status.");
        for ((route, status), n) in lock(&self.responses).iter() {
            let route = escape(route);
            let _ =
                writeln!(out, "zinc_responses_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
    }
}

fn counters(out: &mut String, models: &[(String, Arc<ModelMetrics>)]) {
    type Read = fn(&ModelMetrics) -> &AtomicU64;
    let table: [(&str, &str, Read); 6] = [
        ("vllm:prompt_tokens_total", "Prompt tokens.", |m| &m.prompt_tokens),
        ("vllm:generation_tokens_total", "Generated tokens.", |m| &m.generation_tokens),
        ("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", |m| {
            &m.prompt_tokens
        }),
        ("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", |m| {
            &m.prefix_hit_tokens
        }),
        ("zinc_requests_cancelled_total", "Answers whose client went away.", |m| &m.cancelled),
        ("zinc_requests_too_slow_total", "Answers cut because the client read too slowly.", |m| {
            &m.too_slow
        }),
    ];
    for (name, help, counter) in table {
        head(out, name, "counter", help);
        for (label, model) in models {
            let _ = writeln!(out, "{name}{{{label}}} {}", counter(model).load(Ordering::Relaxed));
        }
    }
    let name = "vllm:request_success_total";
    head(out, name, "counter", "Finished answers by reason.");
    for (label, model) in models {
        for (reason, n) in lock(&model.finished).iter() {
            let _ = writeln!(out, "{name}{{{label},finished_reason=\"{reason}\"}} {n}");
        }
    }
}

fn histograms(out: &mut String, models: &[(String, Arc<ModelMetrics>)]) {
    type Read = fn(&ModelMetrics) -> &Histogram;
    let table: [(&str, &str, Read); 8] = [
        ("vllm:time_to_first_token_seconds", "From arrival to the first token.", |m| {
            &m.time_to_first_token
        }),
        ("vllm:inter_token_latency_seconds", "Between the tokens of an answer.", |m| {
            &m.inter_token
        }),
        ("vllm:time_per_output_token_seconds", "The same under its older name.", |m| {
            &m.inter_token
        }),
        (
            "vllm:request_time_per_output_token_seconds",
            "Between the tokens of an answer, the mean of each answer.",
            |m| &m.time_per_token,
        ),
        ("vllm:request_queue_time_seconds", "From submission to the first step.", |m| {
            &m.queue_time
        }),
        ("vllm:e2e_request_latency_seconds", "From arrival to the end.", |m| &m.request_time),
        ("vllm:request_prompt_tokens", "Tokens of a prompt.", |m| &m.prompt_length),
        ("vllm:request_generation_tokens", "Tokens of an answer.", |m| &m.answer_length),
    ];
    for (name, help, histogram) in table {
        head(out, name, "histogram", help);
        for (label, model) in models {
            histogram(model).write(out, name, label);
        }
    }
}

/// Counters of drafts, which a model has of each of its sources.
fn drafts(out: &mut String, models: &[ModelGauges]) {
    type Read = fn(&DraftStats) -> u64;
    let table: [(&str, &str, Read); 3] = [
        ("vllm:spec_decode_num_drafts_total", "Drafts verified.", |d| d.n_drafts),
        ("vllm:spec_decode_num_draft_tokens_total", "Their tokens.", |d| d.n_drafted_tokens),
        ("vllm:spec_decode_num_accepted_tokens_total", "Those of them that were accepted.", |d| {
            d.n_accepted_tokens
        }),
    ];
    for (name, help, read) in table {
        head(out, name, "counter", help);
        for ModelGauges { model, drafts, .. } in models {
            for (source, stats) in drafts {
                let (model, source, n) = (escape(model), source.name(), read(stats));
                let _ = writeln!(out, "{name}{{model_name=\"{model}\",method=\"{source}\"}} {n}");
            }
        }
    }
}

fn gauges(out: &mut String, models: &[ModelGauges]) {
    type Read = fn(&ModelGauges) -> f64;
    let table: [(&str, &str, Read); 5] = [
        ("vllm:num_requests_running", "Requests that are computed.", |m| m.n_running as f64),
        ("vllm:num_requests_waiting", "Requests that wait.", |m| {
            (m.n_waiting + m.n_waiting_for_load) as f64
        }),
        ("zinc_requests_waiting_for_model", "Those that wait until it is loaded.", |m| {
            m.n_waiting_for_load as f64
        }),
        ("vllm:kv_cache_usage_perc", "Share of the cache in use, 1 is all.", |m| m.kv_usage),
        ("vllm:gpu_cache_usage_perc", "The same under its older name.", |m| m.kv_usage),
    ];
    for (name, help, read) in table {
        head(out, name, "gauge", help);
        for model in models {
            let _ =
                writeln!(out, "{name}{{model_name=\"{}\"}} {}", escape(&model.model), read(model));
        }
    }
    head(out, "vllm:cache_config_info", "gauge", "Blocks of the cache.");
    for ModelGauges { model, block_size, n_blocks, .. } in models {
        if *n_blocks == 0 {
            continue;
        }
        let model = escape(model);
        let _ = writeln!(
            out,
            "vllm:cache_config_info{{model_name=\"{model}\",block_size=\"{block_size}\",num_gpu_blocks=\"{n_blocks}\"}} 1"
        );
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        let model = metrics.of_model("m");
        model.inter_token.observe(Duration::from_millis(3));
        model.inter_token.observe(Duration::from_secs(1000));
        model.answer_length.observe_tokens(7);
        let text = metrics.render(&[]);
        for name in ["inter_token_latency", "time_per_output_token"] {
            let name = format!("vllm:{name}_seconds");
            for (bound, n) in [("0.0025", 0), ("0.005", 1), ("300", 1), ("+Inf", 2)] {
                let line = format!("{name}_bucket{{model_name=\"m\",le=\"{bound}\"}} {n}\n");
                assert!(text.contains(&line), "{line}{text}");
            }
            let sum = format!("{name}_sum{{model_name=\"m\"}} 1000.003\n");
            assert!(text.contains(&sum), "{text}");
        }
        let name = "vllm:request_generation_tokens";
        for line in [
            format!("{name}_bucket{{model_name=\"m\",le=\"5\"}} 0\n"),
            format!("{name}_bucket{{model_name=\"m\",le=\"10\"}} 1\n"),
            format!("{name}_sum{{model_name=\"m\"}} 7\n{name}_count{{model_name=\"m\"}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn counters_belong_to_their_model() {
        let metrics = Metrics::default();
        for (id, reason) in [("a", "stop"), ("b", "length"), ("b", "length")] {
            metrics.of_model(id).count_finished(reason);
            metrics.of_model(id).prompt_tokens.fetch_add(5, Ordering::Relaxed);
        }
        let text = metrics.render(&[]);
        for line in [
            "vllm:request_success_total{model_name=\"a\",finished_reason=\"stop\"} 1\n",
            "vllm:request_success_total{model_name=\"b\",finished_reason=\"length\"} 2\n",
            "vllm:prompt_tokens_total{model_name=\"a\"} 5\n",
            "vllm:prompt_tokens_total{model_name=\"b\"} 10\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn drafts_are_counted_by_their_source() {
        let stats = DraftStats { n_drafts: 2, n_drafted_tokens: 7, n_accepted_tokens: 5 };
        let drafts = vec![(DraftSource::Mtp, stats)];
        let model = ModelGauges { model: "m".into(), drafts, ..ModelGauges::default() };
        let text = Metrics::default().render(&[model]);
        for (name, n) in [("drafts", 2), ("draft_tokens", 7), ("accepted_tokens", 5)] {
            let name = format!("vllm:spec_decode_num_{name}_total");
            let line = format!("{name}{{model_name=\"m\",method=\"mtp\"}} {n}\n");
            assert!(text.contains(&line), "{text}");
            assert!(text.contains(&format!("# TYPE {name} counter\n")), "{text}");
        }
    }

    #[test]
    fn names_of_models_are_escaped() {
        let model = ModelGauges {
            model: "a\"b\\".into(),
            n_waiting: 1,
            n_waiting_for_load: 2,
            ..ModelGauges::default()
        };
        let text = Metrics::default().render(&[model]);
        assert!(
            text.contains("vllm:num_requests_waiting{model_name=\"a\\\"b\\\\\"} 3\n"),
            "{text}"
        );
    }
}
