//! What the API shows of a device, and how that follows from what is stored.
//!
//! A root password is never stored and userdata only sealed, so neither can be in here.

use jiff::{SignedDuration, Timestamp};
use kit::http::ANSWER_LIMIT;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    catalog::{Dollars, Price},
    cost::Cost,
    device::{Address, Attempt, Code, Device, Event, Machine, Reason, Source, Stage, State, Then},
    record::{Health, StateSeen, VendorAnswer},
    request::Request,
    select::Candidate,
    store::Whole,
};

/// Where devices are.
pub(crate) const COLLECTION: &str = "/api/v1/devices";

/// How large an answer may be as the load balancer counts it, in bytes; the rest is for what is around
/// it.
pub(crate) const ROOM: u64 = ANSWER_LIMIT - 20_000;
/// Entries of its time line that are shown with an attempt; where even they would be too many for one
/// answer, fewer.
const EVENTS_SHOWN: [usize; 6] = [20, 10, 5, 2, 1, 0];

/// A device: what was asked for, where it is in its life, and what has been tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// The device's id.
    pub id: Uuid,
    /// Where it is in its life.
    pub state: State,
    /// Its name.
    pub hostname: String,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When it was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub active_at: Option<Timestamp>,
    /// When it was `Deleted` or `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// When its deletion was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delete_asked_at: Option<Timestamp>,
    /// Why it is `Deleted` or `Failed`, or why it is not further yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What the vendor does not do at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What was asked for, without the userdata.
    pub request: Request,
    /// Whether it was given userdata, which is never shown.
    pub has_userdata: bool,
    /// The combination of the present attempt, or of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<Candidate>,
    /// How far its installation is, 0 to 100, by the vendor's word.
    #[schema(maximum = 100)]
    pub percent: u8,
    /// The vendor's machine as last seen, also after it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Machine>,
    /// While `Deleting`: what comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_deletion: Option<Then>,
    /// While `Deleting`: that it takes longer than it may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
    /// What happens when.
    pub deadlines: Deadlines,
    /// US dollars that the machines of all attempts have cost so far: computed, not invoiced. Those that
    /// a create which was carried out twice made besides are not in it.
    #[schema(value_type = f64)]
    pub cost_usd: Dollars,
    /// Those that have ended, in order, then the present one.
    pub attempts: Vec<AttemptView>,
}

/// What happens when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceDeadlines)]
pub struct Deadlines {
    /// No attempt begins after this.
    #[schema(value_type = String, format = DateTime)]
    pub give_up_at: Timestamp,
    /// While an attempt is under way: by then it is up, or taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub provisioned_by: Option<Timestamp>,
    /// While an attempt is under way: by then there is something new, or it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub progress_by: Option<Timestamp>,
    /// When it is taken down, as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub terminates_at: Option<Timestamp>,
}

/// One combination, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceAttempt)]
pub struct AttemptView {
    /// The first is 1.
    pub number: u32,
    /// The operating system, by its slug.
    pub os: String,
    /// The plan, by its slug.
    pub plan: String,
    /// The facility, by its code.
    pub facility: String,
    /// US dollars an hour.
    #[schema(value_type = f64)]
    pub price: Price,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it came up, or when the vendor had confirmed that nothing was left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it ended so, or why it is being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How far its installation came, 0 to 100.
    #[schema(maximum = 100)]
    pub percent: u8,
    /// The vendor's id of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// For how many seconds the machine was there, from its creation until the vendor confirmed that it
    /// was gone, or until now.
    pub machine_seconds: u64,
    /// US dollars: the price for these seconds. Computed, not invoiced.
    #[schema(value_type = f64)]
    pub cost_usd: Dollars,
    /// Hours that have begun: what vendors bill.
    pub billed_hours: u64,
    /// The path of its whole record.
    pub record: String,
    /// The last entries of its time line, at most 20, newest last. All of them are at
    /// `/api/v1/devices/{id}/events`.
    pub events: Vec<EventView>,
    /// How many entries its time line has.
    pub events_total: usize,
}

