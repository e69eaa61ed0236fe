//! `zinc model list` and `search`.

use serde::Serialize;
use zinc_catalog::{Entry, Fit, Found, Quant, Record, Thinking};
use zinc_engine::Model;

use super::find::{self, Devices};
use super::{ListArgs, SearchArgs};
use crate::builtin;
use crate::library::Library;
use crate::output::{self, Column, human_bytes};
use crate::report::{self, printable};
use crate::terminal;

/// A model, for programs.
#[derive(Serialize)]
struct Row {
    name: String,
    /// `builtin`, `installed`, `elsewhere` (another program's) or `catalog`.
    place: &'static str,
    active: bool,
    size_bytes: Option<u64>,
    quant: Option<String>,
    /// The program that has it, for `elsewhere`.
    program: Option<&'static str>,
    fit: Option<Fit>,
    /// The nearest model that fits, where this one does not.
    nearest: Option<String>,
    /// What is wrong with its files.
    error: Option<String>,
    catalog: Option<Entry>,
}

/// Runs `list`.
pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let devices = Devices::look(&args.fit)?;
    let records = library.records()?;
    let active = library.store().active()?;
    let mut rows: Vec<Row> = records
        .iter()
        .map(|record| installed(&library, &devices, record, active.as_deref()))
        .collect();
    let is_known = |found: &Found| {
        let same = |record: &Record| {
            library.store().paths(record).is_ok_and(|paths| paths.contains(&found.path))
        };
        records.iter().any(same)
    };
    let found = library.store().home().found();
    rows.extend(found.into_iter().filter(|found| !is_known(found)).map(elsewhere));
    let n_here = rows.len();
    let is_taken = records.iter().any(|record| record.name == builtin::ID);
    if let Some(file) = builtin::file().filter(|_| !is_taken) {
        rows.push(part_of_program(&devices, file, active.is_none()));
    }
    if args.all {
        let is_here = |entry: &&Entry| {
            !records.iter().any(|record| record.catalog.as_deref() == Some(&entry.id))
        };
        let entries = library.catalog().models.iter().filter(is_here);
        rows.extend(entries.filter_map(|entry| of_catalog(&library, &devices, entry)));
    }
    if args.fit.json {
        return output::json(&rows);
    }
    print(&rows)?;
    if rows.iter().any(|row| row.active) {
        report::note("* is used without -m");
    }
    if n_here == 0 && !args.all {
        report::note(
            "No models were pulled yet: zinc model list --all shows the catalog,\nzinc model pull NAME fetches one.",
        );
    }
    Ok(())
}

/// Runs `search`.
pub fn search(args: &SearchArgs) -> anyhow::Result<()> {
    let library = Library::open()?;
    let devices = Devices::look(&args.fit)?;
    let found = library.catalog().search(&args.words);
    let row = |entry| of_catalog(&library, &devices, entry);
    let rows: Vec<_> = found.into_iter().filter_map(row).collect();
    if args.fit.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        let words = printable(&args.words.join(" "));
        let what = format!("the catalog has no model with {words:?}");
        return Err(report::with_hint(what, "hf:OWNER/REPO[:QUANT] pulls any model of the Hub"));
    }
    print(&rows)
}

fn installed(library: &Library, devices: &Devices, record: &Record, active: Option<&str>) -> Row {
    let path = library.first_path(record);
    let model = path.and_then(|path| Ok(Model::open(&path)?));
    let entry = record.catalog.as_ref().and_then(|id| library.catalog().find(id));
    Row {
        name: record.name.clone(),
        place: "installed",
        active: active == Some(&record.name),
        size_bytes: Some(record.size()),
        quant: record.quant.clone(),
        program: None,
        fit: model.as_ref().ok().and_then(|model| devices.fit_of(model)),
        nearest: None,
        error: model.as_ref().err().map(|error| format!("{error:#}")),
        catalog: entry.cloned(),
    }
}

/// The built-in model, whose file is `file`.
fn part_of_program(devices: &Devices, file: bytes::Bytes, active: bool) -> Row {
    let size_bytes = Some(file.len() as u64);
    let model = Model::from_bytes(file);
    Row {
        name: builtin::ID.to_owned(),
        place: "builtin",
        active,
        size_bytes,
        quant: None,
        program: None,
        fit: model.as_ref().ok().and_then(|model| devices.fit_of(model)),
        nearest: None,
        error: model.err().map(|error| error.to_string()),
        catalog: None,
    }
}

