//! What is written where: data to standard output, everything else to standard error.
//!
//! The one printer of tables is here. Rows of DevEUIs are written one by one instead: there may be
//! a million.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal as _, Write},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use batches::http::{BatchSummary, BatchView};
use comfy_table::{Attribute, Color as Paint, Table, presets};
use indicatif::ProgressBar;
use kit::problem::Problem;
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::{
    cli::{Color, Format},
    exit::Failure,
};

/// After how long without a sign people wonder.
const WONDER: Duration = Duration::from_millis(80);

/// How a cell of a table is meant. Its text says it too: not everybody sees colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Neither good nor bad.
    #[default]
    Plain,
    /// All is well: green.
    Good,
    /// Something is wrong: red.
    Bad,
    /// Nobody knows: yellow.
    Unsure,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// How that is meant.
    pub tone: Tone,
}

impl Cell {
    /// A cell whose text may have come from anywhere.
    pub fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: printable(text.as_ref()), tone }
    }

    /// One that is neither good nor bad.
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

/// Where and how results and messages are written.
#[derive(Debug, Clone)]
pub struct Output {
    /// How results are written.
    pub format: Format,
    colored: bool,
    colored_messages: bool,
}

impl Output {
    /// As the command line says.
    pub fn new(format: Format, color: Color) -> Self {
        let on = |auto: ColorChoice| match color {
            Color::Auto => auto != ColorChoice::Never,
            Color::Always => true,
            Color::Never => false,
        };
        Self {
            format,
            colored: on(AutoStream::choice(&io::stdout())),
            colored_messages: on(AutoStream::choice(&io::stderr())),
        }
    }

    /// Whether somebody watches the messages.
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Whether results are in colours.
    pub fn is_colored(&self) -> bool {
        self.colored
    }

    /// Says something to whoever runs the command.
    pub fn note(&self, text: &str) {
        say(text);
    }

    /// Asks something on the line on which it is answered.
    pub fn prompt(&self, question: &str) {
        let mut out = io::stderr();
        let _ = write!(out, "{question}").and_then(|()| out.flush());
    }

    /// Says why the command failed and what to do, as JSON where results are JSON.
    pub fn failure(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        if self.format == Format::Json {
            return self.note(&failure_json(failure));
        }
        let (error, hint) = ("error:", "hint:");
        let mut text = if self.colored_messages { format!("{} ", error.red().bold()) } else { format!("{error} ") };
        text.push_str(&failure.message);
        if let Some(words) = &failure.hint {
            // Writing to a string cannot fail.
            let _ = if self.colored_messages {
                write!(text, "\n {} {words}", hint.cyan())
            } else {
                write!(text, "\n {hint} {words}")
            };
        }
        self.note(&text);
    }

    /// Writes lines of data.
    pub fn lines<T: AsRef<str>>(&self, lines: impl IntoIterator<Item = T>) -> Result<(), Failure> {
        write(|out| lines.into_iter().try_for_each(|line| writeln!(out, "{}", line.as_ref())))
    }

    /// Writes `value` as JSON, for people and programs alike.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        write(|out| {
            serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
            writeln!(out)
        })
    }

    /// Writes `value` as one line of JSON.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        write(|out| {
            serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
            writeln!(out)
        })
    }

    /// Writes rows below a header, as a table or as CSV.
    pub fn rows<C: Clone + Into<Cell>>(&self, header: &[&str], rows: &[Vec<C>]) -> Result<(), Failure> {
        let cells = |row: &Vec<C>| row.iter().cloned().map(Into::into).collect::<Vec<Cell>>();
        write(|out| match self.format {
            Format::Csv => {
                writeln!(out, "{}", csv_line(&header.iter().map(|name| csv_name(name)).collect::<Vec<_>>()))?;
                rows.iter().try_for_each(|row| writeln!(out, "{}", csv_line(&texts(&cells(row)))))
            }
            _ => writeln!(out, "{}", table(header, &rows.iter().map(cells).collect::<Vec<_>>(), self.colored)),
        })
    }

    /// Writes more rows of a CSV whose header has been written, or bare values with tabs in between.
    pub fn more_rows(&self, rows: &[Vec<Cell>]) -> Result<(), Failure> {
        self.lines(rows.iter().map(|row| match self.format {
            Format::Csv => csv_line(&texts(row)),
            _ => texts(row).join("\t"),
        }))
    }

    /// Writes the DevEUIs of a batch, whose lists are filled however long it is.
    pub fn deveuis(&self, batch: &BatchView) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(batch),
            format => write(|out| write_deveuis(out, format, batch, self.colored)),
        }
    }
}

