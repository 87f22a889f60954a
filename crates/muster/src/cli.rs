//! What can be typed. Values are checked here, before anything is opened, sent or written.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use batches::{
    batch::{MAX_SIZE, OnUncertain, Status},
    deveui::{Prefix, ShortCode},
};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use jiff::{SignedDuration, Span, SpanRelativeTo};
use uuid::Uuid;

use crate::{
    deployments::args::{AutoscalerCommand, Deployments},
    device::args::Device,
    services::args::{FROM_HERE, Servers, Services},
};

/// An operations backend for a fleet: batches of registered DevEUIs, machines launched, servers and
/// services watched, deployments scaled, and text shouted.
///
/// With --server (or MUSTER_SERVER) it talks to that server; with a `muster serve` running on the
/// state folder, to that one; else it does the work in its own process. Settings come from flags,
/// then from the environment, then from muster.toml in the XDG configuration folder, or from the
/// profile that `muster login --profile` has made there.
///
/// Exit codes: 0 fine, 1 failed, 2 usage, 3 not found, 4 no access, 5 the server or an upstream is
/// away, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "muster", version, arg_required_else_help = true)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The least serious messages that are logged to standard error.
    pub fn log_level(&self) -> &'static str {
        match (&self.command, self.global.verbose) {
            (Command::Serve(_), 0) | (_, 1) => "info",
            (Command::Autoscaler(_), 0) => "warn",
            // Commands say themselves what is wrong, beside their progress bar.
            (_, 0) => "error",
            (_, _) => "debug",
        }
    }
}

/// Above the flags that every command has.
const GLOBAL: &str = "Global options";

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Base URL of the server to talk to; its key comes from MUSTER_KEY [also: MUSTER_SERVER]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub server: Option<String>,
    /// Use the server and the key of this profile; `muster login --profile` makes it [also: MUSTER_PROFILE]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "NAME", value_parser = parse_profile)]
    pub profile: Option<String>,
    /// Folder for everything local [also: MUSTER_STATE; default: muster in the XDG state folder]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// How results are written to standard output
    #[arg(short, long, global = true, help_heading = GLOBAL, value_enum, default_value_t)]
    pub output: Format,
    /// Colours; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t)]
    pub color: Color,
    /// Log what is done to standard error; twice for more
    #[arg(short, long, global = true, help_heading = GLOBAL, action = ArgAction::Count)]
    pub verbose: u8,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Aligned columns with a header, for people
    #[default]
    Table,
    /// What the API answers; errors as JSON too, on standard error
    Json,
    /// A header line, then one line for each row
    Csv,
    /// Bare values for other programs, without a header
    Plain,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal
    #[default]
    Auto,
    /// Even into a pipe
    Always,
    /// Not at all
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Batches of registered DevEUIs
    #[command(subcommand)]
    Batch(Batch),
    /// Machines: launched wherever they can be had, watched until they are up, torn down without leftovers
    #[command(after_help = crate::device::args::WHERE)]
    Device(Device),
    /// Every server: which service it runs, how loaded it is, how it is
    #[command(after_help = FROM_HERE)]
    Servers(Servers),
    /// The services: how loaded, which are short of healthy servers, how they change
    #[command(after_help = "\
Without a subcommand it is `muster services status`. What is read now comes from the server, or is
read from here with --cp-url or MUSTER_CPX_URL; history and alerts are kept by `muster serve`.")]
    Services(Services),
    /// The deployments: their shares of free servers, what was decided for them and why, their policies
    #[command(after_help = crate::deployments::args::WHERE)]
    Deployments(Deployments),
    /// The autoscaler, in the foreground and without a server
    #[command(subcommand)]
    Autoscaler(AutoscalerCommand),
    /// Text reversed and shouted
    Shout {
        /// The text, words joined by spaces; standard input without it
        text: Vec<String>,
    },
    /// Everything in one process, for other programs and other people
    Serve(Serve),
    /// Remember a server and its key, which is read from standard input
    #[command(after_help = "\
