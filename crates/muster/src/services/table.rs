//! Servers, services and alerts as rows: with words, per cents and colours for people, with plain
//! numbers and always the same columns for programs.

use ::services::{
    history::Band,
    http::{AlertView, History, ServerView, ServiceView, ShortService},
    server::Status,
};
use jiff::Timestamp;

use super::trail::Trail;
use crate::{
    cli::Format,
    exit::Failure,
    output::{Cell, Output, Tone},
};

/// Rows below a header.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The columns' names.
    pub header: Vec<&'static str>,
    /// As many cells as columns in each.
    pub rows: Vec<Vec<Cell>>,
}

impl Listing {
    pub(crate) fn new(header: &[&'static str], rows: impl Iterator<Item = Vec<Cell>>) -> Self {
        Self { header: header.to_vec(), rows: rows.collect() }
    }

    /// Adds a column, if there is anything in it.
    pub(crate) fn with(mut self, name: &'static str, cells: impl Iterator<Item = Option<Cell>>) -> Self {
        let cells: Vec<_> = cells.collect();
        if cells.iter().any(Option::is_some) {
            self.header.push(name);
            for (row, cell) in self.rows.iter_mut().zip(cells) {
                row.push(cell.unwrap_or_default());
            }
        }
        self
    }

    /// Writes it as `output` is to be written; not JSON, which is what the API answers.
    pub fn print(&self, output: &Output) -> Result<(), Failure> {
        match output.format {
            Format::Plain => output.more_rows(&self.rows),
            _ => output.rows(&self.header, &self.rows),
        }
    }
}

/// The word for a status, with its colour.
pub fn status(status: Status) -> Cell {
    let (word, tone) = word(status);
    Cell::new(word, tone)
}

/// The word for a status, and how it is meant.
pub fn word(status: Status) -> (&'static str, Tone) {
    match status {
        Status::Healthy => ("Healthy", Tone::Good),
        Status::Unhealthy => ("Unhealthy", Tone::Bad),
        Status::Unknown => ("Unknown", Tone::Unsure),
    }
}

/// A server's per cent as it says it, with decimals only where it has them: `61%`; `-` for unknown.
pub fn load(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{}%", short(value)))
}

/// An average's per cent: `61.27%`; `-` for unknown.
pub fn average(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}%"))
}

/// By how much a server's per cent changed: `+2`, `-0.5`, `0`; `-` for unknown.
pub fn change(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let text = short(value);
    if value > 0.0 && text != "0" { format!("+{text}") } else { text }
}

/// By how much an average changed: `+0.11`; `-` for unknown.
pub fn drift(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{:+.2}", if value.abs() < 0.005 { 0.0 } else { value }))
}

/// Two decimals at most, and none that say nothing.
pub(crate) fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// For programs: the number alone, nothing for unknown.
fn number(value: Option<f64>) -> Cell {
    Cell::plain(value.map(short).unwrap_or_default())
}

/// With as many decimals as a value has, for programs; a `-` stands where tabs alone are between.
pub(crate) fn bare(cells: Vec<Cell>, format: Format) -> Vec<Cell> {
    let dash = |cell: Cell| if cell.text.is_empty() && format == Format::Plain { Cell::plain("-") } else { cell };
    cells.into_iter().map(dash).collect()
}

pub(crate) fn is_for_people(format: Format) -> bool {
    matches!(format, Format::Table | Format::Json)
}

/// The columns of a server for programs.
pub const SERVER: [&str; 6] = ["ip", "service", "status", "cpu_pct", "memory_pct", "reason"];

/// A server for programs.
pub fn server(server: &ServerView, format: Format) -> Vec<Cell> {
    let cells = vec![
        Cell::plain(server.ip.to_string()),
        Cell::plain(server.service.as_deref().unwrap_or_default()),
        Cell::plain(server.status.as_str()),
        number(server.cpu_pct),
        number(server.memory_pct),
        Cell::plain(server.reason.as_deref().unwrap_or_default()),
    ];
    bare(cells, format)
}

