//! `muster device record`: all that is kept of one attempt.

use ::devices::{
    http::{AttemptOutcome, AttemptRecord},
    record::VendorAnswer,
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{
    session::{Session, told},
    table::{cost, event_line, lasting, price, reason},
    view::combination,
    wait::path,
};
use crate::{
    cli::Format,
    deployments::detail::named,
    exit::{Exit, Failure},
    output::{Cell, count, printable},
    services::table::{Listing, bare, time},
};

/// Shows one attempt: the last one unless a number is given.
pub async fn run(session: &Session<'_>, id: Uuid, number: Option<u32>) -> Result<Exit, Failure> {
    let device = session.device(id).await?;
    let Some(number) = number.or_else(|| Some(device.attempts.last()?.number)) else {
        return Err(Failure::new(format!("device {id} is {}, and has made no attempt", device.state.as_str()))
            .exit(Exit::NotFound)
            .hint(format!("`muster device show {id}` tells how far it is")));
    };
    let path = format!("{}/attempts/{number}", path(id));
    let record: AttemptRecord = session.client.get(&path).await.map_err(|failure: Failure| {
        // The device is there, so it is the attempt that is not.
        if failure.is_status(404) {
            failure.hint(format!("`muster device show {id}` lists its attempts"))
        } else {
            told(failure)
        }
    })?;
    match session.output.format {
        Format::Json => session.output.json(&record)?,
        Format::Table => session.output.lines(detail(&record, Timestamp::now()))?,
        format => row(&record, format).print(session.output)?,
    }
    Ok(Exit::Fine)
}

/// One attempt for programs that read rows.
fn row(it: &AttemptRecord, format: Format) -> Listing {
    let header = [
        "device",
        "attempt",
        "os",
        "plan",
        "facility",
        "price",
        "started_at",
        "ended_at",
        "outcome",
        "reason",
        "percent",
        "machine_id",
        "health",
        "machine_seconds",
        "cost_usd",
        "billed_hours",
    ];
    let what = &it.combination;
    let cells = vec![
        Cell::plain(it.device_id.to_string()),
        Cell::plain(it.number.to_string()),
        Cell::plain(&what.os),
        Cell::plain(&what.plan),
        Cell::plain(&what.facility),
        Cell::plain(what.price.to_string()),
        Cell::plain(time(it.started_at)),
        Cell::plain(it.ended_at.map(time).unwrap_or_default()),
        Cell::plain(outcome(it.outcome).replace(' ', "_")),
        Cell::plain(it.reason.as_ref().map(reason).unwrap_or_default()),
        Cell::plain(it.percent.to_string()),
        Cell::plain(it.machine.as_ref().map(|machine| machine.id.clone()).unwrap_or_default()),
        Cell::plain(it.health.as_ref().map(|health| health.rollup.clone()).unwrap_or_default()),
        Cell::plain(it.machine_seconds.to_string()),
        Cell::plain(it.cost_usd.to_string()),
        Cell::plain(it.billed_hours.to_string()),
    ];
    Listing::new(&header, [bare(cells, format)].into_iter())
}

const fn outcome(it: AttemptOutcome) -> &'static str {
    match it {
        AttemptOutcome::InProgress => "in progress",
        AttemptOutcome::CameUp => "came up",
        AttemptOutcome::Failed => "failed",
        AttemptOutcome::Cancelled => "cancelled",
    }
}

/// One attempt for people.
fn detail(it: &AttemptRecord, now: Timestamp) -> Vec<String> {
    let what = &it.combination;
    let lasted = lasting(it.ended_at.unwrap_or(now).duration_since(it.started_at));
    let mut lines = vec![
        ("Device", it.device_id.to_string()),
        ("Attempt", it.number.to_string()),
        ("Combination", format!("{}, {}", combination(&what.os, &what.plan, &what.facility), price(what.price))),
        ("Outcome", format!("{}, {} %", outcome(it.outcome), it.percent)),
    ];
    lines.extend(it.reason.as_ref().map(|why| ("Reason", reason(why))));
    lines.push(("Began", time(it.started_at)));
    lines.extend(it.up_at.map(|at| ("Up", time(at))));
    match it.ended_at {
        Some(at) => lines.push(("Ended", format!("{}, after {lasted}", time(at)))),
        None => lines.push(("Lasts", lasted)),
    }
    if let Some(machine) = &it.machine {
        lines.push(("Machine", format!("{}, {}", machine.id, machine.state)));
        let there = i64::try_from(it.machine_seconds).map_or(SignedDuration::MAX, SignedDuration::from_secs);
        let hours = count(it.billed_hours, "hour");
        lines.push(("Cost", format!("{} for {}; {hours} begun", cost(it.cost_usd), lasting(there))));
    }
    lines.extend(it.health.as_ref().map(|health| ("Health", format!("{}, {}", health.rollup, time(health.at)))));
    let mut lines = named(&lines);
    section(&mut lines, "The vendor's states", it.states.iter().map(|it| format!("{}  {}", time(it.at), it.state)));
    section(&mut lines, "The vendor's last answers", it.last_answers.iter().map(answer));
    section(&mut lines, "Time line", it.events.iter().map(event_line));
    lines
}

