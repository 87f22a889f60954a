//! Settings: a flag, else the environment, else `muster.toml` in the XDG configuration folder. A
//! profile is another such file, `profiles/NAME.toml` beside it, in its place; one that is chosen by
//! a flag goes before the environment, as every flag does.
//!
//! The names are the same everywhere: `MUSTER_LORAWAN_URL` in the environment is `lorawan_url` in
//! the file. What is empty counts as not set. A name in the file that nobody knows is refused, so
//! that a typing error is not silently a default.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use etcetera::{BaseStrategy as _, choose_base_strategy};
use toml_edit::{DocumentMut, Value};

use crate::{
    cli::{Batch, Command, Global, Keys, Login, Secrets, Serve, StoreKind, parse_profile},
    deployments::args::AutoscalerCommand,
    exit::{Exit, Failure},
    services::args::ServicesCommand,
};

/// The server to talk to.
pub const SERVER: &str = "MUSTER_SERVER";
/// Its key.
pub const KEY: &str = "MUSTER_KEY";
/// A PEM file with a certificate to trust for that server.
pub const CA_FILE: &str = "MUSTER_CA_FILE";
/// Which profile takes the place of `muster.toml`. Chooses the file, so it is in none.
const PROFILE: &str = "MUSTER_PROFILE";
/// Where everything is kept: `embedded` or `dynamodb`.
pub const STORE: &str = "MUSTER_STORE";
/// The folder for everything local.
pub const STATE: &str = "MUSTER_STATE";
/// What stands before the name of every table.
pub const TABLE_PREFIX: &str = "MUSTER_TABLE_PREFIX";
/// Which deployment on AWS, such as `muster-test`.
pub const ENVIRONMENT: &str = "MUSTER_ENVIRONMENT";
/// What is logged, in the syntax of `tracing`: `info,batches=debug`.
pub const LOG: &str = "MUSTER_LOG";

/// Every setting but those that `services`, `autoscaler` and `devices` list themselves.
const MOST_NAMES: [&str; 19] = [
    SERVER,
    KEY,
    CA_FILE,
    STORE,
    STATE,
    TABLE_PREFIX,
    ENVIRONMENT,
    batches::config::URL,
    batches::config::TOKEN,
    "MUSTER_LORAWAN_TOKEN_FILE",
    "MUSTER_LORAWAN_TOKEN_SECRET",
    batches::config::TIMEOUT,
    batches::config::MAX_AGE,
    shout::http::URL,
    shout::http::FALLBACK,
    devices::config::TOKEN,
    "MUSTER_PACKET_TOKEN_FILE",
    "MUSTER_PACKET_TOKEN_SECRET",
    LOG,
];

/// Every setting there is.
fn names() -> impl Iterator<Item = &'static str> {
    MOST_NAMES.into_iter().chain(services::config::NAMES).chain(autoscaler::config::NAMES).chain(devices::config::NAMES)
}

type Values = BTreeMap<String, String>;

/// All settings of this process.
#[derive(Clone, Default)]
pub struct Settings {
    flags: Vec<Flag>,
    environment: Values,
    file: Values,
    /// Where the file is.
    path: PathBuf,
    /// The profile that the file is, if it is one.
    profile: Option<String>,
    /// Whether the file goes before the environment.
    file_first: bool,
}

/// A setting that was given as a flag.
#[derive(Debug, Clone)]
struct Flag {
    /// The setting.
    name: &'static str,
    /// How it is typed.
    typed: &'static str,
    value: String,
}

