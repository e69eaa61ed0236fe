//! What a request may set, the limits of each value, and their check.

use super::SamplerError;

/// Most alternatives per token a request may ask log-probabilities of.
pub const N_TOP_LOGPROBS_MAX: u32 = 128;
/// Most sequence breakers of the DRY sampler.
pub const N_DRY_BREAKERS_MAX: usize = 64;
/// Longest sequence breaker in bytes.
pub const DRY_BREAKER_BYTES_MAX: usize = 256;

/// Sampling parameters of one request. The order in which they act is the table of
/// [`crate::sampler`].
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Added to the logits of the named ids; an id named twice gets the sum. Finite, or -∞ to ban a
    /// token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive and multiplies negative logits of tokens in the penalty window; 1 is off.
    /// Above 0, at most 100.
    pub repetition_penalty: f32,
    /// Taken off once for a token in the window; 0 is off. -100 to 100.
    pub presence_penalty: f32,
    /// Taken off once per occurrence in the window; 0 is off. -100 to 100.
    pub frequency_penalty: f32,
    /// Tokens, prompt included, that the three penalties look back over; `None` is all of them.
    pub penalty_last_n: Option<u32>,
    /// Penalty for continuing a repeated sequence.
    pub dry: DryParams,
    /// Keeps logits within this many standard deviations of the largest; 0 is off. 0 to 100.
    pub top_n_sigma: f32,
    /// Keeps this many tokens with the largest logits; 0 is off.
    pub top_k: u32,
    /// Keeps the tokens nearest to the distribution's entropy that reach this share; 1 is off. 0 to
    /// 1.
    pub typical_p: f32,
    /// Keeps the most probable tokens that reach this share; 1 is off. 0 to 1.
    pub top_p: f32,
    /// Keeps tokens at least this probable relative to the most probable; 0 is off. 0 to 1.
    pub min_p: f32,
    /// Removal of the most probable tokens.
    pub xtc: XtcParams,
    /// Divides the logits; 0 is greedy: the largest logit, the lowest id of equals. 0 to 100.
    pub temperature: f32,
    /// Seed of the random numbers; `None` draws one.
    pub seed: Option<u64>,
    /// `Some(n)` reports the chosen token's log-probability and those of the n most probable. At
    /// most [`N_TOP_LOGPROBS_MAX`].
    pub logprobs: Option<u32>,
}

/// DRY ("don't repeat yourself"): a token that would continue a sequence already in the text loses
/// `multiplier * base^(n - allowed_length)`, where n ≥ `allowed_length` tokens before it repeat.
#[derive(Debug, Clone, PartialEq)]
pub struct DryParams {
    /// Strength; 0 is off. 0 to 100.
    pub multiplier: f32,
    /// Growth per repeated token. 1 to 100.
    pub base: f32,
    /// Shortest repeat that is penalised, in tokens. At least 1.
    pub allowed_length: u32,
    /// Tokens looked back over; `None` is all of them.
    pub last_n: Option<u32>,
    /// Strings that a repeat never reaches across. None empty; at most [`N_DRY_BREAKERS_MAX`] of
    /// [`DRY_BREAKER_BYTES_MAX`] bytes.
    pub sequence_breakers: Vec<String>,
}

/// XTC ("exclude top choices"): removes all but the least probable of the tokens above a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct XtcParams {
    /// How often it acts; 0 is off. 0 to 1.
    pub probability: f32,
    /// Probability from which a token counts as a top choice. 0 to 1; above 0.5 at most one token
    /// can reach it and nothing is ever removed.
    pub threshold: f32,
}

impl Default for SamplingParams {
    /// The values in common use: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, everything else
    /// off.
    fn default() -> Self {
        SamplingParams {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: Some(64),
            dry: DryParams::default(),
            top_n_sigma: 0.0,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.05,
            xtc: XtcParams { probability: 0.0, threshold: 0.1 },
            temperature: 0.8,
            seed: None,
            logprobs: None,
        }
    }
}

impl Default for DryParams {
    fn default() -> Self {
        let sequence_breakers = ["\n", ":", "\"", "*"].map(String::from).to_vec();
        DryParams {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            last_n: None,
            sequence_breakers,
        }
    }
}

