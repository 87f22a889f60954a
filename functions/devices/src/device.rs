//! The record of a device: what was asked for, where it is in its life, and what has been tried.
//!
//! No I/O, no clock. The record is all that a worker needs to go on after a crash: whatever the vendor
//! may have done on our behalf is announced in it beforehand.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    record::{Health, StateSeen, VendorAnswer},
    request::Request,
    select::{Candidate, NotAgain, Tried},
};

/// Most entries of a time line that are kept with an attempt; the oldest of ours give way.
pub const MOST_EVENTS: usize = 200;
/// The same of the device's own time line, which has what is no attempt's.
pub const MOST_DEVICE_EVENTS: usize = 50;
/// Most machines with our tag that are taken down at once; the next look finds the others.
pub const MOST_TWINS: usize = 20;
/// After this no attempt begins, however many are left.
pub const LONGEST_LAUNCH: SignedDuration = SignedDuration::from_hours(24);
/// Longest text of an entry or a reason, in characters.
pub const LONGEST_TEXT: usize = 300;
/// The same in bytes, so that a record cannot outgrow an item of DynamoDB (400 KB) whatever it says.
pub const LONGEST_TEXT_BYTES: usize = 400;
/// Longest kind or id of a vendor's event and longest word for a state, in bytes.
pub const LONGEST_NAME_BYTES: usize = 64;
/// Longest id of a machine, in bytes.
pub const LONGEST_ID_BYTES: usize = 128;

/// Where a device is in its life, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceState)]
pub enum State {
    /// It waits for the choice of a combination.
    Requested,
    /// A combination is chosen, and the vendor is, or may have been, asked for it.
    Creating,
    /// The vendor has it and installs it.
    Provisioning,
    /// It is up.
    Active,
    /// It is being taken down, until the vendor confirms that it is gone.
    Deleting,
    /// It is gone, as asked for.
    Deleted,
    /// There is none and there will be none; `reason` says why.
    Failed,
}

impl State {
    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "Requested",
            Self::Creating => "Creating",
            Self::Provisioning => "Provisioning",
            Self::Active => "Active",
            Self::Deleting => "Deleting",
            Self::Deleted => "Deleted",
            Self::Failed => "Failed",
        }
    }

    /// Whether there is nothing left to do: for ever, or until somebody asks.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Active | Self::Deleted | Self::Failed)
    }
}

/// The same with what the worker needs to know in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum Stage {
    /// A combination is to be chosen.
    Requested {
        /// Not before.
        not_before: Timestamp,
        /// How often the choice could not be made.
        tries: u32,
    },
    /// The present attempt's machine is to be created.
    Creating {
        /// Who may send the request, and until when it may be under way.
        claim: Claim,
        /// Whether a request may have been sent, so that the tag is looked up first.
        look_up: bool,
        /// Not before.
        not_before: Timestamp,
        /// How often it was asked for without success.
        tries: u32,
    },
    /// The present attempt's machine is being installed.
    Provisioning,
    /// It is up.
    Active,
    /// Whatever carries our tag is to go.
    Deleting {
        /// What comes after.
        then: Then,
        /// Since when.
        since: Timestamp,
        /// Not before: a request to create may still be under way.
        not_before: Timestamp,
        /// When the vendor was last asked to delete, if it has been.
        asked_at: Option<Timestamp>,
        /// Whether the diagnostic record is complete.
        diagnosed: bool,
        /// Whether it takes longer than it may.
        overdue: bool,
    },
    /// Gone, as asked for.
    Deleted,
    /// There will be none.
    Failed,
}

/// What follows when the vendor has confirmed that nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeviceAfterDeletion)]
pub enum Then {
    /// The next combination is tried.
    TryNext,
    /// It is `Failed`.
    Failed,
    /// It is `Deleted`.
    Deleted,
}

/// The right to send one request to create, written before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose.
    pub by: Uuid,
    /// Afterwards the request is answered or given up, whoever sent it.
    pub until: Timestamp,
}

