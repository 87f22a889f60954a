//! Whoever knows the deployments: a server, the state folder, or this process by a dry run of its own.

use std::cmp::Ordering;

use ::autoscaler::{
    config::URL,
    http::{DeploymentList, DeploymentView},
    samples::slot,
    tick::Scaler,
};
use jiff::Timestamp;
use kit::upstream;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded::Serializer;

use super::{PAGE, args::List, table};
use crate::{
    backend::Backend,
    client::Client,
    connect::{Taken, Target, connect, connect_to_kept, take},
    exit::{Exit, Failure},
    output::{Output, patiently},
    settings::{SERVER, Settings},
};

const LIST: &str = "/api/v1/deployments";
/// More than there are deployments: a server that never ends its list must not keep us.
const MOST_PAGES: usize = 200;

/// Whoever knows the deployments.
pub struct Source {
    client: Client,
    /// Where nobody else ticks.
    live: Option<Live>,
    /// Whether somebody else says what is going on.
    quiet: bool,
}

/// A dry run in memory.
struct Live {
    scaler: Scaler,
    api: String,
    /// How that is set.
    origin: String,
}

impl Source {
    /// For what ticks have left; where there were none, of ones of our own.
    pub async fn open(settings: &Settings) -> Result<Self, Failure> {
        if let Some(source) = Self::of_kept(settings).await? {
            if source.client.server().is_some() {
                return Ok(source);
            }
            let known: DeploymentList = source.get(LIST, &[("limit", "1".to_owned())]).await?;
            if known.fleet.ticked_at.is_some() {
                return Ok(source);
            }
        }
        let backend = Backend::memory().await?;
        let Some(scaler) = backend.scaler(settings)? else { return Err(no_api()) };
        let api = settings.get(URL).unwrap_or_default();
        let live = Live { scaler: scaler.dry_run(true), api, origin: settings.origin(URL) };
        let client = backend.client(settings, None).await?;
        let source = Self { client, live: Some(live), quiet: false };
        source.tick().await?;
        Ok(source)
    }

    /// Of a client that a test has made.
    #[cfg(test)]
    pub fn of(client: Client) -> Self {
        Self { client, live: None, quiet: true }
    }

    /// For what reads the deployments itself.
    pub async fn unticked(settings: &Settings) -> Result<Self, Failure> {
        if let Some(source) = Self::of_kept(settings).await? {
            return Ok(source);
        }
        if settings.get(URL).is_none() {
            return Err(no_api());
        }
        let client = Backend::memory().await?.client(settings, None).await?;
        Ok(Self { client, live: None, quiet: false })
    }

    async fn of_kept(settings: &Settings) -> Result<Option<Self>, Failure> {
        let from_here = from_here(settings)?;
        let client = match connect_to_kept(settings, from_here).await? {
            Some(Target::Server(client)) => client,
            Some(Target::Embedded(_)) if settings.get(URL).is_none() => return Err(no_api()),
            Some(Target::Embedded(backend)) => backend.client(settings, None).await?,
            None => return Ok(None),
        };
        Ok(Some(Self { client, live: None, quiet: false }))
    }

    /// Whether this process reads the deployments, and nobody keeps anything.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The same, which shows nothing however long an answer takes.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { client: self.client.quiet(), quiet: true, ..self }
    }

    /// Ticks, unless somebody else does. A second time in the same half minute it does nothing.
    pub async fn tick(&self) -> Result<(), Failure> {
        let Some(live) = &self.live else { return Ok(()) };
        let stop = CancellationToken::new();
        let ticked = live.scaler.tick(slot(Timestamp::now()), &stop);
        let ticked = if self.quiet { ticked.await } else { patiently(&format!("Asking {}", live.api), ticked).await };
        let report = ticked?;
        match report.doubt {
            Some(doubt) if report.deployments == 0 => {
                let doubt = doubt.replace(&format!("; is {URL} right?"), "").replace("the request was not sent: ", "");
                let words = doubt.strip_prefix("the deployments API").unwrap_or(&doubt);
                let which =
                    if live.origin == "--api-url" { format!("--api-url (or {URL})") } else { live.origin.clone() };
                Err(Failure::new(format!("the deployments API at {}{words}", live.api))
                    .exit(Exit::Away)
                    .hint(format!("is {which} right?")))
            }
            _ => Ok(()),
        }
    }

    /// All pages of the list as one, sorted.
    pub async fn list(&self, args: &List) -> Result<DeploymentList, Failure> {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(args.only.clone().map(|state| ("state", state)));
        let mut listed: DeploymentList = self.get(LIST, &query).await?;
        for _ in 1..MOST_PAGES {
            let Some(cursor) = listed.next_cursor.take() else { break };
            let query = [query.as_slice(), &[("cursor", cursor)]].concat();
            let page: DeploymentList = self.get(LIST, &query).await?;
            listed.items.extend(page.items);
            listed.next_cursor = page.next_cursor;
        }
        if args.sort.as_deref() == Some("free") {
            listed.items.sort_by(by_shortage);
        }
        Ok(listed)
    }

    /// GETs `path` with `query`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        if query.is_empty() {
            return self.client.get(path).await.map_err(unset_there);
        }
        let mut text = Serializer::new(String::new());
        text.extend_pairs(query);
        self.client.get(&format!("{path}?{}", text.finish())).await.map_err(unset_there)
    }

    /// Its client.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Who is short of most comes first, who is not known last; of equal ones by their ids, as they come.
