//! `zinc model show`.

use std::path::Path;

use serde::Serialize;
use zinc_catalog::{CatalogError, Entry, Fit, Quant, Record, Reference, Source, Thinking};
use zinc_engine::Model;

use super::find::{self, Devices};
use super::{ShowArgs, list, path_texts};
use crate::builtin;
use crate::library::Library;
use crate::model;
use crate::output::{self, fields, human_bytes};
use crate::report::{self, printable};

/// What is known of a model.
#[derive(Serialize)]
struct Report {
    name: String,
    /// It is part of the program.
    builtin: bool,
    catalog: Option<Entry>,
    record: Option<Record>,
    paths: Vec<String>,
    size_bytes: Option<u64>,
    license: Option<String>,
    fit: Option<Fit>,
    /// A model that fits, if this one does not.
    nearest: Option<String>,
    /// Why nothing exact can be said.
    error: Option<String>,
    sha256: Vec<Option<String>>,
}

/// Runs `show`.
pub fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let devices = Devices::look(&args.fit)?;
    let mut report = match library.installed(&args.model) {
        Ok(record) => here(&library, &devices, record)?,
        Err(_) if args.model == builtin::ID => part_of_program(&devices)?,
        Err(_) => not_here(&library, &devices, args)?,
    };
    let quant = report.catalog.as_ref().and_then(|entry| {
        let name = report.record.as_ref().and_then(|record| record.quant.clone());
        let named = args.model.split_once(':').map(|(_, quant)| quant.to_ascii_uppercase());
        entry.quant(name.or(named).as_deref()).ok().cloned()
    });
    if let (Some(entry), Some(quant)) = (&report.catalog, &quant) {
        if report.fit.is_none() {
            report.fit = devices.fit_about(entry, quant);
        }
        if report.fit.as_ref().is_some_and(|fit| !fit.fits()) {
            report.nearest = devices.nearest(library.catalog(), entry, quant);
        }
    }
    match args.fit.json {
        true => output::json(&report),
        false => output::text(&people(&report, quant.as_ref())),
    }
}

fn here(library: &Library, devices: &Devices, record: Record) -> anyhow::Result<Report> {
    let paths = library.store().paths(&record);
    let model = match &paths {
        Ok(paths) => open(&paths[0]),
        Err(error) => Err(error.to_string()),
    };
    Ok(Report {
        name: record.name.clone(),
        builtin: false,
        catalog: record.catalog.as_ref().and_then(|id| library.catalog().find(id)).cloned(),
        paths: path_texts(paths.unwrap_or_default()),
        size_bytes: Some(record.size()),
        license: None,
        fit: model.as_ref().ok().and_then(|model| devices.fit_of(model)),
        nearest: None,
        error: model.err(),
        sha256: record.files.iter().map(|file| Some(file.sha256.clone())).collect(),
        record: Some(record),
    })
}

fn part_of_program(devices: &Devices) -> anyhow::Result<Report> {
    let file = model::builtin_file()?;
    let size_bytes = Some(file.len() as u64);
    let model = Model::from_bytes(file)?;
    Ok(Report {
        name: builtin::ID.to_owned(),
        builtin: true,
        catalog: None,
        record: None,
        paths: Vec::new(),
        size_bytes,
        license: None,
        fit: devices.fit_of(&model),
        nearest: None,
        error: None,
        sha256: Vec::new(),
    })
}

fn open(path: &Path) -> Result<Model, String> {
    Model::open(path).map_err(|error| error.to_string())
}

