//! What can be typed behind `muster device`, and the body of the request that it makes.

use std::path::PathBuf;

use ::devices::{device::State, request::CreateDevice};
use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use jiff::Timestamp;
use kit::problem::FieldError;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::{
    cli::{parse_idempotency_key, parse_seconds},
    exit::Failure,
};

/// Who does the work.
pub const WHERE: &str = "\
With a server, the server does the work. Without one it is done in this process while a command
waits, against --api-url and --project (or MUSTER_PACKET_URL and MUSTER_PACKET_PROJECT).
The token is in MUSTER_PACKET_TOKEN, or in the file that MUSTER_PACKET_TOKEN_FILE names.";

/// How a launch can be interrupted.
const INTERRUPTED: &str = "\
Ctrl-C asks whether to keep the device or to tear it down; --on-interrupt answers beforehand. What is
kept is still launched: by the server, or without one by the next command that waits.
A second Ctrl-C ends at once and says what is left.";

/// No tag can begin with this, so whoever checks tags against it leaves that to the API.
const NO_PREFIX: &str = "\u{0}";

/// Devices.
#[derive(Debug, Args)]
pub struct Device {
    /// The device API's base URL, where there is no server [also: MUSTER_PACKET_URL]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub api_url: Option<String>,
    /// The id of the project whose devices are meant, where there is no server [also: MUSTER_PACKET_PROJECT]
    #[arg(long, global = true, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub project: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: DeviceCommand,
}

/// Commands about devices.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Launch a device wherever it can be had: the cheapest that fits, then the next
    #[command(after_help = INTERRUPTED)]
    Launch(Box<Launch>),
    /// Show what would be tried, in order, with price and capacity; nothing is created
    Plan {
        /// Also what is left out, each with the reason
        #[arg(long)]
        left_out: bool,
        /// What is wanted.
        #[command(flatten)]
        wanted: Box<Wanted>,
    },
    /// List devices, newest first
    List {
        /// Only those in this state
        #[arg(long, value_name = "STATE", value_parser = parse_state)]
        only: Option<State>,
        /// How many at most, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// All of them
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show a device: where it is in its life, its addresses, what was tried
    Show {
        /// The device's id
        #[arg(value_parser = parse_device_id)]
        id: Uuid,
        /// Wait until it is up, gone or failed; without a server, go on with it here
        #[arg(long)]
        wait: bool,
    },
    /// All that is kept of one attempt: states, health, the vendor's last answers, time line, cost
    Record {
        /// The device's id
        #[arg(value_parser = parse_device_id)]
        id: Uuid,
        /// Which attempt, from 1; the last one without this
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        number: Option<u32>,
    },
    /// What happened to a device, by our word and the vendor's, in one time line
    Events {
        /// The device's id
        #[arg(value_parser = parse_device_id)]
        id: Uuid,
        /// Go on until there is nothing left to happen; without a server, the work is done here
        #[arg(long)]
        follow: bool,
    },
    /// Tear a device down, in whatever state it is
    Delete {
        /// The device's id
        #[arg(value_parser = parse_device_id)]
        id: Uuid,
        /// Wait until the vendor has confirmed that it is gone; without a server, that is the default
        #[arg(long)]
        wait: bool,
        /// Only ask for it; without a server nothing happens before the next command that waits
        #[arg(long, conflicts_with = "wait")]
        no_wait: bool,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
    /// Launch a device, wait until it is up, tear it down, and report times, price and cost
    #[command(after_help = "\
Ctrl-C tears it down, waits until the vendor has confirmed that, and ends with 130.
A second Ctrl-C ends at once and says what is left.")]
    Run(Box<Run>),
}

/// What is launched, and how it is waited for.
#[derive(Debug, Args)]
pub struct Launch {
    /// What is wanted.
    #[command(flatten)]
    pub wanted: Wanted,
    /// Tear it down as soon as it is up
    #[arg(long)]
    pub ephemeral: bool,
    /// Makes it safe to run the command again: the same key gives the same device for 24 hours
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    pub idempotency_key: Option<String>,
    /// Wait until it is up, and print its addresses; without a server, that is the default
    #[arg(long)]
    pub wait: bool,
    /// Print its id and leave; without a server nothing is asked for before the next command that waits
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// What Ctrl-C does while it waits [default: ask on a terminal, else keep]
    #[arg(long, value_name = "WHAT", value_enum)]
    pub on_interrupt: Option<OnInterrupt>,
}

/// What is launched and taken down again.
#[derive(Debug, Args)]
pub struct Run {
    /// What is wanted.
    #[command(flatten)]
    pub wanted: Wanted,
    /// Makes it safe to run the command again: the same key gives the same device for 24 hours
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    pub idempotency_key: Option<String>,
}

/// What Ctrl-C does to a device that is being launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnInterrupt {
    /// It stays, and is still launched
    Keep,
    /// It is torn down, and that is waited for
    Teardown,
    /// Whoever sits there is asked
    Ask,
}

