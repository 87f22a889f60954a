//! What goes wrong, for which devices or requests, how often and from when to when.

use std::{fs, str::FromStr, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{device::FIRST_STEP, device::LAST_STEP, report::Request};
use crate::faults::{Draw, parse_duration, parse_rate};

/// What a text of a rule looks like.
const EXAMPLE: &str = "stuck_at@ewr1/c3.small.x86=0.1,step=104";

/// One way for things to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// A create finds no server: 422 or 503 with the vendor's text.
    OutOfCapacity,
    /// A create is refused: 422 with a text that is none of the others'.
    CreateRefused,
    /// A create is refused for the project's limit: 422.
    Quota,
    /// A device is made, but the connection closed or reset without an answer.
    CreateDropped,
    /// A device is made, but the answer is a 500, 502 or 504 of a gateway.
    CreateErrorAfter,
    /// Two devices are made of one request; the first or the second is answered.
    CreateTwice,
    /// Provisioning reaches the step and goes no further.
    StuckAt,
    /// Provisioning fails where the step would be done: state `failed`, and it still costs.
    FailedAt,
    /// The same, and a little later the vendor takes the machine back: all about it is 403 or 404.
    Reclaimed,
    /// For a while from a third of its provisioning on, the device's state is none that is known.
    UnknownState,
    /// GET of the device, of its events and of its health is 403, though it lives and costs.
    GetForbidden,
    /// The device's health is `warning` instead of `ok`.
    HealthWarning,
    /// The device's health is `critical` instead of `ok`.
    HealthCritical,
    /// A deletion is refused: 422 as if locked, or 500.
    DeleteRefused,
    /// A deletion is answered 204, and takes `lasts` (10 minutes unless given).
    DeleteSlow,
    /// A deletion is answered 204, and nothing happens.
    DeleteIgnored,
    /// A deletion is answered 204, begins, and ends with the state `failed`.
    DeleteFailed,
    /// 429 with Retry-After.
    RateLimited,
    /// 500 or 503, in JSON or not, and nothing is done.
    ServerError,
    /// 200 or 502 with a page of HTML, and nothing is done.
    Html,
    /// The token is good no more: 401 or 403 for everything.
    TokenRevoked,
    /// The connection is closed or reset without an answer: before what was asked for is done, or after.
    Dropped,
    /// No answer until the client gives up: before what was asked for is done, or after.
    Hang,
}

/// What a fault is about, and so which settings of a rule make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Decided where a device is created; attempts are creates.
    Create,
    /// Decided for each request about a device; attempts are the same request about the same device.
    Device,
    /// Decided for each request of any kind.
    Any,
}

impl Fault {
    /// As in rules: `create_dropped`.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn about(self) -> About {
        match self {
            Self::OutOfCapacity
            | Self::CreateRefused
            | Self::Quota
            | Self::CreateDropped
            | Self::CreateErrorAfter
            | Self::CreateTwice
            | Self::StuckAt
            | Self::FailedAt
            | Self::Reclaimed
            | Self::UnknownState => About::Create,
            Self::GetForbidden
            | Self::HealthWarning
            | Self::HealthCritical
            | Self::DeleteRefused
            | Self::DeleteSlow
            | Self::DeleteIgnored
            | Self::DeleteFailed => About::Device,
            Self::RateLimited | Self::ServerError | Self::Html | Self::TokenRevoked | Self::Dropped | Self::Hang => {
                About::Any
            }
        }
    }

    /// The statuses it may have; the seed picks one where the rule does not.
    pub(super) fn statuses(self) -> &'static [u16] {
        match self {
            Self::OutOfCapacity => &[422, 503],
            Self::CreateErrorAfter => &[500, 502, 504],
            Self::Reclaimed => &[403, 404],
            Self::DeleteRefused => &[422, 500],
            Self::ServerError => &[500, 503],
            Self::Html => &[200, 502],
            Self::TokenRevoked => &[401, 403],
            _ => &[],
        }
    }

    fn has_step(self) -> bool {
        matches!(self, Self::StuckAt | Self::FailedAt | Self::Reclaimed)
    }

    fn has_length(self) -> bool {
        matches!(self, Self::DeleteSlow | Self::UnknownState)
    }
}