fn elsewhere(found: Found) -> Row {
    Row {
        name: found.reference,
        place: "elsewhere",
        active: false,
        size_bytes: Some(found.size),
        quant: None,
        program: Some(found.program),
        fit: None,
        nearest: None,
        error: None,
        catalog: None,
    }
}

fn of_catalog(library: &Library, devices: &Devices, entry: &Entry) -> Option<Row> {
    let quant: &Quant = entry.quants.first()?;
    let fit = devices.fit_about(entry, quant);
    let fits_not = fit.as_ref().is_some_and(|fit| fit.longest_ctx.is_none());
    let nearest = || devices.nearest(library.catalog(), entry, quant);
    Some(Row {
        name: entry.id.clone(),
        place: "catalog",
        active: false,
        size_bytes: entry.about_bytes(quant),
        quant: Some(quant.name.clone()),
        program: None,
        nearest: fits_not.then(nearest).flatten(),
        fit,
        error: None,
        catalog: Some(entry.clone()),
    })
}

/// What the table has, and what gives way in narrow terminals.
const COLUMNS: [(&str, u8); 9] = [
    ("NAME", 0),
    ("SIZE", 0),
    ("QUANT", 1),
    ("PARAMS", 2),
    ("CONTEXT", 4),
    ("CAN", 5),
    ("FROM", 6),
    ("FITS", 0),
    ("INSTEAD", 3),
];

/// The table for people, as wide as the terminal allows. What is wrong with models follows it.
fn print(rows: &[Row]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = COLUMNS.map(|(name, rank)| Column { name, rank });
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let (table, left_out) = output::columns(&columns, &cells, terminal::width());
    output::text(&table)?;
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        report::note(format!("not shown: {names} (zinc model show NAME)"));
    }
    for (row, error) in rows.iter().filter_map(|row| Some((row, row.error.as_ref()?))) {
        report::note(format!("warning: {}: {}", printable(&row.name), printable(error)));
    }
    Ok(())
}

fn cells(row: &Row) -> Vec<String> {
    let about = if row.place == "catalog" { "~" } else { "" };
    let mark = if row.active { "* " } else { "" };
    let of_entry = |text: fn(&Entry) -> String| row.catalog.as_ref().map(text).unwrap_or_default();
    let fits = match (&row.error, row.program) {
        (Some(_), _) => "broken".into(),
        (None, Some(program)) => format!("in {program}"),
        (None, None) => find::words(row.fit.as_ref()),
    };
    vec![
        format!("{mark}{}", printable(&row.name)),
        row.size_bytes.map_or_else(String::new, |n| format!("{about}{}", human_bytes(n))),
        row.quant.clone().unwrap_or_default(),
        of_entry(|entry| match entry.active {
            Some(active) => format!("{}/{}", billions(entry.params), billions(active)),
            None => billions(entry.params),
        }),
        of_entry(|entry| context(entry.context)),
        of_entry(can),
        of_entry(|entry| entry.released.clone()),
        fits,
        row.nearest.clone().unwrap_or_default(),
    ]
}

/// `30.5B, 3.3B active`.
pub fn params(entry: &Entry) -> String {
    match entry.active {
        Some(active) => format!("{}, {} active", billions(entry.params), billions(active)),
        None => billions(entry.params),
    }
}

fn billions(n: f64) -> String {
    match n {
        n if n < 1.0 => format!("{:.0}M", n * 1000.0),
        n => format!("{n}B"),
    }
}

fn context(n_ctx: u32) -> String {
    match n_ctx {
        n if n.is_multiple_of(1024) => format!("{}k", n / 1024),
        n => n.to_string(),
    }
}

fn can(entry: &Entry) -> String {
    let thinks = match entry.thinking {
        Thinking::No => None,
        Thinking::Switch => Some("thinks"),
        Thinking::Always => Some("thinks always"),
    };
    let can: Vec<_> = thinks.into_iter().chain(entry.tools.then_some("tools")).collect();
    can.join(", ")
}