impl Settings {
    /// The settings of this process for this command line.
    pub fn load(global: &Global, command: &Command) -> Result<Self, Failure> {
        let environment = names().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
        let profile = match &global.profile {
            Some(profile) => Some(profile.clone()),
            None => std::env::var(PROFILE).ok().filter(|name| !name.is_empty()),
        };
        if let Some(profile) = &profile {
            parse_profile(profile).map_err(|error| Failure::usage(format!("{PROFILE}: {error}")))?;
        }
        // Without a home there is no file; everything else can still be said.
        let folder = choose_base_strategy().map(|xdg| xdg.config_dir().join("muster")).ok();
        let path = folder.map(|folder| match &profile {
            Some(profile) => folder.join("profiles").join(format!("{profile}.toml")),
            None => folder.join("muster.toml"),
        });
        let path = path.unwrap_or_default();
        let file = match fs::read_to_string(&path) {
            Ok(text) => read_file(&text, &path)?,
            Err(error) if path.as_os_str().is_empty() || error.kind() == io::ErrorKind::NotFound => {
                if let Some(profile) = profile.as_ref().filter(|_| !matches!(command, Command::Login(_))) {
                    return Err(no_profile(profile));
                }
                Values::new()
            }
            Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
        };
        let file_first = global.profile.is_some();
        Ok(Self { flags: flags(global, command), environment, file, path, profile, file_first })
    }

    /// Settings that are given in the program, as for the demonstration.
    pub fn of(values: &[(&'static str, &str)]) -> Self {
        let flag = |&(name, value): &(&'static str, &str)| Flag { name, typed: name, value: value.to_owned() };
        Self { flags: values.iter().map(flag).collect(), ..Self::default() }
    }

    /// The value of a setting, if it has one.
    pub fn get(&self, name: &str) -> Option<String> {
        debug_assert!(names().any(|known| known == name), "{name} is no setting");
        self.find(name).map(|(_, value)| value.to_owned())
    }

    /// The value of a setting that belongs to the server, such as its key. One that is in a file
    /// with another server is not for this one.
    pub fn get_for_server(&self, name: &str) -> Option<String> {
        let plain = |url: &str| url.trim().trim_end_matches('/').to_owned();
        let theirs = self.in_file(SERVER).map(plain);
        let belongs = theirs.is_none() || theirs == self.find(SERVER).map(|(_, url)| plain(url));
        let mut found = self.sources(name).into_iter().flatten();
        found.find(|(from, _)| *from != Source::File || belongs).map(|(_, value)| value.to_owned())
    }

    /// What a flag or else the environment says, whatever the file does.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.flag(name).map(|flag| flag.value.as_str()).or_else(|| set(&self.environment, name))
    }

    /// What the file says, whatever goes before it.
    pub fn in_file(&self, name: &str) -> Option<&str> {
        set(&self.file, name)
    }

    /// Where the file is, whether there or not; empty where there is no home.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The profile that takes the place of `muster.toml`, if one does.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    fn find(&self, name: &str) -> Option<(Source, &str)> {
        self.sources(name).into_iter().flatten().next()
    }

    /// What is said about a setting, what counts most first.
    fn sources(&self, name: &str) -> [Option<(Source, &str)>; 3] {
        let flag = self.flag(name).map(|flag| (Source::Flag, flag.value.as_str()));
        let environment = set(&self.environment, name).map(|value| (Source::Environment, value));
        let file = set(&self.file, name).map(|value| (Source::File, value));
        if self.file_first { [flag, file, environment] } else { [flag, environment, file] }
    }

    /// What the user has to change to change a setting: a flag, a variable or a line of the file.
    pub fn origin(&self, name: &str) -> String {
        match (self.flag(name), self.find(name)) {
            (Some(flag), _) => flag.typed.to_owned(),
            (None, Some((Source::File, _))) => format!("{} in {}", file_key(name), self.path.display()),
            _ => name.to_owned(),
        }
    }

    /// Whether it was given as a flag.
    pub fn is_flag(&self, name: &str) -> bool {
        self.flag(name).is_some()
    }

    /// The folder for everything local.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = self.get(STATE) {
            return Ok(dir.into());
        }
        let xdg = choose_base_strategy().ok();
        let state = xdg.as_ref().and_then(etcetera::BaseStrategy::state_dir);
        let folder = state.or_else(|| xdg.map(|xdg| xdg.data_dir())).map(|folder| folder.join("muster"));
        folder.ok_or_else(|| {
            Failure::usage("there is no home folder to keep anything in")
                .hint("give a folder with --state DIR or MUSTER_STATE")
        })
    }

    /// Where everything is kept.
    pub fn store(&self) -> Result<StoreKind, Failure> {
        let Some(text) = self.get(STORE) else { return Ok(StoreKind::Embedded) };
        StoreKind::from_str(&text, true)
            .map_err(|_| Failure::usage(format!("{} is {text:?}; it must be embedded or dynamodb", self.origin(STORE))))
    }

    fn flag(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }
}

