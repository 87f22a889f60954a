//! `muster deployments --watch`: the list again and again, on the terminal in place, elsewhere as
//! lines. A reading that fails ends nothing but the first one, which has nothing to go on from.

use std::time::Duration;

use ::autoscaler::http::DeploymentList;
use crossterm::event::EventStream;
use futures::StreamExt as _;
use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{args::List, is_well, notes, source::Source, table};
use crate::{
    cli::Format,
    exit::{Exit, Failure},
    output::{self, Output, Tone, count, printable},
    services::{
        dashboard::{View, keys},
        table::{Listing, time},
        track::{Asked, asked},
    },
    settings::Settings,
    signals, terminal,
};

/// From one look to the next, unless set.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often what is on the screen is drawn again though nothing has happened: ages grow.
const REDRAW: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: &List, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let draws = output.format == Format::Table && terminal::is_there();
    let stop = if draws { signals::listen_with_hangup()? } else { signals::listen()? };
    let first = async {
        let source = Source::open(settings).await?;
        let listed = source.list(args).await?;
        Ok::<_, Failure>((source, listed))
    };
    let (source, first) = tokio::select! {
        first = first => first?,
        () = stop.cancelled() => return Ok(Exit::Interrupted),
    };
    let interval = args.interval.unwrap_or(INTERVAL);
    let looks = Looks { source: source.quiet(), args, interval, next: Instant::now() + interval };
    if draws { on_screen(first, looks, &stop, output).await } else { as_lines(first, looks, &stop, output).await }
}

/// One look after the other, an interval apart.
struct Looks<'a> {
    source: Source,
    args: &'a List,
    interval: Duration,
    next: Instant,
}

impl Looks<'_> {
    async fn next(&mut self) -> Result<DeploymentList, Failure> {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + self.interval;
        self.source.tick().await?;
        self.source.list(self.args).await
    }
}

/// How it ends where somebody ends it well.
fn exit(listed: &DeploymentList, args: &List) -> Exit {
    if args.exit_status && !listed.items.iter().all(is_well) { Exit::Failed } else { Exit::Fine }
}

async fn as_lines(
    first: DeploymentList,
    mut looks: Looks<'_>,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Exit, Failure> {
    if output.format == Format::Csv {
        output.rows::<output::Cell>(&[&["time"], table::COLUMNS.as_slice()].concat(), &[])?;
    }
    write(&first, looks.source.is_live(), output)?;
    loop {
        let listed = tokio::select! {
            listed = looks.next() => listed,
            () = stop.cancelled() => return Ok(Exit::Interrupted),
        };
        match listed {
            Ok(listed) => write(&listed, looks.source.is_live(), output)?,
            Err(failure) => output.failure(&failure),
        }
    }
}

fn write(listed: &DeploymentList, is_live: bool, output: &Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    match output.format {
        Format::Json => output.json_line(listed),
        Format::Table => output.lines([block(listed, &notes(listed, is_live, now), now, output.is_colored())]),
        format @ (Format::Csv | Format::Plain) => {
            let rows = table::deployments(&listed.items, now, format).rows.into_iter();
            let row = |row| [vec![output::Cell::plain(time(now))], row].concat();
            output.more_rows(&rows.map(row).collect::<Vec<_>>())
        }
    }
}

/// A look for people, with an empty line at its end.
fn block(listed: &DeploymentList, notes: &[String], now: Timestamp, colored: bool) -> String {
    let mut lines = vec![format!("{}  {}", time(now), summary(listed))];
    lines.extend(notes.iter().cloned());
    let listing = table::deployments(&listed.items, now, Format::Table);
    lines.push(output::table(&listing.header, &listing.rows, colored));
    lines.push(String::new());
    lines.join("\n")
}

