//! The list of models that zinc knows by name, read from one file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::CatalogError;
use crate::names;

/// The list that is part of the program.
const BUILT_IN: &str = include_str!("../catalog.toml");
/// The version of the format that this program reads.
const FORMAT: u32 = 1;
/// Largest catalog that is read.
pub const CATALOG_BYTES_MAX: usize = 4 << 20;

/// All models known by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Version of the format.
    format: u32,
    /// The day it was last looked over, `YYYY-MM-DD`.
    pub date: String,
    /// The models.
    #[serde(rename = "model")]
    pub models: Vec<Entry>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What people call it, in lower case.
    pub id: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Family, such as `Qwen3`.
    pub family: String,
    /// One sentence.
    pub about: String,
    /// Repository of the Hub with GGUF files.
    pub repo: String,
    /// Commit, tag or branch; `main` if none is named.
    pub revision: Option<String>,
    /// Billions of parameters.
    pub params: f64,
    /// Billions of them that a token uses, where not all.
    pub active: Option<f64>,
    /// Context length that the model was trained for, in tokens.
    pub context: u32,
    /// Licence: an SPDX id, or the name its authors gave it.
    pub license: String,
    /// Month of its release, `YYYY-MM`.
    pub released: String,
    /// Whether it thinks before it answers.
    pub thinking: Thinking,
    /// Whether it was trained to call tools.
    pub tools: bool,
    /// Sampling that its authors recommend.
    #[serde(default)]
    pub sampling: Sampling,
    /// What a context takes, as its authors published; the header of the file says it for certain.
    pub cache: Option<CacheShape>,
    /// Quantisations in the repository, the one taken by default first.
    #[serde(rename = "quant")]
    pub quants: Vec<Quant>,
}

/// Whether a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thinking {
    /// Never.
    No,
    /// When it is asked to.
    Switch,
    /// Always.
    Always,
}

/// A quantisation of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quant {
    /// Name, in capitals.
    pub name: String,
    /// About how many bytes it has, in 10^9.
    pub gb: Option<f64>,
    /// Files with size and hash, where they are known for certain. A model without them is resolved at
    /// the Hub at its first pull, and pinned to what is found there.
    #[serde(default)]
    pub files: Vec<PinnedFile>,
}

/// A file that is known to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Sampling parameters; what is not named is left at zinc's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature.
    pub temp: Option<f32>,
    /// Most probable tokens kept.
    pub top_k: Option<u32>,
    /// Probability kept.
    pub top_p: Option<f32>,
    /// Least probability relative to the most probable.
    pub min_p: Option<f32>,
    /// Penalty on tokens seen.
    pub presence_penalty: Option<f32>,
}

/// What the cache of a context takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheShape {
    /// Layers that keep all positions.
    pub full_layers: u32,
    /// Keys and values of one position in one such layer.
    pub full_values: u32,
    /// Layers that keep a window.
    #[serde(default)]
    pub window_layers: u32,
    /// Keys and values of one position in one such layer.
    #[serde(default)]
    pub window_values: u32,
    /// Positions of the window.
    #[serde(default)]
    pub window: u32,
    /// Values of the recurrent states of all layers (f32).
    #[serde(default)]
    pub state_values: u64,
}

impl Entry {
    /// About how many bytes a quantisation has: as the catalog says, else from the parameters.
    pub fn about_bytes(&self, quant: &Quant) -> Option<u64> {
        if !quant.files.is_empty() {
            return Some(quant.files.iter().map(|file| file.size).sum());
        }
        let bytes = match quant.gb {
            Some(gb) => gb * 1e9,
            None => self.params * 1e9 * names::bits_per_weight(&quant.name)? / 8.0,
        };
        Some(bytes as u64)
    }

    /// The quantisation of that name (capitals), or the default one.
    ///
    /// # Errors
    /// It has none of that name; quantisations of the repository that the catalog does not list can
    /// be named with `hf:`.
    pub fn quant(&self, name: Option<&str>) -> Result<&Quant, CatalogError> {
        let found = match name {
            Some(name) => self.quants.iter().find(|quant| quant.name == name),
            None => self.quants.first(),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.quants.iter().map(|quant| quant.name.as_str()).collect();
            CatalogError::Reference {
                text: format!("{}:{}", self.id, name.unwrap_or_default()),
                reason: format!(
                    "the catalog has it in {}; hf:{}:QUANT names any other",
                    known.join(", "),
                    self.repo
                ),
            }
        })
    }

    /// Whether `id` is one of its names.
    pub fn is_called(&self, id: &str) -> bool {
        self.id == id || self.aliases.iter().any(|alias| alias == id)
    }
}

impl Catalog {
    /// The catalog of the program.
    ///
    /// # Errors
    /// None; a test reads it.
    pub fn built_in() -> Result<Catalog, CatalogError> {
        Catalog::parse(BUILT_IN, "in the program")
    }

