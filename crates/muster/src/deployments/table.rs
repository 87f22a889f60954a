//! Deployments and decisions as rows: with words and colours for people, with plain numbers and always
//! the same columns for programs.

use ::autoscaler::{
    decision::{Outcome, Reason},
    http::{DecisionView, DeploymentState, DeploymentView},
    need::Target,
    policy::Mode,
};
use jiff::Timestamp;

use crate::{
    cli::Format,
    output::{Cell, Tone},
    services::table::{Listing, bare, is_for_people, short, time},
};

/// Characters of a bar, without its mark: five per cent each.
const BAR: u64 = 20;

/// A share, cut to one decimal so that one below a target never looks as if it were there.
pub(crate) fn share(free: u64, total: u64) -> Option<String> {
    let tenths = (u128::from(free) * 1000).checked_div(u128::from(total))?;
    Some(format!("{}.{}", tenths / 10, tenths % 10))
}

fn target(it: &DeploymentView) -> Option<Target> {
    Target::parse(&it.target_free_pct?.to_string()).ok()
}

/// Whether fewer servers are free than it wants, as far as that is known.
pub fn is_short(it: &DeploymentView) -> bool {
    let known = target(it).zip(it.total.zip(it.free));
    known.is_some_and(|(target, (total, free))| !target.is_met(total, free))
}

/// How far the free share is above the target, in percentage points. None where it is not known.
pub fn spare(it: &DeploymentView) -> Option<f64> {
    if it.state == DeploymentState::Gone {
        return None;
    }
    Some(it.free_pct? - it.target_free_pct?)
}

/// The free share as a bar with a mark at the target: `###|##....` has what it wants, `##.|......`
/// has not, in characters that every terminal has.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 20")]
pub fn bar(it: &DeploymentView) -> String {
    let (Some(free), Some(wanted)) = (it.free_pct, it.target_free_pct) else { return String::new() };
    let cells = |pct: f64| ((pct / 100.0 * 20.0).round().clamp(0.0, 20.0)) as u64;
    let mark = cells(wanted).max(u64::from(wanted > 0.0));
    // What rounding hides is shown all the same.
    let filled = if is_short(it) { cells(free).min(mark.saturating_sub(1)) } else { cells(free).max(mark) };
    let part = |from: u64, to: u64| (from..to).map(|at| if at < filled { '#' } else { '.' }).collect::<String>();
    format!("{}|{}", part(0, mark), part(mark, BAR))
}

/// The word for a state, and how it is meant.
pub fn state(state: DeploymentState) -> (&'static str, Tone) {
    let tone = match state {
        DeploymentState::Ok => Tone::Good,
        DeploymentState::Unreadable | DeploymentState::BreakerOpen => Tone::Bad,
        DeploymentState::Frozen | DeploymentState::Limited | DeploymentState::Stabilizing | DeploymentState::Paused => {
            Tone::Unsure
        }
        DeploymentState::Gone => Tone::Plain,
    };
    (state.as_str(), tone)
}

/// How long something lasts, in the two largest units: `3h 20m`, `45s`.
pub fn lasting(seconds: i64) -> String {
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let from = units.iter().position(|(_, number)| *number > 0).unwrap_or(units.len() - 1);
    let told = units[from..].iter().take(2).filter(|(_, number)| *number > 0);
    let told: Vec<_> = told.map(|(unit, number)| format!("{number}{unit}")).collect();
    if told.is_empty() { "0s".to_owned() } else { told.join(" ") }
}

