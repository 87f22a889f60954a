//! `muster servers` and `muster services …`: what runs where, how loaded, and what is short.
//!
//! **The one thing to know:** what is read now can be read from here. With `--cp-url` this process
//! asks CPX itself, with a store in memory that ends with it; else the server that is set is asked.
//! What is kept, history and alerts, is where a `muster serve` keeps it.
//!
//! - [`args`]: what can be typed;
//! - [`table`]: rows for people and for programs;
//! - [`track`]: a service followed; [`trail`] is what is known of it, [`dashboard`] draws that.

pub mod args;
pub mod dashboard;
pub mod table;
pub mod track;
pub mod trail;

use std::{collections::HashSet, time::Duration};

use ::services::{
    config::URL,
    http::{
        AlertView, History, ReadingView, ServerView, Servers, ServiceWithServers, Services, ShortServices, SilenceAlert,
    },
    server::Status,
};
use jiff::{SignedDuration, Timestamp};
use kit::{paging::Page, upstream};
use serde::{Serialize, de::DeserializeOwned};
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use self::args::{Reading, ServicesCommand, ServicesStatus};
use crate::{
    backend::Backend,
    cli::{Command, Format},
    client::Client,
    connect::{Target, connect, connect_lightly},
    exit::{Exit, Failure},
    output::{Output, count, patiently},
    settings::{SERVER, Settings},
};

const ALERTS: &str = "/api/v1/alerts";
/// Entries in a page.
const PAGE: usize = 500;
/// More than a CPX of ours fills: a server that never ends its list must not keep us.
const MOST_PAGES: usize = 200;
/// How old the reading of a later page may be, in seconds: old enough to be that of the first.
const SAME_READING: u32 = 60;

/// Runs `muster servers`.
pub async fn servers(args: &args::Servers, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let live = Live::open(settings).await?;
    let mut query = thresholds(&args.reading);
    query.extend(args.service.clone().map(|name| ("service", name)));
    query.extend(args.status.clone().map(|status| ("status", status.to_ascii_lowercase())));
    query.push(("sort", args.sort.clone()));
    let listed: Servers = live.all("/api/v1/servers", &query).await?;
    if let (Some(name), []) = (&args.service, listed.items.as_slice()) {
        // None of its servers, or no such service?
        live.service(name, &args.reading, SAME_READING).await?;
    }
    print(&listed, || table::servers(&listed.items, output.format), "No servers.", output)?;
    tell_doubts(&listed.reading, output);
    let is_well = listed.items.iter().all(|server| server.status == Status::Healthy);
    Ok(if args.exit_status && !is_well { Exit::Failed } else { Exit::Fine })
}

/// Runs `muster services …`.
pub async fn run(command: &args::Services, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if command.command.is_some() && command.status != ServicesStatus::default() {
        return Err(Failure::usage("options go behind the subcommand that they are for")
            .hint("such as: muster services status --service NAME"));
    }
    match &command.command {
        None => status(&command.status, settings, output).await,
        Some(ServicesCommand::Status(args)) => status(args, settings, output).await,
        Some(ServicesCommand::Unhealthy { min_healthy, exit_status, reading }) => {
            unhealthy(*min_healthy, *exit_status, reading, settings, output).await
        }
        Some(ServicesCommand::Track(args)) => track::run(args, settings, output).await,
        Some(ServicesCommand::History { name, window }) => history(name, window, settings, output).await,
        Some(ServicesCommand::Alerts { status }) => alerts(status, settings, output).await,
        Some(ServicesCommand::Silence { id, seconds, reason }) => {
            silence(*id, *seconds, reason, settings, output).await
        }
        Some(ServicesCommand::Unsilence { id }) => unsilence(*id, settings, output).await,
    }
}

async fn status(args: &ServicesStatus, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let live = Live::open(settings).await?;
    let (items, reading) = if let Some(name) = &args.service {
        let found = live.service(name, &args.reading, ::services::http::MAX_AGE).await?;
        let items = vec![found.service.clone()];
        print(&found, || table::services(&items, output.format), "", output)?;
        (items, found.reading)
    } else {
        let listed: Services = live.all("/api/v1/services", &thresholds(&args.reading)).await?;
        print(&listed, || table::services(&listed.items, output.format), "No services.", output)?;
        (listed.items, listed.reading)
    };
    tell_doubts(&reading, output);
    let is_well = items.iter().all(|service| service.status == Status::Healthy);
    Ok(if args.exit_status && !is_well { Exit::Failed } else { Exit::Fine })
}