    /// The catalog at `path`, or the one of the program if there is no file.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn load(path: &Path) -> Result<Catalog, CatalogError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Catalog::parse(&text, &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Catalog::built_in(),
            Err(error) => Err(CatalogError::io(path, error)),
        }
    }

    /// Understands a catalog; `origin` is for messages.
    ///
    /// # Errors
    /// It is no catalog, of another format, or two models have one name.
    pub fn parse(text: &str, origin: &str) -> Result<Catalog, CatalogError> {
        let refuse = |reason: String| CatalogError::Catalog { origin: origin.into(), reason };
        let catalog: Catalog =
            toml::from_str(text).map_err(|error| refuse(error.to_string().trim().to_owned()))?;
        if catalog.format != FORMAT {
            return Err(refuse(format!(
                "its format is {}, this zinc reads {FORMAT}; hint: a newer zinc may read it",
                catalog.format
            )));
        }
        let mut names = std::collections::HashSet::new();
        for entry in &catalog.models {
            check(entry).map_err(|reason| refuse(format!("{}: {reason}", entry.id)))?;
            for name in std::iter::once(&entry.id).chain(&entry.aliases) {
                if !names.insert(name.as_str()) {
                    return Err(refuse(format!("two models are called {name}")));
                }
            }
        }
        Ok(catalog)
    }

    /// The model called `id`.
    pub fn find(&self, id: &str) -> Option<&Entry> {
        self.models.iter().find(|entry| entry.is_called(id))
    }

    /// Models whose names, family or description hold all the words.
    pub fn search(&self, words: &[String]) -> Vec<&Entry> {
        let matches = |entry: &&Entry| {
            let text = format!(
                "{} {} {} {} {}",
                entry.id,
                entry.aliases.join(" "),
                entry.family,
                entry.about,
                entry.repo
            );
            let text = text.to_lowercase();
            words.iter().all(|word| text.contains(&word.to_lowercase()))
        };
        self.models.iter().filter(matches).collect()
    }

    /// Names that `name` may have been meant to be, the nearest first.
    pub fn near(&self, name: &str) -> Vec<String> {
        let mut near: Vec<_> = self
            .models
            .iter()
            .filter(|entry| entry.id.contains(name) || distance(&entry.id, name) <= 2)
            .map(|entry| (distance(&entry.id, name), entry.id.clone()))
            .collect();
        near.sort();
        near.into_iter().take(3).map(|(_, id)| id).collect()
    }
}

fn check(entry: &Entry) -> Result<(), String> {
    let is_name = |name: &String| {
        name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-')) && !name.is_empty()
    };
    if !is_name(&entry.id) || !entry.aliases.iter().all(is_name) {
        return Err("names are made of a-z, 0-9, . and -".into());
    }
    if entry.quants.is_empty() {
        return Err("it has no quantisation".into());
    }
    match crate::Reference::parse(&format!("hf:{}", entry.repo)) {
        Ok(crate::Reference::Hub(hub)) if hub.repo == entry.repo => {}
        _ => return Err(format!("{:?} is no OWNER/REPO", entry.repo)),
    }
    let is_path = |file: &PinnedFile| {
        crate::reference::is_path_safe(&file.path)
            && file.sha256.len() == 64
            && file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    match entry.quants.iter().flat_map(|quant| &quant.files).all(is_path) {
        true => Ok(()),
        false => Err("a file has no path inside the repository, or no SHA-256".into()),
    }
}

/// Edits that lead from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_of_the_program_is_sound() {
        let catalog = Catalog::built_in().unwrap();
        assert!(catalog.models.len() > 30);
        for entry in &catalog.models {
            assert!(entry.about_bytes(&entry.quants[0]).is_some(), "{}", entry.id);
            assert!(entry.released.len() == 7 && entry.context >= 2048, "{}", entry.id);
            for quant in &entry.quants {
                let Some(bytes) = entry.about_bytes(quant) else { continue };
                let bits = bytes as f64 * 8.0 / (entry.params * 1e9);
                assert!((2.0..18.0).contains(&bits), "{} {}: {bits} bits", entry.id, quant.name);
            }
        }
        let (least, most) = (0.3, 120.0);
        let params = || catalog.models.iter().map(|entry| entry.params);
        assert!(params().any(|p| p <= least) || params().any(|p| p < 0.65));
        assert!(params().any(|p| p > most - 10.0));
    }

    #[test]
    fn models_are_found_by_their_names() {
        let catalog = Catalog::built_in().unwrap();
        assert_eq!(catalog.find("qwen3-4b").unwrap().repo, "Qwen/Qwen3-4B-GGUF");
        assert!(catalog.find("qwen3-4").is_none());
        assert_eq!(catalog.near("qwen3-4")[0], "qwen3-4b");
        assert!(!catalog.search(&["qwen3".into(), "moe".into()]).is_empty());
        assert_eq!((distance("abc", "abd"), distance("", "ab"), distance("ab", "ba")), (1, 2, 2));
    }

    #[test]
    fn wrong_catalogs_are_refused() {
        let entry = "[[model]]\nid='a'\nfamily='f'\nabout='x'\nrepo='o/r'\nparams=1\ncontext=4096\n\
             license='MIT'\nreleased='2025-01'\nthinking='no'\ntools=false\n[[model.quant]]\nname='Q8_0'\n";
        let parse = |text: &str| Catalog::parse(text, "t").map_err(|error| error.to_string());
        let head = "format=1\ndate='2026-01-01'\n";
        assert_eq!(parse(&format!("{head}{entry}")).unwrap().models.len(), 1);
        let error = parse(&format!("{head}{entry}{entry}")).unwrap_err();
        assert!(error.contains("two models are called a"), "{error}");
        let error = parse(&format!("{head}{}", entry.replace("o/r", "../r"))).unwrap_err();
        assert!(error.contains("no OWNER/REPO"), "{error}");
        let error = parse("format=9\ndate=''\nmodel=[]").unwrap_err();
        assert!(error.contains("newer zinc"), "{error}");
        assert!(parse("format=1\nx=1").is_err());
    }
}
