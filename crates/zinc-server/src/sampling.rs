//! The sampling fields that all generating routes share: their table and their reading. Names are
//! OpenAI's, and where it has none, llama.cpp's and vLLM's.

use serde_json::Value;
use zinc_engine::SamplingParams;
use zinc_engine::sampler::{DryParams, N_STOP_TOKENS_MAX, N_TOP_LOGPROBS_MAX};

use crate::ApiError;
use crate::options::ModelDefaults;
use crate::schema::{Body, Field, Kind, Neutral, Problem, accepted, refused, used};

const SHARE: Kind = Kind::Number(0.0, 1.0);
const COUNT: Kind = Kind::Int(0, u32::MAX as i64);
/// -1 stands for all.
const LOOK_BACK: Kind = Kind::Int(-1, u32::MAX as i64);
const N_TOP_MAX: i64 = N_TOP_LOGPROBS_MAX as i64;

/// Which alternatives a token's log-probabilities are reported for.
pub const TOP_LOGPROBS: Kind = Kind::Int(0, N_TOP_MAX);

/// How many answers.
pub const N: &[Field] = &[used("n", Kind::Int(1, 128), "How many answers.")];

/// OpenAI's fields, of one answer.
pub const COMMON: &[Field] = &[
    used("temperature", Kind::Number(0.0, 100.0), "Randomness; 0 takes the most probable token."),
    used("top_p", SHARE, "Keeps the most probable tokens that reach this share."),
    used("frequency_penalty", Kind::Number(-100.0, 100.0), "Taken off once per occurrence."),
    used(
        "presence_penalty",
        Kind::Number(-100.0, 100.0),
        "Taken off once for a token seen lately.",
    ),
    used(
        "logit_bias",
        Kind::AnyOf(&[
            Kind::Map(&Kind::Number(-100.0, 100.0)),
            Kind::List(
                &Kind::List(&Kind::AnyOf(&[Kind::Number(-1e9, 1e9), Kind::Flag]), 2, 2),
                0,
                4096,
            ),
        ]),
        "Added to the logits of token ids: an object, or a list of pairs, where false bans a token.",
    ),
    used("seed", Kind::Int(i64::MIN, i64::MAX), "Same seed, same answer; -1 draws one."),
    used(
        "stop",
        Kind::AnyOf(&[Kind::Text, Kind::List(&Kind::Text, 0, 64)]),
        "Texts that end the answer; they are not part of it.",
    ),
];

/// Fields of other servers.
pub const MORE: &[Field] = &[
    used("top_k", LOOK_BACK, "Keeps that many tokens; 0 or -1 keeps all."),
    used("min_p", SHARE, "Keeps tokens this probable relative to the most probable."),
    used("typical_p", SHARE, "Keeps the tokens nearest to the expected surprise up to this share."),
    used(
        "top_n_sigma",
        Kind::Number(-1.0, 100.0),
        "Keeps logits within this many deviations; 0 or -1 keeps all.",
    ),
    used(
        "repetition_penalty",
        Kind::Number(1e-3, 100.0),
        "Divides the logits of tokens seen lately.",
    ),
    used("repeat_penalty", Kind::Number(1e-3, 100.0), "The same, by llama.cpp's name."),
    used("repeat_last_n", LOOK_BACK, "Tokens that penalties look back over; -1 is all."),
    used(
        "dry_multiplier",
        Kind::Number(0.0, 100.0),
        "Strength of the penalty on repeated sequences.",
    ),
    used("dry_base", Kind::Number(1.0, 100.0), "Its growth per token."),
    used(
        "dry_allowed_length",
        Kind::Int(1, u32::MAX as i64),
        "Repeats up to this length are free.",
    ),
    used("dry_penalty_last_n", LOOK_BACK, "Tokens it looks back over; -1 is all."),
    used(
        "dry_sequence_breakers",
        Kind::List(&Kind::Text, 0, 64),
        "Texts no repeat reaches across.",
    ),
    used("xtc_probability", SHARE, "How often the top choices are removed."),
    used("xtc_threshold", SHARE, "Probability that makes a top choice."),
    used("ignore_eos", Kind::Flag, "End-of-generation tokens are tokens like any other."),
    used(
        "min_tokens",
        COUNT,
        "Least tokens of an answer: before that no token ends it, and stop is text like any other.",
    ),
    used(
        "stop_token_ids",
        Kind::List(&Kind::Int(0, u32::MAX as i64), 0, N_STOP_TOKENS_MAX),
        "Tokens that end the answer; they are not part of it.",
    ),
    Field {
        doc: "Accepted. Reuse of prefixes is exact to the bit, so the result is the same.",
        ..accepted("cache_prompt", Kind::Flag)
    },
    accepted("priority", Kind::Int(i64::MIN, i64::MAX)),
    accepted("request_id", Kind::Text),
    refused("timings_per_token", &[Neutral::Flag(false)], "times are in /metrics and in the log"),
    refused("id_slot", &[Neutral::Int(-1)], "zinc chooses the cache itself"),
    refused("n_keep", &[Neutral::Int(0)], "zinc never cuts a context"),
    refused("n_discard", &[Neutral::Int(0)], "zinc never cuts a context"),
    refused("mirostat", &[Neutral::Int(0)], "zinc has no mirostat sampler"),
    refused("dynatemp_range", &[Neutral::Int(0)], "the temperature does not change"),
    refused("samplers", &[], "the order of the samplers is fixed, see the README"),
    refused("use_beam_search", &[Neutral::Flag(false)], "zinc samples"),
    refused("length_penalty", &[Neutral::Int(1)], "it belongs to beam search"),
    refused("bad_words", &[Neutral::EmptyList], "use logit_bias"),
    refused("allowed_token_ids", &[Neutral::EmptyList], "use a grammar"),
    refused("truncate_prompt_tokens", &[], "zinc never cuts a prompt"),
    refused("skip_special_tokens", &[Neutral::Flag(true)], "control tokens are never shown"),
    refused(
        "spaces_between_special_tokens",
        &[Neutral::Flag(true)],
        "control tokens are never shown",
    ),
    refused("lora", &[Neutral::EmptyList], "zinc has no adapters"),
    refused("post_sampling_probs", &[Neutral::Flag(false)], "probabilities are the model's own"),
];

