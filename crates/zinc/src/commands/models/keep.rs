//! `zinc model use`, `active`, `rm`, `verify`, `prune` and `path`.

use std::io::IsTerminal;

use serde_json::json;
use zinc_catalog::{Leftover, LeftoverKind};

use super::{JsonArgs, NameArgs, PruneArgs, RmArgs, UseArgs, VerifyArgs};
use crate::builtin;
use crate::library::{self, Library};
use crate::model::is_builtin;
use crate::output::{self, human_bytes};
use crate::progress::{Progress, Unit};
use crate::report::{self, printable};

/// Runs `use`.
pub fn use_model(args: &UseArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let Some(text) = args.model.as_ref().filter(|text| !is_builtin(text)) else {
        library.store().set_active(None)?;
        report::note(format!(
            "{}, the built-in model, is used without -m from now on",
            builtin::ID
        ));
        return Ok(());
    };
    let path = library.locate(text, args.yes)?;
    let name = match library.installed(text) {
        Ok(record) => record.name,
        // A file or another program's model: by its place, whatever the current directory will be.
        Err(_) if text.starts_with("ollama:") || text.starts_with("hf:") => text.clone(),
        Err(_) => std::path::absolute(&path)?.display().to_string(),
    };
    if !path.is_file() {
        let what = format!("{}: no such file", path.display());
        return Err(report::with_hint(what, "check the path"));
    }
    library.store().set_active(Some(&name))?;
    report::note(format!("{} is used without -m from now on", printable(&name)));
    Ok(())
}

/// Runs `active`.
pub fn active(args: &JsonArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let active = library.store().active()?;
    match (args.json, active) {
        (true, active) => {
            let is_builtin = active.is_none();
            let name = active.as_deref().unwrap_or(builtin::ID);
            output::json(&json!({ "active": name, "builtin": is_builtin }))
        }
        (false, active) => output::text(&format!("{}\n", active.as_deref().unwrap_or(builtin::ID))),
    }
}

/// Runs `rm`.
pub fn rm(args: &RmArgs) -> anyhow::Result<()> {
    if args.models.iter().any(|name| is_builtin(name)) {
        let what = format!("{} is part of the program and cannot be removed", builtin::ID);
        return Err(report::with_hint(what, "zinc model use NAME uses another without -m"));
    }
    let library = Library::open()?;
    let records: Result<Vec<_>, _> =
        args.models.iter().map(|name| library.installed(name)).collect();
    for record in records? {
        let question =
            format!("Remove {} ({})?", printable(&record.name), human_bytes(record.size()));
        if !args.yes && !confirmed(&question)? {
            continue;
        }
        let n_bytes = library.store().remove(&record)?;
        let freed = match n_bytes {
            0 => "its files belong to others and stay".to_owned(),
            n_bytes => format!("{} are free again", human_bytes(n_bytes)),
        };
        report::note(format!("{} is removed; {freed}", printable(&record.name)));
    }
    Ok(())
}

/// Asks, where there is somebody to answer.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(report::with_hint("nobody can be asked here", "--yes does without"));
    }
    library::ask(question)
}

/// Runs `verify`.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let records = match args.models.is_empty() {
        true => library.records()?,
        false => {
            let found: Result<_, _> =
                args.models.iter().map(|name| library.installed(name)).collect();
            found?
        }
    };
    if records.is_empty() {
        report::note("There are no models here to verify.");
    }
    let (mut results, mut n_bad) = (Vec::new(), 0);
    for record in &records {
        let mut progress = Progress::new("reading", Unit::Bytes);
        let mut tell = |done, total| progress.update(done, total);
        let outcome = library.store().verify(record, &mut tell);
        progress.finish();
        let error = outcome.err().map(|error| error.to_string());
        n_bad += usize::from(error.is_some());
        if !args.json {
            let verdict = error.as_ref().map_or("as it came", |error| error.as_str());
            output::text(&format!("{}: {}\n", printable(&record.name), printable(verdict)))?;
        }
        results.push(json!({ "name": record.name, "verified": error.is_none(), "error": error }));
    }
    if args.json {
        output::json(&results)?;
    }
    match n_bad {
        0 => Ok(()),
        n => {
            let what = format!("{n} of {} models are damaged", records.len());
            Err(report::with_hint(what, "zinc model pull --force NAME fetches one again"))
        }
    }
}

/// Runs `prune`.
pub fn prune(args: &PruneArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let leftovers = library.store().leftovers()?;
    let total: u64 = leftovers.iter().map(|leftover| leftover.size).sum();
    if args.json {
        let row =
            |left: &Leftover| json!({ "path": left.path, "size": left.size, "kind": left.kind });
        output::json(&leftovers.iter().map(row).collect::<Vec<_>>())?;
    } else {
        for leftover in &leftovers {
            let kind = match leftover.kind {
                LeftoverKind::Unfinished => "unfinished download",
                LeftoverKind::Orphan => "file of no model",
                LeftoverKind::Record => "model whose files are gone",
            };
            let path = printable(&leftover.path.display().to_string());
            output::text(&format!("{}  {kind}: {path}\n", human_bytes(leftover.size)))?;
        }
    }
    if leftovers.is_empty() {
        report::note("Nothing is left over.");
        return Ok(());
    }
    let question = format!("Remove {} files ({})?", leftovers.len(), human_bytes(total));
    if args.dry_run || !args.yes && !confirmed(&question)? {
        return Ok(());
    }
    library.store().prune(&leftovers)?;
    report::note(format!("{} are free again", human_bytes(total)));
    Ok(())
}

/// Runs `path`.
pub fn path(args: &NameArgs) -> anyhow::Result<()> {
    if is_builtin(&args.model) {
        let what = format!("{} is part of the program and has no file of its own", builtin::ID);
        return Err(report::with_hint(what, format!("-m {} names it everywhere", builtin::ID)));
    }
    let library = Library::open()?;
    let record = library.installed(&args.model)?;
    output::text(&format!("{}\n", library.first_path(&record)?.display()))
}