/// Why an attempt, or the whole device, ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceReasonCode)]
pub enum Code {
    /// It came up.
    CameUp,
    /// There was none to be had of this plan in this facility.
    OutOfCapacity,
    /// The vendor does not give this combination.
    CombinationRefused,
    /// The vendor says that the installation failed.
    ProvisioningFailed,
    /// No new event and no progress for `stall_timeout_seconds`.
    Stalled,
    /// Not up within `provision_timeout_seconds`.
    TimedOut,
    /// The vendor took it back.
    Reclaimed,
    /// The vendor would neither create it nor refuse.
    VendorAway,
    /// Somebody asked for its deletion.
    Deleted,
    /// It came up, and was ephemeral.
    Ephemeral,
    /// The vendor's or the caller's termination time has come.
    Terminated,
    /// The vendor does not accept the token.
    Credentials,
    /// The vendor does not accept what was asked for, whatever the combination.
    BadRequest,
    /// The project may have no more.
    Quota,
    /// No combination is left.
    NothingLeft,
    /// `max_attempts` have been made.
    TooManyAttempts,
    /// There was no time left for another attempt.
    TooLate,
    /// A machine could not be confirmed gone in time, so no other was begun.
    TeardownUnconfirmed,
    /// What is stored cannot be used any more.
    Unusable,
}

/// Why, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceReason)]
pub struct Reason {
    /// The kind of reason.
    pub code: Code,
    /// In words.
    pub detail: String,
}

impl Reason {
    /// A reason, its text cut to a sane length.
    pub fn new(code: Code, detail: impl AsRef<str>) -> Self {
        Self { code, detail: cut(detail.as_ref()) }
    }
}

/// Who says so in a time line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeviceEventSource)]
pub enum Source {
    /// We.
    Muster,
    /// The vendor.
    Vendor,
}

/// An entry of a time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the clock of whoever says so.
    pub at: Timestamp,
    /// Who says so.
    pub source: Source,
    /// Ours: the state or what was done. The vendor's: its type, such as `provisioning.104`.
    pub kind: String,
    /// In words.
    pub text: String,
    /// The vendor's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An address of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceAddress)]
pub struct Address {
    /// Itself.
    pub address: String,
    /// 4 or 6.
    pub family: u8,
    /// Whether the world can reach it.
    pub public: bool,
    /// Whether the machine is managed over it.
    pub management: bool,
    /// The length of its network's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<u8>,
}

/// The vendor's machine, as last seen. Never a root password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = VendorDevice)]
pub struct Machine {
    /// The vendor's id.
    pub id: String,
    /// The vendor's word for its state.
    pub state: String,
    /// Its name at the vendor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// When the vendor created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
    /// When the vendor will take it down by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub termination_time: Option<Timestamp>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<Address>,
}

/// One combination, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The first is 1.
    pub number: u32,
    /// What is tried.
    pub candidate: Candidate,
    /// When its intent was written.
    pub started_at: Timestamp,
    /// When it ended: it came up, or the vendor has confirmed that nothing is left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended, or why it is being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The machine, once the vendor has told of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Per cent of the installation, by the vendor's word.
    #[serde(default)]
    pub percent: u8,
    /// When there last was something new.
    pub progress_at: Timestamp,
    /// When the vendor first said that it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_at: Option<Timestamp>,
    /// When the vendor takes the machine down by itself unless told otherwise: the dead man's switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Timestamp>,
    /// Whether a request to create it may have worked without our being told.
    #[serde(default)]
    pub doubtful: bool,
    /// Until then a request to create it whose answer was lost may still be carried out: what is not
    /// there yet is not yet known not to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled_until: Option<Timestamp>,
    /// Whether, now that it is up, it is the only machine with our tag.
    #[serde(default)]
    pub alone: bool,
    /// Other machines with our tag: a request to create was carried out twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<String>,
    /// What the vendor last did not answer as it should, while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The time line.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The vendor's words for its machine's state, in the order in which they were first seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateSeen>,
    /// How the vendor found the machine to be before it was taken back, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The vendor's last answers that mattered, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_answers: Vec<VendorAnswer>,
}

