//! What a deployment's scaling may do: numbers with their defaults, and the mode it is in.
//!
//! Everything can be set for all deployments and for each. A number that is not set for a deployment
//! is that of all, and where that is not set either, the default. Modes are different: one that is
//! set for all is a brake, so of the two the stricter one holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    machine::Slot,
    need::{Bounds, MOST},
};

/// Longest window, in seconds: so long samples are kept.
pub const LONGEST_WINDOW: u32 = 600;
/// Longest cooldown, in seconds.
const LONGEST_COOLDOWN: u32 = 86_400;
/// Most per cent of a step.
const MOST_PCT: u32 = 1000;
/// Longest reason, in characters.
const LONGEST_REASON: usize = 200;

/// What may be done to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ScalingMode)]
pub enum Mode {
    /// It is scaled.
    #[default]
    On,
    /// Everything is decided, and nothing is sent.
    DryRun,
    /// It is not scaled.
    Paused,
    /// It is not scaled in: no host is taken away.
    PausedIn,
    /// It is not scaled out: no host is added.
    PausedOut,
}

impl Mode {
    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::DryRun => "dry_run",
            Self::Paused => "paused",
            Self::PausedIn => "paused_in",
            Self::PausedOut => "paused_out",
        }
    }

    /// Both at once: what either forbids is forbidden.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Paused, _)
            | (_, Self::Paused)
            | (Self::PausedIn, Self::PausedOut)
            | (Self::PausedOut, Self::PausedIn) => Self::Paused,
            (Self::DryRun, _) | (_, Self::DryRun) => Self::DryRun,
            (Self::On, other) => other,
            (this, _) => this,
        }
    }
}

/// What is set, for one deployment or for all. What is left out is not set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ScalingPolicyInput)]
pub struct Given {
    /// At least so many hosts; 1 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub min_hosts: Option<u64>,
    /// At most so many hosts; it counts more than `min_hosts`. No limit unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub max_hosts: Option<u64>,
    /// At least so many free servers, whatever the share; 0 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub min_free_servers: Option<u64>,
    /// In a tick at most so many hosts are added, or `up_step_pct`, whichever is more; 4 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub up_step_hosts: Option<u64>,
    /// In a tick at most so many per cent of the hosts are added; 100 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub up_step_pct: Option<u32>,
    /// In a minute at most so many hosts are taken away, or `down_step_pct`, whichever is more; 1
    /// unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9_007_199_254_740_992_u64)]
    pub down_step_hosts: Option<u64>,
    /// In a minute at most so many per cent of the hosts are taken away; 10 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 100)]
    pub down_step_pct: Option<u32>,
    /// Hosts are taken away down to the highest need of so many seconds; 300 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 600)]
    pub window_seconds: Option<u32>,
    /// No host is taken away for so many seconds after one was added; 300 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub cooldown_after_up_seconds: Option<u32>,
    /// No host is taken away for so many seconds after a scaling has failed; 180 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub cooldown_after_failure_seconds: Option<u32>,
    /// Hosts that were asked for and have no servers after so many seconds are reported; 600 unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub boot_grace_seconds: Option<u32>,
    /// What may be done; `on` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// When the mode ends; never unless set. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Why the mode is set, for the others. 1 to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub reason: Option<String>,
}

/// What holds for a deployment, every number filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ScalingPolicy)]
pub struct Policy {
    /// At least so many hosts.
    pub min_hosts: u64,
    /// At most so many hosts; none where there is no limit.
    pub max_hosts: Option<u64>,
    /// At least so many free servers.
    pub min_free_servers: u64,
    /// Most hosts that are added in a tick, unless the share is more.
    pub up_step_hosts: u64,
    /// Most per cent of the hosts that are added in a tick.
    pub up_step_pct: u32,
    /// Most hosts that are taken away in a minute, unless the share is more.
    pub down_step_hosts: u64,
    /// Most per cent of the hosts that are taken away in a minute.
    pub down_step_pct: u32,
    /// Hosts are taken away down to the highest need of so many seconds.
    pub window_seconds: u32,
    /// No host is taken away for so long after one was added.
    pub cooldown_after_up_seconds: u32,
    /// No host is taken away for so long after a scaling has failed.
    pub cooldown_after_failure_seconds: u32,
    /// Hosts that were asked for and have no servers after so long are reported.
    pub boot_grace_seconds: u32,
    /// What may be done now.
    pub mode: Mode,
    /// When that ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Why it is so.
    pub reason: Option<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_hosts: 1,
            max_hosts: None,
            min_free_servers: 0,
            up_step_hosts: 4,
            up_step_pct: 100,
            down_step_hosts: 1,
            down_step_pct: 10,
            window_seconds: 300,
            cooldown_after_up_seconds: 300,
            cooldown_after_failure_seconds: 180,
            boot_grace_seconds: 600,
            mode: Mode::On,
            until: None,
            reason: None,
        }
    }
}

