//! How reports are shown to people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};

/// A promise and whether it is kept.
pub struct Target {
    /// What was promised.
    pub what: String,
    /// What came of it.
    pub measured: String,
    /// Whether that is as promised.
    pub met: bool,
}

/// An empty table.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.column_iter_mut().for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

/// Shows a table under its title.
pub fn section(out: &mut fmt::Formatter<'_>, title: &str, table: &Table) -> fmt::Result {
    write!(out, "\n{title}\n{}\n", table.trim_fmt())
}

/// Shows what became of the promises.
pub fn targets(out: &mut fmt::Formatter<'_>, targets: &[Target]) -> fmt::Result {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for target in targets {
        table.add_row([if target.met { "met" } else { "MISSED" }, &target.what, &target.measured]);
    }
    section(out, "Targets", &table)
}

/// A number, or a question mark where there is none.
pub fn maybe(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
}
