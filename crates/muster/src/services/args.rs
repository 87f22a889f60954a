//! What can be typed about servers and services. Values are checked here, before anything is asked.

use std::time::Duration;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use services::{config::MOST_HEALTHY, history::parse_window};
use uuid::Uuid;

use crate::cli::{parse_interval, parse_reason, parse_seconds};

/// Where a live reading comes from.
pub const FROM_HERE: &str = "\
With --cp-url (or MUSTER_CPX_URL and no server) CPX is asked from here, and nothing is kept.
A server is unhealthy above a threshold, and unknown where it did not answer or answered nonsense.";

/// Where a reading comes from, and what is unhealthy in it.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Reading {
    /// CPX's base URL: asks it from here, whatever server is set [also: MUSTER_CPX_URL]
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub cp_url: Option<String>,
    /// Above how many per cent of CPU a server is unhealthy [default: the server's, or 90]
    #[arg(long, value_name = "PCT", value_parser = parse_per_cent, allow_negative_numbers = true)]
    pub cpu_threshold: Option<f64>,
    /// Above how many per cent of memory a server is unhealthy [default: the server's, or 90]
    #[arg(long, value_name = "PCT", value_parser = parse_per_cent, allow_negative_numbers = true)]
    pub mem_threshold: Option<f64>,
}

/// Which servers are listed.
#[derive(Debug, Args)]
pub struct Servers {
    /// Only those of this service
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub service: Option<String>,
    /// Only those with this status
    #[arg(long, ignore_case = true, value_parser = ["healthy", "unhealthy", "unknown"])]
    pub status: Option<String>,
    /// By what they are sorted; descending with a `-` in front, what is unknown last
    #[arg(
        long, value_name = "KEY", default_value = "ip", allow_hyphen_values = true,
        value_parser = ["ip", "service", "cpu", "memory", "status", "-ip", "-service", "-cpu", "-memory", "-status"],
    )]
    pub sort: String,
    /// End with exit code 1 where one that is listed is unhealthy or unknown
    #[arg(long)]
    pub exit_status: bool,
    /// Where the reading comes from.
    #[command(flatten)]
    pub reading: Reading,
}

/// The services.
#[derive(Debug, Args)]
pub struct Services {
    /// What is shown without a subcommand.
    #[command(flatten)]
    pub status: ServicesStatus,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<ServicesCommand>,
}

/// Which services are listed.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ServicesStatus {
    /// Only this one
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub service: Option<String>,
    /// End with exit code 1 where one that is listed is unhealthy or unknown
    #[arg(long)]
    pub exit_status: bool,
    /// Where the reading comes from.
    #[command(flatten)]
    pub reading: Reading,
}

/// Commands about services.
#[derive(Debug, Subcommand)]
pub enum ServicesCommand {
    /// Average CPU and memory of each service, over the servers that reported
    #[command(after_help = FROM_HERE)]
    Status(ServicesStatus),
    /// The services that are short of healthy servers; one that is unknown is not healthy
    #[command(after_help = FROM_HERE)]
    Unhealthy {
        /// Fewer healthy servers than this are too few [default: the server's, or 2]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(MOST_HEALTHY)))]
        min_healthy: Option<u32>,
        /// End with exit code 1 where there is one
        #[arg(long)]
        exit_status: bool,
        /// Where the reading comes from.
        #[command(flatten)]
        reading: Reading,
    },
    /// Follow a service and its servers until q or Ctrl-C
    #[command(after_help = "\
On a terminal it redraws in place: arrows, Page Up and Page Down scroll, q ends it.
Elsewhere it writes a block per interval; with -o json a line per reading, with -o csv rows.")]
    Track(Track),
    /// How a service was, minute by minute, from what `muster serve` has kept for 14 days
    History {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// How far back, 1m to 14d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_history_window)]
        window: String,
    },
    /// The alerts of `muster serve`: three minutes in a row short of healthy servers
    Alerts {
        /// Only these; `active` are all that are not ok
        #[arg(long, value_name = "STATE", default_value = "active", value_parser = ["active", "all", "ok", "pending", "firing", "clearing", "flapping"])]
        status: String,
    },
    /// Tell nobody of an alert for a while; it goes on
    Silence {
        /// The alert's id
        #[arg(value_parser = parse_alert_id)]
        id: Uuid,
        /// For how long from now on, up to 90 days, such as 2h
        #[arg(long = "for", value_name = "TIME", value_parser = parse_silence)]
        seconds: i64,
        /// Why, for the others; 1 to 200 characters
        #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
        reason: String,
    },
    /// End an alert's silence
    Unsilence {
        /// The alert's id
        #[arg(value_parser = parse_alert_id)]
        id: Uuid,
    },
}

/// What is followed.
#[derive(Debug, Args)]
pub struct Track {
    /// The service's name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// From one reading to the next, 0.5s to 1h
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    pub interval: Duration,
    /// Where the reading comes from.
    #[command(flatten)]
    pub reading: Reading,
}

fn parse_alert_id(text: &str) -> Result<Uuid, String> {
    let id = (text.len() == 36).then(|| text.parse().ok()).flatten();
    id.ok_or_else(|| "ids are UUIDs of 36 characters; `muster services alerts --status all` shows them".to_owned())
}

fn parse_per_cent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "write a number of per cent from 0 to 100, such as 90".to_owned())
}

fn parse_history_window(text: &str) -> Result<String, String> {
    parse_window(text).map(|_| text.to_owned()).map_err(|error| format!("it {error}"))
}

fn parse_silence(text: &str) -> Result<i64, String> {
    let seconds = parse_seconds(text).ok().filter(|seconds| *seconds <= 90 * 86_400);
    seconds.ok_or_else(|| "write a time up to 90 days, such as 2h or 3d".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn refused(args: &str) -> String {
        let error = Cli::try_parse_from(args.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args}");
        error.to_string()
    }

    #[test]
    fn bad_values_are_refused_with_what_would_be_right() {
        for threshold in ["-1", "101", "NaN", "high", ""] {
            assert!(
                refused(&format!("muster servers --cpu-threshold {threshold}")).contains("0 to 100"),
                "{threshold}"
            );
        }
        for interval in ["0.4s", "2", "61m", "-2s", "soon"] {
            assert!(refused(&format!("muster services track A --interval={interval}")).contains("0.5s to 1h"));
        }
        assert!(refused("muster servers --sort load").contains("-cpu"));
        assert!(refused("muster servers --status ill").contains("unhealthy"));
        assert!(refused("muster services history A --window 30s").contains("1 minute to 14 days"));
        assert!(refused("muster services silence 7 --for 2h --reason x").contains("muster services alerts"));
        let id = "0198c6d2-6f7e-7a7e-8000-000000000000";
        assert!(refused(&format!("muster services silence {id} --for 91d --reason x")).contains("90 days"));
        assert!(refused(&format!("muster services silence {id} --reason x")).contains("--for"));
        assert!(refused("muster services unhealthy --min-healthy 10001").contains("10000"));
    }

    #[test]
    fn what_may_begin_with_a_hyphen_does_and_descends() {
        let cli = Cli::try_parse_from(["muster", "servers", "--sort", "-cpu"]).unwrap();
        assert!(matches!(cli.command, Command::Servers(Servers { sort, .. }) if sort == "-cpu"));
        let cli = Cli::try_parse_from(["muster", "services", "track", "A", "--interval", "0.5s"]).unwrap();
        assert!(matches!(
            cli.command,
            Command::Services(Services { command: Some(ServicesCommand::Track(track)), .. })
                if track.interval == Duration::from_millis(500)
        ));
    }
}