/// The requirements, all of which have to be met.
const REQUIREMENTS: &str = "Which will do (all of it)";
/// The rest.
const LIFE: &str = "The device";

/// What is wanted: the body of `POST /api/v1/devices`.
#[derive(Debug, Clone, Default, Args)]
pub struct Wanted {
    /// The operating system, such as debian_12
    #[arg(long, value_name = "SLUG", help_heading = REQUIREMENTS)]
    pub os: Option<String>,
    /// Its distribution, such as debian
    #[arg(long, value_name = "NAME", help_heading = REQUIREMENTS)]
    pub os_distro: Option<String>,
    /// Its version, such as 12
    #[arg(long, value_name = "VERSION", help_heading = REQUIREMENTS)]
    pub os_version: Option<String>,
    /// The plan, such as c3.small.x86
    #[arg(long, value_name = "SLUG", help_heading = REQUIREMENTS)]
    pub plan: Option<String>,
    /// The class of the plan, such as c3.small.x86
    #[arg(long, value_name = "NAME", help_heading = REQUIREMENTS)]
    pub class: Option<String>,
    /// At most so many US dollars an hour, such as 0.5
    #[arg(long, value_name = "DOLLARS", value_parser = parse_number, allow_negative_numbers = true, help_heading = REQUIREMENTS)]
    pub max_price: Option<Number>,
    /// At least so many GB of main memory
    #[arg(long, value_name = "GB", value_parser = parse_number, allow_negative_numbers = true, help_heading = REQUIREMENTS)]
    pub min_memory_gb: Option<Number>,
    /// At least so many cores
    #[arg(long, value_name = "N", value_parser = parse_number, allow_negative_numbers = true, help_heading = REQUIREMENTS)]
    pub min_cores: Option<Number>,
    /// A facility that will do, such as ewr1; may be given several times
    #[arg(long = "facility", value_name = "CODE", help_heading = REQUIREMENTS)]
    pub facilities: Vec<String>,
    /// A metro that will do, such as ny; may be given several times
    #[arg(long = "metro", value_name = "CODE", help_heading = REQUIREMENTS)]
    pub metros: Vec<String>,
    /// A feature that the facility must have, such as layer_2; may be given several times
    #[arg(long = "feature", value_name = "NAME", help_heading = REQUIREMENTS)]
    pub features: Vec<String>,

    /// Its name; made from its id without this
    #[arg(long, value_name = "NAME", help_heading = LIFE)]
    pub hostname: Option<String>,
    /// A tag at the vendor; may be given several times
    #[arg(long = "tag", value_name = "TAG", help_heading = LIFE)]
    pub tags: Vec<String>,
    /// A file with the userdata, - for standard input; it is never shown
    #[arg(long, value_name = "FILE", help_heading = LIFE)]
    pub userdata_file: Option<PathBuf>,
    /// The id of an SSH key, as the vendor has it; may be given several times
    #[arg(long = "ssh-key", value_name = "ID", help_heading = LIFE)]
    pub ssh_keys: Vec<String>,
    /// When it is torn down, such as 2027-01-15T08:00:00Z
    #[arg(long, value_name = "TIME", help_heading = LIFE)]
    pub termination_time: Option<String>,
    /// After how long it is torn down, 10m to 1y, such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, conflicts_with = "termination_time", help_heading = LIFE)]
    pub ttl: Option<i64>,
    /// How many combinations are tried at most, 1 to 50 [default: 10]
    #[arg(long, value_name = "N", value_parser = parse_number, allow_negative_numbers = true, help_heading = LIFE)]
    pub max_attempts: Option<Number>,
    /// For how long one attempt may take to come up, 1m to 6h [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, help_heading = LIFE)]
    pub provision_timeout: Option<i64>,
    /// For how long one attempt may show no progress, 30s to 6h [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, help_heading = LIFE)]
    pub stall_timeout: Option<i64>,
}

