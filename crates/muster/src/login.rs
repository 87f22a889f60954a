//! `muster login` and `muster logout`: a server and its key, remembered in the settings' file.
//!
//! The key is tried before it is written, and the file is for its owner alone. What else is in the
//! file stays as it is.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use toml_edit::{DocumentMut, value};

use crate::{
    cli::Login,
    client::{Client, is_loopback, parse_server},
    exit::{Exit, Failure},
    input,
    output::Output,
    settings::{CA_FILE, KEY, SERVER, Settings, file_key, no_profile},
};

/// What a login writes and a logout removes.
const WRITTEN: [&str; 3] = [SERVER, KEY, CA_FILE];
/// What any live key may ask: whoever may not read batches is told so, and by that known.
const ANY: &str = "/api/v1/batches?limit=1";

/// Tries a key, and remembers it with its server.
pub async fn login(login: &Login, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if settings.path().as_os_str().is_empty() {
        return Err(Failure::usage("there is no home folder to keep the key in").hint("set HOME or XDG_CONFIG_HOME"));
    }
    if settings.is_flag(SERVER) {
        return Err(Failure::usage("--server is for one command; `muster login URL` remembers a server"));
    }
    let url = parse_server("URL", &login.url)?;
    let server = url.as_str().trim_end_matches('/').to_owned();
    let ca_file = ca_file(&server, settings)?;
    let key = input::secret("The key")?;
    try_key(&Client::http(&url, Some(&key), ca_file.as_deref().map(Path::new))?).await?;

    change(settings.path(), |document| {
        document[&file_key(SERVER)] = value(&server);
        document[&file_key(KEY)] = value(&key);
        match &ca_file {
            Some(file) => document[&file_key(CA_FILE)] = value(file),
            None => _ = document.remove(&file_key(CA_FILE)),
        }
    })?;
    let how = settings.profile().map_or("muster".to_owned(), |profile| format!("muster --profile {profile}"));
    output.note(&format!("The key works, and is in {}. `{how} …` talks to {server} now.", settings.path().display()));
    if url.scheme() == "http" && !is_loopback(&url) {
        output.note("It travels unencrypted: use an https URL where there is one.");
    }
    if settings.given(SERVER).is_some_and(|other| other.trim_end_matches('/') != server) {
        output.note(&format!("But {SERVER} is set to another server; unset it, or choose a --profile."));
    }
    Ok(Exit::Fine)
}

/// Forgets the server and its key.
pub fn logout(settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if WRITTEN.iter().all(|name| settings.in_file(name).is_none()) {
        return Err(match settings.profile() {
            Some(profile) => no_profile(profile),
            None => Failure::new(format!("there is no server in {}", settings.path().display())).exit(Exit::NotFound),
        });
    }
    change(settings.path(), |document| {
        for name in WRITTEN {
            document.remove(&file_key(name));
        }
    })?;
    output.note(&format!(
        "The key is no longer in {}. It still counts: `muster keys revoke` ends that.",
        settings.path().display()
    ));
    Ok(Exit::Fine)
}

/// The certificates to trust, as an absolute path. A new key of the same server keeps what the old
/// one had.
fn ca_file(server: &str, settings: &Settings) -> Result<Option<String>, Failure> {
    let remembered =
        || settings.in_file(CA_FILE).filter(|_| settings.in_file(SERVER) == Some(server)).map(PathBuf::from);
    let Some(file) = settings.given(CA_FILE).map(PathBuf::from).or_else(remembered) else { return Ok(None) };
    let cannot = |why: &dyn std::fmt::Display| Failure::usage(format!("cannot use {}: {why}", file.display()));
    let path = fs::canonicalize(&file).map_err(|error| cannot(&error))?;
    path.into_os_string().into_string().map(Some).map_err(|_| cannot(&"its name is not UTF-8"))
}

async fn try_key(client: &Client) -> Result<(), Failure> {
    match client.get::<serde_json::Value>(ANY).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.problem.as_ref().is_some_and(|problem| problem.slug() == "missing-scope") => Ok(()),
        Err(failure) if failure.is_status(401) => Err(Failure {
            hint: Some("nothing was written; the server's operator makes a key with `muster keys create`".to_owned()),
            ..failure
        }),
        Err(failure) => Err(failure),
    }
}

/// Changes the settings' file, or removes it where nothing is left in it.
fn change(path: &Path, change: impl FnOnce(&mut DocumentMut)) -> Result<(), Failure> {
    let cannot = |error: &dyn std::fmt::Display| Failure::new(format!("cannot change {}: {error}", path.display()));
    // A link, such as from a folder of dotfiles, stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot(&error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| cannot(&error))?;
    change(&mut document);
    let text = document.to_string();
    let written = if text.trim().is_empty() { fs::remove_file(&path) } else { write(&path, &text) };
    written.map_err(|error| cannot(&error))
}

/// Writes the whole file at once, for its owner alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?; // 0600 from the beginning
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