fn by_shortage(one: &DeploymentView, other: &DeploymentView) -> Ordering {
    match (table::spare(one), table::spare(other)) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        (one, other) => one.is_none().cmp(&other.is_none()),
    }
}

/// The path of a deployment. `simulate` is the name of another route.
pub fn path(id: &str) -> String {
    if id == "simulate" { format!("{LIST}/%73imulate") } else { format!("{LIST}{}", upstream::path(&[id])) }
}

/// Whether the flag says that this process is to do it, whatever server is set.
fn from_here(settings: &Settings) -> Result<bool, Failure> {
    if settings.is_flag(URL) && settings.is_flag(SERVER) {
        return Err(Failure::usage("--api-url works from here, and --server asks a server: give one of them"));
    }
    Ok(settings.is_flag(URL))
}

/// A client of what is kept: that of a server, or of the state folder, which is made where it is
/// missing.
pub async fn kept(settings: &Settings, output: &Output) -> Result<Source, Failure> {
    let target = if from_here(settings)? {
        let dir = settings.state_dir()?;
        match take(&dir, output).await? {
            Taken::Folder(engine) => Target::Embedded(Backend::embedded(engine, &dir).await?),
            Taken::Server(other) => {
                let url = other.server().unwrap_or_default();
                return Err(Failure::usage(format!("{url} serves {}, where this is kept", dir.display()))
                    .hint("leave --api-url out, and that server is asked"));
            }
        }
    } else {
        connect(settings, output).await?
    };
    let client = match target {
        Target::Server(client) => client,
        Target::Embedded(_) if settings.get(URL).is_none() => return Err(no_api()),
        Target::Embedded(backend) => backend.client(settings, None).await?,
    };
    Ok(Source { client, live: None, quiet: false })
}

/// Nobody says which deployments are meant.
pub fn no_api() -> Failure {
    Failure::usage("no deployments API is set").hint(format!(
        "give its base URL with --api-url URL or {URL}, or a server that has one with --server or {SERVER}"
    ))
}

/// A server that has no deployments API.
fn unset_there(failure: Failure) -> Failure {
    let unset = failure.problem.as_ref().is_some_and(|problem| problem.slug() == "not-configured");
    if unset {
        return Failure { message: format!("no deployments API is set where the server runs: {URL}"), ..failure }
            .hint("--api-url URL works from here");
    }
    failure
}

/// Says where deployments are listed.
pub fn of_deployment(failure: Failure) -> Failure {
    if failure.is_status(404) { failure.hint("`muster deployments` lists them") } else { failure }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_stays_one_segment_of_the_path_and_is_no_other_route() {
        assert_eq!(path("a/b?c#d"), "/api/v1/deployments/a%2Fb%3Fc%23d");
        assert_eq!(path("simulate"), "/api/v1/deployments/%73imulate");
    }

    #[test]
    fn who_is_short_of_most_comes_first_and_who_is_not_known_last() {
        let it = |id, free, target| table::tests::deployment(id, (100, free), target);
        let unknown = DeploymentView { free_pct: None, ..it("a", 0, 15.0) };
        let mut all = [unknown, it("b", 20, 15.0), it("c", 10, 15.0), it("d", 5, 30.0), it("e", 20, 15.0)];
        all.sort_by(by_shortage);
        assert_eq!(all.iter().map(|it| it.id.as_str()).collect::<String>(), "dcbea");
    }

    #[test]
    fn both_a_server_and_a_url_are_too_many() {
        let settings = Settings::of(&[(URL, "http://a"), (SERVER, "http://b")]);
        let failure = from_here(&settings).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.message.contains("--api-url"), "{failure}");
    }
}