/// One fault, and where, when and how often it strikes. By default everywhere, always, and every
/// time. Of several rules with the same fault the first that strikes counts.
///
/// As text: `KIND[@FACILITY[/PLAN]][=SHARE][,NAME=VALUE…]`, such as
/// `stuck_at@ewr1/c3.small.x86=0.1,step=104,from=10s,until=1m`; `*` is any facility or plan. The
/// names are those of the fields below. As JSON: `{"fault":"stuck_at","facility":"ewr1","share":0.1}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// Only for devices, and creates, in this facility (code).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<String>,
    /// Only for devices, and creates, of this plan (slug).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Of the faults that may strike any request: only this kind of request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Request>,
    /// Only the n-th create in the rule's facility and plan (from 1), or the device it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u32>,
    /// How many of those it strikes: a share of 0 to 1, decided by the seed.
    #[serde(default = "every", deserialize_with = "crate::faults::rate")]
    pub share: f64,
    /// Only the first so many attempts: creates in the rule's facility and plan; for the faults of
    /// requests about a device, the same request about the same device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// From this time of the simulator's on, counted from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub from: Option<Duration>,
    /// Up to, and without, this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub until: Option<Duration>,
    /// 101 to 110, for the faults of provisioning; otherwise the seed picks one for each device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u8>,
    /// The status of the answer, where there is a choice; otherwise the seed picks one each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long a slow deletion or an unknown state lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
    pub lasts: Option<Duration>,
}

fn every() -> f64 {
    1.0
}

/// The numbers of one create, from 1: among all, those of its facility, of its plan, and of both.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ordinals {
    pub all: u32,
    pub facility: u32,
    pub plan: u32,
    pub pair: u32,
}

/// What is asked, as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    pub now: Duration,
    pub request: Request,
    /// Facility and plan of the device, or of the create.
    pub place: Option<(&'a str, &'a str, Ordinals)>,
    /// Which attempt it is: the same request about the same thing.
    pub attempt: u32,
    pub draw: Draw,
}