/// Servers: `IP | Service | Status | CPU | Memory`, and the reason where one is unknown.
pub fn servers(items: &[ServerView], format: Format) -> Listing {
    if !is_for_people(format) {
        return Listing::new(&SERVER, items.iter().map(|item| server(item, format)));
    }
    let row = |item: &ServerView| {
        vec![
            Cell::plain(item.ip.to_string()),
            Cell::plain(item.service.as_deref().unwrap_or("-")),
            status(item.status),
            Cell::plain(load(item.cpu_pct)),
            Cell::plain(load(item.memory_pct)),
        ]
    };
    Listing::new(&["IP", "Service", "Status", "CPU", "Memory"], items.iter().map(row))
        .with("Reason", items.iter().map(|item| item.reason.as_ref().map(Cell::plain)))
}

/// Services: `Service | Status | CPU | Memory | Servers`, and where there are any, how many are
/// unknown and what has changed in five minutes.
pub fn services(items: &[ServiceView], format: Format) -> Listing {
    if !is_for_people(format) {
        let header = [
            "service",
            "status",
            "cpu_pct",
            "memory_pct",
            "servers",
            "healthy",
            "unhealthy",
            "unknown",
            "reporting",
            "cpu_change",
            "memory_change",
            "healthy_change",
        ];
        let row = |item: &ServiceView| {
            let trend = item.trend.as_ref();
            let counts = [item.servers, item.healthy, item.unhealthy, item.unknown, item.reporting];
            let mut cells = vec![Cell::plain(&item.service), Cell::plain(item.status.as_str())];
            cells.extend([number(item.cpu_pct), number(item.memory_pct)]);
            cells.extend(counts.map(|count| Cell::plain(count.to_string())));
            cells.extend([
                number(trend.and_then(|trend| trend.cpu_pct)),
                number(trend.and_then(|trend| trend.memory_pct)),
                Cell::plain(trend.map(|trend| trend.healthy.to_string()).unwrap_or_default()),
            ]);
            bare(cells, format)
        };
        return Listing::new(&header, items.iter().map(row));
    }
    let row = |item: &ServiceView| {
        vec![
            Cell::plain(&item.service),
            status(item.status),
            Cell::plain(average(item.cpu_pct)),
            Cell::plain(average(item.memory_pct)),
            Cell::plain(format!("{}/{}", item.healthy, item.servers)),
        ]
    };
    let unknown = |item: &ServiceView| (item.unknown > 0).then(|| Cell::new(item.unknown.to_string(), Tone::Unsure));
    let trend = |item: &ServiceView| {
        let trend = item.trend.as_ref()?;
        let (cpu, memory) = (drift(trend.cpu_pct), drift(trend.memory_pct));
        Some(Cell::plain(format!("CPU {cpu}, memory {memory}, healthy {:+}", trend.healthy)))
    };
    Listing::new(&["Service", "Status", "CPU", "Memory", "Servers"], items.iter().map(row))
        .with("Unknown", items.iter().map(unknown))
        .with("Last 5 minutes", items.iter().map(trend))
}

/// Services that are short of healthy servers: `Service | Healthy servers`.
pub fn short_services(items: &[ShortService], format: Format) -> Listing {
    if format == Format::Csv {
        let row = |item: &ShortService| {
            let counts = [item.healthy, item.unhealthy, item.unknown, item.servers];
            let counts = counts.map(|count| Cell::plain(count.to_string()));
            std::iter::once(Cell::plain(&item.service)).chain(counts).collect()
        };
        return Listing::new(&["service", "healthy", "unhealthy", "unknown", "servers"], items.iter().map(row));
    }
    let row = |item: &ShortService| vec![Cell::plain(&item.service), Cell::new(item.healthy.to_string(), Tone::Bad)];
    Listing::new(&["Service", "Healthy servers"], items.iter().map(row))
}

/// A followed service's servers: with what changed since the reading before.
pub fn followed(trail: &Trail) -> Listing {
    let items = &trail.now().items;
    let row = |item: &ServerView| {
        let (cpu, memory) = trail.change(item.ip);
        vec![
            Cell::plain(item.ip.to_string()),
            status(item.status),
            Cell::plain(load(item.cpu_pct)),
            Cell::plain(change(cpu)),
            Cell::plain(load(item.memory_pct)),
            Cell::plain(change(memory)),
        ]
    };
    Listing::new(&["IP", "Status", "CPU", "Change", "Memory", "Change"], items.iter().map(row))
        .with("Reason", items.iter().map(|item| item.reason.as_ref().map(Cell::plain)))
}