impl Attempt {
    /// The intent to try this, before anything is asked of the vendor.
    pub fn new(number: u32, candidate: Candidate, switch: Option<Timestamp>, now: Timestamp) -> Self {
        Self {
            number,
            candidate,
            started_at: now,
            ended_at: None,
            reason: None,
            machine: None,
            percent: 0,
            progress_at: now,
            up_at: None,
            switch,
            doubtful: false,
            unsettled_until: None,
            alone: false,
            twins: Vec::new(),
            trouble: None,
            events: Vec::new(),
            states: Vec::new(),
            health: None,
            last_answers: Vec::new(),
        }
    }

    /// Whether no request to create its machine is under way any more.
    pub fn is_settled_at(&self, now: Timestamp) -> bool {
        self.unsettled_until.is_none_or(|until| now >= until)
    }
}

/// A combination that need not be tried again for the same device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The operating system.
    pub os: String,
    /// The plan.
    pub plan: String,
    /// The facility.
    pub facility: String,
    /// Where no operating system would help: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<NotAgain>,
}

/// The record of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id: a UUIDv7, also in its tag.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Counts the writes; each is on condition of the version it follows.
    pub version: u64,
    /// Counts what people asked for after its creation; the worker's list has it too, so that a
    /// worker knows when what it has in memory is old.
    pub revision: u64,
    /// The name of the machine.
    pub hostname: String,
    /// What was asked for.
    pub request: Request,
    /// Whether there is userdata, which is kept apart and encrypted.
    pub has_userdata: bool,
    /// Where it is.
    pub stage: Stage,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the record was last written.
    pub updated_at: Timestamp,
    /// No attempt begins after this.
    pub give_up_at: Timestamp,
    /// When its deletion was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_asked_at: Option<Timestamp>,
    /// When it was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Timestamp>,
    /// When nothing was left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it is `Failed` or `Deleted`, or why it is not further yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What need not be tried again.
    #[serde(default)]
    pub failed: Vec<Failed>,
    /// The present attempt, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What happened to the device as a whole.
    #[serde(default)]
    pub events: Vec<Event>,
}

impl Device {
    /// A device that was just asked for.
    pub fn new(id: Uuid, tenant: String, request: Request, has_userdata: bool, now: Timestamp) -> Self {
        let hostname = request.hostname.as_ref().map_or_else(|| format!("muster-{id}"), ToString::to_string);
        // Every attempt may take as long as it may, but a day is enough for anybody.
        let longest = i64::from(request.max_attempts) * i64::from(request.provision_timeout_seconds);
        let give_up_at = now + SignedDuration::from_secs(longest).min(LONGEST_LAUNCH);
        let mut device = Self {
            id,
            tenant,
            version: 0,
            revision: 0,
            hostname,
            request,
            has_userdata,
            stage: Stage::Requested { not_before: now, tries: 0 },
            created_at: now,
            updated_at: now,
            give_up_at,
            delete_asked_at: None,
            active_at: None,
            ended_at: None,
            reason: None,
            failed: Vec::new(),
            attempt: None,
            events: Vec::new(),
        };
        device.note(now, State::Requested.as_str(), "asked for");
        device
    }

    /// Where it is in its life.
    pub const fn state(&self) -> State {
        match self.stage {
            Stage::Requested { .. } => State::Requested,
            Stage::Creating { .. } => State::Creating,
            Stage::Provisioning => State::Provisioning,
            Stage::Active => State::Active,
            Stage::Deleting { .. } => State::Deleting,
            Stage::Deleted => State::Deleted,
            Stage::Failed => State::Failed,
        }
    }