/// `ScaledUp +2, 30s`: the reason that holds, and since when.
pub(super) fn reason(decision: &DecisionView, now: Timestamp) -> String {
    let delta = if decision.delta == 0 { String::new() } else { format!(" {:+}", decision.delta) };
    format!("{}{delta}, {}", decision.reason, lasting(now.duration_since(decision.at).as_secs()))
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn text<T: ToString>(value: Option<T>) -> Cell {
    Cell::plain(value.map(|value| value.to_string()).unwrap_or_default())
}

/// Deployments: `Deployment | Free | Target | | Hosts | Wanted | State | Reason`, and where there are
/// any, hosts on their way, modes that are not `on`, and what else there is to say.
pub fn deployments(items: &[DeploymentView], now: Timestamp, format: Format) -> Listing {
    if !is_for_people(format) {
        return Listing::new(&COLUMNS, items.iter().map(|it| bare(columns(it), format)));
    }
    let row = |it: &DeploymentView| {
        let free = it.total.zip(it.free).and_then(|(total, free)| share(free, total));
        let tone = match (is_short(it), free.is_some()) {
            (true, _) => Tone::Bad,
            (false, true) => Tone::Good,
            (false, false) => Tone::Unsure,
        };
        let (word, state_tone) = state(it.state);
        vec![
            Cell::plain(&it.id),
            Cell::new(free.map_or("-".to_owned(), |free| format!("{free}%")), tone),
            Cell::plain(it.target_free_pct.map_or("-".to_owned(), |pct| format!("{}%", short(pct)))),
            Cell::new(bar(it), tone),
            Cell::plain(or_dash(it.hosts)),
            Cell::plain(or_dash(it.desired_hosts)),
            Cell::new(word, state_tone),
            Cell::plain(it.last_decision.as_ref().map_or("-".to_owned(), |last| reason(last, now))),
        ]
    };
    let coming = |it: &DeploymentView| (it.in_flight != 0).then(|| Cell::plain(format!("{:+}", it.in_flight)));
    let mode = |it: &DeploymentView| (it.mode != Mode::On).then(|| Cell::new(it.mode.as_str(), Tone::Unsure));
    let note = |it: &DeploymentView| note(it).map(Cell::plain);
    Listing::new(&["Deployment", "Free", "Target", "", "Hosts", "Wanted", "State", "Reason"], items.iter().map(row))
        .with("On their way", items.iter().map(coming))
        .with("Mode", items.iter().map(mode))
        .with("Note", items.iter().map(note))
}

/// What else there is to say.
fn note(it: &DeploymentView) -> Option<String> {
    let note = it.rejected.clone().or_else(|| it.last_decision.as_ref()?.note.clone());
    match (it.flapping, note) {
        (true, Some(note)) => Some(format!("flapping; {note}")),
        (true, None) => Some("flapping".to_owned()),
        (false, note) => note,
    }
}

/// The columns of a deployment for programs.
pub const COLUMNS: [&str; 16] = [
    "id",
    "servers_per_host",
    "target_free_pct",
    "hosts",
    "total",
    "free",
    "free_pct",
    "desired_hosts",
    "in_flight",
    "mode",
    "state",
    "flapping",
    "observed_at",
    "reason",
    "since",
    "note",
];

/// A deployment for programs.
pub fn columns(it: &DeploymentView) -> Vec<Cell> {
    let last = it.last_decision.as_ref();
    vec![
        Cell::plain(&it.id),
        text(it.servers_per_host),
        text(it.target_free_pct),
        text(it.hosts),
        text(it.total),
        text(it.free),
        text(it.free_pct.map(short)),
        text(it.desired_hosts),
        Cell::plain(it.in_flight.to_string()),
        Cell::plain(it.mode.as_str()),
        Cell::plain(it.state.as_str()),
        Cell::plain(it.flapping.to_string()),
        text(it.observed_at.map(time)),
        text(last.map(|last| last.reason)),
        text(last.map(|last| time(last.at))),
        text(it.rejected.clone().or_else(|| last?.note.clone())),
    ]
}

/// The word for what became of a request to scale.
pub fn outcome(outcome: Outcome) -> (&'static str, Tone) {
    match outcome {
        Outcome::Intended => ("intended", Tone::Unsure),
        Outcome::Accepted => ("accepted", Tone::Plain),
        Outcome::Unknown => ("no answer", Tone::Unsure),
        Outcome::Refused => ("refused", Tone::Bad),
        Outcome::NotSent => ("not sent", Tone::Bad),
        Outcome::Applied => ("applied", Tone::Good),
        Outcome::Adopted => ("adopted", Tone::Unsure),
        Outcome::Failed => ("failed", Tone::Bad),
    }
}

fn reason_tone(reason: Reason) -> Tone {
    match reason {
        Reason::ScaledUp | Reason::ScaledDown | Reason::WithinTarget => Tone::Good,
        Reason::BadMetrics | Reason::BreakerOpen | Reason::ScaleFailed => Tone::Bad,
        Reason::Stabilizing
        | Reason::Cooldown
        | Reason::InFlight
        | Reason::AtMin
        | Reason::AtMax
        | Reason::StepLimited
        | Reason::AnticipatedFlap
        | Reason::Frozen
        | Reason::Paused
        | Reason::DryRun
        | Reason::DuplicateTick
        | Reason::ScaleUnknown => Tone::Unsure,
    }
}

/// Decisions: when, for how many ticks, which, what was asked for, what came of it, and why.
pub fn decisions(items: &[DecisionView], format: Format) -> Listing {
    if !is_for_people(format) {
        let header = [
            "at",
            "until",
            "count",
            "reason",
            "delta",
            "outcome",
            "hosts",
            "total",
            "free",
            "servers_per_host",
            "target_free_pct",
            "need_servers",
            "desired_hosts",
            "window_hosts",
            "in_flight",
            "mode",
            "flapping",
            "limits",
            "note",
        ];
        let row = |it: &DecisionView| {
            let limits = it.limits.iter().filter_map(|limit| serde_json::to_value(limit).ok());
            let limits: Vec<_> = limits.filter_map(|limit| limit.as_str().map(str::to_owned)).collect();
            let cells = vec![
                Cell::plain(time(it.at)),
                Cell::plain(time(it.until)),
                Cell::plain(it.count.to_string()),
                Cell::plain(it.reason.to_string()),
                Cell::plain(it.delta.to_string()),
                text(it.outcome.map(|it| outcome(it).0.replace(' ', "_"))),
                text(it.inputs.map(|inputs| inputs.hosts)),
                text(it.inputs.map(|inputs| inputs.total)),
                text(it.inputs.map(|inputs| inputs.free)),
                text(it.inputs.map(|inputs| inputs.servers_per_host)),
                text(it.inputs.map(|inputs| inputs.target_free_pct)),
                text(it.need_servers),
                text(it.desired_hosts),
                text(it.window_hosts),
                Cell::plain(it.in_flight.to_string()),
                Cell::plain(it.mode.as_str()),
                Cell::plain(it.flapping.to_string()),
                Cell::plain(limits.join(" ")),
                text(it.note.as_ref()),
            ];
            bare(cells, format)
        };
        return Listing::new(&header, items.iter().map(row));
    }
    let row = |it: &DecisionView| {
        let (word, tone) = it.outcome.map_or(("-", Tone::Plain), outcome);
        vec![
            Cell::plain(time(it.at)),
            Cell::plain(it.count.to_string()),
            Cell::new(it.reason.to_string(), reason_tone(it.reason)),
            Cell::plain(if it.delta == 0 { "-".to_owned() } else { format!("{:+}", it.delta) }),
            Cell::new(word, tone),
            Cell::plain(&it.words),
        ]
    };
    Listing::new(&["Time", "Ticks", "Reason", "Change", "Outcome", "Why"], items.iter().map(row))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::{deployments::detail::ratio, output};

    pub const NOW: &str = "2027-01-15T08:00:00Z";

    pub fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    pub fn decision(reason: &str, delta: i64) -> Value {
        json!({
            "at": "2027-01-15T07:58:30Z", "until": "2027-01-15T07:59:30Z", "count": 3, "reason": reason,
            "words": "adds 2 hosts", "inputs": null, "need_servers": 113, "desired_hosts": 12, "window_hosts": null,
            "delta": delta, "in_flight": 0, "limits": [], "outcome": null, "mode": "on", "flapping": false, "note": null,
        })
    }

    pub fn deployment(id: &str, (total, free): (u64, u64), target: f64) -> DeploymentView {
        serde_json::from_value(json!({
            "id": id, "servers_per_host": 10, "target_free_pct": target, "hosts": total / 10, "total": total,
            "free": free, "free_pct": (total > 0).then(|| ratio(free, total) * 100.0), "desired_hosts": 12,
            "in_flight": 0, "mode": "on", "state": "ok", "flapping": false, "rejected": null,
            "observed_at": "2027-01-15T07:59:30Z", "last_decision": decision("WithinTarget", 0),
        }))
        .unwrap()
    }

    pub fn some() -> Vec<DeploymentView> {
        let mut up = deployment("eu-1", (100, 10), 15.0);
        up.state = DeploymentState::Limited;
        up.in_flight = 2;
        up.last_decision = serde_json::from_value(decision("ScaledUp", 2)).unwrap();
        let mut paused = deployment("us-2", (1000, 500), 12.5);
        paused.mode = Mode::PausedIn;
        paused.state = DeploymentState::Paused;
        let mut broken = deployment("ap-3\u{1b}[2J", (100, 10), 15.0);
        (broken.hosts, broken.total, broken.free, broken.free_pct, broken.desired_hosts) =
            (None, None, None, None, None);
        (broken.target_free_pct, broken.servers_per_host) = (None, None);
        broken.state = DeploymentState::Unreadable;
        broken.rejected = Some("servers_per_host is 0".to_owned());
        broken.flapping = true;
        broken.last_decision = None;
        vec![up, paused, broken]
    }

    pub fn shown(listing: &Listing) -> String {
        output::table(&listing.header, &listing.rows, false)
    }

    pub fn bare_text(listing: &Listing) -> String {
        let line = |row: &Vec<Cell>| row.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>().join("|");
        listing.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_list_says_what_is_free_what_is_wanted_and_why() {
        insta::assert_snapshot!(shown(&deployments(&some(), now(), Format::Table)), @r"
        Deployment  Free   Target                         Hosts  Wanted  State       Reason                On their way  Mode       Note
        eu-1        10.0%  15%     ##.|.................  10     12      limited     ScaledUp +2, 1m 30s   +2
        us-2        50.0%  12.5%   ###|#######..........  100    12      paused      WithinTarget, 1m 30s                paused_in
        ap-3�[2J    -      -                              -      -       unreadable  -                                              flapping; servers_per_host is 0
        ");
        insta::assert_snapshot!(shown(&deployments(&some()[1..2], now(), Format::Table)), @r"
        Deployment  Free   Target                         Hosts  Wanted  State   Reason                Mode
        us-2        50.0%  12.5%   ###|#######..........  100    12      paused  WithinTarget, 1m 30s  paused_in
        ");
        insta::assert_snapshot!(bare_text(&deployments(&some(), now(), Format::Csv)), @r"
        eu-1|10|15|10|100|10|10|12|2|on|limited|false|2027-01-15T07:59:30Z|ScaledUp|2027-01-15T07:58:30Z|
        us-2|10|12.5|100|1000|500|50|12|0|paused_in|paused|false|2027-01-15T07:59:30Z|WithinTarget|2027-01-15T07:58:30Z|
        ap-3�[2J||||||||0|on|unreadable|true|2027-01-15T07:59:30Z|||servers_per_host is 0
        ");
        insta::assert_snapshot!(bare_text(&deployments(&some()[2..], now(), Format::Plain)), @r"ap-3�[2J|-|-|-|-|-|-|-|0|on|unreadable|true|2027-01-15T07:59:30Z|-|-|servers_per_host is 0");
        let colored = deployments(&some(), now(), Format::Table);
        assert_eq!(colored.rows[0][1].tone, Tone::Bad, "it is short");
        assert_eq!(colored.rows[1][1].tone, Tone::Good);
    }

    #[test]
    fn a_bar_never_hides_on_which_side_of_the_target_it_is() {
        let bar = |free: u64, target: f64| bar(&deployment("x", (1000, free), target));
        let all = [
            (0, 15.0),
            (149, 15.0),
            (150, 15.0),
            (151, 15.0),
            (500, 15.0),
            (1000, 15.0),
            (0, 0.0),
            (10, 0.0),
            (0, 1.0),
            (9, 1.0),
            (10, 1.0),
            (989, 99.0),
            (990, 99.0),
            (1000, 99.9),
        ];
        let lines: Vec<_> = all
            .iter()
            .map(|(free, target)| format!("{:>5} of {target:>4}  {}", share(*free, 1000).unwrap(), bar(*free, *target)))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
          0.0 of   15  ...|.................
         14.9 of   15  ##.|.................
         15.0 of   15  ###|.................
         15.1 of   15  ###|.................
         50.0 of   15  ###|#######..........
        100.0 of   15  ###|#################
          0.0 of    0  |....................
          1.0 of    0  |....................
          0.0 of    1  .|...................
          0.9 of    1  .|...................
          1.0 of    1  #|...................
         98.9 of   99  ###################.|
         99.0 of   99  ####################|
        100.0 of 99.9  ####################|
        ");
        for (free, target) in all {
            let short = is_short(&deployment("x", (1000, free), target));
            let text = bar(free, target);
            assert_eq!(text.len(), 21);
            let before = text.split('|').next().unwrap();
            assert_eq!(before.contains('.'), short, "{text}");
        }
    }

    #[test]
    fn a_share_is_cut_and_never_rounded_up_to_a_target() {
        assert_eq!(share(1499, 10_000).unwrap(), "14.9");
        assert_eq!(share(15, 100).unwrap(), "15.0");
        assert_eq!(share(0, 0), None);
        assert!(is_short(&deployment("x", (10_000, 1499), 15.0)));
        assert!(!is_short(&deployment("x", (10_000, 1500), 15.0)));
    }

    #[test]
    fn a_time_that_passed_is_told_in_two_units() {
        let told = [-5, 0, 45, 60, 90, 3600, 3660, 86_400, 90_061].map(lasting);
        assert_eq!(told, ["0s", "0s", "45s", "1m", "1m 30s", "1h", "1h 1m", "1d", "1d 1h"]);
    }

    #[test]
    fn decisions_say_what_came_of_them() {
        let mut up = decision("ScaledUp", 2);
        up["outcome"] = "unknown".into();
        up["limits"] = json!(["up_step", "max_hosts"]);
        up["inputs"] = json!({"servers_per_host": 10, "target_free_pct": 15.0, "hosts": 10, "total": 100, "free": 10});
        let mut held = decision("BadMetrics", 0);
        (held["words"], held["note"]) = ("what it says cannot be used".into(), "500".into());
        let items: Vec<DecisionView> = serde_json::from_value(json!([up, held])).unwrap();
        insta::assert_snapshot!(shown(&decisions(&items, Format::Table)), @r"
        Time                  Ticks  Reason      Change  Outcome    Why
        2027-01-15T07:58:30Z  3      ScaledUp    +2      no answer  adds 2 hosts
        2027-01-15T07:58:30Z  3      BadMetrics  -       -          what it says cannot be used
        ");
        insta::assert_snapshot!(bare_text(&decisions(&items, Format::Csv)), @r"
        2027-01-15T07:58:30Z|2027-01-15T07:59:30Z|3|ScaledUp|2|no_answer|10|100|10|10|15|113|12||0|on|false|up_step max_hosts|
        2027-01-15T07:58:30Z|2027-01-15T07:59:30Z|3|BadMetrics|0|||||||113|12||0|on|false||500
        ");
    }
}