/// All that is kept of one attempt: the diagnostic record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceAttemptRecord)]
pub struct AttemptRecord {
    /// The device that it is an attempt of.
    pub device_id: Uuid,
    /// The first is 1.
    pub number: u32,
    /// What was tried.
    pub combination: Candidate,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When its machine was first said to be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub up_at: Option<Timestamp>,
    /// When it came up, or when the vendor had confirmed that nothing was left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it ended so, or why it is being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How far its installation came, 0 to 100.
    #[schema(maximum = 100)]
    pub percent: u8,
    /// Its machine as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// The vendor's words for the machine's state, each with when it was first seen.
    pub states: Vec<StateSeen>,
    /// How the vendor found the machine to be before it was taken back, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The vendor's last answers that mattered, newest last.
    pub last_answers: Vec<VendorAnswer>,
    /// For how many seconds the machine was there, from its creation until the vendor confirmed that it
    /// was gone, or until now.
    pub machine_seconds: u64,
    /// US dollars: the price for these seconds. Computed, not invoiced.
    #[schema(value_type = f64)]
    pub cost_usd: Dollars,
    /// Hours that have begun: what vendors bill.
    pub billed_hours: u64,
    /// Its time line, newest last.
    pub events: Vec<EventView>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeviceAttemptOutcome)]
pub enum AttemptOutcome {
    /// It has not.
    InProgress,
    /// Its machine was up.
    CameUp,
    /// It was not.
    Failed,
    /// Somebody asked for its deletion before.
    Cancelled,
}

/// An entry of a time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceEvent)]
pub struct EventView {
    /// When, by the clock of whoever says so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who says so.
    pub source: Source,
    /// Ours: the state, or what was done. The vendor's: its type, such as `provisioning.104`.
    pub kind: String,
    /// In words.
    pub text: String,
    /// The attempt that it belongs to; none where it is about the device as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// A device in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceSummary {
    /// The device's id.
    pub id: Uuid,
    /// Where it is in its life.
    pub state: State,
    /// Its name.
    pub hostname: String,
    /// The operating system of the present or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Its facility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<String>,
    /// US dollars an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub price: Option<Price>,
    /// How far its installation is, 0 to 100.
    #[schema(maximum = 100)]
    pub percent: u8,
    /// How many attempts have been begun.
    pub attempts: u32,
    /// An address of its machine, a public IPv4 one where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Why it is `Deleted` or `Failed`, or why it is not further yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A device with its attempts, as they are `now`; of their events as many as fit into one answer.
pub(crate) fn view(whole: &Whole, now: Timestamp) -> DeviceView {
    let mut view = with_events(whole, EVENTS_SHOWN[0], now);
    for shown in &EVENTS_SHOWN[1..] {
        if size(&view) <= ROOM {
            break;
        }
        for attempt in &mut view.attempts {
            attempt.events.drain(..attempt.events.len().saturating_sub(*shown));
        }
    }
    view
}

fn with_events(whole: &Whole, shown: usize, now: Timestamp) -> DeviceView {
    let device = &whole.device;
    let state = device.state();
    let over = matches!(state, State::Deleted | State::Failed);
    let (after_deletion, overdue) = match &device.stage {
        Stage::Deleting { then, overdue, .. } => (Some(*then), *overdue),
        _ => (None, false),
    };
    DeviceView {
        id: device.id,
        state,
        hostname: device.hostname.clone(),
        created_at: device.created_at,
        updated_at: device.updated_at,
        active_at: device.active_at,
        // The record has it for `Active` too, as nothing is left to do there.
        ended_at: device.ended_at.filter(|_| over),
        delete_asked_at: device.delete_asked_at,
        reason: device.reason.clone(),
        trouble: current(device).and_then(|attempt| attempt.trouble.clone()).filter(|_| !over),
        request: device.request.clone(),
        has_userdata: device.has_userdata,
        combination: device.attempt.as_ref().map(|attempt| attempt.candidate.clone()),
        percent: percent(device),
        device: current(device).and_then(|attempt| attempt.machine.clone()),
        after_deletion,
        overdue,
        deadlines: deadlines(device),
        cost_usd: attempts(whole).map(|attempt| Cost::of(device, attempt, now).dollars).sum(),
        attempts: attempts(whole).map(|attempt| attempt_view(device, attempt, shown, now)).collect(),
    }
}

/// The attempt whose machine is the device's: none while the next one is being chosen.
fn current(device: &Device) -> Option<&Attempt> {
    device.attempt.as_ref().filter(|_| device.state() != State::Requested)
}

fn percent(device: &Device) -> u8 {
    match device.state() {
        // Not every vendor counts to the end.
        State::Active => 100,
        _ => current(device).map_or(0, |attempt| attempt.percent.min(100)),
    }
}

fn deadlines(device: &Device) -> Deadlines {
    let under_way = matches!(device.state(), State::Creating | State::Provisioning);
    let attempt = current(device).filter(|_| under_way);
    let after = |at: Timestamp, seconds: u32| {
        at.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX)
    };
    Deadlines {
        give_up_at: device.give_up_at,
        provisioned_by: attempt.map(|it| after(it.started_at, device.request.provision_timeout_seconds)),
        progress_by: attempt.map(|it| after(it.progress_at, device.request.stall_timeout_seconds)),
        terminates_at: device.terminates_at(),
    }
}