    /// When it is to be taken down, by the caller's wish.
    pub fn terminates_at(&self) -> Option<Timestamp> {
        let ttl = self.request.ttl_seconds.map(|seconds| self.created_at + SignedDuration::from_secs(seconds.into()));
        self.request.termination_time.or(ttl)
    }

    /// Whether no request to create a machine for it is under way any more.
    pub fn is_settled_at(&self, now: Timestamp) -> bool {
        self.attempt.as_ref().is_none_or(|attempt| attempt.is_settled_at(now))
    }

    /// What need not be tried again.
    pub fn tried(&self) -> Tried {
        let mut tried = Tried::default();
        for Failed { os, plan, facility, pair } in &self.failed {
            match pair {
                Some(why) => tried.pair(plan, facility, *why),
                None => tried.failed(os, plan, facility),
            }
        }
        tried
    }

    /// How many attempts have been begun.
    pub fn attempts(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.number)
    }

    /// The vendor's id of the present machine.
    pub fn machine_id(&self) -> Option<&str> {
        Some(&self.attempt.as_ref()?.machine.as_ref()?.id)
    }

    /// The machine, while there is one.
    pub fn machine(&self) -> Option<&Machine> {
        self.attempt.as_ref()?.machine.as_ref()
    }

    /// Adds an entry of ours: to the attempt's time line while one is under way, else to the device's.
    pub fn note(&mut self, now: Timestamp, kind: &str, text: impl AsRef<str>) {
        let event =
            Event { at: now, source: Source::Muster, kind: kind.to_owned(), text: cut(text.as_ref()), id: None };
        match &mut self.attempt {
            Some(attempt) if attempt.ended_at.is_none() => push(&mut attempt.events, event, MOST_EVENTS),
            _ => push(&mut self.events, event, MOST_DEVICE_EVENTS),
        }
    }
}

/// Adds an entry; where there would be more than `most`, the oldest but the first goes.
pub(crate) fn push(events: &mut Vec<Event>, event: Event, most: usize) {
    if events.len() >= most {
        events.remove(1);
    }
    events.push(event);
}

/// A text of a sane length, without control characters.
pub fn cut(text: &str) -> String {
    shorten(text, LONGEST_TEXT, LONGEST_TEXT_BYTES)
}

/// The same for a kind, an id or a word.
pub fn cut_name(text: &str) -> String {
    shorten(text, LONGEST_NAME_BYTES, LONGEST_NAME_BYTES)
}

fn shorten(text: &str, characters: usize, bytes: usize) -> String {
    const MORE: char = '…';
    let mut short = String::new();
    let mut length = 0;
    for it in text.trim().chars().map(|it| if it.is_control() { ' ' } else { it }) {
        if length == characters || short.len() + it.len_utf8() > bytes {
            while length == characters || short.len() + MORE.len_utf8() > bytes {
                short.pop();
                length -= 1;
            }
            short.push(MORE);
            break;
        }
        short.push(it);
        length += 1;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_characters_and_by_bytes_and_says_so() {
        assert_eq!(cut(" a\nb "), "a b");
        let fits = "x".repeat(LONGEST_TEXT);
        assert_eq!(cut(&fits), fits);
        assert_eq!(cut(&"x".repeat(LONGEST_TEXT + 1)), format!("{}…", "x".repeat(LONGEST_TEXT - 1)));
        let fits = "🦀".repeat(LONGEST_TEXT_BYTES / 4);
        assert_eq!(cut(&fits), fits);
        assert_eq!(cut(&"🦀".repeat(LONGEST_TEXT)), format!("{}…", "🦀".repeat(LONGEST_TEXT_BYTES / 4 - 1)));
        for character in ["x", "é", "…", "🦀"] {
            for length in 0..=500 {
                let (text, name) = (cut(&character.repeat(length)), cut_name(&character.repeat(length)));
                assert!(text.len() <= LONGEST_TEXT_BYTES && text.chars().count() <= LONGEST_TEXT);
                assert!(name.len() <= LONGEST_NAME_BYTES);
            }
        }
    }
}