/// The fields of the body by the flags that set them.
const FLAGS: [(&str, &str); 20] = [
    ("/hostname", "--hostname"),
    ("/os/distro", "--os-distro"),
    ("/os/version", "--os-version"),
    ("/os/slug", "--os"),
    ("/plan/class", "--class"),
    ("/plan/slug", "--plan"),
    ("/plan/max_price_per_hour", "--max-price"),
    ("/plan/min_memory_gb", "--min-memory-gb"),
    ("/plan/min_cores", "--min-cores"),
    ("/facility/codes", "--facility"),
    ("/facility/features", "--feature"),
    ("/facility/metros", "--metro"),
    ("/tags", "--tag"),
    ("/userdata", "--userdata-file"),
    ("/ssh_keys", "--ssh-key"),
    ("/termination_time", "--termination-time"),
    ("/ttl_seconds", "--ttl"),
    ("/max_attempts", "--max-attempts"),
    ("/provision_timeout_seconds", "--provision-timeout"),
    ("/stall_timeout_seconds", "--stall-timeout"),
];

/// How a field of the body is typed. The entry of a list is named by the list's flag.
pub fn flag(pointer: &str) -> Option<&'static str> {
    let is = |field: &str| pointer.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    FLAGS.iter().find(|(field, _)| is(field)).map(|(_, flag)| *flag)
}

impl Wanted {
    /// The body, checked at `now` as far as that is possible without the API. `userdata` is what the
    /// file holds.
    ///
    /// # Errors
    /// Everything that is wrong, by the flags.
    pub fn body(&self, userdata: Option<String>, ephemeral: bool, now: Timestamp) -> Result<Value, Failure> {
        let mut body = Map::new();
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let number = |number: &Option<Number>| number.clone().map(Value::from);
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| Value::from(list.clone()));
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("hostname", text(&self.hostname));
        set(
            "os",
            object([("distro", text(&self.os_distro)), ("version", text(&self.os_version)), ("slug", text(&self.os))]),
        );
        set(
            "plan",
            object([
                ("class", text(&self.class)),
                ("slug", text(&self.plan)),
                ("max_price_per_hour", number(&self.max_price)),
                ("min_memory_gb", number(&self.min_memory_gb)),
                ("min_cores", number(&self.min_cores)),
            ]),
        );
        set(
            "facility",
            object([
                ("codes", list(&self.facilities)),
                ("features", list(&self.features)),
                ("metros", list(&self.metros)),
            ]),
        );
        set("tags", list(&self.tags));
        set("userdata", userdata.map(Value::from));
        set("ssh_keys", list(&self.ssh_keys));
        set("termination_time", text(&self.termination_time));
        set("ttl_seconds", self.ttl.map(Value::from));
        set("ephemeral", ephemeral.then(|| Value::from(true)));
        set("max_attempts", number(&self.max_attempts));
        set("provision_timeout_seconds", self.provision_timeout.map(Value::from));
        set("stall_timeout_seconds", self.stall_timeout.map(Value::from));
        let body = Value::from(body);
        let typed: CreateDevice = serde_json::from_value(body.clone())
            .map_err(|_| Failure::new("what was typed does not make a request; please report this"))?;
        // What the tags of our own devices begin with, the API knows.
        let refused = |wrong: Vec<(String, String)>| {
            let line = |(pointer, words): (String, String)| format!("{}: {words}", flag(&pointer).unwrap_or(&pointer));
            Failure::usage(wrong.into_iter().map(line).collect::<Vec<_>>().join("\n  "))
        };
        let (request, _) = typed.check(NO_PREFIX, now).map_err(refused)?;
        request.check_time(now).map_err(|wrong| refused(vec![wrong]))?;
        Ok(body)
    }
}

