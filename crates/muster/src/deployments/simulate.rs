//! `muster deployments simulate`: two policies side by side, on what a deployment has said or on a
//! file of samples.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
};

use ::autoscaler::{
    http::{DemandSample, PolicyView, Simulate as Request},
    policy::{Given, Policy},
    samples::{slot, time as time_of},
};
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    args::Simulate,
    detail::sparkline,
    source::{Source, kept, of_deployment, path},
};
use crate::{
    cli::Format,
    exit::{Exit, Failure},
    output::{Cell, Output},
    services::table::{Listing, bare, short, time},
    settings::Settings,
};

/// Largest file of samples, in bytes.
const MOST: u64 = 64 << 20;
/// Characters of a graph.
const GRAPH: usize = 40;

/// What would have happened, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Simulated {
    from: Timestamp,
    until: Timestamp,
    servers_per_host: u64,
    target_free_pct: f64,
    runs: Vec<Ran>,
}

/// Under one policy.
#[derive(Debug, Deserialize)]
struct Ran {
    policy: Policy,
    minutes_short: f64,
    host_hours: f64,
    changes: u64,
    worst_free_pct: Option<f64>,
    points: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    hosts: u64,
}

/// Runs the command.
pub async fn run(args: &Simulate, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let samples = args.samples.as_deref().map(read).transpose()?;
    if samples.is_some() && (args.servers_per_host.is_none() || args.target_free_pct.is_none()) {
        return Err(Failure::usage("a file of samples needs --servers-per-host and --target-free-pct")
            .hint("they say what the demand is for, such as --servers-per-host 10 --target-free-pct 15"));
    }
    let source = if samples.is_some() { Source::unticked(settings).await? } else { kept(settings, output).await? };
    let base = match &args.id {
        Some(id) => source.get::<PolicyView>(&format!("{}/policy", path(id)), &[]).await.map_err(of_deployment)?.set,
        None => Given::default(),
    };
    // The end and the mode do not matter, and may have passed.
    let base = Given { mode: None, until: None, reason: None, ..base };
    let other = args.against.clone().map_or_else(|| base.clone(), |against| over(against, &base));
    let target = args.target_free_pct.as_ref().and_then(|pct| serde_json::from_str(pct).ok());
    let request = Request {
        samples,
        deployment_id: args.id.clone(),
        window: args.window.clone(),
        servers_per_host: args.servers_per_host,
        target_free_pct: target,
        initial_hosts: args.initial_hosts,
        boot_seconds: args.boot,
        drain_seconds: args.drain,
        policy: args.numbers.over(base),
        compare_with: Some(other),
    };
    let answer = source.client().post("/api/v1/deployments/simulate", &request, None).await.map_err(of_simulation)?;
    if output.format == Format::Json {
        output.json(&answer.json::<serde_json::Value>()?)?;
        return Ok(Exit::Fine);
    }
    let told: Simulated = answer.json()?;
    let [ours, theirs] = told.runs.as_slice() else {
        return Err(Failure::new("the server's answer is not what was expected: not two runs").exit(Exit::Away));
    };
    listing(ours, theirs, output.format).print(output)?;
    if output.format == Format::Table {
        output.note(&format!(
            "From {} to {}, with {} servers on each host and a target of {}%.",
            time(told.from),
            time(told.until),
            told.servers_per_host,
            short(told.target_free_pct)
        ));
    }
    Ok(Exit::Fine)
}

/// `with` in the place of what `base` sets.
fn over(with: Given, base: &Given) -> Given {
    let mut value = serde_json::to_value(base).unwrap_or_default();
    let with_value = serde_json::to_value(&with).unwrap_or_default();
    if let (Some(value), Some(with)) = (value.as_object_mut(), with_value.as_object()) {
        value.extend(with.clone());
    }
    serde_json::from_value(value).unwrap_or(with)
}

/// Says which flag is meant.
fn of_simulation(failure: Failure) -> Failure {
    let pointers = failure.problem.iter().flat_map(|problem| &problem.errors).map(|error| error.pointer.as_str());
    let unknown = pointers.clone().any(|pointer| pointer == "/deployment_id");
    let too_long = pointers.clone().any(|pointer| pointer == "/window");
    if unknown {
        failure.hint("`muster deployments` lists them")
    } else if too_long {
        failure.hint("samples are kept by `muster serve` and `muster autoscaler run`; --samples FILE takes your own")
    } else {
        failure
    }
}