/// All attempts in order. The record's own is newer than what was kept of it when it ended.
fn attempts(whole: &Whole) -> impl Iterator<Item = &Attempt> {
    let present = whole.device.attempt.as_ref();
    let ended = whole.attempts.iter().filter(move |it| present.is_none_or(|present| it.number < present.number));
    ended.chain(present)
}

fn outcome(attempt: &Attempt) -> AttemptOutcome {
    match (attempt.ended_at, attempt.reason.as_ref().map(|reason| reason.code)) {
        (None, _) => AttemptOutcome::InProgress,
        (Some(_), Some(Code::CameUp)) => AttemptOutcome::CameUp,
        (Some(_), Some(Code::Deleted)) => AttemptOutcome::Cancelled,
        (Some(_), _) => AttemptOutcome::Failed,
    }
}

/// The whole record of an attempt, as it is `now`; none where there is no such attempt.
pub(crate) fn record(whole: &Whole, number: u32, now: Timestamp) -> Option<AttemptRecord> {
    let device = &whole.device;
    let attempt = attempts(whole).find(|attempt| attempt.number == number)?;
    let cost = Cost::of(device, attempt, now);
    let mut events: Vec<_> = attempt.events.iter().map(|it| event(it, None)).collect();
    events.sort_by_key(|event| event.at);
    Some(AttemptRecord {
        device_id: device.id,
        number,
        combination: attempt.candidate.clone(),
        started_at: attempt.started_at,
        up_at: attempt.up_at,
        ended_at: attempt.ended_at,
        outcome: outcome(attempt),
        reason: attempt.reason.clone(),
        percent: attempt.percent.min(100),
        machine: attempt.machine.clone(),
        states: attempt.states.clone(),
        health: attempt.health.clone(),
        last_answers: attempt.last_answers.clone(),
        machine_seconds: cost.seconds,
        cost_usd: cost.dollars,
        billed_hours: cost.billed_hours,
        events,
    })
}

