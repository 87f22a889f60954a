//! What `track` draws: a head with the averages, a table of the servers, a foot with the keys.
//!
//! Pure but for the frame that it draws on. A screen that is too small shows less.

use std::time::Duration;

use ::services::{http::ServerView, server::Status};
use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::{
    doubts, table,
    track::{averages, healthy},
    trail::{KEPT, Trail},
};
use crate::output::{Tone, count, printable};

/// Lines above the table: name, two averages, healthy servers, what is wrong.
const HEAD: u16 = 5;
/// How wide a server's graph is beside a reason.
const NARROW: u16 = 20;

/// How it is looked at.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) interval: Duration,
    colored: bool,
    /// The first row that is shown.
    pub(crate) top: usize,
    /// How many rows there is room for.
    pub(crate) room: usize,
}

impl View {
    /// From the top.
    pub fn new(interval: Duration, colored: bool) -> Self {
        Self { interval, colored, top: 0, room: 0 }
    }

    /// How far a page is: all but one of the rows that are shown.
    pub fn page(&self) -> usize {
        self.room.saturating_sub(1).max(1)
    }

    /// Moves down by so many rows. Where that is too far is seen when it is drawn.
    pub fn scroll(&mut self, by: isize) {
        self.top = self.top.saturating_add_signed(by);
    }

    /// How a tone looks.
    pub(crate) fn style(&self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Bad => Color::Red,
            Tone::Unsure => Color::Yellow,
        };
        if self.colored { Style::new().fg(color) } else { Style::new() }
    }

    fn status(&self, status: Status) -> Span<'static> {
        let (word, tone) = table::word(status);
        Span::styled(word, self.style(tone))
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, trail: &Trail, view: &mut View, now: Timestamp) {
    let areas = Layout::vertical([Constraint::Length(HEAD), Constraint::Min(0), Constraint::Length(1)]);
    let [head, middle, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(title(trail, view, now)), head);
    let rows = trail.now().items.len();
    view.room = usize::from(middle.height.saturating_sub(1));
    view.top = view.top.min(rows.saturating_sub(view.room));
    frame.render_widget(servers(trail, view, middle), middle);
    frame.render_widget(Paragraph::new(keys(rows, "server", view)), foot);
}

fn title(trail: &Trail, view: &View, now: Timestamp) -> Vec<Line<'static>> {
    let reading = trail.now();
    let service = &reading.service;
    let interval = jiff::SignedDuration::try_from(view.interval).unwrap_or_default();
    let at = reading.reading.observed_at.strftime("%H:%M:%S UTC");
    let mut lines = vec![
        Line::from(vec![
            Span::styled(printable(&service.service), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw("  "),
            view.status(service.status),
            Span::raw(format!("  {at}, every {interval:#}")),
        ]),
        Line::from(averages("CPU", trail.cpu())),
        Line::from(averages("Memory", trail.memory())),
        Line::from(healthy(reading)),
    ];
    let wrong = if let Some(failed) = trail.failed() {
        let seconds = now.duration_since(failed.since).as_secs().max(0);
        let text = format!("For {seconds} s no reading: {}", printable(&failed.why));
        Line::from(Span::styled(text, view.style(Tone::Bad)))
    } else {
        Line::from(Span::styled(doubts(&reading.reading).join(" "), view.style(Tone::Unsure)))
    };
    lines.push(wrong);
    lines
}