async fn unhealthy(
    min_healthy: Option<u32>,
    exit_status: bool,
    reading: &Reading,
    settings: &Settings,
    output: &Output,
) -> Result<Exit, Failure> {
    let live = Live::open(settings).await?;
    let mut query = thresholds(reading);
    query.extend(min_healthy.map(|number| ("min_healthy", number.to_string())));
    let listed: ShortServices = live.all("/api/v1/unhealthy-services", &query).await?;
    let none = format!("No service has fewer than {}.", count(listed.min_healthy.into(), "healthy server"));
    print(&listed, || table::short_services(&listed.items, output.format), &none, output)?;
    tell_doubts(&listed.reading, output);
    Ok(if exit_status && !listed.items.is_empty() { Exit::Failed } else { Exit::Fine })
}

async fn history(name: &str, window: &str, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let client = kept(settings, output).await?;
    let path = format!("{}/history", path(name));
    let history: History = get(&client, &path, &[("window", window.to_owned())]).await.map_err(of_service)?;
    let none = "No snapshot in that time. `muster serve` makes one every minute.";
    if history.items.is_empty() && output.format == Format::Table {
        output.note(none);
        return Ok(Exit::Fine);
    }
    print(&history, || table::history(&history, output.format), none, output)?;
    if output.format == Format::Table && history.resolution_seconds > 60 {
        let minutes = history.resolution_seconds / 60;
        output.note(&format!("Each line stands for {minutes} minutes: the average, and the range in brackets."));
    }
    Ok(Exit::Fine)
}

async fn alerts(state: &str, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let client = kept(settings, output).await?;
    let query = [("state", state.to_owned()), ("limit", PAGE.to_string())];
    let mut listed: Page<AlertView> = get(&client, ALERTS, &query).await.map_err(unset_there)?;
    for _ in 1..MOST_PAGES {
        let Some(cursor) = listed.next_cursor.take() else { break };
        let query = [query.as_slice(), &[("cursor", cursor)]].concat();
        let page: Page<AlertView> = get(&client, ALERTS, &query).await?;
        listed.items.extend(page.items);
        listed.next_cursor = page.next_cursor;
    }
    let none = match state {
        "active" => "No active alerts; --status all shows those that are ok too.",
        _ => "No such alerts. `muster serve` makes them, one for each service.",
    };
    if listed.items.is_empty() && output.format == Format::Table {
        output.note(none);
        return Ok(Exit::Fine);
    }
    print(&listed, || table::alerts(&listed.items, Timestamp::now(), output.format), none, output)?;
    Ok(Exit::Fine)
}

async fn silence(id: Uuid, seconds: i64, reason: &str, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let client = kept(settings, output).await?;
    let until = Timestamp::now() + SignedDuration::from_secs(seconds);
    let body = SilenceAlert { until, reason: reason.to_owned() };
    let answer = client.post(&silence_path(id), &body, None).await.map_err(of_alert)?;
    print_alert(&answer.json()?, output)?;
    output.note(&format!(
        "Nobody is told of it until {}; `muster services unsilence {id}` ends that.",
        table::time(until)
    ));
    Ok(Exit::Fine)
}

async fn unsilence(id: Uuid, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let client = kept(settings, output).await?;
    let answer = client.delete(&silence_path(id)).await.map_err(of_alert)?;
    print_alert(&answer.json()?, output)?;
    output.note("It is not silenced any more: what is still true is told with the next minute.");
    Ok(Exit::Fine)
}

fn silence_path(id: Uuid) -> String {
    format!("{ALERTS}/{id}/silence")
}

fn print_alert(alert: &AlertView, output: &Output) -> Result<(), Failure> {
    let items = std::slice::from_ref(alert);
    print(alert, || table::alerts(items, Timestamp::now(), output.format), "", output)
}

