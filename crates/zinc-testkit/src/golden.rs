//! Golden models: GGUF files with the logits and hidden states that another implementation computed.
//!
//! The keys of the number files and the tolerances are those of the data set's README.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use zinc_gguf::Gguf;

use crate::{TestError, paths};

/// Golden models that every clone has: one of each family, and some types of weights.
pub const N_IN_CLONE: usize = 12;

/// A model file with its expected numbers.
#[derive(Clone, Debug)]
pub struct Golden {
    /// File name without `.gguf`: `qwen3.f32`, `q_qwen3.q4_k_m`.
    pub name: String,
    /// The model.
    pub gguf: PathBuf,
    /// The numbers, shared by all files of one model.
    pub numbers: PathBuf,
    /// GGUF architecture.
    pub arch: String,
    /// Largest absolute difference of a logit or hidden value, for a device that computes in f32
    /// with dequantised weights.
    pub tolerance: f32,
}

/// Expected numbers of one prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Number of the prompt in the file.
    pub idx: usize,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Logits of the last rows of the prompt, or of all.
    pub logits: Vec<f32>,
    /// Columns of a logit row.
    pub n_vocab: usize,
    /// Logits of llama.cpp, whose activations are quantised, where the file has them for the same
    /// rows as `logits`.
    pub llamacpp_logits: Option<Vec<f32>>,
    /// Greedy continuation; empty for quantised files.
    pub greedy: Vec<i32>,
    /// By how much the logit of each of them is the largest.
    pub greedy_gap: Vec<f32>,
    /// Hidden states in order: `embed`, `0`, `1`, …, `final_norm`; empty where not recorded.
    pub hidden: Vec<(String, Vec<f32>)>,
    /// Numbers of the multi-token-prediction head, where the model has one.
    pub mtp: Option<MtpPrompt>,
}

/// Expected numbers of a multi-token-prediction head after one prompt.
#[derive(Clone, Debug)]
pub struct MtpPrompt {
    /// Logits of the rows of tokens `1..`; empty for a prompt of one token.
    pub logits: Vec<f32>,
    /// Hidden states of the same rows.
    pub hidden: Vec<f32>,
    /// Tokens drafted after the first greedy one.
    pub chain_tokens: Vec<i32>,
    /// Logits that each of them was taken from.
    pub chain_logits: Vec<f32>,
}

impl Golden {
    /// Whether the weights of the file are quantised or rounded, so that a device may quantise
    /// activations.
    pub fn is_quantized(&self) -> bool {
        !self.name.ends_with(".f32")
    }

    /// Reads the numbers.
    ///
    /// # Errors
    /// A file that cannot be read or lacks a key.
    pub fn prompts(&self) -> Result<Vec<Prompt>, TestError> {
        let numbers = Numbers::read(&self.numbers)?;
        let prompts: Result<Vec<Prompt>, TestError> = (0..)
            .take_while(|idx| numbers.has(&format!("prompt{idx}.tokens")))
            .map(|idx| self.prompt(&numbers, idx))
            .collect();
        match prompts {
            Ok(prompts) if prompts.is_empty() => Err(numbers.missing("prompt0.tokens")),
            other => other,
        }
    }

    fn prompt(&self, numbers: &Numbers, idx: usize) -> Result<Prompt, TestError> {
        let key = |name: &str| format!("prompt{idx}.{name}");
        let ty = self.name.rsplit('.').next().unwrap_or_default().to_uppercase();
        // One set of numbers for one model, or one per quantised file.
        let (logits_key, llamacpp_key) = if self.name.starts_with("q_") {
            (key(&format!("{ty}.logits_dequant_f32")), key(&format!("{ty}.llamacpp_logits")))
        } else {
            (key("logits"), key("llamacpp_logits"))
        };
        let (logits, shape) = numbers.f32s(&logits_key)?;
        let llamacpp_logits = numbers.f32s(&llamacpp_key).ok();
        let greedy_key = key("greedy");
        let (greedy, greedy_gap) = match numbers.has(&greedy_key) {
            true => (numbers.i32s(&greedy_key)?, numbers.f32s(&key("greedy_gap"))?.0),
            false => (Vec::new(), Vec::new()),
        };
        let layers = (0..).map(|layer: u32| layer.to_string());
        let layers = layers.take_while(|name| numbers.has(&key(&format!("hidden.{name}"))));
        let names = std::iter::once("embed".to_owned())
            .chain(layers)
            .chain(std::iter::once("final_norm".to_owned()));
        let hidden = names
            .filter(|name| numbers.has(&key(&format!("hidden.{name}"))))
            .map(|name| {
                let (values, _) = numbers.f32s(&key(&format!("hidden.{name}")))?;
                Ok((name, values))
            })
            .collect::<Result<_, TestError>>()?;
        Ok(Prompt {
            idx,
            tokens: numbers.i32s(&key("tokens"))?,
            llamacpp_logits: llamacpp_logits
                .filter(|(values, _)| values.len() == logits.len())
                .map(|(values, _)| values),
            logits,
            n_vocab: shape.last().copied().unwrap_or(1),
            greedy,
            greedy_gap,
            hidden,
            mtp: numbers.mtp(idx)?,
        })
    }
}