fn servers(trail: &Trail, view: &View, area: Rect) -> Table<'static> {
    let items = &trail.now().items;
    let shown: Vec<_> = items.iter().skip(view.top).take(view.room).collect();
    // Over all of them, so that nothing moves when it is scrolled.
    let widest = items.iter().map(|server| server.ip.to_string().len()).max().unwrap_or_default();
    let ip = u16::try_from(widest.max(7)).unwrap_or(u16::MAX);
    let has_reasons = items.iter().any(|server| server.reason.is_some());
    let fixed = ip.saturating_add(9 + 4 * 6 + 6 * 2);
    let left = area.width.saturating_sub(fixed).min(u16::try_from(KEPT).unwrap_or(u16::MAX));
    let graph = if has_reasons { (left / 3).min(NARROW) } else { left };
    let lengths = [ip, 9, 6, 6, 6, 6, graph].map(Constraint::Length);
    let row = |server: &&ServerView| {
        let (cpu, memory) = trail.change(server.ip);
        let number = |text: String| Cell::from(Line::from(text).right_aligned());
        Row::new([
            Cell::from(server.ip.to_string()),
            Cell::from(view.status(server.status)),
            number(table::load(server.cpu_pct)),
            number(table::change(cpu)),
            number(table::load(server.memory_pct)),
            number(table::change(memory)),
            Cell::from(sparkline(trail.recent(server.ip, graph.into()))),
            Cell::from(printable(server.reason.as_deref().unwrap_or_default())),
        ])
    };
    let name = |name: &'static str| Cell::from(name);
    let number = |name: &'static str| Cell::from(Line::from(name).right_aligned());
    let header = Row::new([
        name("IP"),
        name("Status"),
        number("CPU"),
        number("Change"),
        number("Memory"),
        number("Change"),
        name("CPU so far"),
        name(if has_reasons { "Reason" } else { "" }),
    ]);
    Table::new(shown.iter().map(row), lengths.into_iter().chain([Constraint::Fill(1)]))
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(2)
}

/// A bar for each reading, from 0 to 100 per cent; a dot where it is unknown.
fn sparkline(values: impl Iterator<Item = Option<f64>>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |value: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        let step = (value / 100.0 * 8.0) as usize;
        BARS[step.min(BARS.len() - 1)]
    };
    values.map(|value| value.map_or('·', bar)).collect()
}