/// A value that is set: what is empty is not.
fn set<'a>(values: &'a Values, name: &str) -> Option<&'a str> {
    values.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Flag,
    Environment,
    File,
}

/// There is no profile of this name.
pub fn no_profile(profile: &str) -> Failure {
    Failure::new(format!("there is no profile {profile}"))
        .exit(Exit::NotFound)
        .hint(format!("make it with `muster login URL --profile {profile}`"))
}

fn flags(global: &Global, command: &Command) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut add = |name, typed, value: Option<String>| flags.extend(value.map(|value| Flag { name, typed, value }));
    add(SERVER, "--server", global.server.clone());
    add(STATE, "--state", global.state.as_ref().map(|dir| dir.to_string_lossy().into_owned()));
    match command {
        Command::Login(Login { ca_file, .. }) => {
            add(CA_FILE, "--ca-file", ca_file.as_ref().map(|file| file.to_string_lossy().into_owned()));
        }
        Command::Device(device) => {
            add(devices::config::URL, "--api-url", device.api_url.clone());
            add(devices::config::PROJECT, "--project", device.project.clone());
        }
        Command::Servers(servers) => add(services::config::URL, "--cp-url", servers.reading.cp_url.clone()),
        Command::Services(services) => {
            let reading = match &services.command {
                None => Some(&services.status.reading),
                Some(ServicesCommand::Status(status)) => Some(&status.reading),
                Some(ServicesCommand::Unhealthy { reading, .. }) => Some(reading),
                Some(ServicesCommand::Track(track)) => Some(&track.reading),
                Some(_) => None,
            };
            add(services::config::URL, "--cp-url", reading.and_then(|reading| reading.cp_url.clone()));
        }
        Command::Deployments(deployments) => {
            add(autoscaler::config::URL, "--api-url", deployments.api_url.clone());
        }
        Command::Autoscaler(AutoscalerCommand::Run(run)) => {
            add(autoscaler::config::URL, "--api-url", run.api_url.clone());
            add(STORE, "--store", run.store.map(store_name));
        }
        Command::Batch(Batch::Create(create)) => add(batches::config::URL, "--provider", create.provider.clone()),
        Command::Serve(Serve { store, .. }) | Command::Keys(Keys { store, .. }) => {
            add(STORE, "--store", store.map(store_name));
        }
        Command::Secrets(Secrets { environment, .. }) => add(ENVIRONMENT, "--environment", environment.clone()),
        _ => {}
    }
    flags
}

