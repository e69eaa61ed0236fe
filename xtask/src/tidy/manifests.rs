//! Manifests: every outside dependency has its reason on the line above, every crate the lints.

use std::path::Path;

use anyhow::{Context, Result};

use super::Violation;

pub fn check(root: &Path, files: &[String]) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for path in files.iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
        found.extend(unjustified(path, &text));
        let is_member = text.contains("[package]") && !path.starts_with("fuzz/");
        if is_member && !text.contains("[lints") {
            found.push(Violation::new(
                path,
                "add `[lints] workspace = true`, or own lints with a reason",
            ));
        }
    }
    Ok(found)
}

fn unjustified(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut in_dependencies = false;
    let mut previous = "";
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]") && !line.contains("workspace");
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
            let is_ours = line.contains(".workspace = true") || line.contains("path = \"");
            let has_reason = line.contains('#') || previous.starts_with('#');
            if !is_ours && !has_reason {
                let at = format!("{path}:{}", idx + 1);
                found.push(Violation::new(
                    at,
                    "say in a comment above why this dependency is needed",
                ));
            }
        }
        previous = line;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::unjustified;

    #[test]
    fn dependency_without_reason_is_found() {
        let text = "[dependencies]\n# Because.\na = \"1\"\nb = \"2\"\nc.workspace = true\n";
        let found = unjustified("Cargo.toml", text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, "Cargo.toml:4");
    }
}