/// `20 deployments, 3 short of their target, 1 not readable`.
fn summary(listed: &DeploymentList) -> String {
    use ::autoscaler::http::DeploymentState::{BreakerOpen, Gone, Unreadable};
    let live = || listed.items.iter().filter(|it| it.state != Gone);
    let short = live().filter(|it| table::is_short(it)).count();
    let unread = live().filter(|it| matches!(it.state, Unreadable | BreakerOpen)).count();
    let mut text = count(listed.items.len() as u64, "deployment");
    for (number, words) in [(short, "short"), (unread, "not readable")] {
        if number > 0 {
            text = format!("{text}, {number} {words}");
        }
    }
    text
}

/// What is on the screen.
struct Shown {
    listed: DeploymentList,
    notes: Vec<String>,
    /// When looks began to fail, and why the last one did.
    failed: Option<(Timestamp, String)>,
}

async fn on_screen(
    first: DeploymentList,
    mut looks: Looks<'_>,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut view = View::new(looks.interval, output.is_colored());
    let mut shown =
        Shown { notes: notes(&first, looks.source.is_live(), Timestamp::now()), listed: first, failed: None };
    let args = looks.args;
    let mut screen = terminal::Screen::enter()?;
    let mut events = EventStream::new();
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        // Asked anew after each event, but not for the keys in between.
        let result = {
            let look = looks.next();
            tokio::pin!(look);
            loop {
                screen.draw(|frame| draw(frame, &shown, &mut view, Timestamp::now()))?;
                tokio::select! {
                    result = &mut look => break result,
                    () = stop.cancelled() => return Ok(Exit::Interrupted),
                    event = events.next() => match asked(event, view.page())? {
                        Asked::End(Exit::Fine) => return Ok(exit(&shown.listed, args)),
                        Asked::End(exit) => return Ok(exit),
                        Asked::Scroll(by) => view.scroll(by),
                        Asked::Nothing => {}
                    },
                    _ = redraw.tick() => {}
                }
            }
        };
        match result {
            Ok(listed) => {
                shown = Shown { notes: notes(&listed, looks.source.is_live(), Timestamp::now()), listed, failed: None };
            }
            Err(failure) => {
                let since = shown.failed.map_or_else(Timestamp::now, |(since, _)| since);
                shown.failed = Some((since, failure.message));
            }
        }
    }
}

/// Draws all of it: a head, the table, a foot with the keys. A screen that is too small shows less.
fn draw(frame: &mut Frame<'_>, shown: &Shown, view: &mut View, now: Timestamp) {
    let head = head(shown, view, now);
    let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
    let areas = Layout::vertical([Constraint::Length(height), Constraint::Min(0), Constraint::Length(1)]);
    let [top, middle, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    let listing = table::deployments(&shown.listed.items, now, Format::Table);
    view.room = usize::from(middle.height.saturating_sub(1));
    view.top = view.top.min(listing.rows.len().saturating_sub(view.room));
    frame.render_widget(rows(&listing, view), middle);
    frame.render_widget(Paragraph::new(keys(listing.rows.len(), "deployment", view)), foot);
}

fn head(shown: &Shown, view: &View, now: Timestamp) -> Vec<Line<'static>> {
    let interval = jiff::SignedDuration::try_from(view.interval).unwrap_or_default();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let tick = shown.listed.fleet.ticked_at.map(|at| format!("tick of {}, ", at.strftime("%H:%M:%S UTC")));
    let mut lines = vec![Line::from(vec![
        Span::styled(summary(&shown.listed), bold),
        Span::raw(format!("  {}every {interval:#}", tick.unwrap_or_default())),
    ])];
    if let Some((since, why)) = &shown.failed {
        let seconds = now.duration_since(*since).as_secs().max(0);
        let text = format!("For {seconds} s no reading: {}", printable(why));
        lines.push(Line::from(Span::styled(text, view.style(Tone::Bad))));
    }
    lines.extend(shown.notes.iter().map(|note| Line::from(Span::styled(printable(note), view.style(Tone::Unsure)))));
    lines.push(Line::default());
    lines
}