/// Every golden there is, by name: those beside the repository, and those only in the clone.
///
/// # Errors
/// A model file that cannot be read.
pub fn goldens() -> Result<Vec<Golden>, TestError> {
    let mut found = BTreeMap::new();
    for folder in [paths::testdata().join("golden"), paths::shared().join("golden")] {
        // Later folders replace earlier ones: the full set has more rows.
        found.extend(in_folder(&folder)?.into_iter().map(|golden| (golden.name.clone(), golden)));
    }
    Ok(found.into_values().collect())
}

/// The golden called `name`.
///
/// # Errors
/// It is in neither folder, or cannot be read.
pub fn golden(name: &str) -> Result<Golden, TestError> {
    let found = goldens()?.into_iter().find(|golden| golden.name == name);
    found.ok_or_else(|| TestError::File {
        path: paths::testdata().join("golden"),
        reason: format!("no golden called {name}"),
    })
}

/// The golden called `name`, which only the full set may have; prints that it is skipped if it is not there.
///
/// # Panics
/// If a model file cannot be read.
pub fn golden_if_there(name: &str) -> Option<Golden> {
    let goldens = goldens().expect("golden models are readable");
    let found = goldens.into_iter().find(|golden| golden.name == name);
    if found.is_none() {
        eprintln!(
            "skipped: golden model {name} is neither in testdata/golden nor in ../shared/golden"
        );
    }
    found
}

/// The goldens of one folder; none when it is absent.
///
/// # Errors
/// A model file that cannot be read.
pub fn in_folder(folder: &Path) -> Result<Vec<Golden>, TestError> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut goldens = Vec::new();
    for gguf in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = gguf.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(".gguf")) else {
            continue;
        };
        let model = name.split('.').next().unwrap_or(name);
        let arch = Gguf::open(&gguf)?.metadata().require_str("general.architecture")?.to_owned();
        goldens.push(Golden {
            name: name.to_owned(),
            numbers: folder.join(format!("{model}.safetensors")),
            arch,
            tolerance: tolerance(model),
            gguf,
        });
    }
    goldens.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(goldens)
}

/// The README's limits: gated DeltaNet models carry more f32 noise than attention.
fn tolerance(model: &str) -> f32 {
    match model {
        "qwen3_5" | "qwen3_5_moe" | "qwen3_next" => 1e-3,
        "qwen3_5_mtp" => 5e-4,
        "q_qwen3_5_moe" | "q_qwen3_5_moe_small" => 1e-3,
        _ => 1e-4,
    }
}

/// A file of named arrays.
struct Numbers {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Numbers {
    fn read(path: &Path) -> Result<Self, TestError> {
        let bytes = std::fs::read(path).map_err(|error| TestError::File {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let numbers = Self { path: path.to_owned(), bytes };
        numbers.open()?;
        Ok(numbers)
    }

    fn open(&self) -> Result<SafeTensors<'_>, TestError> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| TestError::File { path: self.path.clone(), reason: error.to_string() })
    }

    fn missing(&self, key: &str) -> TestError {
        TestError::File {
            path: self.path.clone(),
            reason: format!("has no array {key} of the right type"),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.open().is_ok_and(|file| file.tensor(key).is_ok())
    }

    fn raw(&self, key: &str, dtype: Dtype) -> Result<(&[u8], Vec<usize>), TestError> {
        let tensor = self.open()?.tensor(key).map_err(|_| self.missing(key))?;
        if tensor.dtype() != dtype {
            return Err(self.missing(key));
        }
        Ok((tensor.data(), tensor.shape().to_vec()))
    }

    fn f32s(&self, key: &str) -> Result<(Vec<f32>, Vec<usize>), TestError> {
        let (raw, shape) = self.raw(key, Dtype::F32)?;
        let values = raw.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
        Ok((values.collect(), shape))
    }

    fn mtp(&self, idx: usize) -> Result<Option<MtpPrompt>, TestError> {
        let key = |name: &str| format!("prompt{idx}.mtp_{name}");
        if !self.has(&key("chain_tokens")) {
            return Ok(None);
        }
        let optional = |key: &str| match self.has(key) {
            true => self.f32s(key).map(|(values, _)| values),
            false => Ok(Vec::new()),
        };
        Ok(Some(MtpPrompt {
            logits: optional(&key("logits"))?,
            hidden: optional(&key("hidden"))?,
            chain_tokens: self.i32s(&key("chain_tokens"))?,
            chain_logits: self.f32s(&key("chain_logits"))?.0,
        }))
    }

    fn i32s(&self, key: &str) -> Result<Vec<i32>, TestError> {
        let (raw, _) = self.raw(key, Dtype::I32)?;
        Ok(raw.as_chunks().0.iter().map(|raw| i32::from_le_bytes(*raw)).collect())
    }
}