fn not_here(library: &Library, devices: &Devices, args: &ShowArgs) -> anyhow::Result<Report> {
    let reference = Reference::parse(&args.model)?;
    let entry = match &reference {
        Reference::Name { id, quant } => {
            let entry = library.catalog().find(id).ok_or_else(|| library.puller.unknown(id))?;
            entry.quant(quant.as_deref())?;
            Some(entry.clone())
        }
        Reference::File(_) | Reference::Ollama(_) => {
            let what = format!("{} has no name", printable(&args.model));
            let hint = "zinc inspect -m FILE shows a file; zinc model import gives it a name";
            return Err(report::with_hint(what, hint));
        }
        _ => None,
    };
    let mut report = Report {
        name: args.model.clone(),
        builtin: false,
        catalog: entry,
        record: None,
        paths: Vec::new(),
        size_bytes: None,
        license: None,
        fit: None,
        nearest: None,
        error: None,
        sha256: Vec::new(),
    };
    if args.offline {
        return Ok(report);
    }
    match library.wait(library.puller.plan(&reference)) {
        Ok(plan) => {
            report.name = plan.name.clone();
            report.size_bytes = plan.size();
            report.license = plan.license.clone();
            match library.wait(library.puller.stand_in(&plan)) {
                Ok(stand_in) => report.fit = devices.fit_of(&stand_in.model),
                Err(error) => report.error = Some(error.to_string()),
            }
        }
        Err(error @ CatalogError::Network { .. }) if report.catalog.is_some() => {
            report.error = Some(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(report)
}

fn people(report: &Report, quant: Option<&Quant>) -> String {
    let mut rows = vec![("model", printable(&report.name))];
    if let Some(entry) = &report.catalog {
        rows.extend(entry_rows(entry));
    }
    if let Some(license) = report.license.as_ref().filter(|_| report.catalog.is_none()) {
        rows.push(("licence", printable(license)));
    }
    let about =
        report.catalog.as_ref().zip(quant).and_then(|(entry, quant)| entry.about_bytes(quant));
    match (report.size_bytes, about) {
        (Some(n_bytes), _) => rows.push(("size", human_bytes(n_bytes))),
        (None, Some(n_bytes)) => rows.push(("size", format!("about {}", human_bytes(n_bytes)))),
        _ => {}
    }
    match &report.record {
        Some(record) => rows.extend(record_rows(record, &report.paths)),
        None if report.builtin => rows.push(("state", "part of the program".into())),
        None => {
            let hashes = quant.map_or(0, |quant| quant.files.len());
            let state = match hashes {
                0 => "not here; unverified until the first pull, which pins its hashes",
                _ => "not here; verified against the catalog's hashes when it is pulled",
            };
            rows.push(("state", state.into()));
        }
    }
    rows.push((
        "memory",
        match &report.fit {
            Some(fit) => find::sentence(fit),
            None => "not known before it is here".into(),
        },
    ));
    if let Some(nearest) = &report.nearest {
        rows.push(("instead", format!("{nearest} fits here")));
    }
    if let Some(error) = &report.error {
        rows.push(("note", printable(error)));
    }
    fields(&rows)
}

fn entry_rows(entry: &Entry) -> Vec<(&'static str, String)> {
    let quants: Vec<_> = entry.quants.iter().map(|quant| quant.name.as_str()).collect();
    let mut rows = vec![
        ("family", entry.family.clone()),
        ("about", entry.about.clone()),
        ("parameters", list::params(entry)),
        ("context", format!("{} tokens", entry.context)),
        (
            "thinking",
            match entry.thinking {
                Thinking::No => "no".into(),
                Thinking::Switch => "when asked to (--think)".into(),
                Thinking::Always => "always".into(),
            },
        ),
        ("tools", if entry.tools { "yes" } else { "no" }.into()),
        ("licence", entry.license.clone()),
        ("released", entry.released.clone()),
        ("repository", format!("hf:{}", entry.repo)),
        ("quantisations", quants.join(", ")),
    ];
    let sampling = &entry.sampling;
    let value = |name: &str, value: Option<String>| value.map(|value| format!("{name} {value}"));
    let parts: Vec<_> = [
        value("temperature", sampling.temp.map(|x| x.to_string())),
        value("top-k", sampling.top_k.map(|x| x.to_string())),
        value("top-p", sampling.top_p.map(|x| x.to_string())),
        value("min-p", sampling.min_p.map(|x| x.to_string())),
        value("presence penalty", sampling.presence_penalty.map(|x| x.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !parts.is_empty() {
        rows.push(("sampling", format!("{} (its authors')", parts.join(", "))));
    }
    rows
}

fn record_rows(record: &Record, paths: &[String]) -> Vec<(&'static str, String)> {
    let source = match &record.source {
        Source::Hub { repo, revision } => format!("hf:{repo} at {revision}"),
        Source::Url { url } => url.clone(),
        Source::Import { path } => format!("imported from {}", path.display()),
    };
    let mut rows = vec![("from", printable(&source))];
    for (file, path) in record.files.iter().zip(paths) {
        let owner =
            file.belongs_to.as_ref().map_or_else(String::new, |owner| format!(" ({owner})"));
        rows.push(("file", format!("{}{owner}", printable(path))));
        rows.push(("sha256", file.sha256.clone()));
    }
    rows
}