/// The history of a service, a row for each point. A value that moved within a point is its average
/// with its range.
pub fn history(history: &History, format: Format) -> Listing {
    if !is_for_people(format) {
        let header = [
            "at",
            "samples",
            "servers_min",
            "servers_avg",
            "servers_max",
            "healthy_min",
            "healthy_avg",
            "healthy_max",
            "cpu_pct_min",
            "cpu_pct_avg",
            "cpu_pct_max",
            "memory_pct_min",
            "memory_pct_avg",
            "memory_pct_max",
        ];
        let rows = history.items.iter().map(|point| {
            let bands = [Some(point.servers), Some(point.healthy), point.cpu_pct, point.memory_pct];
            let numbers = bands.into_iter().flat_map(|band| {
                [band.map(|band| band.min), band.map(|band| band.avg), band.map(|band| band.max)].map(number)
            });
            let mut cells = vec![Cell::plain(time(point.at)), Cell::plain(point.samples.to_string())];
            cells.extend(numbers);
            bare(cells, format)
        });
        return Listing::new(&header, rows);
    }
    let rows = history.items.iter().map(|point| {
        vec![
            Cell::plain(time(point.at)),
            Cell::plain(range(Some(point.healthy), short)),
            Cell::plain(range(Some(point.servers), short)),
            Cell::plain(range(point.cpu_pct, |value| average(Some(value)))),
            Cell::plain(range(point.memory_pct, |value| average(Some(value)))),
        ]
    });
    Listing::new(&["Time", "Healthy", "Servers", "CPU", "Memory"], rows)
}

fn range(band: Option<Band>, text: impl Fn(f64) -> String) -> String {
    let Some(band) = band else { return "-".to_owned() };
    let (min, avg, max) = (text(band.min), text(band.avg), text(band.max));
    if min == max { avg } else { format!("{avg} ({min} to {max})") }
}

/// Alerts: what each is about, how it stands, and what is told of it.
pub fn alerts(items: &[AlertView], now: Timestamp, format: Format) -> Listing {
    let silence = |item: &AlertView| item.silence.clone().filter(|silence| silence.until > now);
    if !is_for_people(format) {
        let header = [
            "id",
            "service",
            "state",
            "flapping",
            "since",
            "healthy",
            "servers",
            "min_healthy",
            "silenced_until",
            "reason",
        ];
        let rows = items.iter().map(|item| {
            let silence = silence(item);
            let cells = vec![
                Cell::plain(item.id.to_string()),
                Cell::plain(item.service.as_deref().unwrap_or_default()),
                Cell::plain(state(item)),
                Cell::plain(item.flapping.to_string()),
                Cell::plain(item.since.map(time).unwrap_or_default()),
                Cell::plain(item.healthy.to_string()),
                Cell::plain(item.servers.to_string()),
                Cell::plain(item.min_healthy.to_string()),
                Cell::plain(silence.as_ref().map(|silence| time(silence.until)).unwrap_or_default()),
                Cell::plain(silence.map(|silence| silence.reason).unwrap_or_default()),
            ];
            bare(cells, format)
        });
        return Listing::new(&header, rows);
    }
    let row = |item: &AlertView| {
        let what = item.service.as_deref().unwrap_or("CPX itself");
        // CPX itself has no servers, it lists them.
        let of_service = |text: String| if item.service.is_some() { text } else { "-".to_owned() };
        let (word, tone) = match (item.flapping, state(item)) {
            (true, state) => (format!("{state}, flapping"), Tone::Bad),
            (false, state @ "ok") => (state.to_owned(), Tone::Good),
            (false, state @ "firing") => (state.to_owned(), Tone::Bad),
            (false, state) => (state.to_owned(), Tone::Unsure),
        };
        vec![
            Cell::plain(item.id.to_string()),
            Cell::plain(what),
            Cell::new(word, tone),
            Cell::plain(item.since.map_or("-".to_owned(), time)),
            Cell::plain(of_service(format!("{}/{}", item.healthy, item.servers))),
            Cell::plain(of_service(item.min_healthy.to_string())),
        ]
    };
    let silenced = |item: &AlertView| {
        silence(item).map(|silence| Cell::plain(format!("until {}: {}", time(silence.until), silence.reason)))
    };
    Listing::new(&["ID", "Service", "State", "Since", "Healthy", "Wanted"], items.iter().map(row))
        .with("Silenced", items.iter().map(silenced))
}

