//! `muster services track`: a service followed, on the terminal in place, elsewhere as lines.
//!
//! A reading that fails ends nothing but the first one, which has nothing to go on from: the service
//! is unknown, or the address is wrong.

use std::time::Duration;

use ::services::http::ServiceWithServers;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Live,
    args::Track,
    dashboard::{self, View},
    doubts, max_age, table,
    trail::{Average, Trail},
};
use crate::{
    cli::Format,
    exit::{Exit, Failure},
    output::{self, Cell, Output, printable},
    settings::Settings,
    signals, terminal,
};

/// How often what is on the screen is drawn again though nothing has happened: ages grow.
const REDRAW: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: &Track, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let draws = output.format == Format::Table && terminal::is_there();
    let stop = if draws { signals::listen_with_hangup()? } else { signals::listen()? };
    let live = Live::open(settings).await?;
    let mut readings = Readings { live, args, next: Instant::now(), last: None };
    let first = tokio::select! {
        first = readings.next() => first?,
        () = stop.cancelled() => return Ok(Exit::Interrupted),
    };
    let readings = Readings { live: readings.live.quiet(), ..readings };
    if draws { on_screen(first, readings, &stop, output).await } else { as_lines(first, readings, &stop, output).await }
}

/// One reading after the other, an interval apart.
struct Readings<'a> {
    live: Live,
    args: &'a Track,
    /// When to ask again.
    next: Instant,
    /// When the last answer came.
    last: Option<Instant>,
}

impl Readings<'_> {
    /// The next reading when it is time for it. One that took longer than the interval is followed
    /// by the next at once.
    async fn next(&mut self) -> Result<ServiceWithServers, Failure> {
        tokio::time::sleep_until(self.next).await;
        let interval = self.args.interval;
        self.next = Instant::now() + interval;
        // Others' readings are welcome, the last one is not.
        let max_age = max_age(self.last.map_or(interval, |last| last.elapsed().min(interval)));
        let read = self.live.service(&self.args.name, &self.args.reading, max_age).await;
        self.last = Some(Instant::now());
        read
    }
}

async fn as_lines(
    first: ServiceWithServers,
    mut readings: Readings<'_>,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut trail = Trail::new(first);
    if output.format == Format::Csv {
        output.rows::<Cell>(&[&["time"], table::SERVER.as_slice()].concat(), &[])?;
    }
    write_reading(&trail, output)?;
    loop {
        let read = tokio::select! {
            read = readings.next() => read,
            () = stop.cancelled() => return Ok(Exit::Interrupted),
        };
        match read {
            Ok(reading) => {
                if trail.learn(reading) {
                    write_reading(&trail, output)?;
                }
            }
            Err(failure) => output.failure(&failure),
        }
    }
}

fn write_reading(trail: &Trail, output: &Output) -> Result<(), Failure> {
    let now = trail.now();
    match output.format {
        Format::Json => output.json_line(now),
        Format::Table => output.lines([block(trail, output.is_colored())]),
        format @ (Format::Csv | Format::Plain) => {
            let time = Cell::plain(now.reading.observed_at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
            let row = |server| [vec![time.clone()], table::server(server, format)].concat();
            output.more_rows(&now.items.iter().map(row).collect::<Vec<_>>())
        }
    }
}

/// A reading for people, with an empty line at its end.
fn block(trail: &Trail, colored: bool) -> String {
    let now = trail.now();
    let mut lines = vec![
        format!(
            "{}  {}  {}",
            table::time(now.reading.observed_at),
            printable(&now.service.service),
            table::word(now.service.status).0
        ),
        format!("{}; {}", averages("CPU", trail.cpu()), averages("memory", trail.memory())),
        healthy(now),
    ];
    lines.extend(doubts(&now.reading));
    let listing = table::followed(trail);
    lines.push(output::table(&listing.header, &listing.rows, colored));
    lines.push(String::new());
    lines.join("\n")
}

/// `CPU 61.27%, +0.11 since the last reading, -1.20 since the start`.
pub fn averages(name: &str, value: Average) -> String {
    let mut text = format!("{name} {}", table::average(value.now()));
    if let Some(change) = value.since_last() {
        text = format!("{text}, {} since the last reading", table::drift(Some(change)));
    }
    if let Some(change) = value.since_start() {
        text = format!("{text}, {} since the start", table::drift(Some(change)));
    }
    text
}

/// `18 of 19 servers healthy, 1 unknown`.
pub fn healthy(now: &ServiceWithServers) -> String {
    let service = &now.service;
    let mut text = format!("{} of {} healthy", service.healthy, output::count(service.servers.into(), "server"));
    for (number, word) in [(service.unhealthy, "unhealthy"), (service.unknown, "unknown")] {
        if number > 0 {
            text = format!("{text}, {number} {word}");
        }
    }
    text
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end it.
    End(Exit),
    /// To move down by so many rows.
    Scroll(isize),
    /// Nothing.
    Nothing,
}

async fn on_screen(
    first: ServiceWithServers,
    mut readings: Readings<'_>,
    stop: &CancellationToken,
    output: &Output,
) -> Result<Exit, Failure> {
    let interval = readings.args.interval;
    let mut trail = Trail::new(first);
    let mut view = View::new(interval, output.is_colored());
    let mut screen = terminal::Screen::enter()?;
    let mut events = EventStream::new();
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        // Asked anew after each event, but not for the keys in between.
        let read = readings.next();
        tokio::pin!(read);
        let result = loop {
            screen.draw(|frame| dashboard::draw(frame, &trail, &mut view, Timestamp::now()))?;
            tokio::select! {
                result = &mut read => break result,
                () = stop.cancelled() => return Ok(Exit::Interrupted),
                event = events.next() => match asked(event, view.page())? {
                    Asked::End(exit) => return Ok(exit),
                    Asked::Scroll(by) => view.scroll(by),
                    Asked::Nothing => {}
                },
                _ = redraw.tick() => {}
            }
        };
        match result {
            Ok(reading) => _ = trail.learn(reading),
            Err(failure) => trail.fail(failure.message, Timestamp::now()),
        }
    }
}