/// Says something to whoever runs the command, from wherever.
pub fn say(text: &str) {
    // Nobody to tell it to is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes to standard output through a buffer.
fn write(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}

/// Runs `work`; where that takes long enough to wonder, and on a terminal, says what is going on.
pub async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(WONDER, &mut work).await {
        return done;
    }
    // Draws to standard error, and nothing where that is no terminal.
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(WONDER);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

fn failure_json(failure: &Failure) -> String {
    #[derive(Serialize)]
    struct Told<'a> {
        #[serde(flatten)]
        problem: Option<&'a Problem>,
        error: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<&'a str>,
        exit_code: u8,
    }
    let told = Told {
        problem: failure.problem.as_deref(),
        error: &failure.message,
        hint: failure.hint.as_deref(),
        exit_code: failure.exit as u8,
    };
    serde_json::to_string_pretty(&told).unwrap_or_else(|_| failure.to_string())
}

/// A table for people, without a newline at its end.
pub fn table(header: &[&str], rows: &[Vec<Cell>], colored: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if colored {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table.set_header(header.iter().map(|name| comfy_table::Cell::new(name).add_attribute(Attribute::Bold)));
    table.add_rows(rows.iter().map(|row| row.iter().map(painted).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

fn painted(cell: &Cell) -> comfy_table::Cell {
    let painted = comfy_table::Cell::new(printable(&cell.text));
    match cell.tone {
        Tone::Plain => painted,
        Tone::Good => painted.fg(Paint::DarkGreen),
        Tone::Bad => painted.fg(Paint::DarkRed),
        Tone::Unsure => painted.fg(Paint::DarkYellow),
    }
}

fn texts(row: &[Cell]) -> Vec<String> {
    row.iter().map(|cell| cell.text.clone()).collect()
}

fn csv_name(name: &str) -> String {
    name.to_lowercase().replace(' ', "_")
}

/// Without what would steer a terminal, or turn the direction of a line: a label may have come from
/// anywhere.
pub fn printable(text: &str) -> String {
    let steers = |it: char| {
        it.is_control() || matches!(it, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|it| if steers(it) { '\u{fffd}' } else { it }).collect()
}

fn csv_line(fields: &[String]) -> String {
    let quote = |field: &String| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    };
    fields.iter().map(quote).collect::<Vec<_>>().join(",")
}

fn write_deveuis(out: &mut dyn Write, format: Format, batch: &BatchView, colored: bool) -> io::Result<()> {
    let between = match format {
        Format::Csv => {
            writeln!(out, "short_code,deveui")?;
            ","
        }
        Format::Plain => " ",
        Format::Table | Format::Json => {
            let header = "Short Code  DevEUI";
            if colored {
                writeln!(out, "{}", header.bold())?;
            } else {
                writeln!(out, "{header}")?;
            }
            "       "
        }
    };
    let deveuis = batch.deveuis.as_deref().unwrap_or_default();
    for deveui in deveuis {
        writeln!(out, "{}{between}{deveui}", short_code(deveui))?;
    }
    if format == Format::Table {
        writeln!(out, "\n{} registered", count(deveuis.len() as u64, "DevEUI"))?;
        write_recovered(out, batch, deveuis)?;
    }
    Ok(())
}

/// What may have cost money without being certain is never left out.
fn write_recovered(out: &mut dyn Write, batch: &BatchView, deveuis: &[String]) -> io::Result<()> {
    let recovered = batch.recovered.as_deref().unwrap_or_default();
    if recovered.is_empty() {
        return Ok(());
    }
    let counted: HashSet<_> = deveuis.iter().collect();
    let (ours, beside): (Vec<_>, Vec<_>) = recovered.iter().partition(|deveui| counted.contains(deveui));
    let doubt = batch
        .summary
        .uncertain_probability
        .map_or(String::new(), |it| format!("; each is a stranger's with a probability of {it:.4}"));
    let mut list = |deveuis: &[&String], what: &str| {
        if deveuis.is_empty() {
            return Ok(());
        }
        writeln!(out, "{} {what}{doubt}:", deveuis.len())?;
        deveuis.iter().try_for_each(|deveui| writeln!(out, "{}       {deveui}", short_code(deveui)))
    };
    list(&ours, "of them recovered: an answer about them was lost, and they turned out taken")?;
    list(&beside, "besides, not counted: asked for, and perhaps registered")
}

/// The last five characters of a DevEUI.
pub fn short_code(deveui: &str) -> &str {
    deveui.get(deveui.len().saturating_sub(5)..).unwrap_or(deveui)
}

/// `1 DevEUI`, `2 DevEUIs`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The columns of [`batch_row`].
pub const BATCH_HEADER: [&str; 7] = ["ID", "Status", "Registered", "Size", "Conflicts", "Created", "Label"];

/// A batch in a list.
pub fn batch_row(batch: &BatchSummary) -> Vec<String> {
    vec![
        batch.id.to_string(),
        batch.status.as_str().to_owned(),
        batch.registered.to_string(),
        batch.batch_size.to_string(),
        batch.conflicts.to_string(),
        batch.created_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        batch.label.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::exit::Exit;

    fn batch() -> BatchView {
        serde_json::from_value(serde_json::json!({
            "id": "0198c6d2-6f7e-7a7e-8000-000000000000", "status": "Completed", "batch_size": 2, "registered": 2,
            "conflicts": 1, "recovered_count": 2, "prefix": "", "label": "line 3, left", "on_uncertain": "replace",
            "provider": "http://p", "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:06Z",
            "completed_at": null, "last_error": null, "uncertain_probability": 0.0101,
            "deveuis": ["78111FFFE452555B", "78111FFFE4500001"],
            "recovered": ["78111FFFE452555B", "78111FFFE4500ABC"],
        }))
        .unwrap()
    }

    fn written(format: Format, batch: &BatchView) -> String {
        let mut out = Vec::new();
        write_deveuis(&mut out, format, batch, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn deveuis_are_printed_for_people_with_their_number() {
        let certain = BatchView { recovered: Some(Vec::new()), ..batch() };
        insta::assert_snapshot!(written(Format::Table, &certain), @r"
        Short Code  DevEUI
        2555B       78111FFFE452555B
        00001       78111FFFE4500001

        2 DevEUIs registered
        ");
    }

    #[test]
    fn what_is_uncertain_is_listed_counted_or_not() {
        insta::assert_snapshot!(written(Format::Table, &batch()), @r"
        Short Code  DevEUI
        2555B       78111FFFE452555B
        00001       78111FFFE4500001

        2 DevEUIs registered
        1 of them recovered: an answer about them was lost, and they turned out taken; each is a stranger's with a probability of 0.0101:
        2555B       78111FFFE452555B
        1 besides, not counted: asked for, and perhaps registered; each is a stranger's with a probability of 0.0101:
        00ABC       78111FFFE4500ABC
        ");
    }

    #[test]
    fn programs_get_lines_and_nothing_else() {
        insta::assert_snapshot!(written(Format::Csv, &batch()), @r"
        short_code,deveui
        2555B,78111FFFE452555B
        00001,78111FFFE4500001
        ");
        insta::assert_snapshot!(written(Format::Plain, &batch()), @r"
        2555B 78111FFFE452555B
        00001 78111FFFE4500001
        ");
    }

    #[test]
    fn a_list_is_aligned_and_holds_no_escapes_of_strangers() {
        let evil = BatchSummary { label: Some("\u{1b}[31mred".to_owned()), ..batch().summary };
        let rows = [batch_row(&batch().summary), batch_row(&evil)].map(|row| row.into_iter().map(Cell::from).collect());
        insta::assert_snapshot!(table(&BATCH_HEADER, &rows, false), @r"
        ID                                    Status     Registered  Size  Conflicts  Created               Label
        0198c6d2-6f7e-7a7e-8000-000000000000  Completed  2           2     1          2026-01-02T03:04:05Z  line 3, left
        0198c6d2-6f7e-7a7e-8000-000000000000  Completed  2           2     1          2026-01-02T03:04:05Z  �[31mred
        ");
        assert!(table(&BATCH_HEADER, &rows, true).contains("\u{1b}[1m"));
    }

    #[test]
    fn a_tone_is_a_colour_and_no_more() {
        let tones = [Tone::Plain, Tone::Good, Tone::Bad, Tone::Unsure];
        let row = tones.map(|tone| Cell::new("word", tone)).to_vec();
        insta::assert_snapshot!(table(&["A", "B", "C", "D"], std::slice::from_ref(&row), false), @r"
        A     B     C     D
        word  word  word  word
        ");
        insta::assert_snapshot!(table(&["A", "B", "C", "D"], &[row], true).lines().last().unwrap().escape_debug(), @r"word  \u{1b}[38;5;2mword  \u{1b}[39m\u{1b}[38;5;1mword  \u{1b}[39m\u{1b}[38;5;3mword  \u{1b}[39m");
    }

    #[test]
    fn csv_fields_are_quoted_where_they_must_be() {
        insta::assert_snapshot!(csv_line(&["a".into(), "line 3, \"left\"".into()]), @r#"a,"line 3, ""left""""#);
    }

    #[test]
    fn a_failure_is_json_for_programs_with_the_servers_problem_in_it() {
        let failure = Failure::from(Problem::not_found("There is no such batch."));
        insta::assert_snapshot!(failure_json(&failure), @r#"
        {
          "type": "urn:muster:problem:not-found",
          "title": "Not found",
          "status": 404,
          "detail": "There is no such batch.",
          "error": "There is no such batch.",
          "exit_code": 3
        }
        "#);
        let failure = Failure::usage("no").hint("do");
        assert_eq!(failure.exit, Exit::Usage);
        insta::assert_snapshot!(failure_json(&failure), @r#"
        {
          "error": "no",
          "hint": "do",
          "exit_code": 2
        }
        "#);
    }
}