The key is read from standard input, never from the command line, where others could see it:
  muster login https://muster.example < key
It is tried first. With --profile, it is kept beside others: muster --profile NAME batch list")]
    Login(Login),
    /// Forget the server and its key
    Logout,
    /// The keys of the API
    Keys(Keys),
    /// The upstreams' tokens of a deployment on AWS
    Secrets(Secrets),
    /// A server with simulated upstreams, told step by step
    Demo(Demo),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write those of all commands into a folder
    Man {
        /// The folder; made where it is missing
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print the API's OpenAPI document
    Openapi,
    /// Print the declared routes with their scopes, as JSON
    #[command(hide = true)]
    Routes,
    /// Print the definitions of all tables, as JSON
    #[command(hide = true)]
    Tables,
}

/// Commands about batches.
#[derive(Debug, Subcommand)]
pub enum Batch {
    /// Register a batch of DevEUIs and print them
    #[command(after_help = "\
Ctrl-C ends it in good order and prints what is registered; `muster batch show ID` goes on.
Without a server the work is done in this process, against --provider or MUSTER_LORAWAN_URL.")]
    Create(Create),
    /// List batches, newest first
    List {
        /// Only those with this status
        #[arg(long, value_parser = parse_status, value_name = "STATUS")]
        status: Option<Status>,
        /// How many at most, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// All of them
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Deleted ones as well
        #[arg(long)]
        deleted: bool,
    },
    /// Show a batch and its DevEUIs; without a server, go on with one that is not finished
    Show {
        /// The batch's id
        #[arg(value_parser = parse_id)]
        id: Uuid,
        /// Wait until it is finished; without a server, that is the default
        #[arg(long)]
        wait: bool,
        /// Only look
        #[arg(long, conflicts_with = "wait")]
        no_wait: bool,
        /// Also if it was deleted, for 30 days
        #[arg(long)]
        deleted: bool,
    },
    /// Print the DevEUI behind a short code
    Find {
        /// The batch's id
        #[arg(value_parser = parse_id)]
        id: Uuid,
        /// The five characters
        #[arg(value_parser = parse_code)]
        code: ShortCode,
    },
    /// Stop registering for a batch; what is registered stays, and is printed
    Cancel {
        /// The batch's id
        #[arg(value_parser = parse_id)]
        id: Uuid,
    },
    /// Delete a finished batch; for 30 days `show --deleted` still has it
    Delete {
        /// The batch's id
        #[arg(value_parser = parse_id)]
        id: Uuid,
        /// Cancel it first if it is not finished
        #[arg(long)]
        yes: bool,
    },
}

/// What a new batch shall be.
#[derive(Debug, Args)]
pub struct Create {
    /// How many DevEUIs, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_size, allow_negative_numbers = true)]
    pub size: u64,
    /// What all of them begin with: 0 to 11 hexadecimal characters, such as 70B3D5
    #[arg(long, value_name = "HEX", value_parser = parse_prefix)]
    pub prefix: Option<Prefix>,
    /// A name for people
    #[arg(long, value_name = "TEXT", value_parser = parse_label)]
    pub label: Option<String>,
    /// What becomes of a DevEUI that is taken after an answer about it was lost: it is probably ours
    #[arg(long, value_name = "WHAT", value_enum, default_value = "keep")]
    pub on_uncertain: Uncertain,
    /// Makes it safe to run the command again: the same key gives the same batch for 24 hours
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    pub key: Option<String>,
    /// The LoRaWAN provider's base URL, where there is no server [also: MUSTER_LORAWAN_URL]
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub provider: Option<String>,
    /// Wait until it is finished (default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Print the batch's id and leave
    #[arg(long)]
    pub no_wait: bool,
}

/// What becomes of a doubtful DevEUI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Uncertain {
    /// It counts as ours
    Keep,
    /// It is listed, and another is registered in its place
    Replace,
}

impl From<Uncertain> for OnUncertain {
    fn from(uncertain: Uncertain) -> Self {
        match uncertain {
            Uncertain::Keep => Self::Keep,
            Uncertain::Replace => Self::Replace,
        }
    }
}

