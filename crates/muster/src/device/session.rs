//! Whom a command talks to about devices, and who does the work meanwhile.

use std::time::Duration;

use ::devices::{
    config::{Config, PROJECT, TOKEN, URL},
    http::DeviceView,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{args::by_flags, wait::path};
use crate::{
    backend::{Backend, configured_devices},
    client::Client,
    connect::{Target, connect},
    exit::{Exit, Failure},
    output::Output,
    settings::{SERVER, Settings},
};

/// How long the token may take to be read.
const READ: Duration = Duration::from_secs(5);

/// What a command needs where it works without a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// What is kept.
    Records,
    /// The vendor as well.
    Vendor,
}

/// One command and whom it talks to.
pub struct Session<'a> {
    pub client: Client,
    /// Where this process does the work.
    backend: Option<Backend>,
    settings: &'a Settings,
    pub output: &'a Output,
}

impl<'a> Session<'a> {
    /// Finds whom to talk to. Settings that cannot be used are refused before anything is opened.
    pub async fn open(settings: &'a Settings, output: &'a Output, needs: Needs) -> Result<Self, Failure> {
        let mut missing = Ok(());
        if settings.get(SERVER).is_none() {
            let config = configured_devices(settings)?;
            if needs == Needs::Vendor {
                missing = required(&config).await;
            }
        }
        let served = settings.state_dir().is_ok_and(|dir| dir.join("server").exists());
        if missing.is_err() && !served {
            // Before a folder is made for nothing.
            missing?;
            missing = Ok(());
        }
        let target = connect(settings, output).await?;
        let (client, backend) = match target {
            Target::Server(client) => {
                refuse_flags(settings, &client)?;
                (client, None)
            }
            Target::Embedded(backend) => {
                missing?;
                (backend.client(settings, None).await?, Some(backend))
            }
        };
        Ok(Self { client, backend, settings, output })
    }

    /// Whether this process does the work.
    pub fn is_here(&self) -> bool {
        self.backend.is_some()
    }

    /// A device as it is now.
    pub async fn device(&self, id: Uuid) -> Result<DeviceView, Failure> {
        self.client.get(&path(id)).await.map_err(told)
    }

    /// Does the work here from now on, unless a server does.
    pub fn start(&self) -> Result<Work, Failure> {
        let stop = CancellationToken::new();
        let Some(backend) = &self.backend else { return Ok(Work { stop, task: None }) };
        let Some(worker) = backend.device_worker(self.settings)? else { return Err(no_api()) };
        let (child, backend) = (stop.clone(), backend.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = worker.work_forever(&child) => {}
                () = backend.keep_house() => {}
            }
        });
        Ok(Work { stop, task: Some(task) })
    }
}

/// The work that is done beside a command.
pub struct Work {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Work {
    /// Begins nothing new, and waits until what is under way has been answered and written.
    pub async fn stop(self) {
        self.stop.cancel();
        let Some(task) = self.task else { return };
        if let Err(error) = task.await {
            tracing::error!(%error, "the worker did not end well");
        }
    }
}

/// Whether there is all that it takes to ask the vendor.
async fn required(config: &Config) -> Result<(), Failure> {
    match &config.vendor {
        Ok(_) => {}
        Err(PROJECT) => {
            return Err(Failure::usage("no project is set")
                .hint(format!("give the id of the project with --project ID or {PROJECT}")));
        }
        Err(_) => return Err(no_api()),
    }
    match config.token.token(READ).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure::new("there is no token for the device API").exit(Exit::NoAccess).hint(format!(
            "set {TOKEN}, or {TOKEN}_FILE to the path of a file that holds it (never a flag: others could see it)"
        ))),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// Nobody says which device API is meant.
fn no_api() -> Failure {
    Failure::usage("no device API is set").hint(format!(
        "give its base URL with --api-url URL or {URL}, or a server that has one with --server or {SERVER}; \
         `muster demo` shows everything with a simulated one"
    ))
}

/// A server has a device API of its own.
fn refuse_flags(settings: &Settings, client: &Client) -> Result<(), Failure> {
    for (name, typed) in [(URL, "--api-url"), (PROJECT, "--project")] {
        if settings.is_flag(name) {
            let server = client.server().unwrap_or_default();
            return Err(Failure::usage(format!(
                "{typed} is for work without a server, and {server} has a device API and a project of its own"
            ))
            .hint(format!("leave {typed} out, or use another state folder with --state DIR")));
        }
    }
    Ok(())
}

/// A refusal of the API in terms of this command line.
pub fn told(failure: Failure) -> Failure {
    let slug = failure.problem.as_ref().map(|problem| problem.slug().to_owned());
    if slug.as_deref() == Some("not-configured") {
        return Failure {
            message: format!("no device API is set where the server runs. {}", failure.message),
            ..failure
        };
    }
    if let Some(problem) = failure.problem.as_ref().filter(|it| matches!(it.status, 409 | 503) && it.detail.is_some()) {
        // The detail goes on where the title ends.
        return Failure { message: format!("{}. {}", problem.title, failure.message), ..failure };
    }
    if failure.is_status(404) {
        return failure.hint("`muster device list` shows the devices");
    }
    by_flags(failure)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn refused(values: &[(&'static str, &str)]) -> Failure {
        let config = configured_devices(&Settings::of(values)).unwrap();
        required(&config).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_how_to_give_it() {
        let url = (URL, "http://127.0.0.1:9");
        let failure = refused(&[]).await;
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "no device API is set"));
        assert!(failure.hint.unwrap().contains("--api-url URL or MUSTER_PACKET_URL"));
        let failure = refused(&[url]).await;
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "no project is set"));
        assert!(failure.hint.unwrap().contains("--project ID or MUSTER_PACKET_PROJECT"));
        let failure = refused(&[url, (PROJECT, "p")]).await;
        assert_eq!(failure.exit, Exit::NoAccess);
        assert!(failure.hint.unwrap().contains("MUSTER_PACKET_TOKEN_FILE"));
        let config = configured_devices(&Settings::of(&[url, (PROJECT, "p"), (TOKEN, "t")])).unwrap();
        required(&config).await.unwrap();
    }
}