/// An object of those that are there; none of none.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let fields: Map<_, _> = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!fields.is_empty()).then(|| fields.into())
}

/// A refusal of the API in terms of this command line.
pub fn by_flags(mut failure: Failure) -> Failure {
    let Some(problem) = &failure.problem else { return failure };
    if problem.slug() == "nothing-fits" {
        // Its detail says the same in one sentence.
        let line =
            |error: &FieldError| format!("\n  {}: {}", flag(&error.pointer).unwrap_or(&error.pointer), error.detail);
        let lines: String = problem.errors.iter().map(line).collect();
        failure.message = format!("nothing that the vendor has is all of this:{lines}");
        return failure;
    }
    for error in &problem.errors {
        if let Some(flag) = flag(&error.pointer) {
            failure.message = failure.message.replace(&format!("\n  {}: ", error.pointer), &format!("\n  {flag}: "));
        }
    }
    failure
}

fn parse_number(text: &str) -> Result<Number, String> {
    text.trim_start_matches('+').parse().map_err(|_| "write a number, such as 2 or 0.5".to_owned())
}

/// A device's id.
fn parse_device_id(text: &str) -> Result<Uuid, String> {
    let id = (text.len() == 36).then(|| text.parse().ok()).flatten();
    id.ok_or_else(|| "ids are UUIDs of 36 characters; `muster device list` shows them".to_owned())
}

