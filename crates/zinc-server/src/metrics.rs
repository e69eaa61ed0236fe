//! Counters and histograms in Prometheus' text form.
//!
//! The names that begin with `vllm:` are those that the endpoint picker of the Kubernetes Gateway API
//! Inference Extension and llm-d read by default: its model server protocol (proposal 003) wants
//! queued requests, running requests and the share of the cache in use as gauges, and the cache's
//! block size and number of blocks as labels. What vLLM has no name for begins with `zinc_`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zinc_engine::{DraftSource, DraftStats};

/// Upper bounds of the buckets of times, in seconds.
const TIME_BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A histogram of times.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; TIME_BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = TIME_BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[at.unwrap_or(TIME_BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        let comma = if labels.is_empty() { "" } else { "," };
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = TIME_BOUNDS.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {total}");
    }
}

/// What the server has counted since it started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From the request's arrival to its first token.
    pub time_to_first_token: Histogram,
    /// Between tokens of an answer.
    pub inter_token: Histogram,
    /// From submission to the first step.
    pub queue_time: Histogram,
    /// From the request's arrival to the end of its answer.
    pub request_time: Histogram,
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
    /// Connections open now.
    pub connections: AtomicU64,
    /// Loads of models.
    pub model_loads: AtomicU64,
    /// Answers by why they ended.
    finished: Mutex<BTreeMap<&'static str, u64>>,
    /// Responses by route and status.
    responses: Mutex<BTreeMap<(String, u16), u64>>,
}

/// What a loaded model tells at the moment of asking.
#[derive(Debug, Clone, Default)]
pub struct ModelGauges {
    /// The model's name.
    pub model: String,
    /// Requests that are computed.
    pub n_running: usize,
    /// Requests that wait.
    pub n_waiting: usize,
    /// Share of the cache in use, 0 to 1.
    pub kv_usage: f64,
    /// Tokens of a page of the cache.
    pub block_size: u32,
    /// Pages of the cache.
    pub n_blocks: u64,
    /// Cached prefixes that were evicted, in pages.
    pub n_evicted: u64,
    /// What was drafted ahead, by its source.
    pub drafts: Vec<(DraftSource, DraftStats)>,
}

impl Metrics {
    /// Counts an answer that ended.
    pub fn count_finished(&self, reason: &'static str) {
        *lock(&self.finished).entry(reason).or_default() += 1;
    }