impl Policy {
    /// What holds at `now` where `all` is set for all deployments and `own` for this one.
    pub fn of(all: &Given, own: &Given, now: Timestamp) -> Self {
        let default = Self::default();
        macro_rules! set {
            ($field:ident) => {
                own.$field.or(all.$field).unwrap_or(default.$field)
            };
        }
        let live = |given: &Given| match (given.mode, given.until) {
            (Some(_), Some(until)) if until <= now => Mode::On,
            (mode, _) => mode.unwrap_or_default(),
        };
        let (all_mode, own_mode) = (live(all), live(own));
        let mode = all_mode.and(own_mode);
        // Whose words: the one's whose mode it is; where both have a part, the brake's for all.
        let (until, reason) = match mode {
            Mode::On => (None, None),
            mode if mode == all_mode => (all.until, all.reason.clone()),
            mode if mode == own_mode => (own.until, own.reason.clone()),
            _ => {
                ([all.until, own.until].into_iter().flatten().min(), all.reason.clone().or_else(|| own.reason.clone()))
            }
        };
        Self {
            min_hosts: set!(min_hosts),
            max_hosts: own.max_hosts.or(all.max_hosts),
            min_free_servers: set!(min_free_servers),
            up_step_hosts: set!(up_step_hosts),
            up_step_pct: set!(up_step_pct),
            down_step_hosts: set!(down_step_hosts),
            down_step_pct: set!(down_step_pct),
            window_seconds: set!(window_seconds),
            cooldown_after_up_seconds: set!(cooldown_after_up_seconds),
            cooldown_after_failure_seconds: set!(cooldown_after_failure_seconds),
            boot_grace_seconds: set!(boot_grace_seconds),
            mode,
            until,
            reason,
        }
    }

    /// The bounds of its number of hosts.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            min_hosts: self.min_hosts,
            max_hosts: self.max_hosts.unwrap_or(MOST),
            min_free_servers: self.min_free_servers,
        }
    }

    /// Slots in the window, at least the one that is now.
    pub fn window(&self) -> Slot {
        slots(self.window_seconds).max(1)
    }

    /// Most hosts that may be added in a tick to `hosts`.
    pub fn up_step(&self, hosts: u64) -> u64 {
        share(hosts, self.up_step_pct).max(self.up_step_hosts)
    }

    /// Most hosts that may be taken from `hosts` in a minute.
    pub fn down_step(&self, hosts: u64) -> u64 {
        share(hosts, self.down_step_pct).max(self.down_step_hosts)
    }
}

/// So many seconds in slots, rounded up.
pub fn slots(seconds: u32) -> Slot {
    u64::from(seconds).div_ceil(crate::machine::SLOT_SECONDS)
}

fn share(hosts: u64, pct: u32) -> u64 {
    u64::try_from(u128::from(hosts) * u128::from(pct) / 100).unwrap_or(MOST)
}