/// How the server runs.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to listen; port 0 takes a free one. Another address than loopback needs keys first
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Where everything is kept [also: MUSTER_STORE; default: embedded]
    #[arg(long, value_enum)]
    pub store: Option<StoreKind>,
}

/// Where everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A file in the state folder, for this process alone
    Embedded,
    /// DynamoDB, as the AWS SDK's own settings describe it
    Dynamodb,
}

/// The keys of the API.
#[derive(Debug, Args)]
pub struct Keys {
    /// `dynamodb` works on the table itself, with the operator's own AWS credentials [also: MUSTER_STORE]
    #[arg(long, value_enum, global = true)]
    pub store: Option<StoreKind>,
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    Create {
        /// Whose data it opens: 1 to 64 of a-z, 0-9, - and _
        #[arg(long)]
        tenant: String,
        /// What it may do, such as batches:read; may be given several times
        #[arg(long = "scope", value_name = "SCOPE", required = true, num_args = 1..)]
        scopes: Vec<String>,
        /// For people: where it is used
        #[arg(long, value_name = "TEXT", value_parser = parse_label)]
        label: Option<String>,
        /// After how long it is refused, such as 30d or 12h; never without it
        #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
        expires: Option<i64>,
    },
    /// List the keys, without their secrets
    List,
    /// Refuse a key from now on (other processes may remember it for a minute)
    Revoke {
        /// The key's id, from `muster keys list`
        id: String,
    },
}

/// Which server to remember.
#[derive(Debug, Args)]
pub struct Login {
    /// Its base URL, such as https://muster.example
    pub url: String,
    /// A PEM file with the certificate to trust for this server, where no public authority vouches for it
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// The upstreams' tokens of a deployment on AWS.
#[derive(Debug, Args)]
pub struct Secrets {
    /// Which deployment, such as muster-test [also: MUSTER_ENVIRONMENT]
    #[arg(long, global = true, value_name = "NAME", value_parser = parse_environment)]
    pub environment: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: SecretsCommand,
}

/// Commands about secrets.
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// Give a secret a value, from standard input; the functions use it within five minutes
    #[command(after_help = "\
The value is read from standard input, never from the command line, where others could see it:
  muster secrets set MUSTER_LORAWAN_TOKEN --environment muster-test < token")]
    Set {
        /// Its name, such as MUSTER_LORAWAN_TOKEN
        name: String,
    },
    /// List the secrets, without their values
    List,
}

/// How the demonstration runs.
#[derive(Debug, Args)]
pub struct Demo {
    /// End after the last step instead of staying up
    #[arg(long)]
    pub exit: bool,
    /// How many DevEUIs
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_size, allow_negative_numbers = true)]
    pub size: u64,
    /// How long the simulated provider takes for an answer
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = simulators::faults::parse_duration)]
    pub latency: Duration,
}

/// Whether results are wanted as JSON by a command line that could not be understood.
pub fn wants_json(args: &[OsString]) -> bool {
    let is_pair = |pair: &[OsString]| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json";
    let is_one = |arg: &OsString| ["-ojson", "-o=json", "--output=json"].iter().any(|it| arg == it);
    args.windows(2).any(is_pair) || args.iter().any(is_one)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let size = text.parse().ok().filter(|size| (1..=MAX_SIZE).contains(size));
    size.ok_or_else(|| format!("a batch has 1 to {MAX_SIZE} DevEUIs; write a whole number such as 100"))
}

fn parse_prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|error: batches::deveui::ParseError| error.to_string())
}

fn parse_code(text: &str) -> Result<ShortCode, String> {
    text.parse().map_err(|error: batches::deveui::ParseError| error.to_string())
}

fn parse_id(text: &str) -> Result<Uuid, String> {
    let id = (text.len() == 36).then(|| text.parse().ok()).flatten();
    id.ok_or_else(|| "ids are UUIDs of 36 characters; `muster batch list` shows them".to_owned())
}

pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = text.parse::<SignedDuration>().ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval =
        interval.filter(|interval| (Duration::from_millis(500)..=Duration::from_hours(1)).contains(interval));
    interval.ok_or_else(|| "write a time from 0.5s to 1h, such as 2s, 500ms or 1m".to_owned())
}

pub(crate) fn parse_reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("a reason has 1 to 200 characters and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_label(text: &str) -> Result<String, String> {
    if text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("a label has up to 200 characters and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn parse_idempotency_key(text: &str) -> Result<String, String> {
    let most = kit::idempotency::MAX_KEY;
    if !(1..=most).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("a key has 1 to {most} visible ASCII characters and no spaces, such as order-4711"));
    }
    Ok(text.to_owned())
}

fn parse_status(text: &str) -> Result<Status, String> {
    let all = [Status::Processing, Status::Completed, Status::Cancelling, Status::Cancelled, Status::Failed];
    let found = all.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("one of {}", all.map(Status::as_str).join(", ")))
}

/// A profile's name, which is also that of its file.
pub fn parse_profile(text: &str) -> Result<String, String> {
    let sane = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    if !(1..=64).contains(&text.len()) || !text.bytes().all(sane) {
        return Err("a profile's name has 1 to 64 letters, digits, - and _, such as muster-test".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_environment(text: &str) -> Result<String, String> {
    let sane = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    if text.is_empty() || !text.bytes().all(sane) {
        return Err("write the deployment's name, such as muster-test or muster-prod".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| "write an address and a port, such as 127.0.0.1:8080 or [::1]:0".to_owned())
}

/// A friendly duration in whole seconds; a day is 24 hours.
pub(crate) fn parse_seconds(text: &str) -> Result<i64, String> {
    let bad = || "write a time such as 30d, 12h or 1y".to_owned();
    let span: Span = text.parse().map_err(|_| bad())?;
    // Years and months have no fixed length; for an expiry, 365 and 30 days are what is meant.
    let days = i64::from(span.get_years()) * 365 + i64::from(span.get_months()) * 30;
    let rest = span.years(0).months(0).to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    let seconds = days.checked_mul(86_400).and_then(|seconds| seconds.checked_add(rest.as_secs()));
    seconds.filter(|seconds| *seconds > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn refused(args: &str) -> String {
        let error = Cli::try_parse_from(args.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args}");
        error.to_string()
    }

    #[test]
    fn bad_values_are_refused_with_what_would_be_right() {
        for size in ["0", "-1", "1.5", "ten", "1000000000"] {
            assert!(refused(&format!("muster batch create --size {size}")).contains("1 to 1000000"), "{size}");
        }
        for prefix in ["70B3D5123456", "70B3DG"] {
            assert!(refused(&format!("muster batch create --prefix {prefix}")).contains("0 to 11 hexadecimal"));
        }
        assert!(refused("muster batch show 7").contains("muster batch list"));
        assert!(refused("muster batch find 0198c6d2-6f7e-7a7e-8000-000000000000 25").contains("5 hexadecimal"));
        assert!(refused(&format!("muster batch create --key {}", "k".repeat(300))).contains("1 to 255"));
        assert!(refused("muster serve --listen 8080").contains("127.0.0.1:8080"));
        assert!(refused("muster keys create --tenant t --scope admin --expires soon").contains("30d"));
    }

    #[test]
    fn json_is_seen_on_a_line_that_is_wrong_otherwise() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&args("muster -o json batch shw")));
        assert!(wants_json(&args("muster batch shw --output=json")));
        assert!(!wants_json(&args("muster batch create --label json")));
    }

    #[test]
    fn an_expiry_is_read_in_days_months_and_years() {
        assert_eq!(parse_seconds("30d"), Ok(30 * 86_400));
        assert_eq!(parse_seconds("1d 12h"), Ok(36 * 3600));
        assert_eq!(parse_seconds("1y"), Ok(365 * 86_400));
        for bad in ["0d", "-1d", "", "30"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