fn parse_state(text: &str) -> Result<State, String> {
    let all = [
        State::Requested,
        State::Creating,
        State::Provisioning,
        State::Active,
        State::Deleting,
        State::Deleted,
        State::Failed,
    ];
    let found = all.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("one of {}", all.map(State::as_str).join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;
    use http::StatusCode;
    use kit::problem::Problem;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn wanted(line: &str) -> Wanted {
        let words = "muster device launch".split(' ').chain(line.split_whitespace());
        let Command::Device(Device { command: DeviceCommand::Launch(launch), .. }) =
            Cli::try_parse_from(words).unwrap().command
        else {
            panic!("another command")
        };
        launch.wanted
    }

    fn refused(line: &str) -> String {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    }

    #[test]
    fn the_body_holds_what_was_typed_and_nothing_else() {
        let body = |line: &str| wanted(line).body(None, false, NOW).unwrap();
        assert_eq!(body(""), json!({}));
        let line = "--hostname a1 --os-distro debian --os-version 12 --os debian_12 --class c3.small.x86 \
            --plan c3.small.x86 --max-price 0.5 --min-memory-gb 32 --min-cores 8 --facility ewr1 --facility ams1 \
            --feature layer_2 --metro ny --tag a --tag b --ssh-key k --ttl 2h --max-attempts 3 \
            --provision-timeout 20m --stall-timeout 5m";
        assert_eq!(
            body(line),
            json!({
                "hostname": "a1", "os": {"distro": "debian", "version": "12", "slug": "debian_12"},
                "plan": {"class": "c3.small.x86", "slug": "c3.small.x86", "max_price_per_hour": 0.5,
                         "min_memory_gb": 32, "min_cores": 8},
                "facility": {"codes": ["ewr1", "ams1"], "features": ["layer_2"], "metros": ["ny"]},
                "tags": ["a", "b"], "ssh_keys": ["k"], "ttl_seconds": 7200, "max_attempts": 3,
                "provision_timeout_seconds": 1200, "stall_timeout_seconds": 300,
            })
        );
        let body = wanted("--termination-time 2027-02-01T00:00:00Z").body(Some("#!/bin/sh".to_owned()), true, NOW);
        assert_eq!(
            body.unwrap(),
            json!({"termination_time": "2027-02-01T00:00:00Z", "userdata": "#!/bin/sh", "ephemeral": true})
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_flag() {
        for (line, said) in [
            ("--hostname a_b", "--hostname: no host name"),
            ("--max-price 0", "--max-price: 0 is no price"),
            ("--max-price -1", "--max-price: -1 is no price"),
            ("--min-memory-gb -2", "--min-memory-gb: -2 is no size"),
            ("--min-cores 1.5", "--min-cores: 1.5 will not do: send a whole number"),
            ("--ttl 5m", "--ttl: 300 will not do: send a whole number from 600"),
            ("--max-attempts 51", "--max-attempts: 51 will not do"),
            ("--stall-timeout 20s", "--stall-timeout: 20 will not do"),
            ("--termination-time 2001-01-01T00:00:00Z", "--termination-time: 2001-01-01T00:00:00Z has passed"),
            ("--termination-time soon", "--termination-time: no time as RFC 3339"),
        ] {
            let failure = wanted(line).body(None, false, NOW).unwrap_err();
            assert!(failure.message.starts_with(said), "{line}: {failure}");
        }
        let failure = wanted("--ttl 5m --max-attempts 0").body(None, false, NOW).unwrap_err();
        assert_eq!(failure.message.lines().count(), 2, "all of it at once: {failure}");
        let long = "x".repeat(65_537);
        let failure = wanted("").body(Some(long), false, NOW).unwrap_err();
        assert!(failure.message.starts_with("--userdata-file: it has 65537 bytes"), "{failure}");
    }

    #[test]
    fn what_is_no_value_is_refused_with_what_would_be_right() {
        assert!(refused("muster device launch --max-price cheap").contains("such as 2 or 0.5"));
        assert!(refused("muster device launch --ttl 2").contains("30d, 12h or 1y"));
        assert!(refused("muster device launch --ttl 2h --termination-time 2027-02-01T00:00:00Z").contains("--ttl"));
        assert!(refused("muster device launch --wait --no-wait").contains("--no-wait"));
        assert!(refused("muster device launch --on-interrupt wait").contains("keep, teardown, ask"));
        assert!(refused("muster device launch --userdata secret").contains("--userdata-file"));
        assert!(refused("muster device show 7").contains("muster device list"));
        assert!(refused("muster device list --only up").contains("Requested, Creating"));
        assert!(refused("muster device launch --token secret").contains("--token"), "no flag holds it");
    }

    #[test]
    fn every_field_of_the_request_has_its_flag() {
        let line = "--hostname a --os a --os-distro a --os-version a --plan a --class a --max-price 1 --min-memory-gb 1 \
            --min-cores 1 --facility a --feature a --metro a --tag a --ssh-key a --ttl 2h --max-attempts 1 \
            --provision-timeout 1h --stall-timeout 1h";
        let body = wanted(line).body(Some("x".to_owned()), true, NOW).unwrap();
        let mut typed: Vec<String> = vec!["/termination_time".to_owned()]; // not together with --ttl
        for (name, value) in body.as_object().unwrap() {
            match value.as_object() {
                Some(fields) => typed.extend(fields.keys().map(|field| format!("/{name}/{field}"))),
                None if name == "ephemeral" => {} // each command has its own way to say it
                None => typed.push(format!("/{name}")),
            }
        }
        typed.sort();
        let mut known = FLAGS.map(|(pointer, _)| pointer.to_owned());
        known.sort();
        assert_eq!(typed, known);
    }

    #[test]
    fn a_refusal_of_the_api_names_the_flags() {
        let problem = Problem::invalid("See `errors`.")
            .error("/plan/max_price_per_hour", "nothing costs so little")
            .error("/tags/1", "taken")
            .error("/other", "stays");
        let failure = by_flags(problem.into());
        assert_eq!(
            failure.message,
            "See `errors`.\n  --max-price: nothing costs so little\n  --tag: taken\n  /other: stays"
        );
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing-fits", "Nothing")
            .detail("Nothing that the vendor has is all of this: there is no plan; there is no facility.")
            .error("/plan/max_price_per_hour", "there is no plan")
            .error("/facility/codes", "there is no facility");
        assert_eq!(
            by_flags(problem.into()).message,
            "nothing that the vendor has is all of this:\n  --max-price: there is no plan\n  --facility: there is no facility"
        );
    }
}
