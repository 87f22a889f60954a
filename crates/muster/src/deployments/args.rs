//! What can be typed behind `muster deployments` and `muster autoscaler`.

use std::{path::PathBuf, time::Duration};

use ::autoscaler::{
    decision::Reason,
    need::{MOST, Target},
    policy::{Given, LONGEST_WINDOW, Mode},
};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use crate::cli::{StoreKind, parse_interval, parse_reason, parse_seconds};

/// Where the numbers come from.
pub const WHERE: &str = "\
Without a subcommand the deployments are listed as the last tick has left them: the server's, or with
--api-url (or MUSTER_DEPLOYMENTS_URL and no server) that of `muster autoscaler run` on the state
folder. Where none was kept there, they are read from here as a dry run: nothing is kept or sent.";

/// The deployments.
#[derive(Debug, Args)]
pub struct Deployments {
    /// The deployments API's base URL: works from here, whatever server is set [also: MUSTER_DEPLOYMENTS_URL]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub api_url: Option<String>,
    /// What is listed without a subcommand.
    #[command(flatten)]
    pub list: List,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<DeploymentsCommand>,
}

/// Which deployments are listed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct List {
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = ["ok", "stabilizing", "limited", "breaker_open", "frozen", "paused", "unreadable", "gone"])]
    pub only: Option<String>,
    /// By what they are sorted: their ids, or what they are short of, most first and unknown last [default: id]
    #[arg(long, value_name = "KEY", value_parser = ["id", "free"])]
    pub sort: Option<String>,
    /// Look again and again; on a terminal in place, q ends it
    #[arg(long)]
    pub watch: bool,
    /// From one look to the next, 0.5s to 1h [default: 5s]
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// End with exit code 1 where one that is listed is short of its target, unreadable, frozen or has its breaker open
    #[arg(long)]
    pub exit_status: bool,
}

/// Commands about deployments.
#[derive(Debug, Subcommand)]
pub enum DeploymentsCommand {
    /// Show one: what holds for it, what it said last, what waits
    Show {
        /// The deployment's id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// What was decided for one and why, newest first; kept for six weeks
    Decisions(Decisions),
    /// Read one now, and say what a tick would do and why, without doing it
    Explain(Explain),
    /// Do not scale one, or all, for a while
    #[command(after_help = "\
Of two modes, that of the deployment and that of all, the stricter one holds.")]
    Pause(Pause),
    /// End a pause, or a dry run
    Resume(Which),
    /// What may be done to one, or to all
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What would have happened under another policy, beside the one that holds
    Simulate(Box<Simulate>),
}

/// One deployment, or all.
#[derive(Debug, Args)]
pub struct Which {
    /// The deployment's id
    #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "all")]
    pub id: Option<String>,
    /// All deployments
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
}

/// Which decisions are listed.
#[derive(Debug, Args)]
pub struct Decisions {
    /// The deployment's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
    /// From when on: a time such as 2027-01-15T08:00:00Z, or how long ago, such as 1h
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    pub since: Option<When>,
    /// Until when, in the same ways
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    pub until: Option<When>,
    /// Only those with this reason, such as ScaledUp
    #[arg(long, value_name = "REASON", value_parser = parse_code)]
    pub reason: Option<Reason>,
    /// How many at most, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// A time, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A time.
    At(Timestamp),
    /// So long ago.
    Ago(SignedDuration),
}

impl When {
    /// The time, where it is `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(time) => now.saturating_sub(time).unwrap_or(now),
        }
    }
}

/// What is explained.
#[derive(Debug, Args)]
pub struct Explain {
    /// The deployment's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
    /// As if it wanted this share of free servers, from 0 to less than 100
    #[arg(long, value_name = "PCT", allow_negative_numbers = true, value_parser = parse_target)]
    pub target_free_pct: Option<String>,
    /// As if it were in this mode: on, dry_run, paused, paused_in or paused_out
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// As if these were set.
    #[command(flatten)]
    pub numbers: Numbers,
}

/// What is paused.
#[derive(Debug, Args)]
pub struct Pause {
    /// One, or all.
    #[command(flatten)]
    pub which: Which,
    /// For how long from now on, such as 2h; until it is resumed without this
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    pub seconds: Option<i64>,
    /// Until when, such as 2027-01-15T08:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "seconds", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// Only scale-in: no host is taken away, but hosts are added
    #[arg(long = "in", conflicts_with = "outward")]
    pub inward: bool,
    /// Only scale-out: no host is added, but hosts are taken away
    #[arg(long = "out", id = "outward")]
    pub outward: bool,
    /// Why, for the others; 1 to 200 characters
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub reason: String,
}

