//! Devices, plans and time lines as rows, and one device as lines.

use ::devices::{
    catalog::{Dollars, LeftOut, Level, Price},
    device::{Address, Reason, Source, State},
    http::{AttemptOutcome, AttemptView, DeviceSummary, DeviceView, EventView},
    select::Candidate,
};
use jiff::{SignedDuration, Timestamp};

use super::view::{combination, is_over, of_attempt};
use crate::{
    cli::Format,
    deployments::detail::named,
    output::{Cell, Tone, count, printable},
    services::table::{Listing, bare, is_for_people, time},
};

/// The word for a state, with its colour.
pub fn state(state: State) -> Cell {
    let tone = match state {
        State::Active => Tone::Good,
        State::Failed => Tone::Bad,
        State::Requested | State::Creating | State::Provisioning | State::Deleting => Tone::Unsure,
        State::Deleted => Tone::Plain,
    };
    Cell::new(state.as_str(), tone)
}

/// `0.5 $/h`.
pub fn price(price: Price) -> String {
    format!("{price} $/h")
}

/// `0.0035 $`.
pub fn cost(dollars: Dollars) -> String {
    format!("{dollars} $")
}

/// `OutOfCapacity: The facility ewr1 has no …`.
pub fn reason(reason: &Reason) -> String {
    let code = serde_json::to_value(reason.code).unwrap_or_default();
    printable(&format!("{}: {}", code.as_str().unwrap_or_default(), reason.detail))
}

/// Devices: `ID | State | Hostname | Combination | Price | Address | Created`.
pub fn devices(items: &[DeviceSummary], format: Format) -> Listing {
    let text = |text: &Option<String>| Cell::plain(text.as_deref().unwrap_or_default());
    if !is_for_people(format) {
        let header = [
            "id",
            "state",
            "hostname",
            "os",
            "plan",
            "facility",
            "price",
            "attempts",
            "percent",
            "address",
            "created_at",
            "reason",
        ];
        let row = |it: &DeviceSummary| {
            let cells = vec![
                Cell::plain(it.id.to_string()),
                Cell::plain(it.state.as_str()),
                Cell::plain(&it.hostname),
                text(&it.os),
                text(&it.plan),
                text(&it.facility),
                Cell::plain(it.price.map(|price| price.to_string()).unwrap_or_default()),
                Cell::plain(it.attempts.to_string()),
                Cell::plain(it.percent.to_string()),
                text(&it.address),
                Cell::plain(time(it.created_at)),
                Cell::plain(it.reason.as_ref().map(reason).unwrap_or_default()),
            ];
            bare(cells, format)
        };
        return Listing::new(&header, items.iter().map(row));
    }
    let row = |it: &DeviceSummary| {
        let what = match (&it.os, &it.plan, &it.facility) {
            (Some(os), Some(plan), Some(facility)) => combination(os, plan, facility),
            _ => "-".to_owned(),
        };
        vec![
            Cell::plain(it.id.to_string()),
            state(it.state),
            Cell::plain(&it.hostname),
            Cell::plain(what),
            Cell::plain(it.price.map_or("-".to_owned(), price)),
            Cell::plain(it.address.as_deref().unwrap_or("-")),
            Cell::plain(time(it.created_at)),
        ]
    };
    Listing::new(&["ID", "State", "Hostname", "Combination", "Price", "Address", "Created"], items.iter().map(row))
}

/// What would be tried: `# | OS | Plan | Facility | Metro | Price | Capacity | Failures`.
pub fn candidates(items: &[Candidate], format: Format) -> Listing {
    let numbered = items.iter().enumerate().map(|(index, it)| (index + 1, it));
    if !is_for_people(format) {
        let header =
            ["number", "os", "plan", "facility", "metro", "price", "capacity", "recent_failures", "held_until"];
        let row = |(number, it): (usize, &Candidate)| {
            let cells = vec![
                Cell::plain(number.to_string()),
                Cell::plain(&it.os),
                Cell::plain(&it.plan),
                Cell::plain(&it.facility),
                Cell::plain(it.metro.as_deref().unwrap_or_default()),
                Cell::plain(it.price.to_string()),
                Cell::plain(it.level.as_str()),
                Cell::plain(it.recent_failures.to_string()),
                Cell::plain(it.held_until.map(time).unwrap_or_default()),
            ];
            bare(cells, format)
        };
        return Listing::new(&header, numbered.map(row));
    }
    let row = |(number, it): (usize, &Candidate)| {
        vec![
            Cell::plain(number.to_string()),
            Cell::plain(&it.os),
            Cell::plain(&it.plan),
            Cell::plain(&it.facility),
            Cell::plain(it.metro.as_deref().unwrap_or("-")),
            Cell::plain(price(it.price)),
            level(it.level),
            failures(it),
        ]
    };
    Listing::new(&["#", "OS", "Plan", "Facility", "Metro", "Price", "Capacity", "Failures"], numbered.map(row))
}

