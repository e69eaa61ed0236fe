//! How people name a model: a file, a catalog id, `hf:OWNER/REPO[:QUANT]`, a URL, `ollama:NAME`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::CatalogError;

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A file on this machine.
    File(PathBuf),
    /// A model of the catalog or of this machine, perhaps in one quantisation.
    Name {
        /// Catalog id, alias or name of the record.
        id: String,
        /// Quantisation, in capitals.
        quant: Option<String>,
    },
    /// A repository of the Hub.
    Hub(HubReference),
    /// A file on some server.
    Url(String),
    /// A model that Ollama has pulled.
    Ollama(String),
}

/// A file, or the files of a quantisation, in a repository of the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubReference {
    /// `OWNER/REPO`.
    pub repo: String,
    /// Branch, tag or commit; `main` if none is named.
    pub revision: Option<String>,
    /// Quantisation, in capitals.
    pub quant: Option<String>,
    /// One file (of a split model: any part).
    pub file: Option<String>,
}

impl Reference {
    /// Understands what was typed.
    ///
    /// # Errors
    /// It is empty, or begins like one of the forms and does not go on like it.
    pub fn parse(text: &str) -> Result<Reference, CatalogError> {
        let refuse = |reason: &str| {
            Err(CatalogError::Reference { text: text.to_owned(), reason: reason.to_owned() })
        };
        if text.is_empty() {
            return refuse("it is empty");
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            return match HubReference::parse(rest) {
                Some(hub) => Ok(Reference::Hub(hub)),
                None => {
                    refuse("expected hf:OWNER/REPO[@REVISION][:QUANT] or hf:OWNER/REPO/FILE.gguf")
                }
            };
        }
        if let Some(name) = text.strip_prefix("ollama:") {
            return match is_path_safe(name) {
                true => Ok(Reference::Ollama(name.to_owned())),
                false => refuse("expected ollama:NAME[:TAG]"),
            };
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(HubReference::of_page(text)
                .map_or_else(|| Reference::Url(text.to_owned()), Reference::Hub));
        }
        let looks_like_path = text.contains(['/', '\\'])
            || text.to_ascii_lowercase().ends_with(".gguf")
            || Path::new(text).exists();
        if looks_like_path {
            return Ok(Reference::File(text.into()));
        }
        let (id, quant) = match text.split_once(':') {
            Some((id, quant)) => (id, Some(quant)),
            None => (text, None),
        };
        if id.is_empty() || quant.is_some_and(str::is_empty) {
            return refuse("expected NAME or NAME:QUANT");
        }
        Ok(Reference::Name {
            id: id.to_ascii_lowercase(),
            quant: quant.map(str::to_ascii_uppercase),
        })
    }
}

impl HubReference {
    /// `OWNER/REPO[@REVISION][:QUANT]`, or with a file instead of the quantisation.
    fn parse(text: &str) -> Option<HubReference> {
        let (text, quant) = match text.split_once(':') {
            Some((_, "")) => return None,
            Some((text, quant)) => (text, Some(quant.to_ascii_uppercase())),
            None => (text, None),
        };
        let (text, revision) = match text.split_once('@') {
            Some((_, "")) => return None,
            Some((text, revision)) => (text, Some(revision.to_owned())),
            None => (text, None),
        };
        let mut parts = text.splitn(3, '/');
        let (owner, name) = (parts.next()?, parts.next()?);
        let file = parts.next().map(str::to_owned);
        let is_name = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_good = is_name(owner)
            && is_name(name)
            && revision.as_deref().is_none_or(|r| is_path_safe(r) && !r.contains(['?', '#']))
            && file.as_deref().is_none_or(|file| is_path_safe(file) && is_gguf(file))
            && !(file.is_some() && quant.is_some());
        is_good.then(|| HubReference { repo: format!("{owner}/{name}"), revision, quant, file })
    }

    /// A page of the Hub as browsers show it: of a repository, or of a file in it.
    fn of_page(url: &str) -> Option<HubReference> {
        let path = url.strip_prefix("https://huggingface.co/")?.trim_end_matches('/');
        let path = path.split(['?', '#']).next()?;
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        match parts[..] {
            [owner, name] => HubReference::parse(&format!("{owner}/{name}")),
            [owner, name, "resolve" | "blob", revision, file] => {
                HubReference::parse(&format!("{owner}/{name}/{file}"))
                    .map(|hub| HubReference { revision: Some(revision.to_owned()), ..hub })
            }
            _ => None,
        }
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.quant {
            Some(quant) => write!(f, ":{quant}"),
            None => Ok(()),
        }
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `path`, which comes from outside, stays inside the directory it is joined to.
pub(crate) fn is_path_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && path.chars().all(|c| !c.is_control())
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.get(1..2).is_some_and(|c| c == ":" && cfg!(windows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> HubReference {
        match Reference::parse(text) {
            Ok(Reference::Hub(hub)) => hub,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn hub_references() {
        let plain = hub("hf:Qwen/Qwen3-4B-GGUF");
        assert_eq!(plain.repo, "Qwen/Qwen3-4B-GGUF");
        assert_eq!((plain.quant, plain.revision, plain.file), (None, None, None));
        let full = hub("hf:a/b.c@v1:q4_k_m");
        assert_eq!(full.revision.as_deref(), Some("v1"));
        assert_eq!(full.quant.as_deref(), Some("Q4_K_M"));
        assert_eq!(full.to_string(), "hf:a/b.c@v1:Q4_K_M");
        assert_eq!(hub("hf:a/b/Q8_0/m.gguf").file.as_deref(), Some("Q8_0/m.gguf"));
        let page = hub("https://huggingface.co/a/b/blob/main/x/m.gguf?download=true");
        assert_eq!(page.file.as_deref(), Some("x/m.gguf"));
        assert_eq!(page.revision.as_deref(), Some("main"));
        for bad in [
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:a/b:",
            "hf:a/b@",
            "hf:../b",
            "hf:a/b/../c.gguf",
            "hf:a/b/c.txt",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_references() {
        let name = |id: &str, quant: Option<&str>| Reference::Name {
            id: id.into(),
            quant: quant.map(str::to_owned),
        };
        assert_eq!(Reference::parse("Qwen3-4B").unwrap(), name("qwen3-4b", None));
        assert_eq!(Reference::parse("qwen3-4b:q8_0").unwrap(), name("qwen3-4b", Some("Q8_0")));
        assert_eq!(Reference::parse("m.gguf").unwrap(), Reference::File("m.gguf".into()));
        assert_eq!(Reference::parse("./m").unwrap(), Reference::File("./m".into()));
        assert!(matches!(Reference::parse("https://x.org/m.gguf"), Ok(Reference::Url(_))));
        assert_eq!(Reference::parse("ollama:a:b").unwrap(), Reference::Ollama("a:b".into()));
        assert!(Reference::parse("").is_err());
        assert!(Reference::parse("ollama:../x").is_err());
    }
}