/// What an event on the terminal asks for; `page` is how far Page Up and Page Down go.
pub(crate) fn asked(event: Option<std::io::Result<Event>>, page: usize) -> Result<Asked, Failure> {
    let key = match event {
        Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => key,
        Some(Ok(_)) => return Ok(Asked::Nothing),
        Some(Err(error)) => return Err(Failure::new(format!("cannot read this terminal's keys: {error}"))),
        None => return Err(Failure::new("this terminal has no more keys")),
    };
    Ok(of_key(key, isize::try_from(page).unwrap_or(isize::MAX)))
}

fn of_key(key: KeyEvent, page: isize) -> Asked {
    match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Char('c'), true) => Asked::End(Exit::Interrupted),
        (KeyCode::Char('q') | KeyCode::Esc, false) => Asked::End(Exit::Fine),
        (KeyCode::Up | KeyCode::Char('k'), false) => Asked::Scroll(-1),
        (KeyCode::Down | KeyCode::Char('j'), false) => Asked::Scroll(1),
        (KeyCode::PageUp, _) => Asked::Scroll(-page),
        (KeyCode::PageDown | KeyCode::Char(' '), _) => Asked::Scroll(page),
        (KeyCode::Home, _) => Asked::Scroll(isize::MIN),
        (KeyCode::End, _) => Asked::Scroll(isize::MAX),
        _ => Asked::Nothing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::services::trail::tests::reading;

    #[test]
    fn a_block_tells_what_has_changed() {
        let mut trail = Trail::new(reading(0, &[Some(10.0), Some(95.0)]));
        insta::assert_snapshot!(block(&trail, false), @r"
        2027-01-15T08:00:00Z  AuthService  Healthy
        CPU 52.50%; memory 4.00%
        1 of 2 servers healthy, 1 unhealthy
        IP         Status     CPU  Change  Memory  Change
        10.58.1.1  Healthy    10%  -       4%      -
        10.58.1.2  Unhealthy  95%  -       4%      -
        ");
        trail.learn(reading(2, &[Some(12.0), None]));
        insta::assert_snapshot!(block(&trail, false), @r"
        2027-01-15T08:00:02Z  AuthService  Healthy
        CPU 12.00%, -40.50 since the last reading, -40.50 since the start; memory 4.00%, +0.00 since the last reading, +0.00 since the start
        1 of 2 servers healthy, 1 unknown
        IP         Status   CPU  Change  Memory  Change  Reason
        10.58.1.1  Healthy  12%  +2      4%      0
        10.58.1.2  Unknown  -    -       -       -       no answer in time
        ");
    }

    #[test]
    fn keys_end_and_scroll() {
        let key = |code, modifiers| asked(Some(Ok(Event::Key(KeyEvent::new(code, modifiers)))), 7).unwrap();
        let plain = |code| key(code, KeyModifiers::NONE);
        assert_eq!(plain(KeyCode::Char('q')), Asked::End(Exit::Fine));
        assert_eq!(plain(KeyCode::Esc), Asked::End(Exit::Fine));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Asked::End(Exit::Interrupted));
        assert_eq!(plain(KeyCode::Char('c')), Asked::Nothing);
        assert_eq!(plain(KeyCode::PageDown), Asked::Scroll(7));
        assert_eq!(plain(KeyCode::PageUp), Asked::Scroll(-7));
        assert_eq!(plain(KeyCode::Up), Asked::Scroll(-1));
        assert_eq!(asked(Some(Ok(Event::Resize(1, 1))), 7).unwrap(), Asked::Nothing);
        assert!(asked(None, 7).is_err());
    }
}