/// Writes what the API answered, or the listing of it.
fn print(
    answer: &impl Serialize,
    listing: impl FnOnce() -> table::Listing,
    none: &str,
    output: &Output,
) -> Result<(), Failure> {
    if output.format == Format::Json {
        return output.json(answer);
    }
    let listing = listing();
    if output.format == Format::Table && listing.rows.is_empty() {
        output.note(none);
        return Ok(());
    }
    listing.print(output)
}

/// Says below a table what it cannot say itself. JSON says it.
fn tell_doubts(reading: &ReadingView, output: &Output) {
    if output.format != Format::Json {
        for doubt in doubts(reading) {
            output.note(&doubt);
        }
    }
}

/// What is doubtful about a reading, in words.
fn doubts(reading: &ReadingView) -> Vec<String> {
    let mut doubts = Vec::new();
    if !reading.complete {
        doubts.push("Not complete: CPX was too slow, or lists too much, for every server to have its time.".to_owned());
    }
    if reading.ignored > 0 {
        let entries = if reading.ignored == 1 { "entry" } else { "entries" };
        doubts.push(format!("{} {entries} of CPX's list ignored: no address, or too many.", reading.ignored));
    }
    if reading.without_service > 0 {
        doubts.push(match reading.without_service {
            1 => "1 server has never told its service, and counts in none.".to_owned(),
            number => format!("{number} servers have never told their service, and count in none."),
        });
    }
    doubts
}

fn thresholds(reading: &Reading) -> Vec<(&'static str, String)> {
    let given = [("cpu_threshold", reading.cpu_threshold), ("memory_threshold", reading.mem_threshold)];
    given.into_iter().filter_map(|(name, value)| Some((name, value?.to_string()))).collect()
}

/// The address of a service.
fn path(name: &str) -> String {
    format!("/api/v1/services{}", upstream::path(&[name]))
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
    let mut text = Serializer::new(String::new());
    text.extend_pairs(query);
    client.get(&format!("{path}?{}", text.finish())).await
}

/// Whoever answers with a live reading.
struct Live {
    client: Client,
    /// CPX's URL, where it is asked from here.
    cpx: Option<String>,
    /// How that is set.
    origin: String,
    /// Whether somebody else says what is going on.
    quiet: bool,
}

impl Live {
    async fn open(settings: &Settings) -> Result<Self, Failure> {
        // The flag says what is wanted, whatever server is set.
        let target = if settings.is_flag(URL) {
            if settings.is_flag(SERVER) {
                return Err(Failure::usage(
                    "--cp-url asks CPX from here, and --server asks a server: give one of them",
                ));
            }
            Target::Embedded(Backend::memory().await?)
        } else {
            connect_lightly(settings).await?
        };
        let origin = settings.origin(URL);
        match target {
            Target::Server(client) => Ok(Self { client, cpx: None, origin, quiet: false }),
            Target::Embedded(backend) => {
                let Some(cpx) = settings.get(URL) else { return Err(no_cpx()) };
                let client = backend.client(settings, None).await?;
                Ok(Self { client, cpx: Some(cpx), origin, quiet: false })
            }
        }
    }

    /// The same, which shows nothing however long an answer takes.
    fn quiet(self) -> Self {
        Self { client: self.client.quiet(), quiet: true, ..self }
    }

    /// A service and its servers, all of them, of a reading not older than so many seconds.
    async fn service(&self, name: &str, reading: &Reading, max_age: u32) -> Result<ServiceWithServers, Failure> {
        let mut query = thresholds(reading);
        query.push(("max_age_seconds", max_age.to_string()));
        let mut found: ServiceWithServers = self.get(&path(name), &query).await.map_err(of_service)?;
        if found.service.servers as usize > found.items.len() {
            let mut query = thresholds(reading);
            query.extend([("service", name.to_owned()), ("max_age_seconds", SAME_READING.to_string())]);
            found.items = self.all::<Servers>("/api/v1/servers", &query).await?.items;
        }
        Ok(found)
    }