/// Commands about policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show what is set, and what holds
    Show(Which),
    /// Set numbers or the mode; what is not mentioned stays as it is
    Set(Box<PolicySet>),
}

/// What is set.
#[derive(Debug, Args)]
pub struct PolicySet {
    /// For one, or for all.
    #[command(flatten)]
    pub which: Which,
    /// The numbers.
    #[command(flatten)]
    pub numbers: Numbers,
    /// What may be done: on, dry_run, paused, paused_in or paused_out
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// Decide everything and send nothing: --mode dry_run
    #[arg(long, conflicts_with = "mode")]
    pub dry_run: bool,
    /// How long the mode holds from now on, such as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    pub seconds: Option<i64>,
    /// Until when the mode holds, such as 2027-01-15T08:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "seconds", value_parser = parse_time)]
    pub until: Option<Timestamp>,
    /// Why the mode is set, for the others; 1 to 200 characters
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub reason: Option<String>,
    /// Set this field no more, such as max_hosts; may be given several times
    #[arg(long, value_name = "FIELD", value_parser = parse_field)]
    pub unset: Vec<String>,
    /// Only in the place of this version, which `policy show` tells
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

impl PolicySet {
    /// The mode that is asked for.
    pub fn mode(&self) -> Option<Mode> {
        if self.dry_run { Some(Mode::DryRun) } else { self.mode }
    }
}

/// Above the numbers of a policy.
const POLICY: &str = "Policy";

/// The numbers of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Numbers {
    /// At least so many hosts
    #[arg(long, help_heading = POLICY, value_name = "N", allow_negative_numbers = true, value_parser = parse_count)]
    pub min_hosts: Option<u64>,
    /// At most so many hosts; counts more than min_hosts
    #[arg(long, help_heading = POLICY, value_name = "N", allow_negative_numbers = true, value_parser = parse_count)]
    pub max_hosts: Option<u64>,
    /// At least so many free servers, whatever the share
    #[arg(long, help_heading = POLICY, value_name = "N", allow_negative_numbers = true, value_parser = parse_count)]
    pub min_free_servers: Option<u64>,
    /// So many hosts may be added in a tick, or up_step_pct if that is more
    #[arg(long, help_heading = POLICY, value_name = "N", allow_negative_numbers = true, value_parser = parse_count)]
    pub up_step_hosts: Option<u64>,
    /// So many per cent of the hosts may be added in a tick
    #[arg(long, help_heading = POLICY, value_name = "PCT", allow_negative_numbers = true, value_parser = parse_up_pct)]
    pub up_step_pct: Option<u32>,
    /// So many hosts may be taken away in a minute, or down_step_pct if that is more
    #[arg(long, help_heading = POLICY, value_name = "N", allow_negative_numbers = true, value_parser = parse_count)]
    pub down_step_hosts: Option<u64>,
    /// So many per cent of the hosts may be taken away in a minute
    #[arg(long, help_heading = POLICY, value_name = "PCT", allow_negative_numbers = true, value_parser = parse_down_pct)]
    pub down_step_pct: Option<u32>,
    /// Hosts are taken away down to the highest need of this time, such as 300 or 5m
    #[arg(long, help_heading = POLICY, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_in_window)]
    pub window_seconds: Option<u32>,
    /// No host is taken away for so long after one was added
    #[arg(long, help_heading = POLICY, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_in_day)]
    pub cooldown_after_up_seconds: Option<u32>,
    /// No host is taken away for so long after a scaling has failed
    #[arg(long, help_heading = POLICY, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_in_day)]
    pub cooldown_after_failure_seconds: Option<u32>,
    /// Hosts that were asked for and have no servers after so long are reported
    #[arg(long, help_heading = POLICY, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_in_day)]
    pub boot_grace_seconds: Option<u32>,
}

