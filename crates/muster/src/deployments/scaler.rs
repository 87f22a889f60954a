//! `muster autoscaler run`: the loop in the foreground, without a server.
//!
//! Each decision that says something new is a line, and each tick is one. The first signal ends it
//! after the tick in hand, the second at once: an intent was written before its request was sent,
//! so the next start reads what came of it.

use ::autoscaler::{
    config::URL,
    decision::{Decision, Outcome},
    deployments::DeploymentId,
    samples::{slot, time as time_of},
    tick::{Report, Scaler},
    views,
};
use jiff::Timestamp;
use kit::dynamo::StoreError;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::Run,
    source::no_api,
    table::{self, share},
};
use crate::{
    backend::Backend,
    cli::{Format, StoreKind},
    connect::{Taken, take},
    exit::{Exit, Failure},
    output::{Output, count, printable},
    services::table::short,
    settings::{SERVER, Settings},
    signals,
};

/// Runs the command.
pub async fn run(options: &Run, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if settings.is_flag(SERVER) {
        return Err(Failure::usage("--server is for commands that talk to a server, and this one works by itself"));
    }
    if matches!(output.format, Format::Csv) {
        return Err(Failure::usage("ticks are no rows: -o csv is not possible here").hint("-o json writes JSON lines"));
    }
    // Before a folder is made for nothing.
    if settings.get(URL).is_none() {
        return Err(no_api_here());
    }
    let stop = signals::listen()?;
    let backend = match settings.store()? {
        StoreKind::Dynamodb => Backend::dynamodb(settings).await,
        StoreKind::Embedded => {
            let dir = settings.state_dir()?;
            match take(&dir, output).await? {
                Taken::Folder(engine) => Backend::embedded(engine, &dir).await?,
                Taken::Server(other) => {
                    return Err(owned(other.server().unwrap_or_default(), &dir.display().to_string()));
                }
            }
        }
    };
    let Some(scaler) = backend.scaler(settings)? else { return Err(no_api_here()) };
    let scaler = scaler.dry_run(options.dry_run);
    let log = Log { output, json: output.format == Format::Json };
    if options.once {
        return once(&scaler, &stop, &log).await;
    }
    if !log.json {
        let how = if options.dry_run { ", as a dry run: nothing is sent" } else { "" };
        let api = settings.get(URL).unwrap_or_default();
        output
            .note(&format!("Scaling what {api} lists, every half minute{how}. Ctrl-C ends it after the tick in hand."));
    }
    let mut written = Ok(());
    let told = |ticked: &Result<Report, StoreError>| {
        if let Err(failure) = log.tick(ticked) {
            // Nobody reads it any more.
            written = Err(failure);
            stop.cancel();
        }
    };
    let stopping = async {
        stop.cancelled().await;
        output.note("Stopping after the tick in hand. Ctrl-C again ends at once.");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // First: between two ticks there is nothing to wait for.
        biased;
        () = scaler.work_forever(&stop, told) => {}
        () = backend.keep_house() => {}
        () = stopping => {}
    }
    written?;
    Ok(Exit::Fine)
}

async fn once(scaler: &Scaler, stop: &CancellationToken, log: &Log<'_>) -> Result<Exit, Failure> {
    let ticked = scaler.tick(slot(Timestamp::now()), stop).await;
    log.tick(&ticked)?;
    let report = ticked?;
    let is_well = report.doubt.is_none() && report.bad == 0 && report.not_reached == 0 && report.not_kept == 0;
    Ok(if is_well { Exit::Fine } else { Exit::Failed })
}

fn no_api_here() -> Failure {
    no_api().hint(format!("give its base URL with --api-url URL or {URL}"))
}

fn owned(server: &str, dir: &str) -> Failure {
    Failure::new(format!("{server} serves {dir}, and a state folder has one owner")).hint(format!(
        "started with {URL} it scales by itself, and `muster deployments` shows what it does; else stop it first. \
         On one store (--store dynamodb) more than one may scale; from two stores the same would be scaled twice"
    ))
}

/// Where decisions and ticks are written.
struct Log<'a> {
    output: &'a Output,
    json: bool,
}

/// A line of JSON.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Decision {
        deployment_id: &'a str,
        #[serde(flatten)]
        decision: &'a views::DecisionView,
    },
    Tick {
        at: Timestamp,
        #[serde(flatten)]
        report: &'a Report,
    },
    Failed {
        error: String,
    },
}

impl Log<'_> {
    /// Writes what a tick has done.
    fn tick(&self, ticked: &Result<Report, StoreError>) -> Result<(), Failure> {
        if !self.json {
            return self.output.lines(lines(ticked, Timestamp::now()));
        }
        match ticked {
            Ok(report) => {
                for (id, decision) in by_id(report) {
                    let decision = views::decision(decision);
                    self.output.json_line(&Event::Decision { deployment_id: id.as_str(), decision: &decision })?;
                }
                self.output.json_line(&Event::Tick { at: time_of(report.slot), report })
            }
            Err(error) => self.output.json_line(&Event::Failed { error: error.to_string() }),
        }
    }
}

fn lines(ticked: &Result<Report, StoreError>, now: Timestamp) -> Vec<String> {
    match ticked {
        Ok(report) => {
            let changed = by_id(report).into_iter().map(|(id, decision)| changed(id, decision));
            changed.chain([summary(report)]).collect()
        }
        Err(error) => vec![format!("{} the tick could not be done: {error}", clock(now))],
    }
}