fn attempt_view(device: &Device, attempt: &Attempt, shown: usize, now: Timestamp) -> AttemptView {
    let Candidate { os, plan, facility, price, .. } = &attempt.candidate;
    let events_total = attempt.events.len();
    let cost = Cost::of(device, attempt, now);
    AttemptView {
        number: attempt.number,
        os: os.clone(),
        plan: plan.clone(),
        facility: facility.clone(),
        price: *price,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        outcome: outcome(attempt),
        reason: attempt.reason.clone(),
        percent: attempt.percent.min(100),
        machine_id: attempt.machine.as_ref().map(|machine| machine.id.clone()),
        machine_seconds: cost.seconds,
        cost_usd: cost.dollars,
        billed_hours: cost.billed_hours,
        record: format!("{COLLECTION}/{}/attempts/{}", device.id, attempt.number),
        events: attempt.events.iter().skip(events_total.saturating_sub(shown)).map(|it| event(it, None)).collect(),
        events_total,
    }
}

fn event(event: &Event, attempt: Option<u32>) -> EventView {
    let Event { at, source, kind, text, .. } = event.clone();
    EventView { at, source, kind, text, attempt }
}

/// The place of an entry in a device's time line: its time; then, for what was noted at the same
/// moment, what came first; then its place among those.
pub(crate) type Place = (Timestamp, u32, usize);

/// All entries of a device and its attempts by time, newest last.
pub(crate) fn time_line(whole: &Whole) -> Vec<(Place, EventView)> {
    // A device's first entry is from before all attempts, its others from after those that have ended.
    let of_device = whole.device.events.iter().enumerate();
    let of_device =
        of_device.map(|(index, it)| ((it.at, if index == 0 { 0 } else { u32::MAX }, index), event(it, None)));
    let of_attempts = attempts(whole).flat_map(|attempt| {
        let number = attempt.number;
        let entries = attempt.events.iter().enumerate();
        entries.map(move |(index, it)| ((it.at, number, index), event(it, Some(number))))
    });
    let mut all: Vec<_> = of_device.chain(of_attempts).collect();
    all.sort_by_key(|(place, _)| *place);
    all
}

/// A place as a cursor has it.
pub(crate) fn place_text((at, group, index): &Place) -> String {
    format!("{at}#{group}#{index}")
}

/// The place in a cursor.
pub(crate) fn parse_place(text: &str) -> Option<Place> {
    let mut parts = text.split('#');
    let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(place)
}

/// A device in a list.
pub(crate) fn summary(device: &Device) -> DeviceSummary {
    let candidate = device.attempt.as_ref().map(|attempt| attempt.candidate.clone());
    let over = matches!(device.state(), State::Deleted | State::Failed);
    let machine = current(device).filter(|_| !over).and_then(|attempt| attempt.machine.as_ref());
    DeviceSummary {
        id: device.id,
        state: device.state(),
        hostname: device.hostname.clone(),
        os: candidate.as_ref().map(|it| it.os.clone()),
        plan: candidate.as_ref().map(|it| it.plan.clone()),
        facility: candidate.as_ref().map(|it| it.facility.clone()),
        price: candidate.as_ref().map(|it| it.price),
        percent: percent(device),
        attempts: device.attempts(),
        address: machine.and_then(|machine| address(&machine.addresses)),
        created_at: device.created_at,
        updated_at: device.updated_at,
        reason: device.reason.clone(),
    }
}

fn address(addresses: &[Address]) -> Option<String> {
    let best = addresses.iter().find(|it| it.public && it.family == 4).or_else(|| addresses.first());
    best.map(|it| it.address.clone())
}

/// The first of the items that fit into `room`, at least one of them.
pub(crate) fn fitting<T: Serialize>(items: impl Iterator<Item = T>, room: u64) -> Vec<T> {
    let mut taken = Vec::new();
    let mut used = 0;
    for item in items {
        used += size(&item) + 1;
        if used > room && !taken.is_empty() {
            break;
        }
        taken.push(item);
    }
    taken
}

/// The size of the JSON as the load balancer gets it: as a text in JSON, in which every quote and
/// backslash is two bytes.
pub(crate) fn size(value: &impl Serialize) -> u64 {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let escaped = json.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    (json.len() + escaped) as u64
}