impl Numbers {
    /// `given` with them.
    pub fn over(&self, given: Given) -> Given {
        Given {
            min_hosts: self.min_hosts.or(given.min_hosts),
            max_hosts: self.max_hosts.or(given.max_hosts),
            min_free_servers: self.min_free_servers.or(given.min_free_servers),
            up_step_hosts: self.up_step_hosts.or(given.up_step_hosts),
            up_step_pct: self.up_step_pct.or(given.up_step_pct),
            down_step_hosts: self.down_step_hosts.or(given.down_step_hosts),
            down_step_pct: self.down_step_pct.or(given.down_step_pct),
            window_seconds: self.window_seconds.or(given.window_seconds),
            cooldown_after_up_seconds: self.cooldown_after_up_seconds.or(given.cooldown_after_up_seconds),
            cooldown_after_failure_seconds: self
                .cooldown_after_failure_seconds
                .or(given.cooldown_after_failure_seconds),
            boot_grace_seconds: self.boot_grace_seconds.or(given.boot_grace_seconds),
            mode: given.mode,
            until: given.until,
            reason: given.reason,
        }
    }
}

/// What is simulated.
#[derive(Debug, Args)]
#[command(after_help = "\
The policy is the one that is set, with what the flags say; --against is what it is compared with.
A file of samples is JSON, [{\"at\": \"2027-01-15T08:00:00Z\", \"busy\": 90}, …], or CSV with the columns at,busy;
it needs --servers-per-host and --target-free-pct.")]
pub struct Simulate {
    /// The deployment whose samples are taken
    #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "samples")]
    pub id: Option<String>,
    /// How far back, 1m to 7d [default: 1d]
    #[arg(long, value_name = "TIME", conflicts_with = "samples", value_parser = parse_window)]
    pub window: Option<String>,
    /// How many servers were busy when: JSON or CSV; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    pub samples: Option<PathBuf>,
    /// Servers on each host [default: the deployment's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    pub servers_per_host: Option<u64>,
    /// The share of free servers that is wanted, from 0 to less than 100 [default: the deployment's]
    #[arg(long, value_name = "PCT", allow_negative_numbers = true, value_parser = parse_target)]
    pub target_free_pct: Option<String>,
    /// Hosts at the beginning [default: as many as there were, or were needed]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub initial_hosts: Option<u64>,
    /// Until a host that was asked for has servers [default: 90s]
    #[arg(long, value_name = "TIME", value_parser = parse_in_day)]
    pub boot: Option<u32>,
    /// Until the servers of a host that was taken away are gone [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_in_day)]
    pub drain: Option<u32>,
    /// Compare with what is set and these, such as window_seconds=600,min_hosts=3, or with `defaults` [default: what is set]
    #[arg(long, value_name = "FIELD=VALUE,…", value_parser = parse_given)]
    pub against: Option<Given>,
    /// The policy.
    #[command(flatten)]
    pub numbers: Numbers,
}

/// Commands about the autoscaler.
#[derive(Debug, Subcommand)]
pub enum AutoscalerCommand {
    /// Scale the deployments, every half minute, until it is told to stop
    #[command(after_help = "\
What is known is kept in the state folder, which one process owns at a time; with --store dynamodb any
number may run, and one of them does each half minute's work. A second scaler with a store of its own
would scale the same deployments twice. Ctrl-C or SIGTERM ends it after the tick in hand.")]
    Run(Run),
}

/// How the autoscaler runs.
#[derive(Debug, Args)]
pub struct Run {
    /// The deployments API's base URL [also: MUSTER_DEPLOYMENTS_URL]
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub api_url: Option<String>,
    /// One tick, that of this half minute; exit code 1 where the list or a deployment could not be read
    #[arg(long)]
    pub once: bool,
    /// Decide everything and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where everything is kept [also: MUSTER_STORE; default: embedded]
    #[arg(long, value_enum)]
    pub store: Option<StoreKind>,
}

fn whole(text: &str, most: u64) -> Result<u64, String> {
    let number = text.trim().parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("write a whole number from 0 to {most}"))
}

fn parse_count(text: &str) -> Result<u64, String> {
    whole(text, MOST)
}

fn parse_up_pct(text: &str) -> Result<u32, String> {
    whole(text.trim_end_matches('%'), 1000).map(small)
}

fn parse_down_pct(text: &str) -> Result<u32, String> {
    whole(text.trim_end_matches('%'), 100).map(small)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// `300`, or `5m`.
fn seconds(text: &str, most: u32) -> Result<u32, String> {
    let plain = text.parse::<u32>().ok();
    let told = || text.parse::<SignedDuration>().ok().filter(|it| it.subsec_nanos() == 0);
    let number = plain.or_else(|| told().and_then(|it| u32::try_from(it.as_secs()).ok()));
    number
        .filter(|number| *number <= most)
        .ok_or_else(|| format!("write whole seconds from 0 to {most}, such as 90, 90s or 2m"))
}

fn parse_in_window(text: &str) -> Result<u32, String> {
    seconds(text, LONGEST_WINDOW)
}

fn parse_in_day(text: &str) -> Result<u32, String> {
    seconds(text, 86_400)
}

fn parse_target(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('%');
    Target::parse(text).map(|_| text.to_owned()).map_err(|_| "write a number from 0 to less than 100".to_owned())
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    serde_json::from_value(text.replace('-', "_").into())
        .map_err(|_| "one of on, dry_run, paused, paused_in, paused_out".to_owned())
}

fn parse_code(text: &str) -> Result<Reason, String> {
    Reason::parse(text)
        .ok_or_else(|| "no decision has this reason; write one such as ScaledUp or BadMetrics".to_owned())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write a time such as 2027-01-15T08:00:00Z".to_owned())
}

fn parse_past(text: &str) -> Result<When, String> {
    let ago = text.parse::<Span>().ok().and_then(|it| it.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    match ago {
        Some(ago) if !ago.is_negative() => Ok(When::Ago(ago)),
        _ => parse_time(text)
            .map(When::At)
            .map_err(|_| "write a time such as 2027-01-15T08:00:00Z, or how long ago it was, such as 1h".to_owned()),
    }
}

fn parse_window(text: &str) -> Result<String, String> {
    let window = text.parse::<Span>().ok().and_then(|it| it.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let range = SignedDuration::from_mins(1)..=SignedDuration::from_hours(7 * 24);
    match window {
        Some(window) if range.contains(&window) => Ok(text.to_owned()),
        _ => Err("write a time from 1m to 7d, such as 90m, 1h or 1d".to_owned()),
    }
}

/// The fields of a policy.
pub const FIELDS: [&str; 14] = [
    "min_hosts",
    "max_hosts",
    "min_free_servers",
    "up_step_hosts",
    "up_step_pct",
    "down_step_hosts",
    "down_step_pct",
    "window_seconds",
    "cooldown_after_up_seconds",
    "cooldown_after_failure_seconds",
    "boot_grace_seconds",
    "mode",
    "until",
    "reason",
];

fn parse_field(text: &str) -> Result<String, String> {
    let name = text.replace('-', "_");
    let known = FIELDS.contains(&name.as_str());
    if known { Ok(name) } else { Err(format!("one of {}", FIELDS.join(", "))) }
}

/// `window_seconds=600,min_hosts=3`, or `defaults`.
fn parse_given(text: &str) -> Result<Given, String> {
    if text == "defaults" {
        return Ok(defaults());
    }
    let numbers = &FIELDS[..11];
    let mut fields = serde_json::Map::new();
    for pair in text.split(',') {
        let right = || format!("write FIELD=VALUE,… with fields of {}; or defaults", numbers.join(", "));
        let (name, value) = pair.split_once('=').ok_or_else(right)?;
        let name = name.trim().replace('-', "_");
        if !numbers.contains(&name.as_str()) {
            return Err(right());
        }
        let number = match name.as_str() {
            "up_step_pct" => parse_up_pct(value).map(u64::from),
            "down_step_pct" => parse_down_pct(value).map(u64::from),
            "window_seconds" => parse_in_window(value).map(u64::from),
            name if name.ends_with("_seconds") => parse_in_day(value).map(u64::from),
            _ => parse_count(value),
        };
        fields.insert(name.clone(), number.map_err(|words| format!("{name}: {words}"))?.into());
    }
    serde_json::from_value(fields.into()).map_err(|error| error.to_string())
}

/// Every number as it is where nothing is set.
fn defaults() -> Given {
    let policy = ::autoscaler::policy::Policy::default();
    Given {
        min_hosts: Some(policy.min_hosts),
        // No limit cannot be set, but so many hosts are none.
        max_hosts: Some(MOST),
        min_free_servers: Some(policy.min_free_servers),
        up_step_hosts: Some(policy.up_step_hosts),
        up_step_pct: Some(policy.up_step_pct),
        down_step_hosts: Some(policy.down_step_hosts),
        down_step_pct: Some(policy.down_step_pct),
        window_seconds: Some(policy.window_seconds),
        cooldown_after_up_seconds: Some(policy.cooldown_after_up_seconds),
        cooldown_after_failure_seconds: Some(policy.cooldown_after_failure_seconds),
        boot_grace_seconds: Some(policy.boot_grace_seconds),
        ..Given::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn refused(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    }

    fn deployments(line: &str) -> Deployments {
        match Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).command {
            Command::Deployments(deployments) => deployments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bad_values_are_refused_with_what_would_be_right() {
        for (line, said) in [
            ("deployments --only ill", "breaker_open"),
            ("deployments --sort load", "free"),
            ("deployments --interval 5s", "--watch"),
            ("deployments --watch --interval 5", "0.5s to 1h"),
            ("deployments decisions eu-1 --since soon", "such as 1h"),
            ("deployments decisions eu-1 --since=-1h", "such as 1h"),
            ("deployments decisions eu-1 --reason Tired", "ScaledUp"),
            ("deployments decisions eu-1 --limit 0", "1..=10000"),
            ("deployments explain eu-1 --target-free-pct 100", "less than 100"),
            ("deployments explain eu-1 --target-free-pct -1", "less than 100"),
            ("deployments explain eu-1 --min-hosts 1.5", "whole number from 0"),
            ("deployments explain eu-1 --window-seconds 601", "0 to 600"),
            ("deployments explain eu-1 --down-step-pct 101", "0 to 100"),
            ("deployments pause eu-1", "--reason"),
            ("deployments pause --reason x", "<ID"),
            ("deployments pause eu-1 --all --reason x", "--all"),
            ("deployments pause eu-1 --in --out --reason x", "--out"),
            ("deployments pause eu-1 --for soon --reason x", "30d"),
            ("deployments pause eu-1 --until 8am --reason x", "2027-01-15T08:00:00Z"),
            ("deployments policy set eu-1 --mode off", "paused_in"),
            ("deployments policy set eu-1 --mode on --dry-run", "--dry-run"),
            ("deployments policy set eu-1 --unset hosts", "min_hosts"),
            ("deployments simulate", "ID"),
            ("deployments simulate eu-1 --samples x", "--samples"),
            ("deployments simulate eu-1 --window 8d", "1m to 7d"),
            ("deployments simulate eu-1 --against min_hosts", "FIELD=VALUE"),
            ("deployments simulate eu-1 --against mode=on", "FIELD=VALUE"),
            ("deployments simulate eu-1 --against window_seconds=700", "window_seconds: write whole seconds"),
        ] {
            let refused = refused(&format!("muster {line}"));
            assert!(refused.contains(said), "{line}: {refused}");
        }
    }

    #[test]
    fn the_url_may_stand_anywhere_and_seconds_be_written_as_times() {
        let line = "muster deployments policy set eu-1 --window-seconds 5m --up-step-pct 50% --api-url http://x";
        let Deployments { api_url, command, .. } = deployments(line);
        assert_eq!(api_url.as_deref(), Some("http://x"));
        let Some(DeploymentsCommand::Policy(PolicyCommand::Set(set))) = command else { panic!("{command:?}") };
        let numbers = Numbers { window_seconds: Some(300), up_step_pct: Some(50), ..Numbers::default() };
        assert_eq!(set.numbers, numbers);
        assert_eq!(deployments("muster deployments --api-url http://x show eu-1").api_url.as_deref(), Some("http://x"));
        assert_eq!(parse_mode("paused-in"), Ok(Mode::PausedIn));
    }

    #[test]
    fn a_past_is_a_time_or_a_duration() {
        let now: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        assert_eq!(parse_past("90m").unwrap().at(now).to_string(), "2027-01-15T06:30:00Z");
        assert_eq!(parse_past("1d").unwrap().at(now).to_string(), "2027-01-14T08:00:00Z");
        assert_eq!(parse_past("2027-01-15T07:00:00Z").unwrap().at(now).to_string(), "2027-01-15T07:00:00Z");
    }

    #[test]
    fn every_field_of_a_policy_can_be_named() {
        let all = Given {
            mode: Some(Mode::Paused),
            until: Some(Timestamp::UNIX_EPOCH),
            reason: Some("x".to_owned()),
            ..defaults()
        };
        let value = serde_json::to_value(all).unwrap();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), FIELDS);
        let given = parse_given("window_seconds=2m,min-hosts=3").unwrap();
        assert_eq!(given, Given { window_seconds: Some(120), min_hosts: Some(3), ..Given::default() });
        assert_eq!(parse_given("defaults").unwrap(), defaults());
    }
}
