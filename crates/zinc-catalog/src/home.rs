//! Where zinc keeps models, and where other programs keep theirs.

use std::path::{Path, PathBuf};

use crate::CatalogError;

/// Directories of this user, from the environment.
#[derive(Clone, Debug)]
pub struct Home {
    data: PathBuf,
    /// The Hub's cache, `.../huggingface/hub`.
    pub(crate) hub_cache: Option<PathBuf>,
    /// Directories with Ollama's `blobs` and `manifests`.
    pub(crate) ollama: Vec<PathBuf>,
    /// LM Studio's directories of models.
    pub(crate) lm_studio: Vec<PathBuf>,
}

impl Home {
    /// Looks at the environment: `ZINC_HOME`, else `XDG_DATA_HOME/zinc`, else `~/.local/share/zinc`
    /// (Windows: `%LOCALAPPDATA%\zinc`); for the others `HF_HUB_CACHE`, `HF_HOME`, `OLLAMA_MODELS`
    /// and the usual places under the home directory.
    ///
    /// # Errors
    /// There is neither `ZINC_HOME` nor a home directory.
    pub fn from_env() -> Result<Home, CatalogError> {
        Home::from_vars(&|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// As [`Home::from_env`], with variables from elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Home, CatalogError> {
        let set = |name: &str| var(name).filter(|path| !path.as_os_str().is_empty());
        let absolute = |name: &str| set(name).filter(|path| path.is_absolute());
        let user = absolute("HOME").or_else(|| absolute("USERPROFILE"));
        let under = |path: &str| user.as_ref().map(|user| user.join(path));
        let data = match set("ZINC_HOME") {
            Some(path) => std::path::absolute(&path).map_err(|e| CatalogError::io(path, e))?,
            None => absolute("XDG_DATA_HOME")
                .or_else(|| absolute("LOCALAPPDATA"))
                .or_else(|| under(".local/share"))
                .ok_or(CatalogError::NoHome)?
                .join("zinc"),
        };
        let hub_home = hub_home(&set, under(".cache"));
        let hub_cache = set("HF_HUB_CACHE").or_else(|| Some(hub_home?.join("hub")));
        let mut ollama: Vec<_> = set("OLLAMA_MODELS").into_iter().collect();
        if ollama.is_empty() {
            ollama.extend(under(".ollama/models"));
            // Where the Linux service keeps them.
            ollama.push("/usr/share/ollama/.ollama/models".into());
        }
        let lm_studio = [".lmstudio/models", ".cache/lm-studio/models"];
        let lm_studio = lm_studio.into_iter().filter_map(under).collect();
        Ok(Home { data, hub_cache, ollama, lm_studio })
    }

    /// The directory of everything that zinc keeps.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of model files.
    pub fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    /// The directory of records, one per model.
    pub(crate) fn records(&self) -> PathBuf {
        self.data.join("records")
    }

    /// The directory of lock files.
    pub(crate) fn locks(&self) -> PathBuf {
        self.data.join("locks")
    }

    /// The catalog that replaces the one in the program, if there is one.
    pub fn catalog_file(&self) -> PathBuf {
        self.data.join("catalog.toml")
    }
}

/// `HF_HOME`, or where the Hub's own programs put it.
fn hub_home(set: &dyn Fn(&str) -> Option<PathBuf>, user_cache: Option<PathBuf>) -> Option<PathBuf> {
    let cache = || set("XDG_CACHE_HOME").or(user_cache);
    set("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))
}

/// The token for the Hub: `HF_TOKEN`, else the file where the Hub's programs leave theirs.
pub fn hub_token() -> Option<String> {
    let set = |name: &str| {
        std::env::var_os(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty())
    };
    let clean = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = std::env::var(name).ok().as_deref().and_then(clean) {
            return Some(token);
        }
    }
    let user_cache = set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    let path = set("HF_TOKEN_PATH").or_else(|| Some(hub_home(&set, user_cache)?.join("token")))?;
    std::fs::read_to_string(path).ok().as_deref().and_then(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(vars: &[(&str, &str)]) -> Home {
        let var = |name: &str| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        };
        Home::from_vars(&var).unwrap()
    }

    #[test]
    fn directories_follow_the_environment() {
        let plain = home(&[("HOME", "/u")]);
        assert_eq!(plain.data(), Path::new("/u/.local/share/zinc"));
        assert_eq!(plain.hub_cache.as_deref(), Some(Path::new("/u/.cache/huggingface/hub")));
        assert_eq!(plain.ollama[0], Path::new("/u/.ollama/models"));
        let xdg = home(&[("HOME", "/u"), ("XDG_DATA_HOME", "/d"), ("XDG_CACHE_HOME", "/c")]);
        assert_eq!(xdg.data(), Path::new("/d/zinc"));
        assert_eq!(xdg.hub_cache.as_deref(), Some(Path::new("/c/huggingface/hub")));
        let own = home(&[("HOME", "/u"), ("ZINC_HOME", "/z"), ("HF_HOME", "/h")]);
        assert_eq!(own.data(), Path::new("/z"));
        assert_eq!(own.hub_cache.as_deref(), Some(Path::new("/h/hub")));
        assert!(Home::from_vars(&|_| None).is_err());
    }
}