/// What is wrong with a policy: a JSON pointer, and words.
pub type Wrong = (&'static str, String);

impl Given {
    /// Checks the numbers and the mode at `now`. `all` is what is set for all deployments.
    pub fn check(&self, all: &Self, now: Timestamp) -> Result<(), Vec<Wrong>> {
        let mut wrong = Vec::new();
        let counts = [
            ("/min_hosts", self.min_hosts),
            ("/max_hosts", self.max_hosts),
            ("/min_free_servers", self.min_free_servers),
            ("/up_step_hosts", self.up_step_hosts),
            ("/down_step_hosts", self.down_step_hosts),
        ];
        for (pointer, value) in counts {
            if value.is_some_and(|value| value > MOST) {
                wrong.push((pointer, format!("it may be 0 to {MOST}")));
            }
        }
        let numbers = [
            ("/up_step_pct", self.up_step_pct, MOST_PCT),
            ("/down_step_pct", self.down_step_pct, 100),
            ("/window_seconds", self.window_seconds, LONGEST_WINDOW),
            ("/cooldown_after_up_seconds", self.cooldown_after_up_seconds, LONGEST_COOLDOWN),
            ("/cooldown_after_failure_seconds", self.cooldown_after_failure_seconds, LONGEST_COOLDOWN),
            ("/boot_grace_seconds", self.boot_grace_seconds, LONGEST_COOLDOWN),
        ];
        for (pointer, value, most) in numbers {
            if value.is_some_and(|value| value > most) {
                wrong.push((pointer, format!("it may be 0 to {most}")));
            }
        }
        let policy = Policy::of(all, self, now);
        if let Some(max) = policy.max_hosts
            && policy.min_hosts > max
        {
            let pointer = if self.min_hosts.is_some() { "/min_hosts" } else { "/max_hosts" };
            let words = format!("min_hosts would be {} and max_hosts {max}: set one of them", policy.min_hosts);
            wrong.push((pointer, words));
        }
        if let Some(until) = self.until {
            if self.mode.is_none_or(|mode| mode == Mode::On) {
                wrong.push(("/until", "it is the end of a mode: set `mode` to another one than `on`".to_owned()));
            } else if until <= now {
                wrong.push(("/until", format!("{until} has passed; it is {now}")));
            }
        }
        if let Some(reason) = &self.reason {
            let length = reason.trim().chars().count();
            if length == 0 || length > LONGEST_REASON || reason.chars().any(char::is_control) {
                let words = format!("1 to {LONGEST_REASON} characters, none of them a control character");
                wrong.push(("/reason", words));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn mode(mode: Mode, until: Option<i64>) -> Given {
        let until = until.map(|second| Timestamp::from_second(second).unwrap());
        Given { mode: Some(mode), until, reason: Some(mode.as_str().to_owned()), ..Given::default() }
    }

    #[test]
    fn a_number_is_the_deployments_or_that_of_all_or_the_default() {
        let all = Given { min_hosts: Some(2), window_seconds: Some(60), max_hosts: Some(9), ..Given::default() };
        let own = Given { min_hosts: Some(3), down_step_pct: Some(0), ..Given::default() };
        let policy = Policy::of(&all, &own, NOW);
        let expected =
            Policy { min_hosts: 3, window_seconds: 60, down_step_pct: 0, max_hosts: Some(9), ..Policy::default() };
        assert_eq!(policy, expected);
        assert_eq!(Policy::of(&Given::default(), &Given::default(), NOW), Policy::default());
    }

    #[test]
    fn of_two_modes_the_stricter_one_holds() {
        use Mode::{DryRun, On, Paused, PausedIn, PausedOut};
        let both = |all, own| Policy::of(&mode(all, None), &mode(own, None), NOW).mode;
        for (all, own, holds) in [
            (On, On, On),
            (Paused, On, Paused),
            (On, Paused, Paused),
            (DryRun, Paused, Paused),
            (PausedIn, PausedOut, Paused),
            (PausedOut, PausedIn, Paused),
            (PausedIn, On, PausedIn),
            (On, PausedOut, PausedOut),
            (PausedIn, PausedIn, PausedIn),
            (DryRun, PausedIn, DryRun),
            (On, DryRun, DryRun),
        ] {
            assert_eq!(both(all, own), holds, "{all:?} and {own:?}");
        }
    }

    #[test]
    fn a_mode_ends_at_its_time() {
        let paused = mode(Mode::Paused, Some(100));
        let at = |second| Policy::of(&Given::default(), &paused, Timestamp::from_second(second).unwrap());
        assert_eq!((at(99).mode, at(99).reason.as_deref()), (Mode::Paused, Some("paused")));
        assert_eq!((at(100).mode, at(100).until, at(100).reason), (Mode::On, None, None));
    }

    #[test]
    fn a_step_is_the_larger_of_hosts_and_per_cent() {
        let policy = Policy::default();
        assert_eq!([0, 1, 4, 5, 1000].map(|hosts| policy.up_step(hosts)), [4, 4, 4, 5, 1000]);
        assert_eq!([0, 1, 10, 19, 20, 1005].map(|hosts| policy.down_step(hosts)), [1, 1, 1, 1, 2, 100]);
        let huge = Policy { up_step_pct: 1000, ..policy };
        assert!(huge.up_step(MOST) >= MOST);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let now = Timestamp::from_second(1000).unwrap();
        let wrong = |given: Given| given.check(&Given { max_hosts: Some(50), ..Given::default() }, now);
        let pointers = |given| wrong(given).unwrap_err().into_iter().map(|(pointer, _)| pointer).collect::<Vec<_>>();
        assert_eq!(wrong(Given::default()), Ok(()));
        assert_eq!(pointers(Given { min_hosts: Some(51), ..Given::default() }), ["/min_hosts"]);
        assert_eq!(pointers(Given { max_hosts: Some(0), ..Given::default() }), ["/max_hosts"]);
        assert_eq!(wrong(Given { max_hosts: Some(0), min_hosts: Some(0), ..Given::default() }), Ok(()));
        assert_eq!(pointers(Given { min_free_servers: Some(MOST + 1), ..Given::default() }), ["/min_free_servers"]);
        assert_eq!(pointers(Given { down_step_pct: Some(101), ..Given::default() }), ["/down_step_pct"]);
        assert_eq!(pointers(Given { window_seconds: Some(601), ..Given::default() }), ["/window_seconds"]);
        assert_eq!(pointers(mode(Mode::Paused, Some(1000))), ["/until"]);
        assert_eq!(wrong(mode(Mode::Paused, Some(1001))), Ok(()));
        assert_eq!(pointers(mode(Mode::On, Some(2000))), ["/until"]);
        assert_eq!(pointers(Given { reason: Some("\u{7}".into()), ..Given::default() }), ["/reason"]);
        assert_eq!(pointers(Given { reason: Some(" ".into()), ..Given::default() }), ["/reason"]);
    }
}
