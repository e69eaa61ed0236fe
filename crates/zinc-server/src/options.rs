//! What a server is started with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zinc_engine::SamplingParams;

use crate::ModelSource;

/// Everything about a server besides its models.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Keys that open it; none leave it open.
    pub api_keys: Vec<String>,
    /// Origins whose pages may call it from a browser; `*` is all.
    pub cors_origins: Vec<String>,
    /// Bounds on what clients may use.
    pub limits: Limits,
    /// Most models loaded at a time.
    pub models_max: usize,
    /// A model that nobody asked for this long is unloaded.
    pub idle_unload: Option<Duration>,
    /// How long running answers may take to finish when the server is told to end.
    pub drain: Duration,
    /// Load the first model at once, not with its first request.
    pub load_at_start: bool,
    /// Where models come from that are not here yet.
    pub source: Option<Arc<dyn ModelSource>>,
}

/// Bounds on what clients may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body in bytes.
    pub body_bytes: usize,
    /// Largest request head in bytes; at least 8192.
    pub header_bytes: usize,
    /// How long a request head may take, and how long a connection may stay idle.
    pub header_timeout: Duration,
    /// How long a request body may take.
    pub body_timeout: Duration,
    /// How long a client may leave a write unread.
    pub write_timeout: Duration,
    /// How long a request may take in all; its answer is cut off then.
    pub request_timeout: Duration,
    /// Most open connections.
    pub connections: usize,
    /// Most requests that run or wait.
    pub requests: usize,
    /// Tokens that may wait for a client that reads slowly; one more ends its answer.
    pub unread_tokens: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            limits: Limits::default(),
            models_max: 1,
            idle_unload: None,
            drain: Duration::from_secs(30),
            load_at_start: true,
            source: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 32 << 20,
            header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(3600),
            connections: 1024,
            requests: 256,
            unread_tokens: 4096,
        }
    }
}

/// A model that the server can load.
#[derive(Debug, Clone)]
pub struct KnownModel {
    /// Its name in requests.
    pub id: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Its file; `None` is the built-in model.
    pub path: Option<PathBuf>,
    /// What requests do not say.
    pub defaults: ModelDefaults,
}

impl KnownModel {
    /// Whether requests for `name` mean this model.
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// The file of `--config`: defaults for models.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// For every model.
    #[serde(default)]
    pub defaults: ModelDefaults,
    /// For models by name, over those for every model.
    #[serde(default)]
    pub models: BTreeMap<String, ModelConfig>,
}

/// One model in the file of `--config`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Its file, if it is not one of those that the command line names.
    pub path: Option<PathBuf>,
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What requests do not say.
    #[serde(default)]
    pub defaults: ModelDefaults,
}

/// What holds for a model where a request says nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDefaults {
    /// Context length in tokens.
    pub ctx: Option<u32>,
    /// A file with a chat template in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Whether the model thinks before it answers.
    pub thinking: Option<bool>,
    /// Most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Sampling parameters by their names in requests.
    pub temperature: Option<f32>,
    /// See `temperature`.
    pub top_k: Option<u32>,
    /// See `temperature`.
    pub top_p: Option<f32>,
    /// See `temperature`.
    pub min_p: Option<f32>,
    /// See `temperature`.
    pub repetition_penalty: Option<f32>,
    /// See `temperature`.
    pub presence_penalty: Option<f32>,
    /// See `temperature`.
    pub frequency_penalty: Option<f32>,
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML, or has a key that zinc does not know.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A sampling parameter is outside its range.
    #[error("{0}")]
    Sampling(#[from] zinc_engine::EngineError),
}

impl Config {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text)?;
        for name in config.models.keys() {
            config.for_model(name).sampling().validate().map_err(zinc_engine::EngineError::from)?;
        }
        config.defaults.sampling().validate().map_err(zinc_engine::EngineError::from)?;
        Ok(config)
    }

    /// What holds for the model of a name.
    pub fn for_model(&self, name: &str) -> ModelDefaults {
        let general = self.defaults.clone();
        self.models.get(name).map_or(general.clone(), |model| model.defaults.clone().over(general))
    }
}

impl ModelDefaults {
    /// These, and `general` where they say nothing.
    pub fn over(self, general: ModelDefaults) -> ModelDefaults {
        ModelDefaults {
            ctx: self.ctx.or(general.ctx),
            chat_template: self.chat_template.or(general.chat_template),
            thinking: self.thinking.or(general.thinking),
            max_tokens: self.max_tokens.or(general.max_tokens),
            temperature: self.temperature.or(general.temperature),
            top_k: self.top_k.or(general.top_k),
            top_p: self.top_p.or(general.top_p),
            min_p: self.min_p.or(general.min_p),
            repetition_penalty: self.repetition_penalty.or(general.repetition_penalty),
            presence_penalty: self.presence_penalty.or(general.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(general.frequency_penalty),
        }
    }

    /// The sampling parameters of a request that says nothing.
    pub fn sampling(&self) -> SamplingParams {
        let base = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            ..base
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_overrides_what_holds_for_all() {
        let config = Config::parse(
            "[defaults]\ntemperature = 0.5\ntop_k = 7\n\
             [models.a]\naliases = ['b']\ndefaults = { temperature = 0.0, ctx = 100 }\n",
        )
        .unwrap();
        let defaults = config.for_model("a");
        assert_eq!(
            (defaults.temperature, defaults.top_k, defaults.ctx),
            (Some(0.0), Some(7), Some(100))
        );
        assert_eq!(config.for_model("other").temperature, Some(0.5));
        assert_eq!(config.models["a"].aliases, ["b"]);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        let error = Config::parse("[defaults]\ntemprature = 1\n").unwrap_err().to_string();
        assert!(error.contains("temprature"), "{error}");
        let error = Config::parse("[defaults]\ntop_p = 1.5\n").unwrap_err().to_string();
        assert!(error.contains("top_p is 1.5"), "{error}");
    }
}
