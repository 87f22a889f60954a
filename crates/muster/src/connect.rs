//! Which API a command talks to: the server that is set, else the one that runs on the state
//! folder, else routers in this process.
//!
//! A key goes only where it belongs: `MUSTER_KEY` to `MUSTER_SERVER`, that of `muster.toml` or of a
//! profile to the server beside it, a folder's own key to the server of that folder or, for a server
//! that is set, no further than this machine.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kit::dynamo::embedded::{Embedded, OpenError};

use crate::{
    backend::{Backend, read_line},
    cli::StoreKind,
    client::{Client, is_loopback, parse_server},
    exit::{Exit, Failure},
    output::Output,
    settings::{CA_FILE, KEY, SERVER, STORE, Settings},
};

/// How long a command waits for another one to leave the state folder.
const PATIENCE: Duration = Duration::from_secs(10);
/// A wait shorter than this is not worth a word.
const SILENCE: Duration = Duration::from_millis(300);

/// What a command talks to.
#[derive(Debug)]
pub enum Target {
    /// A server, by HTTP.
    Server(Client),
    /// Nobody else: this process does the work.
    Embedded(Backend),
}

/// Finds what to talk to, and takes the state folder where that is this process.
pub async fn connect(settings: &Settings, output: &Output) -> Result<Target, Failure> {
    if let Some(client) = configured_server(settings)? {
        return Ok(Target::Server(client));
    }
    if settings.store()? == StoreKind::Dynamodb {
        return Err(Failure::usage(format!(
            "{} is dynamodb, which only `serve` and `keys` work on by themselves",
            settings.origin(STORE)
        ))
        .hint("give the server's URL with --server or MUSTER_SERVER"));
    }
    let dir = settings.state_dir()?;
    match take(&dir, output).await? {
        Taken::Folder(engine) => Ok(Target::Embedded(Backend::embedded(engine, &dir).await?)),
        Taken::Server(client) => Ok(Target::Server(client)),
    }
}

/// A state folder, or whoever has it.
#[derive(Debug)]
pub enum Taken {
    /// It is this process's now.
    Folder(Embedded),
    /// A running server has it.
    Server(Client),
}

/// Takes a state folder, after waiting a while for another command that works on it.
pub async fn take(dir: &Path, output: &Output) -> Result<Taken, Failure> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let locked = match Embedded::open(dir) {
            Ok(engine) => return Ok(Taken::Folder(engine)),
            Err(error @ OpenError::Locked { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        if let Some(client) = running_server(dir).await? {
            return Ok(Taken::Server(client));
        }
        if began.elapsed() > PATIENCE {
            return Err(locked.into());
        }
        if !told && began.elapsed() > SILENCE {
            output.note(&format!("{locked}; waiting for it to end"));
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// For what keeps nothing: like [`connect`], but a folder is neither made nor waited for.
pub async fn connect_lightly(settings: &Settings) -> Result<Target, Failure> {
    if let Some(client) = configured_server(settings)? {
        return Ok(Target::Server(client));
    }
    let dir = settings.state_dir().ok().filter(|dir| dir.join("server").exists());
    if let Some(dir) = dir
        && let Err(OpenError::Locked { .. }) = Embedded::open(&dir)
        && let Some(client) = running_server(&dir).await?
    {
        return Ok(Target::Server(client));
    }
    Ok(Target::Embedded(Backend::memory().await?))
}

/// For what is kept, where there is something: like [`connect`], but a folder is neither made nor
/// waited for. None where there is none, or another command has it. With `from_here` no server is
/// looked for.
pub async fn connect_to_kept(settings: &Settings, from_here: bool) -> Result<Option<Target>, Failure> {
    if !from_here && let Some(client) = configured_server(settings)? {
        return Ok(Some(Target::Server(client)));
    }
    let Some(dir) = settings.state_dir().ok().filter(|dir| dir.join("muster.db").exists()) else { return Ok(None) };
    match Embedded::open(&dir) {
        Ok(engine) => Ok(Some(Target::Embedded(Backend::embedded(engine, &dir).await?))),
        Err(OpenError::Locked { .. }) if from_here => Ok(None),
        Err(OpenError::Locked { .. }) => Ok(running_server(&dir).await?.map(Target::Server)),
        Err(error) => Err(error.into()),
    }
}

fn configured_server(settings: &Settings) -> Result<Option<Client>, Failure> {
    let Some(text) = settings.get(SERVER) else { return Ok(None) };
    let url = parse_server(&settings.origin(SERVER), &text)?;
    let key = match settings.get_for_server(KEY) {
        Some(key) => Some(key.trim().to_owned()),
        None if is_loopback(&url) => {
            settings.state_dir().ok().map(|dir| read_line(&dir.join("key"))).transpose()?.flatten()
        }
        None => None,
    };
    let Some(key) = key else {
        return Err(Failure::new(format!("there is no key for {url}"))
            .exit(Exit::NoAccess)
            .hint("`muster login` or MUSTER_KEY gives it; the server's operator makes one with `muster keys create`"));
    };
    let ca_file = settings.get_for_server(CA_FILE);
    Client::http(&url, Some(&key), ca_file.as_deref().map(Path::new)).map(Some)
}

/// The server that works on `dir`, if one has announced itself there and answers.
async fn running_server(dir: &Path) -> Result<Option<Client>, Failure> {
    let Some(url) = read_line(&dir.join("server"))? else { return Ok(None) };
    let Ok(url) = parse_server("DIR/server", &url) else { return Ok(None) };
    // Without the key, until somebody answers.
    let ask = Client::http(&url, None, None)?;
    let asked = tokio::time::timeout(Duration::from_secs(1), ask.get::<serde_json::Value>("/healthz")).await;
    if !matches!(asked, Ok(Ok(_))) {
        return Ok(None);
    }
    let key = read_line(&dir.join("key"))?;
    Client::http(&url, key.as_deref(), None).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::STATE;

    #[test]
    fn a_folders_key_stays_on_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "mk_0123456789ab_secret\n").unwrap();
        let state = dir.path().to_str().unwrap();
        let connect = |server| configured_server(&Settings::of(&[(SERVER, server), (STATE, state)]));
        assert!(connect("http://127.0.0.1:8080").unwrap().is_some());
        let failure = connect("https://muster.example").unwrap_err();
        assert_eq!(failure.exit, Exit::NoAccess);
        assert!(failure.hint.unwrap().contains("MUSTER_KEY"));
    }
}
