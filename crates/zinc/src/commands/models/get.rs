//! `zinc model pull`, `import` and `update`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use zinc_catalog::{CATALOG_BYTES_MAX, Catalog, ImportMode, Plan, Record, Reference, Url};

use super::find::{self, Devices};
use super::{FitArgs, ImportArgs, PullArgs, UpdateArgs, path_texts};
use crate::library::{self, Library};
use crate::output::{self, human_bytes};
use crate::progress::{Progress, Unit};
use crate::report::{self, printable};

/// Runs `pull`.
pub fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let mut library = Library::open()?;
    library.puller.repin = args.repin;
    let reference = Reference::parse(&args.model)?;
    let here = library.store().find_reference(&reference)?;
    let here = here.filter(|record| library.store().paths(record).is_ok());
    if let Some(record) = here.filter(|_| !args.force && !args.repin) {
        report::note(format!("{} is here already", printable(&record.name)));
        return finish(args, &library, &record);
    }
    let plan = library.plan(&reference)?;
    if args.force {
        forget(&library, &plan)?;
    }
    tell(&plan);
    if !args.yes && !fits(&library, &plan, &reference)? {
        return Ok(());
    }
    let record = library.pull(&plan)?;
    let size = human_bytes(record.size());
    report::note(format!("{}: {size}, verified", printable(&record.name)));
    finish(args, &library, &record)
}

fn finish(args: &PullArgs, library: &Library, record: &Record) -> anyhow::Result<()> {
    if args.activate {
        library.store().set_active(Some(&record.name))?;
        report::note(format!("{} is used without -m from now on", printable(&record.name)));
    } else if !args.json {
        report::note(format!("talk to it: zinc chat -m {}", printable(&record.name)));
    }
    print(args.json, library, record)
}

fn print(json: bool, library: &Library, record: &Record) -> anyhow::Result<()> {
    let paths = library.store().paths(record)?;
    match json {
        true => output::json(&serde_json::json!({ "record": record, "paths": path_texts(paths) })),
        false => output::text(&format!("{}\n", paths[0].display())),
    }
}

/// Removes the files of the plan that are here, so that they are fetched again.
fn forget(library: &Library, plan: &Plan) -> anyhow::Result<()> {
    if let Some(record) = library.records()?.into_iter().find(|record| record.name == plan.name) {
        library.store().remove(&record)?;
    }
    Ok(())
}

/// Says what will happen.
fn tell(plan: &Plan) {
    let license = plan
        .license
        .as_ref()
        .map_or_else(String::new, |name| format!(", licence {}", printable(name)));
    let size = plan.size().map_or_else(|| "unknown size".into(), human_bytes);
    let n_files = match plan.files.len() {
        1 => String::new(),
        n => format!(" in {n} files"),
    };
    report::note(format!("{}: {size}{n_files}{license}", printable(&plan.name)));
    for file in &plan.files {
        if let Some((program, path)) = &file.elsewhere {
            let name = printable(&file.name);
            report::note(format!("{name} is in {program} and is used there: {}", path.display()));
        }
    }
}

/// Whether the model fits here, or the user wants it all the same. Reads the header of the file alone.
fn fits(library: &Library, plan: &Plan, reference: &Reference) -> anyhow::Result<bool> {
    if plan.to_download() == Some(0) {
        return Ok(true);
    }
    let devices = Devices::look(&FitArgs { ctx: 8192, device: None, json: false })?;
    let stand_in = library.wait(library.puller.stand_in(plan));
    let problem = match &stand_in {
        Ok(stand_in) => match devices.fit_of(&stand_in.model) {
            Some(fit) if fit.longest_ctx.is_some() => {
                report::note(find::sentence(&fit));
                return Ok(true);
            }
            Some(fit) => find::sentence(&fit),
            None => "no device of this machine can run it".into(),
        },
        Err(error) => format!("{error}"),
    };
    let nearest = match reference {
        Reference::Name { id, quant } => library.catalog().find(id).and_then(|entry| {
            devices.nearest(library.catalog(), entry, entry.quant(quant.as_deref()).ok()?)
        }),
        _ => None,
    };
    let instead = nearest.map_or_else(String::new, |name| format!("; {name} fits"));
    let what = format!("{}: {problem}{instead}", printable(&plan.name));
    report::note(format!("warning: {}", printable(&what.replace("; hint: ", "; "))));
    let may_ask = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if !may_ask {
        return Err(report::with_hint(
            "not pulled: it would not run here",
            "--yes pulls it all the same",
        ));
    }
    library::ask("Pull it all the same?")
}

/// Runs `import`.
pub fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let path = match Reference::parse(&args.file)? {
        Reference::Ollama(name) => library.store().home().ollama_model(&name)?.0,
        _ => PathBuf::from(&args.file),
    };
    let name = args
        .name
        .clone()
        .or_else(|| args.file.strip_prefix("ollama:").map(|name| name.replace([':', '/'], "-")));
    let mode = match (args.link, args.copy) {
        (true, _) => ImportMode::Link,
        (_, true) => ImportMode::Copy,
        _ => ImportMode::Refer,
    };
    let mut progress = Progress::new("reading", Unit::Bytes);
    let mut tell = |done, total| progress.update(done, total);
    let record = library.store().import(&path, name.as_deref(), mode, &mut tell)?;
    progress.finish();
    report::note(format!("{} is a model now: zinc chat -m {0}", printable(&record.name)));
    print(args.json, &library, &record)
}

/// Runs `update`.
pub fn update(args: &UpdateArgs) -> anyhow::Result<()> {
    let library = Library::open_without_catalog()?;
    let path = library.store().home().catalog_file();
    let Some(from) = &args.from else {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
        report::note("The catalog in the program is used again.");
        return Ok(());
    };
    let text = match from.starts_with("https://") || from.starts_with("http://") {
        true => {
            let url = Url::parse(from).map_err(|error| anyhow::anyhow!("{from}: {error}"))?;
            let auth = zinc_catalog::Auth::default();
            let bytes = library.wait(library.puller.http.read(&url, &auth, CATALOG_BYTES_MAX))?;
            String::from_utf8(bytes).with_context(|| format!("{from} is no text"))?
        }
        false => crate::input::read_text(Path::new(from))?,
    };
    let catalog = Catalog::parse(&text, from)?;
    library.store().set_catalog(&text)?;
    report::note(format!("{} models, as of {}", catalog.models.len(), printable(&catalog.date)));
    Ok(())
}