impl SamplingParams {
    /// The most probable token at every step, nothing else.
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Whether the token is chosen without any randomness.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every value against its range; the error names the field, the value and the range.
    ///
    /// Ids in `logit_bias` are checked against the vocabulary by [`super::Sampler::new`].
    pub fn validate(&self) -> Result<(), SamplerError> {
        check("temperature", self.temperature, 0.0, 100.0)?;
        check("top_p", self.top_p, 0.0, 1.0)?;
        check("min_p", self.min_p, 0.0, 1.0)?;
        check("typical_p", self.typical_p, 0.0, 1.0)?;
        check("top_n_sigma", self.top_n_sigma, 0.0, 100.0)?;
        check("xtc.probability", self.xtc.probability, 0.0, 1.0)?;
        check("xtc.threshold", self.xtc.threshold, 0.0, 1.0)?;
        check("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        check("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0) {
            return Err(refuse(
                "repetition_penalty",
                self.repetition_penalty,
                "above 0, at most 100",
            ));
        }
        if let Some(&(id, bias)) =
            self.logit_bias.iter().find(|(_, b)| b.is_nan() || *b == f32::INFINITY)
        {
            return Err(refuse("logit_bias", format!("{bias} for token {id}"), "finite, or -inf"));
        }
        check_n_top("logprobs", self.logprobs)?;
        self.dry.validate()
    }
}

/// Checks how many alternatives `field` asks log-probabilities of.
pub(crate) fn check_n_top(field: &'static str, n_top: Option<u32>) -> Result<(), SamplerError> {
    match n_top.filter(|n| *n > N_TOP_LOGPROBS_MAX) {
        Some(n) => Err(refuse(field, n, "at most 128")),
        None => Ok(()),
    }
}

impl DryParams {
    fn validate(&self) -> Result<(), SamplerError> {
        check("dry.multiplier", self.multiplier, 0.0, 100.0)?;
        check("dry.base", self.base, 1.0, 100.0)?;
        if self.allowed_length == 0 {
            return Err(refuse("dry.allowed_length", 0, "at least 1"));
        }
        if self.sequence_breakers.len() > N_DRY_BREAKERS_MAX {
            let value = format!("{} strings", self.sequence_breakers.len());
            return Err(refuse("dry.sequence_breakers", value, "at most 64 strings"));
        }
        let usable =
            |breaker: &&String| breaker.is_empty() || breaker.len() > DRY_BREAKER_BYTES_MAX;
        if let Some(breaker) = self.sequence_breakers.iter().find(usable) {
            let value = format!("a string of {} bytes", breaker.len());
            return Err(refuse("dry.sequence_breakers", value, "strings of 1 to 256 bytes"));
        }
        Ok(())
    }
}

fn check(field: &'static str, value: f32, min: f32, max: f32) -> Result<(), SamplerError> {
    // NaN is in no range.
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(SamplerError::Param { field, value: value.to_string(), allowed: format!("{min} to {max}") })
}

fn refuse(field: &'static str, value: impl ToString, allowed: &str) -> SamplerError {
    SamplerError::Param { field, value: value.to_string(), allowed: allowed.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        SamplingParams::default().validate().unwrap();
        SamplingParams::greedy().validate().unwrap();
    }

    #[test]
    fn every_field_is_checked_and_named() {
        type Change = fn(&mut SamplingParams);
        let cases: [(&str, Change); 16] = [
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("top_p", |p| p.top_p = 1.5),
            ("min_p", |p| p.min_p = -1.0),
            ("typical_p", |p| p.typical_p = f32::INFINITY),
            ("top_n_sigma", |p| p.top_n_sigma = -1.0),
            ("xtc.probability", |p| p.xtc.probability = 2.0),
            ("xtc.threshold", |p| p.xtc.threshold = -0.5),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("presence_penalty", |p| p.presence_penalty = f32::NAN),
            ("frequency_penalty", |p| p.frequency_penalty = 1e9),
            ("logit_bias", |p| p.logit_bias = vec![(3, f32::NAN)]),
            ("logprobs", |p| p.logprobs = Some(N_TOP_LOGPROBS_MAX + 1)),
            ("dry.base", |p| p.dry.base = 0.5),
            ("dry.allowed_length", |p| p.dry.allowed_length = 0),
            ("dry.sequence_breakers", |p| p.dry.sequence_breakers = vec![String::new()]),
        ];
        for (expected, change) in cases {
            let mut params = SamplingParams::default();
            change(&mut params);
            match params.validate() {
                Err(SamplerError::Param { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_token_may_be_banned() {
        let params = SamplingParams {
            logit_bias: vec![(0, f32::NEG_INFINITY)],
            ..SamplingParams::default()
        };
        params.validate().unwrap();
    }
}