    /// All pages of a list as one.
    async fn all<T: Paged>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let query = [query, &[("limit", PAGE.to_string())]].concat();
        let mut listed: T = self.get(path, &query).await?;
        for _ in 1..MOST_PAGES {
            let Some(cursor) = listed.reading().next_cursor.take() else { break };
            let mut query: Vec<_> = query.iter().filter(|(name, _)| *name != "max_age_seconds").cloned().collect();
            query.extend([("cursor", cursor), ("max_age_seconds", SAME_READING.to_string())]);
            append(&mut listed, self.get(path, &query).await?);
        }
        listed.reading().next_cursor = None;
        Ok(listed)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let asked = get(&self.client, path, query);
        let Some(cpx) = &self.cpx else { return asked.await.map_err(unset_there) };
        let answer = if self.quiet { asked.await } else { patiently(&format!("Asking CPX at {cpx}"), asked).await };
        answer.map_err(|failure| away(failure, cpx, &self.origin))
    }
}

/// A list of the API.
trait Paged: DeserializeOwned {
    fn reading(&mut self) -> &mut ReadingView;
    fn add_items(&mut self, page: Self);
}

/// Appends the next page.
fn append<T: Paged>(listed: &mut T, mut page: T) {
    let (next, complete) = (page.reading().next_cursor.take(), page.reading().complete);
    let reading = listed.reading();
    reading.next_cursor = next;
    reading.complete &= complete;
    listed.add_items(page);
}

impl Paged for Servers {
    fn reading(&mut self) -> &mut ReadingView {
        &mut self.reading
    }

    /// Between two pages a load may have moved a server from one to the other.
    fn add_items(&mut self, page: Self) {
        let known: HashSet<_> = self.items.iter().map(|server| server.ip).collect();
        self.items.extend(page.items.into_iter().filter(|server: &ServerView| !known.contains(&server.ip)));
    }
}

impl Paged for Services {
    fn reading(&mut self) -> &mut ReadingView {
        &mut self.reading
    }

    fn add_items(&mut self, page: Self) {
        self.items.extend(page.items);
    }
}

impl Paged for ShortServices {
    fn reading(&mut self) -> &mut ReadingView {
        &mut self.reading
    }

    fn add_items(&mut self, page: Self) {
        self.items.extend(page.items);
    }
}

fn no_cpx() -> Failure {
    Failure::usage("no CPX is set").hint(
        "give its base URL with --cp-url URL or MUSTER_CPX_URL, or a server that has one with --server or MUSTER_SERVER",
    )
}

/// Says of which CPX, and what to set, in terms of this command line.
fn away(failure: Failure, cpx: &str, origin: &str) -> Failure {
    let Some(text) = failure.message.strip_prefix("CPX").filter(|_| failure.is_status(503)) else { return failure };
    let text = text.strip_prefix("'s ").map_or_else(|| text.to_owned(), |rest| format!(": its {rest}"));
    let text = [" Try again later.", &format!("; is {URL} right?"), "the request was not sent: "]
        .iter()
        .fold(text, |text, words| text.replace(words, ""));
    let which = if origin == "--cp-url" { format!("--cp-url (or {URL})") } else { origin.to_owned() };
    Failure { message: format!("CPX at {cpx}{text}"), ..failure }.hint(format!("is {which} right?"))
}

/// A server that has no CPX.
fn unset_there(failure: Failure) -> Failure {
    let unset = failure.problem.as_ref().is_some_and(|problem| problem.slug() == "not-configured");
    if unset {
        return Failure { message: format!("no CPX is set where the server runs: {URL}"), ..failure }
            .hint("--cp-url URL asks a CPX from here");
    }
    failure
}

fn of_service(failure: Failure) -> Failure {
    if failure.is_status(404) { failure.hint("`muster services` lists them") } else { unset_there(failure) }
}

fn of_alert(failure: Failure) -> Failure {
    if failure.is_status(404) {
        failure.hint("`muster services alerts --status all` lists them")
    } else {
        unset_there(failure)
    }
}

/// A client of what a `muster serve` keeps: of that server, or of its folder where it has ended.
async fn kept(settings: &Settings, output: &Output) -> Result<Client, Failure> {
    let nothing = || {
        Failure::usage("history and alerts are kept by `muster serve`, and there is none here").hint(
            "start one with MUSTER_CPX_URL set, or give one with --server or MUSTER_SERVER; \
             `muster services status` needs none",
        )
    };
    if settings.get(SERVER).is_none() && !settings.state_dir()?.join("muster.db").exists() {
        return Err(nothing());
    }
    match connect(settings, output).await? {
        Target::Server(client) => Ok(client),
        Target::Embedded(_) if settings.get(URL).is_none() => Err(Failure::usage("no CPX is set")
            .hint(format!("set {URL} to the one that was watched: what is kept is kept for each CPX"))),
        Target::Embedded(backend) => backend.client(settings, None).await,
    }
}