fn section(lines: &mut Vec<String>, title: &str, entries: impl Iterator<Item = String>) {
    let entries: Vec<String> = entries.map(|entry| format!("  {}", printable(&entry))).collect();
    if !entries.is_empty() {
        lines.extend([String::new(), title.to_owned()]);
        lines.extend(entries);
    }
}

/// `2027-01-15T08:00:00Z  POST /projects/…/devices: 201, d-1 is queued`.
fn answer(it: &VendorAnswer) -> String {
    let status = it.status.map_or_else(|| "no whole answer".to_owned(), |status| status.to_string());
    format!("{}  {}: {status}, {}", time(it.at), it.request, it.text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    const AT: &str = "2027-01-15T08:01:00Z";

    fn stalled() -> Value {
        json!({
            "device_id": "0198c6d2-6f7e-7a7e-8000-000000000000", "number": 2,
            "combination": {"os": "debian_12", "plan": "c3.small.x86", "facility": "ewr1", "price": 0.5,
                            "level": "normal", "recent_failures": 0},
            "started_at": "2027-01-15T08:00:00Z", "ended_at": AT, "outcome": "failed", "percent": 40,
            "reason": {"code": "Stalled", "detail": "nothing new\u{7}"},
            "machine": {"id": "d-1", "state": "deprovisioning", "addresses": []},
            "states": [{"state": "queued", "at": "2027-01-15T08:00:01Z"}, {"state": "provisioning", "at": AT}],
            "health": {"rollup": "critical", "at": AT},
            "last_answers": [
                {"at": AT, "request": "POST /projects/…/devices", "status": 201, "text": "d-1 is queued"},
                {"at": AT, "request": "DELETE /devices/d-1", "text": "no answer in time"}],
            "machine_seconds": 58, "cost_usd": 0.008_056, "billed_hours": 1,
            "events": [{"at": AT, "source": "vendor", "kind": "provisioning.104", "text": "words"}],
        })
    }

    fn shown(value: Value) -> String {
        detail(&serde_json::from_value(value).unwrap(), AT.parse().unwrap()).join("\n")
    }

    #[test]
    fn a_failed_attempt_is_told_with_all_that_is_kept_of_it() {
        insta::assert_snapshot!(shown(stalled()), @r"
        Device       0198c6d2-6f7e-7a7e-8000-000000000000
        Attempt      2
        Combination  debian_12 on c3.small.x86 in ewr1, 0.5 $/h
        Outcome      failed, 40 %
        Reason       Stalled: nothing new�
        Began        2027-01-15T08:00:00Z
        Ended        2027-01-15T08:01:00Z, after 1m
        Machine      d-1, deprovisioning
        Cost         0.008056 $ for 58s; 1 hour begun
        Health       critical, 2027-01-15T08:01:00Z

        The vendor's states
          2027-01-15T08:00:01Z  queued
          2027-01-15T08:01:00Z  provisioning

        The vendor's last answers
          2027-01-15T08:01:00Z  POST /projects/…/devices: 201, d-1 is queued
          2027-01-15T08:01:00Z  DELETE /devices/d-1: no whole answer, no answer in time

        Time line
          2027-01-15T08:01:00Z  vendor   -  provisioning.104: words
        ");
    }

    #[test]
    fn an_attempt_without_a_machine_has_no_cost_and_no_empty_sections() {
        let mut bare = stalled();
        let fields = bare.as_object_mut().unwrap();
        for name in ["machine", "health", "ended_at", "reason"] {
            fields.remove(name);
        }
        (bare["states"], bare["last_answers"], bare["events"]) = (json!([]), json!([]), json!([]));
        bare["outcome"] = "in_progress".into();
        insta::assert_snapshot!(shown(bare), @r"
        Device       0198c6d2-6f7e-7a7e-8000-000000000000
        Attempt      2
        Combination  debian_12 on c3.small.x86 in ewr1, 0.5 $/h
        Outcome      in progress, 40 %
        Began        2027-01-15T08:00:00Z
        Lasts        1m
        ");
    }

    #[test]
    fn rows_have_a_cell_for_each_column() {
        let it: AttemptRecord = serde_json::from_value(stalled()).unwrap();
        for format in [Format::Csv, Format::Plain] {
            let listing = row(&it, format);
            assert_eq!((listing.rows.len(), listing.rows[0].len()), (1, listing.header.len()));
        }
    }
}