/// What requests of one answer have in common.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// How tokens are chosen.
    pub params: SamplingParams,
    /// How many answers.
    pub n: usize,
    /// What ends an answer.
    pub stop: Vec<String>,
    /// Tokens that end an answer.
    pub stop_token_ids: Vec<u32>,
    /// Least tokens of an answer.
    pub min_tokens: u32,
    /// End-of-generation tokens are tokens like any other.
    pub ignore_eos: bool,
}

impl Sampling {
    /// Reads the fields; what they do not say is the model's default.
    ///
    /// # Errors
    /// Values that the tables cannot check.
    pub fn read(body: &Body<'_>, defaults: &ModelDefaults) -> Result<Sampling, ApiError> {
        let mut params = defaults.sampling();
        let set = |name: &str, slot: &mut f32| {
            if let Some(value) = body.number(name) {
                *slot = value;
            }
        };
        set("temperature", &mut params.temperature);
        set("top_p", &mut params.top_p);
        set("min_p", &mut params.min_p);
        set("typical_p", &mut params.typical_p);
        set("top_n_sigma", &mut params.top_n_sigma);
        params.top_n_sigma = params.top_n_sigma.max(0.0);
        set("frequency_penalty", &mut params.frequency_penalty);
        set("presence_penalty", &mut params.presence_penalty);
        set("repeat_penalty", &mut params.repetition_penalty);
        set("repetition_penalty", &mut params.repetition_penalty);
        set("xtc_probability", &mut params.xtc.probability);
        set("xtc_threshold", &mut params.xtc.threshold);
        if let Some(k) = body.int("top_k") {
            params.top_k = u32::try_from(k).unwrap_or(0);
        }
        if let Some(n) = body.int("repeat_last_n") {
            params.penalty_last_n = u32::try_from(n).ok();
        }
        read_dry(body, &mut params.dry);
        params.seed = body.int("seed").filter(|seed| *seed != -1).map(|seed| seed as u64);
        params.logit_bias = logit_bias(body)?;
        Ok(Sampling {
            params,
            n: body.count("n").unwrap_or(1) as usize,
            stop: body.texts("stop"),
            stop_token_ids: body.counts("stop_token_ids"),
            min_tokens: body.count("min_tokens").unwrap_or(0),
            ignore_eos: body.flag("ignore_eos").unwrap_or(false),
        })
    }

    /// Refuses what puts off the end of an answer, for one that a schema, a grammar or a call ends.
    ///
    /// # Errors
    /// With the field.
    pub fn refuse_longer(&self) -> Result<(), ApiError> {
        let what =
            "a schema, a grammar or a required call ends the answer; leave out one of the two";
        match self {
            _ if self.min_tokens > 0 => Err(ApiError::unsupported("min_tokens", what)),
            _ if self.ignore_eos => Err(ApiError::unsupported("ignore_eos", what)),
            _ => Ok(()),
        }
    }

    /// One answer with the model's defaults.
    pub fn plain(defaults: &ModelDefaults) -> Sampling {
        Sampling {
            params: defaults.sampling(),
            n: 1,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            ignore_eos: false,
        }
    }

    /// The parameters of the answer `choice`: each has random numbers of its own.
    pub fn of_choice(&self, choice: usize) -> SamplingParams {
        let seed = self.params.seed.map(|seed| seed.wrapping_add(choice as u64));
        SamplingParams { seed, ..self.params.clone() }
    }
}