    /// Counts a response.
    pub fn count_response(&self, route: &str, status: u16) {
        *lock(&self.responses).entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Everything in Prometheus' text form, version 0.0.4.
    pub fn render(&self, models: &[ModelGauges], n_queued: usize) -> String {
        let mut out = String::new();
        gauges(&mut out, models, n_queued);
        self.counters(&mut out, models);
        let times: [(&str, &str, &Histogram); 4] = [
            (
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token.",
                &self.time_to_first_token,
            ),
            (
                "vllm:inter_token_latency_seconds",
                "Between the tokens of an answer.",
                &self.inter_token,
            ),
            (
                "vllm:request_queue_time_seconds",
                "From submission to the first step.",
                &self.queue_time,
            ),
            ("vllm:e2e_request_latency_seconds", "From arrival to the end.", &self.request_time),
        ];
        for (name, help, histogram) in times {
            head(&mut out, name, "histogram", help);
            histogram.write(&mut out, name, "");
        }
        out
    }

    fn counters(&self, out: &mut String, models: &[ModelGauges]) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (prompt, hits) = (read(&self.prompt_tokens), read(&self.prefix_hit_tokens));
        let counters = [
            ("vllm:prompt_tokens_total", "Prompt tokens.", prompt),
            ("vllm:generation_tokens_total", "Generated tokens.", read(&self.generation_tokens)),
            (
                "vllm:prefix_cache_queries_total",
                "Prompt tokens looked up in the prefix cache.",
                prompt,
            ),
            ("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", hits),
            (
                "zinc_requests_cancelled_total",
                "Answers whose client went away.",
                read(&self.cancelled),
            ),
            (
                "zinc_requests_too_slow_total",
                "Answers cut because the client read too slowly.",
                read(&self.too_slow),
            ),
            ("zinc_model_loads_total", "Models loaded.", read(&self.model_loads)),
            (
                "zinc_prefix_evicted_blocks_total",
                "Cache blocks of prefixes evicted.",
                models.iter().map(|m| m.n_evicted).sum(),
            ),
        ];
        for (name, help, value) in counters {
            head(out, name, "counter", help);
            let _ = writeln!(out, "{name} {value}");
        }
        drafts(out, models);
        head(out, "zinc_connections", "gauge", "Open connections.");
        let _ = writeln!(out, "zinc_connections {}", read(&self.connections));
        head(out, "vllm:request_success_total", "counter", "Finished answers by reason.");
        for (reason, n) in lock(&self.finished).iter() {
            let _ = writeln!(out, "vllm:request_success_total{{finished_reason=\"{reason}\"}} {n}");
        }
        head(out, "zinc_responses_total", "counter", "Responses by route and status.");
        for ((route, status), n) in lock(&self.responses).iter() {
            let route = escape(route);
            let _ =
                writeln!(out, "zinc_responses_total{{route=\"{route}\",status=\"{status}\"}} {n}");
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

fn gauges(out: &mut String, models: &[ModelGauges], n_queued: usize) {
    type Read = fn(&ModelGauges) -> f64;
    let table: [(&str, &str, Read); 4] = [
        ("vllm:num_requests_running", "Requests that are computed.", |m| m.n_running as f64),
        ("vllm:num_requests_waiting", "Requests that wait.", |m| m.n_waiting as f64),
        ("vllm:kv_cache_usage_perc", "Share of the cache in use, 1 is all.", |m| m.kv_usage),
        ("vllm:gpu_cache_usage_perc", "The same under its older name.", |m| m.kv_usage),
    ];
    for (name, help, read) in table {
        head(out, name, "gauge", help);
        for model in models {
            let _ =
                writeln!(out, "{name}{{model_name=\"{}\"}} {}", escape(&model.model), read(model));
        }
        if models.is_empty() {
            // A reader that finds no value takes the server for broken.
            let _ = writeln!(out, "{name}{{model_name=\"\"}} 0");
        }
    }
    head(out, "vllm:cache_config_info", "gauge", "Blocks of the cache.");
    for ModelGauges { model, block_size, n_blocks, .. } in models {
        let model = escape(model);
        let _ = writeln!(
            out,
            "vllm:cache_config_info{{model_name=\"{model}\",block_size=\"{block_size}\",num_gpu_blocks=\"{n_blocks}\"}} 1"
        );
    }
    head(
        out,
        "zinc_requests_waiting_for_model",
        "gauge",
        "Requests that wait for a model to load.",
    );
    let _ = writeln!(out, "zinc_requests_waiting_for_model {n_queued}");
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
        metrics.inter_token.observe(Duration::from_millis(3));
        metrics.inter_token.observe(Duration::from_secs(1000));
        let text = metrics.render(&[], 0);
        let line =
            |start: &str| text.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        assert_eq!(
            line("vllm:inter_token_latency_seconds_bucket{le=\"0.0025\"}").unwrap(),
            "vllm:inter_token_latency_seconds_bucket{le=\"0.0025\"} 0"
        );
        assert_eq!(
            line("vllm:inter_token_latency_seconds_bucket{le=\"0.005\"}").unwrap(),
            "vllm:inter_token_latency_seconds_bucket{le=\"0.005\"} 1"
        );
        assert_eq!(
            line("vllm:inter_token_latency_seconds_bucket{le=\"+Inf\"}").unwrap(),
            "vllm:inter_token_latency_seconds_bucket{le=\"+Inf\"} 2"
        );
        assert_eq!(
            line("vllm:inter_token_latency_seconds_sum{} ").unwrap(),
            "vllm:inter_token_latency_seconds_sum{} 1000.003"
        );
    }

    #[test]
    fn drafts_are_counted_by_their_source() {
        let stats = DraftStats { n_drafts: 2, n_drafted_tokens: 7, n_accepted_tokens: 5 };
        let drafts = vec![(DraftSource::Mtp, stats)];
        let model = ModelGauges { model: "m".into(), drafts, ..ModelGauges::default() };
        let text = Metrics::default().render(&[model], 0);
        for (name, n) in [("drafts", 2), ("draft_tokens", 7), ("accepted_tokens", 5)] {
            let name = format!("vllm:spec_decode_num_{name}_total");
            let line = format!("{name}{{model_name=\"m\",method=\"mtp\"}} {n}\n");
            assert!(text.contains(&line), "{text}");
            assert!(text.contains(&format!("# TYPE {name} counter\n")), "{text}");
        }
    }

    #[test]
    fn names_of_models_are_escaped() {
        let model = ModelGauges { model: "a\"b\\".into(), n_waiting: 3, ..ModelGauges::default() };
        let text = Metrics::default().render(&[model], 0);
        assert!(
            text.contains("vllm:num_requests_waiting{model_name=\"a\\\"b\\\\\"} 3\n"),
            "{text}"
        );
    }
}
