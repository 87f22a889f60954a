//! One deployment, one explanation, one policy: in lines for people, with graphs.

use ::autoscaler::{
    http::{DeploymentDetail, DeploymentView, Explanation, PolicyView, SampleView},
    policy::Policy,
};
use jiff::Timestamp;

use super::table::{bar, lasting, or_dash, outcome, reason, share, state};
use crate::{
    cli::Format,
    output::{Cell, count, printable},
    services::table::{Listing, bare, is_for_people, short, time},
};

/// Lines with names before them, aligned.
pub fn named(lines: &[(&str, String)]) -> Vec<String> {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.iter().map(|(name, text)| format!("{name:width$}  {}", printable(text)).trim_end().to_owned()).collect()
}

/// One deployment for people.
pub fn detail(shown: &DeploymentDetail, now: Timestamp) -> Vec<String> {
    let it = &shown.deployment;
    let free = it.total.zip(it.free).map_or_else(
        || "not known".to_owned(),
        |(total, free)| match share(free, total) {
            Some(share) => format!("{share}% ({free} of {})", count(total, "server")),
            None => "no servers".to_owned(),
        },
    );
    let target = it.target_free_pct.map_or("not known".to_owned(), |pct| format!("{}%", short(pct)));
    let mut lines = vec![
        ("Deployment", it.id.clone()),
        ("State", state(it.state).0.to_owned()),
        ("Free", format!("{free}, target {target}  {}", bar(it))),
        ("Hosts", hosts(it)),
    ];
    if let Some(words) = &it.rejected {
        lines.push(("Not usable", words.clone()));
    }
    if let Some(at) = it.observed_at {
        lines.push(("Read", format!("{}, {} ago", time(at), lasting(now.duration_since(at).as_secs()))));
    }
    lines.push(("Mode", mode(&shown.policy)));
    if let Some(last) = &it.last_decision {
        lines.push(("Decision", format!("{}: {}", reason(last, now), last.words)));
    }
    if let Some(pending) = &shown.pending {
        lines.push((
            "Waiting",
            format!(
                "{:+} asked for at {}, from {} to {}: {}",
                pending.delta,
                time(pending.at),
                pending.from,
                count(pending.expected_hosts, "host"),
                outcome(pending.outcome).0
            ),
        ));
    }
    lines.push((
        "Flapping",
        format!("{:.0}% of its scalings change direction; from 20% its window is doubled", shown.flap_pct),
    ));
    lines.push(("Policy", numbers(&shown.policy)));
    lines.push(("Free so far", format!("{}  (half a minute each, · not read)", readings(&shown.samples))));
    named(&lines)
}

fn hosts(it: &DeploymentView) -> String {
    let mut text = or_dash(it.hosts);
    if let Some(per_host) = it.servers_per_host {
        text = format!("{text} with {} each", count(per_host, "server"));
    }
    if let Some(desired) = it.desired_hosts {
        text = format!("{text}, wanted {desired}");
    }
    if it.in_flight != 0 { format!("{text}, {:+} on their way", it.in_flight) } else { text }
}

/// `paused_in until 2027-01-15T08:00:00Z: moving`.
fn mode(policy: &Policy) -> String {
    let until = policy.until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
    let why = policy.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{}{until}{why}", policy.mode.as_str())
}

/// `min_hosts 1, max_hosts none, …`.
fn numbers(policy: &Policy) -> String {
    let all: Vec<_> = fields(policy).into_iter().take(11).map(|(name, value)| format!("{name} {value}")).collect();
    all.join(", ")
}