impl Rule {
    /// Everywhere, always, every time.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            facility: None,
            plan: None,
            on: None,
            nth: None,
            share: every(),
            times: None,
            from: None,
            until: None,
            step: None,
            status: None,
            lasts: None,
        }
    }

    /// Whether it strikes.
    pub(super) fn strikes(&self, moment: &Moment<'_>) -> bool {
        let within = |bound: &Option<String>, value: Option<&str>| bound.is_none() || bound.as_deref() == value;
        let ordinal = moment.place.map(|(_, _, ordinals)| self.ordinal(ordinals));
        let attempt = match self.fault.about() {
            About::Create => ordinal.unwrap_or(moment.attempt),
            About::Device | About::Any => moment.attempt,
        };
        self.from.is_none_or(|from| moment.now >= from)
            && self.until.is_none_or(|until| moment.now < until)
            && self.on.is_none_or(|on| on == moment.request)
            && within(&self.facility, moment.place.map(|(facility, ..)| facility))
            && within(&self.plan, moment.place.map(|(_, plan, _)| plan))
            && (self.nth.is_none() || self.nth == ordinal)
            && self.times.is_none_or(|times| attempt <= times)
            && moment.draw.happens(&self.fault.name(), self.share)
    }

    fn ordinal(&self, ordinals: Ordinals) -> u32 {
        match (&self.facility, &self.plan) {
            (None, None) => ordinals.all,
            (Some(_), None) => ordinals.facility,
            (None, Some(_)) => ordinals.plan,
            (Some(_), Some(_)) => ordinals.pair,
        }
    }

    /// The status of its answer.
    pub(super) fn status(&self, draw: &Draw) -> u16 {
        let statuses = self.fault.statuses();
        let drawn = || {
            let length = u32::try_from(statuses.len()).unwrap_or_default();
            statuses.get(draw.below(&format!("{} status", self.fault.name()), length) as usize).copied()
        };
        self.status.or_else(drawn).unwrap_or(500)
    }

    /// The step that it is about.
    pub(super) fn step(&self, draw: &Draw) -> u8 {
        let steps = u32::from(LAST_STEP - FIRST_STEP) + 1;
        let drawn = || FIRST_STEP + u8::try_from(draw.below("fault step", steps)).unwrap_or_default();
        self.step.unwrap_or_else(drawn)
    }

    /// Why it makes no sense.
    pub(super) fn check(&self) -> Result<(), String> {
        let name = self.fault.name();
        if self.step.is_some_and(|step| !(FIRST_STEP..=LAST_STEP).contains(&step)) {
            return Err(format!("`{name}`: a step is one of {FIRST_STEP} to {LAST_STEP}"));
        }
        if self.step.is_some() && !self.fault.has_step() {
            return Err(format!("`{name}` has no `step`; stuck_at, failed_at and reclaimed have"));
        }
        if self.lasts.is_some() && !self.fault.has_length() {
            return Err(format!("`{name}` has no `lasts`; delete_slow and unknown_state have"));
        }
        if self.status.is_some_and(|status| !self.fault.statuses().contains(&status)) {
            return Err(format!("`{name}`: `status` can be one of {:?}", self.fault.statuses()));
        }
        if self.on.is_some() && self.fault.about() != About::Any {
            return Err(format!("`{name}` strikes one kind of request alone; leave `on` out"));
        }
        let bound = self.facility.is_some() || self.plan.is_some() || self.nth.is_some();
        if bound && self.fault == Fault::TokenRevoked {
            return Err(format!("`{name}` is about all requests; it has no facility, plan or nth"));
        }
        if self.nth == Some(0) {
            return Err(format!("`{name}`: `nth` counts from 1"));
        }
        Ok(())
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("`{option}` is not such as `step=104`"))?;
        let number = |value: &str| value.parse::<u32>().map_err(|_| format!("`{name}` is a number, not `{value}`"));
        match name {
            "facility" => self.facility = Some(value.to_owned()),
            "plan" => self.plan = Some(value.to_owned()),
            "on" => self.on = Some(Request::from_str(value, false).map_err(|_| format!("no request is `{value}`"))?),
            "nth" => self.nth = Some(number(value)?),
            "share" => self.share = parse_rate(value)?,
            "times" => self.times = Some(number(value)?),
            "from" => self.from = Some(parse_duration(value)?),
            "until" => self.until = Some(parse_duration(value)?),
            "step" => self.step = Some(u8::try_from(number(value)?).unwrap_or(u8::MAX)),
            "status" => self.status = Some(u16::try_from(number(value)?).unwrap_or(u16::MAX)),
            "lasts" => self.lasts = Some(parse_duration(value)?),
            _ => return Err(format!("a fault has no `{name}`")),
        }
        Ok(())
    }
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self::new(fault)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let head = parts.next().unwrap_or_default();
        let (head, share) = head.split_once('=').map_or((head, None), |(head, share)| (head, Some(share)));
        let (kind, place) = head.split_once('@').map_or((head, None), |(kind, place)| (kind, Some(place)));
        let fault = Fault::from_str(&kind.replace('-', "_"), true)
            .map_err(|_| format!("there is no fault `{kind}`; one is written such as {EXAMPLE}"))?;
        let mut rule = Self::new(fault);
        if let Some(share) = share {
            rule.share = parse_rate(share)?;
        }
        if let Some(place) = place {
            let (facility, plan) = place.split_once('/').map_or((place, "*"), |(facility, plan)| (facility, plan));
            let named = |name: &str| (name != "*" && !name.is_empty()).then(|| name.to_owned());
            (rule.facility, rule.plan) = (named(facility), named(plan));
        }
        parts.try_for_each(|option| rule.option(option))?;
        rule.check()?;
        Ok(rule)
    }
}

/// The rules of a file, a JSON array.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script(pub Vec<Rule>);

/// Reads the file of `--script`.
///
/// # Errors
/// In words: the file cannot be read, is no JSON, or is no list of rules.
pub(super) fn read(path: &str) -> Result<Script, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the script: {error}"))?;
    serde_json::from_str(&text).map_err(|error| {
        format!(
            r#"the script is no list of rules: {error}; it is such as [{{"fault": "stuck_at", "facility": "ewr1", "from": "10s"}}]"#
        )
    })
}