/// What came of both, a row for each number.
fn listing(ours: &Ran, theirs: &Ran, format: Format) -> Listing {
    let most = ours.points.iter().chain(&theirs.points).map(|point| point.hosts).max().unwrap_or_default();
    let row = |name: &str, of: &dyn Fn(&Ran) -> String| {
        bare(vec![Cell::plain(name), Cell::plain(of(ours)), Cell::plain(of(theirs))], format)
    };
    let is_table = format == Format::Table;
    let name = |words: &'static str, field: &'static str| if is_table { words } else { field };
    let worst = |ran: &Ran| match ran.worst_free_pct {
        Some(pct) if is_table => format!("{}%", short(pct)),
        Some(pct) => short(pct),
        None if is_table => "-".to_owned(),
        None => String::new(),
    };
    let span = |ran: &Ran| {
        let hosts = || ran.points.iter().map(|point| point.hosts);
        let (least, most) = (hosts().min().unwrap_or_default(), hosts().max().unwrap_or_default());
        if least == most { most.to_string() } else { format!("{least} to {most}") }
    };
    let mut rows = vec![
        row(name("Minutes short", "minutes_short"), &|ran| short(ran.minutes_short)),
        row(name("Host-hours", "host_hours"), &|ran| short(ran.host_hours)),
        row(name("Changes", "changes"), &|ran| ran.changes.to_string()),
        row(name("Worst free share", "worst_free_pct"), &worst),
    ];
    if is_table {
        let graph = |ran: &Ran| {
            let hosts: Vec<_> = ran.points.iter().map(|point| point.hosts).collect();
            sparkline(&hosts, most, GRAPH)
        };
        rows.push(row("Hosts", &span));
        rows.push(row("", &graph));
        let others = differing(&ours.policy, &theirs.policy);
        rows.extend(others.into_iter().map(|cells| cells.map(Cell::plain).to_vec()));
    }
    Listing::new(&[if is_table { "" } else { "number" }, "Policy", "Against"], rows.into_iter())
}

/// The fields in which two policies are different.
fn differing(ours: &Policy, theirs: &Policy) -> Vec<[String; 3]> {
    let value = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
    let (ours, theirs) = (value(ours), value(theirs));
    let text = |value: &serde_json::Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
    let names = super::args::FIELDS.into_iter().filter(|name| ours[*name] != theirs[*name]);
    names.map(|name| [name.to_owned(), text(&ours[name]), text(&theirs[name])]).collect()
}

/// A line of a file.
#[derive(Deserialize)]
struct Line {
    at: Timestamp,
    #[serde(alias = "busy_servers")]
    busy: u64,
}

fn read(path: &Path) -> Result<Vec<DemandSample>, Failure> {
    let cannot = |why: String| {
        Failure::usage(format!("cannot take samples from {}: {why}", path.display()))
            .hint("it is JSON, [{\"at\": \"2027-01-15T08:00:00Z\", \"busy\": 90}, …], or CSV with a header at,busy")
    };
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| cannot(error.to_string()))?;
    if bytes.len() as u64 > MOST {
        return Err(cannot(format!("it has more than {MOST} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not text".to_owned()))?;
    parse(&text).map_err(cannot)
}

/// JSON or CSV. Of several samples in one half minute the highest is what counts, so one is sent.
fn parse(text: &str) -> Result<Vec<DemandSample>, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let lines: Vec<Line> = if text.starts_with(['[', '{']) {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        parse_csv(text)?
    };
    let mut highest = BTreeMap::new();
    for line in lines {
        let busy = highest.entry(slot(line.at)).or_insert(0);
        *busy = line.busy.max(*busy);
    }
    if highest.is_empty() {
        return Err("there is none in it".to_owned());
    }
    Ok(highest.into_iter().map(|(slot, busy_servers)| DemandSample { at: time_of(slot), busy_servers }).collect())
}