/// What holds, by the names of the API.
fn fields(policy: &Policy) -> Vec<(&'static str, String)> {
    let value = serde_json::to_value(policy).unwrap_or_default();
    let text = |name: &str| match &value[name] {
        serde_json::Value::Null => "none".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    super::args::FIELDS.into_iter().map(|name| (name, text(name))).collect()
}

/// A bar for each reading, from 0 to 100 per cent free; a dot where there is none.
fn readings(samples: &[SampleView]) -> String {
    let share = |sample: &SampleView| {
        let counts = sample.counts?;
        (counts.total > 0).then(|| ratio(counts.free, counts.total))
    };
    samples.iter().map(|sample| share(sample).map_or('·', level)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "for a graph")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// A bar as high as a share, which is 0 to 1.
fn level(share: f64) -> char {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let step = (share * 8.0) as usize;
    BARS[step.min(BARS.len() - 1)]
}

/// Numbers as bars, in `width` characters at most: each is the highest of its part. Scaled from 0 to
/// `most`.
pub fn sparkline(values: &[u64], most: u64, width: usize) -> String {
    let width = width.min(values.len());
    let part = |at: usize| values[at * values.len() / width..(at + 1) * values.len() / width].iter().max();
    (0..width).filter_map(part).map(|value| level(ratio(*value, most.max(1)))).collect()
}

/// What a tick would do, in sentences, then the numbers.
pub fn explanation(told: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("{}: what the tick of {} would do", printable(&told.deployment_id), time(told.at))];
    if !told.overridden.is_empty() {
        lines[0] = format!("{}, with other {}", lines[0], told.overridden.join(", "));
    }
    lines.push(String::new());
    lines.extend(told.words.iter().map(|words| printable(words)));
    lines.push(String::new());
    let it = &told.decision;
    let mut numbers_of = vec![
        ("Decision", it.reason.to_string()),
        ("Would send", told.would_send.map_or("nothing".to_owned(), |delta| format!("{delta:+}"))),
    ];
    if let Some(counts) = told.sample {
        let share = share(counts.free, counts.total).map(|share| format!(", {share}%")).unwrap_or_default();
        numbers_of.push(("Hosts", counts.hosts.to_string()));
        numbers_of.push(("Servers", format!("{}, {} free{share}", counts.total, counts.free)));
    }
    if let Some(inputs) = it.inputs {
        numbers_of.push(("Target", format!("{}%", short(inputs.target_free_pct))));
    }
    let limits: Vec<_> = it.limits.iter().filter_map(|it| serde_json::to_value(it).ok()).collect();
    let limits: Vec<_> = limits.iter().filter_map(|it| it.as_str()).collect();
    numbers_of.extend(it.need_servers.map(|need| ("Needs", count(need, "server"))));
    numbers_of.extend(it.desired_hosts.map(|hosts| ("Wanted", count(hosts, "host"))));
    numbers_of.extend(it.window_hosts.map(|hosts| ("In the window", count(hosts, "host"))));
    if it.in_flight != 0 {
        numbers_of.push(("On their way", format!("{:+}", it.in_flight)));
    }
    if !limits.is_empty() {
        numbers_of.push(("Limits", limits.join(", ")));
    }
    numbers_of.push(("Mode", mode(&told.policy)));
    lines.extend(named(&numbers_of));
    lines
}

/// A policy: `Field | Set | Holds`.
pub fn policy(view: &PolicyView, format: Format) -> Listing {
    let set = serde_json::to_value(&view.set).unwrap_or_default();
    let set = |name: &str| match &set[name] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |(name, holds): (&'static str, String)| {
        // For programs nothing is nothing.
        let holds = if holds == "none" && !is_for_people(format) { String::new() } else { holds };
        bare(vec![Cell::plain(name), Cell::plain(set(name)), Cell::plain(holds)], format)
    };
    Listing::new(&["Field", "Set", "Holds"], fields(&view.effective).into_iter().map(row))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ::autoscaler::policy::Mode;
    use serde_json::json;

    use super::*;
    use crate::deployments::table::tests::{NOW, bare_text, decision, now, shown, some};

    #[test]
    fn one_is_told_with_what_holds_and_what_waits() {
        let mut value = serde_json::to_value(&some()[0]).unwrap();
        let more = json!({
            "policy": Policy::default(),
            "pending": {
                "at": "2027-01-15T07:59:30Z", "from": 10, "delta": 2, "expected_hosts": 12, "readings": 0,
                "outcome": "unknown",
            },
            "flap_pct": 4.2,
            "samples": [
                {"at": "2027-01-15T07:58:30Z", "hosts": 10, "total": 100, "free": 0},
                {"at": "2027-01-15T07:59:00Z", "bad": "silent"},
                {"at": "2027-01-15T07:59:30Z", "hosts": 10, "total": 100, "free": 50},
            ],
        });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut told: DeploymentDetail = serde_json::from_value(value).unwrap();
        told.policy.mode = Mode::Paused;
        told.policy.until = Some("2027-01-15T10:00:00Z".parse().unwrap());
        told.policy.reason = Some("moving".to_owned());
        insta::assert_snapshot!(detail(&told, now()).join("\n"), @r"
        Deployment   eu-1
        State        limited
        Free         10.0% (10 of 100 servers), target 15%  ##.|.................
        Hosts        10 with 10 servers each, wanted 12, +2 on their way
        Read         2027-01-15T07:59:30Z, 30s ago
        Mode         paused until 2027-01-15T10:00:00Z: moving
        Decision     ScaledUp +2, 1m 30s: adds 2 hosts
        Waiting      +2 asked for at 2027-01-15T07:59:30Z, from 10 to 12 hosts: no answer
        Flapping     4% of its scalings change direction; from 20% its window is doubled
        Policy       min_hosts 1, max_hosts none, min_free_servers 0, up_step_hosts 4, up_step_pct 100, down_step_hosts 1, down_step_pct 10, window_seconds 300, cooldown_after_up_seconds 300, cooldown_after_failure_seconds 180, boot_grace_seconds 600
        Free so far  ▁·▅  (half a minute each, · not read)
        ");
    }

    #[test]
    fn an_explanation_is_sentences_and_then_the_numbers() {
        let mut up = decision("ScaledUp", 2);
        up["inputs"] = json!({"servers_per_host": 10, "target_free_pct": 15.0, "hosts": 10, "total": 100, "free": 10});
        up["limits"] = json!(["up_step"]);
        let told: Explanation = serde_json::from_value(json!({
            "deployment_id": "eu-1", "at": NOW, "decision": up, "would_send": 2,
            "words": ["It says: 10 hosts.", "It would ask once for a delta of +2."], "policy": Policy::default(),
            "overridden": ["target_free_pct"], "sample": {"hosts": 10, "total": 100, "free": 10}, "bad": null,
            "frozen": false,
        }))
        .unwrap();
        insta::assert_snapshot!(explanation(&told).join("\n"), @r"
        eu-1: what the tick of 2027-01-15T08:00:00Z would do, with other target_free_pct

        It says: 10 hosts.
        It would ask once for a delta of +2.

        Decision    ScaledUp
        Would send  +2
        Hosts       10
        Servers     100, 10 free, 10.0%
        Target      15%
        Needs       113 servers
        Wanted      12 hosts
        Limits      up_step
        Mode        on
        ");
    }

    #[test]
    fn a_policy_says_what_is_set_and_what_holds() {
        let view: PolicyView = serde_json::from_value(json!({
            "version": 3, "set": {"min_hosts": 2, "mode": "paused", "reason": "moving"},
            "effective": Policy { min_hosts: 2, mode: Mode::Paused, reason: Some("moving".to_owned()), ..Policy::default() },
            "set_by": "key x", "set_at": NOW,
        }))
        .unwrap();
        insta::assert_snapshot!(shown(&policy(&view, Format::Table)), @r"
        Field                           Set     Holds
        min_hosts                       2       2
        max_hosts                               none
        min_free_servers                        0
        up_step_hosts                           4
        up_step_pct                             100
        down_step_hosts                         1
        down_step_pct                           10
        window_seconds                          300
        cooldown_after_up_seconds               300
        cooldown_after_failure_seconds          180
        boot_grace_seconds                      600
        mode                            paused  paused
        until                                   none
        reason                          moving  moving
        ");
        insta::assert_snapshot!(bare_text(&policy(&view, Format::Plain)), @r"
        min_hosts|2|2
        max_hosts|-|-
        min_free_servers|-|0
        up_step_hosts|-|4
        up_step_pct|-|100
        down_step_hosts|-|1
        down_step_pct|-|10
        window_seconds|-|300
        cooldown_after_up_seconds|-|300
        cooldown_after_failure_seconds|-|180
        boot_grace_seconds|-|600
        mode|paused|paused
        until|-|-
        reason|moving|moving
        ");
    }

    #[test]
    fn a_graph_shows_the_highest_of_each_part() {
        assert_eq!(sparkline(&[0, 1, 2, 3, 4, 5, 6, 8], 8, 8), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[0, 8, 0, 0], 8, 2), "█▁");
        assert_eq!(sparkline(&[3], 0, 40), "█");
        assert_eq!(sparkline(&[], 8, 40), "");
    }
}
