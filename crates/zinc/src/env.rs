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
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(base.join("zinc"))
}