fn parse_csv(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = text.lines();
    let fields = |line: &str| line.split(',').map(|it| it.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
    let header = fields(lines.next().unwrap_or_default());
    let place = |names: &[&str]| header.iter().position(|it| names.iter().any(|name| it.eq_ignore_ascii_case(name)));
    let (Some(at), Some(busy)) = (place(&["at"]), place(&["busy", "busy_servers"])) else {
        return Err("its first line does not name the columns at and busy".to_owned());
    };
    let mut read = Vec::new();
    for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.trim().is_empty()) {
        let fields = fields(line);
        let time = fields.get(at).and_then(|text| text.parse().ok());
        let count = fields.get(busy).and_then(|text| text.parse().ok());
        let (Some(at), Some(busy)) = (time, count) else {
            return Err(format!("line {number} has no time such as 2027-01-15T08:00:00Z, or no whole number"));
        };
        read.push(Line { at, busy });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output;

    fn sample(text: &str, busy_servers: u64) -> DemandSample {
        DemandSample { at: text.parse().unwrap(), busy_servers }
    }

    #[test]
    fn samples_are_json_or_csv_and_one_for_each_half_minute() {
        let expected = vec![sample("2027-01-15T08:00:00Z", 9), sample("2027-01-15T08:00:30Z", 5)];
        let json = r#"[{"at": "2027-01-15T08:00:31Z", "busy": 5}, {"at": "2027-01-15T08:00:01Z", "busy_servers": 9},
                       {"at": "2027-01-15T08:00:02Z", "busy": 3}]"#;
        assert_eq!(parse(json).unwrap(), expected);
        let csv = "\u{feff}at,id,busy\r\n2027-01-15T08:00:01Z,x,9\r\n\r\n2027-01-15T08:00:30Z,x,5\r\n";
        assert_eq!(parse(csv).unwrap(), expected);
        assert_eq!(parse("\"at\",\"busy_servers\"\n\"2027-01-15T08:00:00Z\",\"9\"\n").unwrap(), expected[..1]);
        for (text, said) in [
            ("", "columns at and busy"),
            ("time,busy\n1,2", "columns at and busy"),
            ("at,busy\nsoon,2", "line 2"),
            ("at,busy\n2027-01-15T08:00:00Z,1.5", "line 2"),
            ("at,busy\n2027-01-15T08:00:00Z", "line 2"),
            ("at,busy", "none in it"),
            ("[]", "none in it"),
            ("{}", "invalid type"),
            ("[{\"at\": 1, \"busy\": 2}]", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn two_policies_stand_side_by_side() {
        let ran = |policy: Policy, hosts: &[u64]| Ran {
            policy,
            minutes_short: 2.5,
            host_hours: 12.0,
            changes: 3,
            worst_free_pct: Some(4.0),
            points: hosts.iter().map(|hosts| Point { hosts: *hosts }).collect(),
        };
        let ours = ran(Policy { window_seconds: 60, max_hosts: Some(9), ..Policy::default() }, &[1, 2, 4, 8]);
        let theirs = Ran { worst_free_pct: None, ..ran(Policy::default(), &[8, 8]) };
        let shown = |format| {
            let listing = listing(&ours, &theirs, format);
            output::table(&listing.header, &listing.rows, false)
        };
        insta::assert_snapshot!(shown(Format::Table), @r"
                          Policy  Against
        Minutes short     2.5     2.5
        Host-hours        12      12
        Changes           3       3
        Worst free share  4%      -
        Hosts             1 to 8  8
                          ▂▃▅█    ██
        max_hosts         9       none
        window_seconds    60      300
        ");
        insta::assert_snapshot!(shown(Format::Csv), @r"
        number          Policy  Against
        minutes_short   2.5     2.5
        host_hours      12      12
        changes         3       3
        worst_free_pct  4
        ");
    }

    #[test]
    fn against_is_over_what_is_set() {
        let base = Given { min_hosts: Some(2), window_seconds: Some(60), ..Given::default() };
        let with = Given { window_seconds: Some(600), ..Given::default() };
        assert_eq!(over(with, &base), Given { min_hosts: Some(2), window_seconds: Some(600), ..Given::default() });
    }
}