/// They come as their readings do, which is not for people.
fn by_id(report: &Report) -> Vec<&(DeploymentId, Decision)> {
    let mut changed: Vec<_> = report.changed.iter().collect();
    changed.sort_by(|(one, _), (other, _)| one.cmp(other));
    changed
}

fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S").to_string()
}

/// `12:00:30 eu-1 ScaledUp +2 → 12 hosts (free 10.0 % of 15 %)`.
fn changed(id: &DeploymentId, decision: &Decision) -> String {
    let mut line = format!("{} {} {}", clock(time_of(decision.slot)), printable(id.as_str()), decision.reason);
    if let Some(inputs) = decision.inputs {
        if decision.delta == 0 {
            line = format!("{line}, {}", count(inputs.hosts, "host"));
        } else {
            let hosts = inputs.hosts.saturating_add_signed(decision.delta);
            line = format!("{line} {:+} → {}", decision.delta, count(hosts, "host"));
        }
        let free = share(inputs.free, inputs.total).map_or("no servers".to_owned(), |share| format!("free {share} %"));
        line = format!("{line} ({free} of {} %)", short(inputs.target_free_pct));
    }
    if let Some(outcome) = decision.outcome.filter(|outcome| *outcome != Outcome::Accepted) {
        line = format!("{line}, {}", table::outcome(outcome).0);
    }
    if let Some(note) = &decision.note {
        line = format!("{line}: {}", printable(note));
    }
    line
}

/// `12:00:30 20 deployments, 1 short; 1 up, 0 down`, and what else there is to say.
fn summary(report: &Report) -> String {
    let at = clock(time_of(report.slot));
    if report.duplicate {
        return format!("{at} nothing to do: this half minute's work is done, or somebody does it");
    }
    let mut line = format!(
        "{at} {}, {} short; {} up, {} down",
        count(report.deployments as u64, "deployment"),
        report.short,
        report.scaled_up,
        report.scaled_down
    );
    for (number, words) in [
        (report.bad, "not readable"),
        (report.not_reached, "not reached"),
        (report.unknown, "without an answer"),
        (report.failed, "refused or not sent"),
        (report.not_kept, "not kept"),
    ] {
        if number > 0 {
            line = format!("{line}, {number} {words}");
        }
    }
    if report.frozen {
        line += "; no host is taken away from any";
    }
    if let Some(doubt) = &report.doubt {
        line = format!("{line}; {}", printable(doubt));
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ::autoscaler::decision::{Inputs, Reason};

    use super::*;

    fn id() -> DeploymentId {
        DeploymentId::try_from("eu-1".to_owned()).unwrap()
    }

    fn up() -> Decision {
        let inputs = Inputs { servers_per_host: 10, target_free_pct: 15.0, hosts: 10, total: 100, free: 10 };
        let slot = slot("2027-01-15T12:00:30Z".parse().unwrap());
        Decision {
            inputs: Some(inputs),
            delta: 2,
            outcome: Some(Outcome::Accepted),
            ..Decision::new(slot, Reason::ScaledUp)
        }
    }

    #[test]
    fn a_changed_decision_is_a_line() {
        let told = |decision: &Decision| changed(&id(), decision);
        assert_eq!(told(&up()), "12:00:30 eu-1 ScaledUp +2 → 12 hosts (free 10.0 % of 15 %)");
        let unknown = Decision { outcome: Some(Outcome::Unknown), delta: -1, ..up() };
        assert_eq!(told(&unknown), "12:00:30 eu-1 ScaledUp -1 → 9 hosts (free 10.0 % of 15 %), no answer");
        let held = Decision { delta: 0, outcome: None, reason: Reason::WithinTarget, ..up() };
        assert_eq!(told(&held), "12:00:30 eu-1 WithinTarget, 10 hosts (free 10.0 % of 15 %)");
        let bad = Decision { note: Some("no\u{1b} answer".to_owned()), ..Decision::new(up().slot, Reason::BadMetrics) };
        assert_eq!(told(&bad), "12:00:30 eu-1 BadMetrics: no\u{fffd} answer");
    }

    #[test]
    fn a_tick_is_one_line_and_says_what_went_wrong() {
        let mut report = Report::default();
        (report.slot, report.deployments, report.read) = (up().slot, 1, 1);
        assert_eq!(summary(&report), "12:00:30 1 deployment, 0 short; 0 up, 0 down");
        (report.deployments, report.short, report.bad, report.not_reached) = (20, 3, 2, 1);
        (report.scaled_up, report.scaled_down, report.unknown, report.failed) = (2, 1, 1, 1);
        (report.not_kept, report.frozen, report.doubt) = (4, true, Some("the list is empty".to_owned()));
        insta::assert_snapshot!(summary(&report), @r"12:00:30 20 deployments, 3 short; 2 up, 1 down, 2 not readable, 1 not reached, 1 without an answer, 1 refused or not sent, 4 not kept; no host is taken away from any; the list is empty");
        report.duplicate = true;
        assert!(summary(&report).starts_with("12:00:30 nothing to do"));
    }

    #[test]
    fn for_programs_each_is_a_line_of_json_with_its_kind() {
        let decision = views::decision(&up());
        let event = Event::Decision { deployment_id: "eu-1", decision: &decision };
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(
            (&value["event"], &value["delta"], &value["reason"]),
            (&"decision".into(), &2.into(), &"ScaledUp".into())
        );
        let report = Report::default();
        let value = serde_json::to_value(Event::Tick { at: Timestamp::UNIX_EPOCH, report: &report }).unwrap();
        assert_eq!((&value["event"], &value["duplicate"]), (&"tick".into(), &false.into()));
    }
}