fn store_name(store: StoreKind) -> String {
    store.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// `MUSTER_LORAWAN_URL` is `lorawan_url` in the file.
pub fn file_key(name: &str) -> String {
    name.trim_start_matches("MUSTER_").to_ascii_lowercase()
}

fn read_file(text: &str, path: &Path) -> Result<Values, Failure> {
    let document: DocumentMut = text.parse().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut values = Values::new();
    for (key, value) in document.iter() {
        let Some(name) = names().find(|name| file_key(name) == key) else {
            let known = names().map(file_key).collect::<Vec<_>>().join(", ");
            return Err(
                Failure::usage(format!("{}: {key:?} is no setting", path.display())).hint(format!("there are {known}"))
            );
        };
        let value = match value.as_value() {
            Some(Value::String(text)) => text.value().clone(),
            Some(Value::Integer(number)) => number.value().to_string(),
            Some(Value::Float(number)) => number.value().to_string(),
            _ => return Err(Failure::usage(format!("{}: {key} must be a string or a number", path.display()))),
        };
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_file() {
        let file = read_file("server = 'http://file'\nlorawan_timeout_seconds = 3", Path::new("muster.toml")).unwrap();
        let mut settings = Settings { file, path: "muster.toml".into(), ..Settings::default() };
        assert_eq!(settings.get(SERVER).unwrap(), "http://file");
        assert_eq!(settings.origin(SERVER), "server in muster.toml");
        assert_eq!(settings.get(batches::config::TIMEOUT).unwrap(), "3");
        settings.environment = values(&[(SERVER, "http://environment")]);
        assert_eq!(settings.get(SERVER).unwrap(), "http://environment");
        assert_eq!(settings.origin(SERVER), SERVER);
        settings.flags = vec![Flag { name: SERVER, typed: "--server", value: "http://flag".to_owned() }];
        assert_eq!(settings.get(SERVER).unwrap(), "http://flag");
        assert_eq!(settings.origin(SERVER), "--server");
    }

    #[test]
    fn a_profile_that_a_flag_chose_goes_before_the_environment() {
        let settings = Settings {
            file: values(&[(SERVER, "http://profile")]),
            environment: values(&[(SERVER, "http://environment"), (STATE, "/state")]),
            file_first: true,
            ..Settings::default()
        };
        assert_eq!(settings.get(SERVER).unwrap(), "http://profile");
        assert_eq!(settings.get(STATE).unwrap(), "/state");
        assert_eq!(settings.given(SERVER).unwrap(), "http://environment");
    }

    #[test]
    fn a_key_in_the_file_is_for_the_server_in_the_file() {
        let mut settings =
            Settings { file: values(&[(SERVER, "http://file/"), (KEY, "of-file")]), ..Settings::default() };
        assert_eq!(settings.get_for_server(KEY).unwrap(), "of-file");
        settings.environment = values(&[(SERVER, "http://file")]);
        assert_eq!(settings.get_for_server(KEY).unwrap(), "of-file");
        settings.environment = values(&[(SERVER, "http://other")]);
        assert_eq!(settings.get_for_server(KEY), None);
        settings.environment = values(&[(SERVER, "http://other"), (KEY, "of-environment")]);
        assert_eq!(settings.get_for_server(KEY).unwrap(), "of-environment");
        settings.environment = values(&[(KEY, "of-environment")]);
        settings.flags = vec![Flag { name: SERVER, typed: "--server", value: "http://other".to_owned() }];
        settings.file_first = true;
        assert_eq!(settings.get_for_server(KEY).unwrap(), "of-environment");
        settings.environment = Values::new();
        settings.file.remove(SERVER);
        assert_eq!(settings.get_for_server(KEY).unwrap(), "of-file");
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let settings = Settings {
            environment: values(&[(SERVER, "")]),
            file: values(&[(SERVER, "http://file")]),
            ..Settings::default()
        };
        assert_eq!(settings.get(SERVER).unwrap(), "http://file");
        assert_eq!(Settings::of(&[]).get(SERVER), None);
    }

    #[test]
    fn the_file_may_hold_known_names_and_plain_values_only() {
        let refused = |text: &str| read_file(text, Path::new("muster.toml")).unwrap_err().to_string();
        assert!(refused("lorawan_ulr = 'http://x'").contains("\"lorawan_ulr\" is no setting"));
        assert!(refused("lorawan_ulr = 'http://x'").contains("lorawan_url"));
        assert!(refused("server = ['a']").contains("server must be a string"));
        assert!(refused("server").contains("muster.toml"));
    }

    #[test]
    fn a_store_of_another_name_is_refused() {
        assert_eq!(Settings::of(&[]).store(), Ok(StoreKind::Embedded));
        assert_eq!(Settings::of(&[(STORE, "dynamodb")]).store(), Ok(StoreKind::Dynamodb));
        assert!(Settings::of(&[(STORE, "redis")]).store().unwrap_err().message.contains("embedded or dynamodb"));
    }
}