fn level(level: Level) -> Cell {
    let tone = match level {
        Level::Normal => Tone::Good,
        Level::Limited | Level::Unknown => Tone::Plain,
        Level::Critical | Level::Unavailable => Tone::Unsure,
    };
    Cell::new(level.as_str(), tone)
}

/// `2, last until 2027-01-15T08:00:00Z`: tried after all others until then.
fn failures(it: &Candidate) -> Cell {
    match it.held_until {
        Some(until) => Cell::new(format!("{}, held back until {}", it.recent_failures, time(until)), Tone::Unsure),
        None if it.recent_failures == 0 => Cell::plain("-"),
        None => Cell::plain(it.recent_failures.to_string()),
    }
}

/// What is left out: `What | Why`.
pub fn left_out(items: &[LeftOut]) -> Listing {
    let row = |it: &LeftOut| {
        let (what, why) = it.text.split_once(": ").unwrap_or((it.text.as_str(), ""));
        vec![Cell::plain(what), Cell::plain(why)]
    };
    Listing::new(&["Left out", "Why"], items.iter().map(row))
}

/// A time line: `Time | Source | Attempt | Event | Text`.
pub fn events(items: &[EventView], format: Format) -> Listing {
    let row = |it: &EventView| {
        let attempt = it.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
        let cells = vec![
            Cell::plain(time(it.at)),
            Cell::plain(match it.source {
                Source::Muster => "muster",
                Source::Vendor => "vendor",
            }),
            Cell::plain(if attempt.is_empty() && format == Format::Table { "-".to_owned() } else { attempt }),
            Cell::plain(&it.kind),
            Cell::plain(&it.text),
        ];
        bare(cells, format)
    };
    Listing::new(&["Time", "Source", "Attempt", "Event", "Text"], items.iter().map(row))
}

/// An entry of a time line as it comes: `2027-01-15T08:00:00Z vendor 1 provisioning.104: …`.
pub fn event_line(it: &EventView) -> String {
    let source = if it.source == Source::Vendor { "vendor" } else { "muster" };
    let attempt = it.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string());
    printable(&format!("{}  {source}  {attempt:>2}  {}: {}", time(it.at), it.kind, it.text))
}

/// Addresses: `Address | Family | Public | Management`.
pub fn addresses(items: &[Address], format: Format) -> Listing {
    if format == Format::Plain {
        return Listing::new(&["address"], items.iter().map(|it| vec![Cell::plain(&it.address)]));
    }
    let yes = |is: bool| Cell::plain(if is { "yes" } else { "no" });
    let row = |it: &Address| {
        vec![Cell::plain(&it.address), Cell::plain(format!("IPv{}", it.family)), yes(it.public), yes(it.management)]
    };
    Listing::new(&["Address", "Family", "Public", "Management"], items.iter().map(row))
}

/// One device for people.
pub fn detail(it: &DeviceView, now: Timestamp) -> Vec<String> {
    let mut lines = vec![("Device", it.id.to_string()), ("State", standing(it)), ("Hostname", it.hostname.clone())];
    if let Some(what) = &it.combination {
        let metro = what.metro.as_ref().map(|metro| format!(" ({metro})")).unwrap_or_default();
        let words = combination(&what.os, &what.plan, &what.facility);
        lines.push(("Combination", format!("{words}{metro}, {}", price(what.price))));
    }
    if let Some(device) = &it.device {
        lines.push(("At the vendor", format!("{}, {}", device.id, device.state)));
        for address in &device.addresses {
            lines.push((
                "Address",
                format!("{} ({})", address.address, if address.public { "public" } else { "private" }),
            ));
        }
    }
    if let Some(why) = &it.reason {
        lines.push(("Reason", reason(why)));
    }
    if let Some(trouble) = &it.trouble {
        lines.push(("Trouble", trouble.clone()));
    }
    lines.push(("Asked for", format!("{}{}", time(it.created_at), kind(it))));
    if let Some(at) = it.active_at {
        lines.push(("Up", format!("{}, after {}", time(at), lasting(at.duration_since(it.created_at)))));
    }
    if let Some(at) = it.delete_asked_at {
        lines.push(("Deletion", format!("asked for {}", time(at))));
    }
    if let Some(at) = it.ended_at {
        lines.push(("Ended", time(at)));
    }
    if it.attempts.iter().any(|attempt| attempt.machine_id.is_some()) {
        let so_far = if is_over(it) { "" } else { " so far" };
        lines.push(("Cost", format!("{}{so_far}", cost(it.cost_usd))));
    }
    if !is_over(it) {
        lines.extend(deadlines(it, now));
    }
    let mut lines = named(&lines);
    if !it.attempts.is_empty() {
        lines.push(String::new());
        lines.extend(it.attempts.iter().map(|it| attempt(it, now)));
    }
    lines
}