fn state(alert: &AlertView) -> &'static str {
    use ::services::alert::State;
    match alert.state {
        State::Ok => "ok",
        State::Pending => "pending",
        State::Firing => "firing",
        State::Clearing => "clearing",
    }
}

/// A time to the second.
pub fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{output, services::trail::tests::reading};

    fn shown(listing: &Listing) -> String {
        output::table(&listing.header, &listing.rows, false)
    }

    fn bare_text(listing: &Listing) -> String {
        let line = |row: &Vec<Cell>| row.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>().join("|");
        listing.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_servers_numbers_have_the_decimals_that_they_were_told_with() {
        let mut items = reading(0, &[Some(61.0), Some(61.5), Some(100.0), Some(0.126)]).items;
        items[0].service = Some("Line\nbreak\u{1b}[31m".to_owned());
        items[1].service = None;
        insta::assert_snapshot!(shown(&servers(&items, Format::Table)), @r"
        IP         Service          Status     CPU    Memory
        10.58.1.1  Line�break�[31m  Healthy    61%    4%
        10.58.1.2  -                Healthy    61.5%  4%
        10.58.1.3  AuthService      Unhealthy  100%   4%
        10.58.1.4  AuthService      Healthy    0.13%  4%
        ");
        insta::assert_snapshot!(bare_text(&servers(&items, Format::Csv)), @r"
        10.58.1.1|Line�break�[31m|healthy|61|4|
        10.58.1.2||healthy|61.5|4|
        10.58.1.3|AuthService|unhealthy|100|4|
        10.58.1.4|AuthService|healthy|0.13|4|
        ");
    }

    #[test]
    fn a_reason_has_a_column_where_there_is_one() {
        let items = reading(0, &[None, Some(91.0)]).items;
        insta::assert_snapshot!(shown(&servers(&items, Format::Table)), @r"
        IP         Service      Status     CPU  Memory  Reason
        10.58.1.1  AuthService  Unknown    -    -       no answer in time
        10.58.1.2  AuthService  Unhealthy  91%  4%
        ");
        insta::assert_snapshot!(bare_text(&servers(&items, Format::Plain)), @r"
        10.58.1.1|AuthService|unknown|-|-|no answer in time
        10.58.1.2|AuthService|unhealthy|91|4|-
        ");
        insta::assert_snapshot!(bare_text(&servers(&items, Format::Csv)), @r"
        10.58.1.1|AuthService|unknown|||no answer in time
        10.58.1.2|AuthService|unhealthy|91|4|
        ");
    }

    #[test]
    fn a_service_has_two_decimals_and_what_else_there_is_to_say() {
        let mut items = vec![reading(0, &[Some(61.0), Some(61.5), None]).service, reading(0, &[None]).service];
        items[1].service = "GeoService".to_owned();
        insta::assert_snapshot!(shown(&services(&items, Format::Table)), @r"
        Service      Status   CPU     Memory  Servers  Unknown
        AuthService  Healthy  61.25%  4.00%   2/3      1
        GeoService   Unknown  -       -       0/1      1
        ");
        items[0].trend = serde_json::from_value(serde_json::json!({
            "against": "2026-01-02T03:04:05Z", "cpu_pct": 1.234, "memory_pct": -0.001, "healthy": -1
        }))
        .unwrap();
        items[0].unknown = 0;
        items[1].unknown = 0;
        insta::assert_snapshot!(shown(&services(&items, Format::Table)), @r"
        Service      Status   CPU     Memory  Servers  Last 5 minutes
        AuthService  Healthy  61.25%  4.00%   2/3      CPU +1.23, memory +0.00, healthy -1
        GeoService   Unknown  -       -       0/1
        ");
        insta::assert_snapshot!(bare_text(&services(&items, Format::Csv)), @r"
        AuthService|healthy|61.25|4|3|2|0|0|2|1.23|0|-1
        GeoService|unknown|||1|0|0|0|0|||
        ");
        insta::assert_snapshot!(bare_text(&services(&items, Format::Plain)), @r"
        AuthService|healthy|61.25|4|3|2|0|0|2|1.23|0|-1
        GeoService|unknown|-|-|1|0|0|0|0|-|-|-
        ");
    }

    #[test]
    fn changes_have_a_sign_and_nothing_is_nothing() {
        assert_eq!([Some(2.0), Some(-0.5), Some(0.0), Some(-0.001), None].map(change), ["+2", "-0.5", "0", "0", "-"]);
        assert_eq!([Some(0.114), Some(-1.2), Some(-0.001), None].map(drift), ["+0.11", "-1.20", "+0.00", "-"]);
    }

    #[test]
    fn a_point_of_a_history_says_its_range_where_it_has_one() {
        let band = |min: f64, avg: f64, max: f64| serde_json::json!({"min": min, "avg": avg, "max": max});
        let point = |cpu: serde_json::Value| {
            serde_json::json!({
                "at": "2026-01-02T03:04:00Z", "samples": 2, "servers": band(5.0, 5.0, 5.0), "healthy": band(3.0, 4.5, 5.0),
                "cpu_pct": cpu, "memory_pct": band(61.2666, 61.2666, 61.2666),
            })
        };
        let told: History = serde_json::from_value(serde_json::json!({
            "service": "A", "from": "2026-01-02T03:00:00Z", "to": "2026-01-02T04:00:00Z", "resolution_seconds": 120,
            "items": [point(band(10.0, 20.5, 99.0)), point(serde_json::Value::Null)],
        }))
        .unwrap();
        insta::assert_snapshot!(shown(&history(&told, Format::Table)), @r"
        Time                  Healthy       Servers  CPU                        Memory
        2026-01-02T03:04:00Z  4.5 (3 to 5)  5        20.50% (10.00% to 99.00%)  61.27%
        2026-01-02T03:04:00Z  4.5 (3 to 5)  5        -                          61.27%
        ");
        insta::assert_snapshot!(bare_text(&history(&told, Format::Csv)), @r"
        2026-01-02T03:04:00Z|2|5|5|5|3|4.5|5|10|20.5|99|61.27|61.27|61.27
        2026-01-02T03:04:00Z|2|5|5|5|3|4.5|5||||61.27|61.27|61.27
        ");
    }

    #[test]
    fn an_alert_is_told_with_its_silence_as_long_as_that_lasts() {
        let alert = |service: serde_json::Value, state: &str| -> AlertView {
            serde_json::from_value(serde_json::json!({
                "id": "0198c6d2-6f7e-7a7e-8000-000000000000", "kind": "service", "service": service, "state": state,
                "told": "ok", "told_at": null, "flapping": state == "pending", "flap_score": 0.0,
                "since": "2026-01-02T03:04:00Z", "observed_at": null, "servers": 5, "healthy": 1, "min_healthy": 2,
                "sick": [], "telling": false,
                "silence": {"until": "2026-01-02T05:00:00Z", "reason": "moving", "by": "me", "at": "2026-01-02T03:05:00Z"},
            }))
            .unwrap()
        };
        let items = [alert("GeoService".into(), "firing"), alert(serde_json::Value::Null, "pending")];
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        insta::assert_snapshot!(shown(&alerts(&items, at("2026-01-02T04:00:00Z"), Format::Table)), @r"
        ID                                    Service     State              Since                 Healthy  Wanted  Silenced
        0198c6d2-6f7e-7a7e-8000-000000000000  GeoService  firing             2026-01-02T03:04:00Z  1/5      2       until 2026-01-02T05:00:00Z: moving
        0198c6d2-6f7e-7a7e-8000-000000000000  CPX itself  pending, flapping  2026-01-02T03:04:00Z  -        -       until 2026-01-02T05:00:00Z: moving
        ");
        insta::assert_snapshot!(shown(&alerts(&items, at("2026-01-02T06:00:00Z"), Format::Table)), @r"
        ID                                    Service     State              Since                 Healthy  Wanted
        0198c6d2-6f7e-7a7e-8000-000000000000  GeoService  firing             2026-01-02T03:04:00Z  1/5      2
        0198c6d2-6f7e-7a7e-8000-000000000000  CPX itself  pending, flapping  2026-01-02T03:04:00Z  -        -
        ");
        insta::assert_snapshot!(bare_text(&alerts(&items, at("2026-01-02T04:00:00Z"), Format::Csv)), @r"
        0198c6d2-6f7e-7a7e-8000-000000000000|GeoService|firing|false|2026-01-02T03:04:00Z|1|5|2|2026-01-02T05:00:00Z|moving
        0198c6d2-6f7e-7a7e-8000-000000000000||pending|true|2026-01-02T03:04:00Z|1|5|2|2026-01-02T05:00:00Z|moving
        ");
    }
}
