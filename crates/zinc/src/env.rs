//! Every environment variable that zinc looks at.

use std::path::PathBuf;

/// `NO_COLOR`: no styles when it is set to anything but the empty string (no-color.org).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// `TERM=dumb`: a terminal that shows escape sequences as text.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}

/// Directory for files that keep state between runs: `$XDG_STATE_HOME/zinc`, else
/// `$HOME/.local/state/zinc`.
pub fn state_dir() -> Option<PathBuf> {
    user_dir("XDG_STATE_HOME", ".local/state")
}

/// Directory for files that can be made again: `$XDG_CACHE_HOME/zinc`, else `$HOME/.cache/zinc`.
pub fn cache_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache")
}

/// What `variable` says, else `below` the home directory.
fn user_dir(variable: &str, below: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below)))?;
    Some(base.join("zinc"))
}