fn rows(listing: &Listing, view: &View) -> Table<'static> {
    let columns = listing.header.len();
    // Over all of them, so that nothing moves when it is scrolled.
    let width = |column: usize| {
        let cells = listing.rows.iter().map(|row| row[column].text.chars().count());
        let widest = cells.chain([listing.header[column].len()]).max().unwrap_or_default();
        Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX))
    };
    let row = |cells: &Vec<output::Cell>| {
        Row::new(cells.iter().map(|cell| Cell::from(Span::styled(printable(&cell.text), view.style(cell.tone)))))
    };
    let shown = listing.rows.iter().skip(view.top).take(view.room).map(row);
    Table::new(shown, (0..columns).map(width))
        .header(Row::new(listing.header.clone()).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, style::Color};

    use super::*;
    use crate::deployments::table::tests::deployment;

    fn shown(count: u64) -> Shown {
        let items = (0..count).map(|it| deployment(&format!("eu-{it}"), (100, 10 + it), 15.0)).collect();
        let fleet = serde_json::json!({
            "ticked_at": "2027-01-15T07:59:30Z", "discovered_at": null, "doubt": null, "frozen_until": null, "ignored": 0,
        });
        let listed = DeploymentList { items, next_cursor: None, fleet: serde_json::from_value(fleet).unwrap() };
        Shown { listed, notes: Vec::new(), failed: None }
    }

    fn now() -> Timestamp {
        "2027-01-15T08:00:00Z".parse().unwrap()
    }

    fn drawn(size: (u16, u16), shown: &Shown, view: &mut View) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, shown, view, now())).unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(buffer: &Buffer) -> String {
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
        let width = usize::from(buffer.area.width.max(1));
        buffer.content.chunks(width).map(|row| line(row).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_list_is_drawn_between_a_head_and_the_keys() {
        let mut it = shown(3);
        let mut view = View::new(INTERVAL, false);
        insta::assert_snapshot!(text(&drawn((110, 8), &it, &mut view)), @r"
        3 deployments, 3 short  tick of 07:59:30 UTC, every 5s

        Deployment  Free   Target                         Hosts  Wanted  State  Reason
        eu-0        10.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s
        eu-1        11.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s
        eu-2        12.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s

        3 deployments.  q ends
        ");
        it.notes = vec!["Too many\u{1b}[2J".to_owned()];
        it.failed = Some((Timestamp::from_second(now().as_second() - 7).unwrap(), "away\u{7}".to_owned()));
        insta::assert_snapshot!(text(&drawn((60, 9), &it, &mut view)), @r"
        3 deployments, 3 short  tick of 07:59:30 UTC, every 5s
        For 7 s no reading: away�
        Too many�[2J

        Deplo  Free   Targe         Hosts  Wante  State  Reason
        eu-0   10.0%  15%    ##.|.  10     12     ok     WithinTarge
        eu-1   11.0%  15%    ##.|.  10     12     ok     WithinTarge
        eu-2   12.0%  15%    ##.|.  10     12     ok     WithinTarge
        3 deployments.  q ends
        ");
        insta::assert_snapshot!(block(&it.listed, &["A note.".to_owned()], now(), false), @r"
        2027-01-15T08:00:00Z  3 deployments, 3 short
        A note.
        Deployment  Free   Target                         Hosts  Wanted  State  Reason
        eu-0        10.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s
        eu-1        11.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s
        eu-2        12.0%  15%     ##.|.................  10     12      ok     WithinTarget, 1m 30s
        ");
    }

    #[test]
    fn it_scrolls_and_no_size_is_too_small() {
        let it = shown(30);
        let mut view = View::new(INTERVAL, true);
        let foot = |view: &mut View| text(&drawn((80, 12), &it, view)).lines().last().unwrap().to_owned();
        assert!(foot(&mut view).starts_with("1 to 8 of 30 deployments."));
        view.scroll(isize::MAX);
        assert!(foot(&mut view).starts_with("23 to 30 of 30 deployments."));
        for size in [(1, 1), (1, 50), (200, 1), (3, 3), (20, 6), (500, 200)] {
            drawn(size, &it, &mut view);
        }
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let colors = |colored| {
            let buffer = drawn((100, 10), &shown(3), &mut View::new(INTERVAL, colored));
            buffer.content.iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert!(colors(true) > 0);
        assert_eq!(colors(false), 0);
    }
}