/// What is shown of so many rows, and which keys there are.
pub(crate) fn keys(rows: usize, noun: &str, view: &View) -> String {
    let until = (view.top + view.room).min(rows);
    if until - view.top >= rows {
        return format!("{}.  q ends", count(rows as u64, noun));
    }
    let from = view.top + usize::from(until > view.top);
    format!("{from} to {until} of {}.  Arrows and Page Up, Page Down scroll; q ends", count(rows as u64, noun))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

    use super::*;
    use crate::services::trail::tests::reading;

    fn view(colored: bool) -> View {
        View::new(Duration::from_secs(2), colored)
    }

    fn drawn(size: (u16, u16), trail: &Trail, view: &mut View) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let now = trail.now().reading.observed_at + jiff::SignedDuration::from_secs(6);
        terminal.draw(|frame| draw(frame, trail, view, now)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(buffer: &Buffer) -> String {
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
        let width = usize::from(buffer.area.width.max(1));
        buffer.content.chunks(width).map(|row| line(row).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_service_is_drawn_with_its_changes_and_a_graph_of_each_server() {
        let mut trail = Trail::new(reading(0, &[Some(0.0), Some(95.0), None]));
        for (second, cpu) in [(2, 25.0), (4, 50.0), (6, 75.0), (8, 100.0), (10, 62.5)] {
            trail.learn(reading(second, &[Some(cpu), Some(95.0), (second == 6).then_some(7.0)]));
        }
        insta::assert_snapshot!(text(&drawn((100, 10), &trail, &mut view(true))), @r"
        AuthService  Healthy  08:00:10 UTC, every 2s
        CPU 78.75%, -18.75 since the last reading, +31.25 since the start
        Memory 4.00%, +0.00 since the last reading, +0.00 since the start
        1 of 3 servers healthy, 1 unhealthy, 1 unknown

        IP         Status        CPU  Change  Memory  Change  CPU so far       Reason
        10.58.1.1  Healthy     62.5%   -37.5      4%       0  ▁▃▅▇█▆
        10.58.1.2  Unhealthy     95%       0      4%       0  ██████
        10.58.1.3  Unknown         -       -       -       -  ···▁··           no answer in time
        3 servers.  q ends
        ");
    }

    #[test]
    fn a_long_table_scrolls_and_never_past_its_end() {
        let trail = Trail::new(reading(0, &[Some(5.0); 30]));
        let mut view = view(false);
        let foot = |view: &mut View| text(&drawn((80, 16), &trail, view)).lines().last().unwrap().to_owned();
        insta::assert_snapshot!(foot(&mut view), @r"1 to 9 of 30 servers.  Arrows and Page Up, Page Down scroll; q ends");
        view.scroll(1);
        insta::assert_snapshot!(foot(&mut view), @r"2 to 10 of 30 servers.  Arrows and Page Up, Page Down scroll; q ends");
        view.scroll(isize::try_from(view.page()).unwrap());
        insta::assert_snapshot!(foot(&mut view), @r"10 to 18 of 30 servers.  Arrows and Page Up, Page Down scroll; q ends");
        view.scroll(isize::MAX);
        insta::assert_snapshot!(foot(&mut view), @r"22 to 30 of 30 servers.  Arrows and Page Up, Page Down scroll; q ends");
        view.scroll(-1);
        insta::assert_snapshot!(foot(&mut view), @r"21 to 29 of 30 servers.  Arrows and Page Up, Page Down scroll; q ends");
        view.scroll(isize::MIN);
        assert!(foot(&mut view).starts_with("1 to "));
        assert!(text(&drawn((80, 16), &trail, &mut view)).contains("10.58.1.1 "));
    }

    #[test]
    fn what_fails_is_shown_above_the_last_reading_with_its_age() {
        let mut trail = Trail::new(reading(0, &[Some(5.0)]));
        trail.fail("CPX did not list its servers".to_owned(), trail.now().reading.observed_at);
        let shown = text(&drawn((80, 8), &trail, &mut view(true)));
        assert!(shown.contains("For 6 s no reading: CPX did not list its servers\n"), "{shown}");
        assert!(shown.contains("10.58.1.1  Healthy        5%"), "{shown}");
    }

    #[test]
    fn no_size_is_too_small() {
        let mut trail = Trail::new(reading(0, &[Some(5.0), None]));
        trail.fail("away".to_owned(), Timestamp::UNIX_EPOCH);
        for size in [(1, 1), (1, 50), (200, 1), (3, 3), (20, 6), (10, 7), (80, 5), (500, 200)] {
            drawn(size, &trail, &mut view(true));
        }
        let mut view = view(true);
        // Larger, then smaller: what was scrolled to is gone.
        let trail = Trail::new(reading(0, &[Some(5.0); 100]));
        drawn((80, 50), &trail, &mut view);
        view.scroll(isize::MAX);
        drawn((80, 8), &trail, &mut view);
        assert!(view.page() >= 1);
    }

    #[test]
    fn names_and_reasons_of_strangers_cannot_steer_the_terminal() {
        let mut evil = reading(0, &[None]);
        evil.service.service = "\u{1b}[2Jx\u{9b}31m\u{202e}y".to_owned();
        evil.items[0].reason = Some("\u{1b}]0;title\u{7}\r\n".to_owned());
        let mut trail = Trail::new(evil);
        trail.fail("\u{1b}c".to_owned(), Timestamp::UNIX_EPOCH);
        let shown = text(&drawn((120, 8), &trail, &mut view(true)));
        let steers = |it: char| (it.is_control() && it != '\n') || it == '\u{202e}';
        assert!(!shown.contains(steers), "{shown:?}");
        assert!(shown.contains("[2Jx") && shown.contains("]0;title"), "{shown}");
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let trail = Trail::new(reading(0, &[Some(95.0), None]));
        let colors = |colored| {
            let buffer = drawn((100, 10), &trail, &mut view(colored));
            buffer.content.iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert!(colors(true) > 0);
        assert_eq!(colors(false), 0);
    }

    #[test]
    fn a_graph_goes_from_nothing_to_everything() {
        let values = [0.0, 12.4, 12.5, 50.0, 99.0, 100.0];
        assert_eq!(sparkline(values.into_iter().map(Some).chain([None])), "▁▁▂▅██·");
    }
}