/// Whether `command` is about to draw on the terminal, where nothing else may write.
pub fn draws(command: &Command, output: &Output) -> bool {
    let follows = matches!(command, Command::Services(args::Services { command: Some(ServicesCommand::Track(_)), .. }));
    follows && output.format == Format::Table && crate::terminal::is_there()
}

/// How old a reading may be where the last one is `age` old: less than that, in whole seconds.
fn max_age(age: Duration) -> u32 {
    let below = age.as_millis().saturating_sub(1) / 1000;
    u32::try_from(below).unwrap_or(u32::MAX).min(::services::http::MAX_AGE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kit::problem::Problem;

    use super::*;

    fn told(detail: &str, origin: &str) -> String {
        let failure = away(Problem::unavailable(detail, 5).into(), "http://127.0.0.1:9", origin);
        assert_eq!(failure.exit, Exit::Away);
        format!("{}\n{}", failure.message, failure.hint.unwrap_or_default())
    }

    #[test]
    fn a_cpx_that_is_away_is_named_with_what_to_set() {
        use ::services::cpx::CpxError;
        let refused = kit::upstream::UpstreamError::NotSent { reason: "connection refused".to_owned() };
        let error = CpxError::Upstream(refused);
        insta::assert_snapshot!(told(&format!("{error} Try again later."), "--cp-url"), @r"
        CPX at http://127.0.0.1:9 did not list its servers: connection refused
        is --cp-url (or MUSTER_CPX_URL) right?
        ");
        let error = CpxError::NoList;
        insta::assert_snapshot!(told(&format!("{error} Try again later."), "cpx_url in muster.toml"), @r"
        CPX at http://127.0.0.1:9: its list of servers is no JSON array
        is cpx_url in muster.toml right?
        ");
        let error = CpxError::Status(http::StatusCode::NOT_FOUND);
        insta::assert_snapshot!(told(&format!("{error} Try again later."), "MUSTER_CPX_URL"), @r"
        CPX at http://127.0.0.1:9 answered 404 Not Found where its list of servers was asked for
        is MUSTER_CPX_URL right?
        ");
    }

    #[test]
    fn the_reading_that_is_asked_for_is_younger_than_the_last_one() {
        let of = |millis| max_age(Duration::from_millis(millis));
        assert_eq!([0, 500, 1000, 1001, 2000, 2500, 60_000].map(of), [0, 0, 0, 1, 1, 2, 5]);
    }

    #[test]
    fn a_server_that_moved_between_two_pages_is_listed_once_and_a_doubt_stays() {
        let page = |cpus: &[Option<f64>], next: Option<&str>| {
            let ServiceWithServers { items, mut reading, .. } = trail::tests::reading(0, cpus);
            reading.next_cursor = next.map(str::to_owned);
            Servers { items, reading }
        };
        let mut listed = page(&[Some(1.0), Some(2.0)], None);
        let mut second = page(&[Some(3.0), Some(2.0), Some(4.0)], Some("third"));
        second.reading.complete = false;
        append(&mut listed, second);
        append(&mut listed, page(&[], None));
        let ips: Vec<_> = listed.items.iter().map(|server| server.ip.to_string()).collect();
        assert_eq!(ips, ["10.58.1.1", "10.58.1.2", "10.58.1.3"]);
        assert!(!listed.reading.complete && listed.reading.next_cursor.is_none());
    }

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(path("a/b?c#d"), "/api/v1/services/a%2Fb%3Fc%23d");
    }

    #[test]
    fn doubts_are_told_in_words() {
        let mut reading = trail::tests::reading(0, &[]).reading;
        assert!(doubts(&reading).is_empty());
        (reading.complete, reading.ignored, reading.without_service) = (false, 1, 2);
        insta::assert_snapshot!(doubts(&reading).join("\n"), @r"
        Not complete: CPX was too slow, or lists too much, for every server to have its time.
        1 entry of CPX's list ignored: no address, or too many.
        2 servers have never told their service, and count in none.
        ");
    }
}