fn read_dry(body: &Body<'_>, dry: &mut DryParams) {
    dry.multiplier = body.number("dry_multiplier").unwrap_or(dry.multiplier);
    dry.base = body.number("dry_base").unwrap_or(dry.base);
    dry.allowed_length = body.count("dry_allowed_length").unwrap_or(dry.allowed_length);
    if let Some(n) = body.int("dry_penalty_last_n") {
        dry.last_n = u32::try_from(n).ok();
    }
    if body.get("dry_sequence_breakers").is_some() {
        dry.sequence_breakers = body.texts("dry_sequence_breakers");
    }
}

fn logit_bias(body: &Body<'_>) -> Result<Vec<(u32, f32)>, Problem> {
    let wrong = |what: String| body.problem("logit_bias", what);
    match body.get("logit_bias") {
        Some(Value::Object(map)) => {
            let pair = |(id, bias): (&String, &Value)| {
                let id = id.parse().map_err(|_| wrong(format!("{id:?} is no token id")))?;
                Ok((id, bias.as_f64().unwrap_or_default() as f32))
            };
            map.iter().map(pair).collect()
        }
        Some(Value::Array(list)) => {
            let pair = |pair: &Value| {
                let id = pair[0].as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| wrong(format!("{} is no token id", pair[0])))?;
                match &pair[1] {
                    Value::Bool(false) => Ok((id, f32::NEG_INFINITY)),
                    bias => match bias.as_f64() {
                        Some(bias) => Ok((id, bias as f32)),
                        None => Err(wrong("a bias is a number, or false".into())),
                    },
                }
            };
            list.iter().map(pair).collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// Most tokens of an answer: what the request says under any of the names, or the model's default.
pub fn max_tokens(body: &Body<'_>, names: &[&str], defaults: &ModelDefaults) -> Option<u32> {
    let given = names.iter().find_map(|name| body.int(name));
    // llama.cpp's -1 is no limit.
    given.map_or(defaults.max_tokens, |n| u32::try_from(n).ok())
}

/// The kind of a number of tokens.
pub const TOKENS: Kind = COUNT;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Object;

    const BODY: Object = Object { name: "Sampling", groups: &[N, COMMON, MORE] };

    fn read(body: serde_json::Value) -> Sampling {
        Sampling::read(&BODY.check(&body).unwrap(), &ModelDefaults::default()).unwrap()
    }

    #[test]
    fn every_field_arrives() {
        let sampling = read(json!({
            "temperature": 0.5, "top_p": 0.6, "min_p": 0.1, "typical_p": 0.7, "top_n_sigma": 2,
            "top_k": 5, "frequency_penalty": 1, "presence_penalty": 2, "repetition_penalty": 1.5,
            "repeat_last_n": -1, "dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 4,
            "dry_penalty_last_n": 9, "dry_sequence_breakers": ["x"], "xtc_probability": 0.2,
            "xtc_threshold": 0.3, "seed": 7, "stop": "end", "n": 2, "ignore_eos": true,
            "logit_bias": {"3": -5}, "min_tokens": 4, "stop_token_ids": [7, 9],
        }));
        let expected = SamplingParams {
            logit_bias: vec![(3, -5.0)],
            repetition_penalty: 1.5,
            presence_penalty: 2.0,
            frequency_penalty: 1.0,
            penalty_last_n: None,
            dry: DryParams {
                multiplier: 0.8,
                base: 2.0,
                allowed_length: 4,
                last_n: Some(9),
                sequence_breakers: vec!["x".into()],
            },
            top_n_sigma: 2.0,
            top_k: 5,
            typical_p: 0.7,
            top_p: 0.6,
            min_p: 0.1,
            xtc: zinc_engine::sampler::XtcParams { probability: 0.2, threshold: 0.3 },
            temperature: 0.5,
            seed: Some(7),
            logprobs: None,
        };
        assert_eq!(sampling.params, expected);
        assert_eq!(
            (sampling.n, sampling.stop, sampling.ignore_eos),
            (2, vec!["end".to_owned()], true)
        );
        assert_eq!((sampling.min_tokens, sampling.stop_token_ids), (4, vec![7, 9]));
    }

    #[test]
    fn choices_have_seeds_of_their_own() {
        let sampling = read(json!({"seed": 7}));
        assert_eq!((sampling.of_choice(0).seed, sampling.of_choice(2).seed), (Some(7), Some(9)));
        assert_eq!(read(json!({"seed": -1})).of_choice(1).seed, None);
    }

    #[test]
    fn bias_may_be_a_list() {
        let bias = read(json!({"logit_bias": [[5, 1.5], [6, false]]})).params.logit_bias;
        assert_eq!(bias, [(5, 1.5), (6, f32::NEG_INFINITY)]);
        let body = json!({"logit_bias": {"x": 1}});
        let error =
            Sampling::read(&BODY.check(&body).unwrap(), &ModelDefaults::default()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("logit_bias"));
    }
}