/// `Provisioning, 40 %, step 4 of 10`.
fn standing(it: &DeviceView) -> String {
    let word = it.state.as_str();
    match it.state {
        State::Provisioning => format!("{word}, {} %", it.percent),
        State::Deleting if it.overdue => format!("{word}, and it takes longer than it may"),
        _ => word.to_owned(),
    }
}

fn kind(it: &DeviceView) -> &'static str {
    match (it.request.ephemeral, it.has_userdata) {
        (true, true) => ", ephemeral, with userdata",
        (true, false) => ", ephemeral",
        (false, true) => ", with userdata",
        (false, false) => "",
    }
}

fn deadlines(it: &DeviceView, now: Timestamp) -> Vec<(&'static str, String)> {
    let at = |name, at: Option<Timestamp>| {
        let at = at?;
        let left = at.duration_since(now);
        let left = if left > SignedDuration::ZERO { format!("in {}", lasting(left)) } else { "now".to_owned() };
        Some((name, format!("{}, {left}", time(at))))
    };
    let until = &it.deadlines;
    let launching = !matches!(it.state, State::Active | State::Deleting);
    [
        at("Up by", until.provisioned_by),
        at("Progress by", until.progress_by),
        at("Gives up", launching.then_some(until.give_up_at)),
        at("Torn down", until.terminates_at),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `Attempt 1: debian_12 on c3.small.x86 in ewr1, 0.5 $/h: failed after 12 s (Stalled: nothing new …)`.
pub fn attempt(it: &AttemptView, now: Timestamp) -> String {
    let took = lasting(it.ended_at.unwrap_or(now).duration_since(it.started_at));
    let how = match it.outcome {
        AttemptOutcome::InProgress => format!("under way for {took}"),
        AttemptOutcome::CameUp => format!("came up after {took}"),
        AttemptOutcome::Failed => format!("failed after {took}"),
        AttemptOutcome::Cancelled => format!("cancelled after {took}"),
    };
    // That it came up is said already.
    let why = it.reason.as_ref().filter(|_| it.outcome != AttemptOutcome::CameUp);
    let why = why.map(|why| format!(" ({})", reason(why))).unwrap_or_default();
    printable(&format!("Attempt {}: {}, {}: {how}{why}", it.number, of_attempt(it), price(it.price)))
}

/// How long something lasted, in the two largest units.
pub fn lasting(time: SignedDuration) -> String {
    crate::deployments::table::lasting(time.as_secs().max(0))
}

/// How many of which kind are left out: `31 left out (12 not_available, 9 not_asked_for, …)`.
pub fn counted(items: &[LeftOut], total: usize) -> String {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for it in items {
        let kind = serde_json::to_value(it.reason).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default().replace('_', " ");
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, number)) => *number += 1,
            None => kinds.push((kind, 1)),
        }
    }
    kinds.sort_by_key(|(kind, number)| (std::cmp::Reverse(*number), kind.clone()));
    let kinds: Vec<_> = kinds.into_iter().map(|(kind, number)| format!("{number} {kind}")).collect();
    let among = if total > items.len() { "among them " } else { "" };
    format!("{} left out ({among}{}); --left-out shows them.", count(total as u64, "thing"), kinds.join(", "))
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        device::view::{present, step},
        output::table,
    };

    pub const NOW: &str = "2027-01-15T08:01:00Z";

    /// A device of which one attempt has failed and another is under way.
    pub fn launching() -> Value {
        let event = |kind: &str, source: &str| json!({"at": NOW, "source": source, "kind": kind, "text": "words"});
        json!({
            "id": "0198c6d2-6f7e-7a7e-8000-000000000000", "state": "Provisioning", "hostname": "a1",
            "created_at": "2027-01-15T08:00:00Z", "updated_at": NOW,
            "request": {"os": {}, "plan": {}, "facility": {}, "ephemeral": false, "max_attempts": 10,
                        "provision_timeout_seconds": 1800, "stall_timeout_seconds": 600},
            "has_userdata": true, "percent": 40, "cost_usd": 0.0025,
            "combination": {"os": "debian_12", "plan": "c3.small.x86", "facility": "ewr1", "metro": "ny",
                            "price": 0.5, "level": "normal", "recent_failures": 0},
            "device": {"id": "d-1", "state": "provisioning", "addresses": [
                {"address": "192.0.2.7", "family": 4, "public": true, "management": true, "cidr": 31},
                {"address": "10.1.2.3", "family": 4, "public": false, "management": true}]},
            "deadlines": {"give_up_at": "2027-01-15T13:00:00Z", "provisioned_by": "2027-01-15T08:30:40Z",
                          "progress_by": "2027-01-15T08:10:50Z"},
            "attempts": [
                {"number": 1, "os": "debian_12", "plan": "c3.small.x86", "facility": "am6", "price": 0.5,
                 "started_at": "2027-01-15T08:00:01Z", "ended_at": "2027-01-15T08:00:02Z", "outcome": "failed",
                 "reason": {"code": "OutOfCapacity", "detail": "none\u{7} left"}, "percent": 0, "events": [],
                 "events_total": 0, "machine_seconds": 0, "cost_usd": 0.0, "billed_hours": 0,
                 "record": "/api/v1/devices/0198c6d2-6f7e-7a7e-8000-000000000000/attempts/1"},
                {"number": 2, "os": "debian_12", "plan": "c3.small.x86", "facility": "ewr1", "price": 0.5,
                 "started_at": "2027-01-15T08:00:40Z", "outcome": "in_progress", "percent": 40, "events_total": 5,
                 "machine_id": "d-1", "machine_seconds": 18, "cost_usd": 0.0025, "billed_hours": 1,
                 "record": "/api/v1/devices/0198c6d2-6f7e-7a7e-8000-000000000000/attempts/2",
                 "events": [event("Creating", "muster"), event("provisioning.104", "vendor"),
                            event("provisioning.103", "vendor"), event("provisioning.109", "muster"),
                            event("provisioning.999", "vendor")]}],
        })
    }

    pub fn view(value: Value) -> DeviceView {
        serde_json::from_value(value).unwrap()
    }

    fn shown(listing: &Listing) -> String {
        table(&listing.header, &listing.rows, false)
    }

    #[test]
    fn a_device_that_is_launched_is_told_with_its_deadlines_and_attempts() {
        let now = NOW.parse().unwrap();
        insta::assert_snapshot!(detail(&view(launching()), now).join("\n"), @r"
        Device         0198c6d2-6f7e-7a7e-8000-000000000000
        State          Provisioning, 40 %
        Hostname       a1
        Combination    debian_12 on c3.small.x86 in ewr1 (ny), 0.5 $/h
        At the vendor  d-1, provisioning
        Address        192.0.2.7 (public)
        Address        10.1.2.3 (private)
        Asked for      2027-01-15T08:00:00Z, with userdata
        Cost           0.0025 $ so far
        Up by          2027-01-15T08:30:40Z, in 29m 40s
        Progress by    2027-01-15T08:10:50Z, in 9m 50s
        Gives up       2027-01-15T13:00:00Z, in 4h 59m

        Attempt 1: debian_12 on c3.small.x86 in am6, 0.5 $/h: failed after 1s (OutOfCapacity: none� left)
        Attempt 2: debian_12 on c3.small.x86 in ewr1, 0.5 $/h: under way for 20s
        ");
    }

    #[test]
    fn a_device_that_is_gone_is_told_with_its_reason_and_no_deadlines() {
        let mut gone = launching();
        gone["state"] = "Deleted".into();
        gone["reason"] = json!({"code": "Deleted", "detail": "somebody asked for it"});
        gone["active_at"] = "2027-01-15T08:00:50Z".into();
        gone["delete_asked_at"] = "2027-01-15T08:00:55Z".into();
        gone["ended_at"] = NOW.into();
        gone["request"]["ephemeral"] = true.into();
        gone["device"] = Value::Null;
        gone["attempts"] = json!([]);
        insta::assert_snapshot!(detail(&view(gone), NOW.parse().unwrap()).join("\n"), @r"
        Device       0198c6d2-6f7e-7a7e-8000-000000000000
        State        Deleted
        Hostname     a1
        Combination  debian_12 on c3.small.x86 in ewr1 (ny), 0.5 $/h
        Reason       Deleted: somebody asked for it
        Asked for    2027-01-15T08:00:00Z, ephemeral, with userdata
        Up           2027-01-15T08:00:50Z, after 50s
        Deletion     asked for 2027-01-15T08:00:55Z
        Ended        2027-01-15T08:01:00Z
        ");
    }

    #[test]
    fn the_step_is_the_furthest_that_the_vendor_tells_of() {
        let it = view(launching());
        assert_eq!(it.attempts.iter().map(step).collect::<Vec<_>>(), [0, 4]);
        assert_eq!(present(&it).unwrap().number, 2);
    }

    #[test]
    fn what_would_be_tried_is_a_table_in_order() {
        let one = json!({"os": "debian_12", "plan": "c3.small.x86", "facility": "ewr1", "metro": "ny", "price": 0.5,
                         "level": "normal", "recent_failures": 0});
        let mut other = one.clone();
        (other["metro"], other["level"], other["recent_failures"]) = (Value::Null, "limited".into(), 2.into());
        other["held_until"] = NOW.into();
        let items: Vec<Candidate> = serde_json::from_value(json!([one, other])).unwrap();
        insta::assert_snapshot!(shown(&candidates(&items, Format::Table)), @r"
        #  OS         Plan          Facility  Metro  Price    Capacity  Failures
        1  debian_12  c3.small.x86  ewr1      ny     0.5 $/h  normal    -
        2  debian_12  c3.small.x86  ewr1      -      0.5 $/h  limited   2, held back until 2027-01-15T08:01:00Z
        ");
        insta::assert_snapshot!(
            candidates(&items, Format::Plain).rows.iter()
                .map(|row| row.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>().join("|"))
                .collect::<Vec<_>>().join("\n"),
            @r"
            1|debian_12|c3.small.x86|ewr1|ny|0.5|normal|0|-
            2|debian_12|c3.small.x86|ewr1|-|0.5|limited|2|2027-01-15T08:01:00Z
            "
        );
    }

    #[test]
    fn what_is_left_out_is_counted_by_kind_the_most_first() {
        let it = |reason: &str, text: &str| json!({"reason": reason, "text": text});
        let items: Vec<LeftOut> = serde_json::from_value(json!([
            it("not_a_server", "bandwidth: not a server"),
            it("too_expensive", "x: costs 2"),
            it("too_expensive", "y: costs 3"),
        ]))
        .unwrap();
        assert_eq!(counted(&items, 3), "3 things left out (2 too expensive, 1 not a server); --left-out shows them.");
        insta::assert_snapshot!(shown(&left_out(&items)), @r"
        Left out   Why
        bandwidth  not a server
        x          costs 2
        y          costs 3
        ");
    }

    #[test]
    fn devices_events_and_addresses_are_rows() {
        let it = json!({"id": "0198c6d2-6f7e-7a7e-8000-000000000000", "state": "Requested", "hostname": "a1",
            "percent": 0, "attempts": 0, "created_at": NOW, "updated_at": NOW});
        let mut up = it.clone();
        (up["state"], up["os"], up["plan"]) = ("Active".into(), "debian_12".into(), "c3.small.x86".into());
        (up["facility"], up["price"], up["address"]) = ("ewr1".into(), 0.5.into(), "192.0.2.7".into());
        let items: Vec<DeviceSummary> = serde_json::from_value(json!([up, it])).unwrap();
        insta::assert_snapshot!(shown(&devices(&items, Format::Table)), @r"
        ID                                    State      Hostname  Combination                        Price    Address    Created
        0198c6d2-6f7e-7a7e-8000-000000000000  Active     a1        debian_12 on c3.small.x86 in ewr1  0.5 $/h  192.0.2.7  2027-01-15T08:01:00Z
        0198c6d2-6f7e-7a7e-8000-000000000000  Requested  a1        -                                  -        -          2027-01-15T08:01:00Z
        ");
        let csv = devices(&items, Format::Csv);
        assert!(csv.rows.iter().all(|row| row.len() == csv.header.len()));
        let view = view(launching());
        insta::assert_snapshot!(shown(&events(&view.attempts[1].events[..2], Format::Table)), @r"
        Time                  Source  Attempt  Event             Text
        2027-01-15T08:01:00Z  muster  -        Creating          words
        2027-01-15T08:01:00Z  vendor  -        provisioning.104  words
        ");
        insta::assert_snapshot!(shown(&addresses(&view.device.unwrap().addresses, Format::Table)), @r"
        Address    Family  Public  Management
        192.0.2.7  IPv4    yes     yes
        10.1.2.3   IPv4    no      yes
        ");
    }
}
