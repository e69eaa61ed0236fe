//! `sources.txt`: for each module a hash of what it is made from and how, and one of what was made and is committed,
//! so that `tidy` finds what is stale without a compiler.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{KERNELS, Module, PACKED, nvcc};
use crate::tidy::Violation;

/// Beside the packed modules.
const SOURCES: &str = "sources.txt";

/// The lines by module. Text that is none, as a merge leaves it, is passed over.
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    pub fn read(root: &Path) -> Sources {
        let text = std::fs::read_to_string(root.join(PACKED).join(SOURCES)).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Sources(pairs.map(|(module, hashes)| (module.to_owned(), hashes.to_owned())).collect())
    }

    /// Whether the module was made from what is there now, and is what is there now.
    pub fn is_fresh(&self, root: &Path, module: &Module) -> Result<bool> {
        Ok(self.0.get(&module.name) == Some(&hashes(root, module)?))
    }

    /// To be called when the module was compiled within its limits.
    pub fn renew(&mut self, root: &Path, module: &Module) -> Result<()> {
        self.0.insert(module.name.clone(), hashes(root, module)?);
        Ok(())
    }

    /// Writes the lines of the modules that there are.
    pub fn write(mut self, root: &Path, modules: &[Module]) -> Result<()> {
        self.0.retain(|name, _| modules.iter().any(|module| module.name == *name));
        let mut text = String::new();
        for (module, hashes) in &self.0 {
            writeln!(text, "{module} {hashes}")?;
        }
        let path = root.join(PACKED).join(SOURCES);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// Modules that are stale or missing, and files that belong to none.
pub fn check_fresh(root: &Path) -> Result<Vec<Violation>> {
    let sources = Sources::read(root);
    let modules = super::modules(root)?;
    let mut found = Vec::new();
    for module in &modules {
        if !sources.is_fresh(root, module)? {
            let at = format!("{KERNELS}/{}.cu", module.name);
            found.push(Violation::new(at, "its compiled form is stale: run `cargo xtask cuda`"));
        }
    }
    for entry in std::fs::read_dir(root.join(PACKED)).context(PACKED)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != SOURCES && !modules.iter().any(|module| module.packed_name() == name) {
            found.push(Violation::new(format!("{PACKED}/{name}"), "no kernel file: remove it"));
        }
    }
    Ok(found)
}

fn hashes(root: &Path, module: &Module) -> Result<String> {
    let packed = std::fs::read(root.join(PACKED).join(module.packed_name())).unwrap_or_default();
    Ok(format!("{:016x} {:016x}", made_from(root, module)?, fnv(&packed)))
}

/// Hash of all that decides what a module is compiled to and whether it may be: the compiler, what it is told, the
/// limit, the file and the headers it includes.
fn made_from(root: &Path, module: &Module) -> Result<u64> {
    let mut names = vec![format!("{}.cu", module.name)];
    let mut all = nvcc::WHEELS.join("\n");
    for (generation, output) in module.outputs(true) {
        writeln!(all, "{}", nvcc::arguments(generation, output).join(" "))?;
    }
    writeln!(all, "{} registers", module.most_registers)?;
    let mut n_read = 0;
    while let Some(name) = names.get(n_read).cloned() {
        n_read += 1;
        // Headers of the compiler and of the host runner are not here.
        let text = std::fs::read_to_string(root.join(KERNELS).join(&name)).unwrap_or_default();
        ensure!(n_read > 1 || !text.is_empty(), "{name} cannot be read");
        let included = text.lines().filter_map(|line| line.strip_prefix("#include \""));
        for header in included.filter_map(|rest| rest.strip_suffix('"')) {
            if !names.iter().any(|name| name == header) {
                names.push(header.to_owned());
            }
        }
        writeln!(all, "{name}\n{text}")?;
    }
    Ok(fnv(all.as_bytes()))
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
