//! Settings: a flag, else the environment, else `muster.toml` in the XDG configuration folder.
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

use crate::{
    cli::{Batch, Command, Global, Keys, Serve, StoreKind},
    exit::Failure,
};

/// The server to talk to.
pub const SERVER: &str = "MUSTER_SERVER";
/// Its key.
pub const KEY: &str = "MUSTER_KEY";
/// Where everything is kept: `embedded` or `dynamodb`.
pub const STORE: &str = "MUSTER_STORE";
/// The folder for everything local.
pub const STATE: &str = "MUSTER_STATE";
/// What stands before the name of every table.
pub const TABLE_PREFIX: &str = "MUSTER_TABLE_PREFIX";
/// What is logged, in the syntax of `tracing`: `info,batches=debug`.
pub const LOG: &str = "MUSTER_LOG";

/// Every setting there is, those of capabilities that are yet to come included.
const NAMES: [&str; 17] = [
    SERVER,
    KEY,
    STORE,
    STATE,
    TABLE_PREFIX,
    batches::config::URL,
    batches::config::TIMEOUT,
    batches::config::MAX_AGE,
    shout::http::URL,
    shout::http::FALLBACK,
    "MUSTER_CPX_URL",
    "MUSTER_DEPLOYMENTS_URL",
    "MUSTER_PACKET_URL",
    "MUSTER_PACKET_PROJECT",
    "MUSTER_PACKET_TOKEN",
    "MUSTER_PACKET_TOKEN_FILE",
    LOG,
];

type Values = BTreeMap<String, String>;

/// All settings of this process.
#[derive(Clone, Default)]
pub struct Settings {
    flags: Vec<Flag>,
    environment: Values,
    file: Values,
    /// Where the file is, for messages.
    path: PathBuf,
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
        let environment = NAMES.iter().filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
        // Without a home there is no file; everything else can still be said.
        let path = choose_base_strategy().map(|xdg| xdg.config_dir().join("muster/muster.toml")).unwrap_or_default();
        let file = match fs::read_to_string(&path) {
            Ok(text) => read_file(&text, &path)?,
            Err(error) if path.as_os_str().is_empty() || error.kind() == io::ErrorKind::NotFound => Values::new(),
            Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
        };
        Ok(Self { flags: flags(global, command), environment, file, path })
    }

    /// Settings that are given in the program, as for the demonstration.
    pub fn of(values: &[(&'static str, &str)]) -> Self {
        let flag = |&(name, value): &(&'static str, &str)| Flag { name, typed: name, value: value.to_owned() };
        Self { flags: values.iter().map(flag).collect(), ..Self::default() }
    }

    /// The value of a setting, if it has one.
    pub fn get(&self, name: &str) -> Option<String> {
        debug_assert!(NAMES.contains(&name), "{name} is no setting");
        let set = |values: &Values| values.get(name).filter(|value| !value.is_empty()).cloned();
        self.flag(name).map(|flag| flag.value.clone()).or_else(|| set(&self.environment)).or_else(|| set(&self.file))
    }

    /// What the user has to change to change a setting: a flag, a variable or a line of the file.
    pub fn origin(&self, name: &str) -> String {
        if let Some(flag) = self.flag(name) {
            return flag.typed.to_owned();
        }
        if self.environment.get(name).is_none_or(String::is_empty) && self.file.contains_key(name) {
            return format!("{} in {}", file_key(name), self.path.display());
        }
        name.to_owned()
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

fn flags(global: &Global, command: &Command) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut add = |name, typed, value: Option<String>| flags.extend(value.map(|value| Flag { name, typed, value }));
    add(SERVER, "--server", global.server.clone());
    add(STATE, "--state", global.state.as_ref().map(|dir| dir.to_string_lossy().into_owned()));
    match command {
        Command::Batch(Batch::Create(create)) => add(batches::config::URL, "--provider", create.provider.clone()),
        Command::Serve(Serve { store, .. }) | Command::Keys(Keys { store, .. }) => {
            let name = store.and_then(|store| store.to_possible_value()).map(|value| value.get_name().to_owned());
            add(STORE, "--store", name);
        }
        _ => {}
    }
    flags
}

/// `MUSTER_LORAWAN_URL` is `lorawan_url` in the file.
fn file_key(name: &str) -> String {
    name.trim_start_matches("MUSTER_").to_ascii_lowercase()
}

fn read_file(text: &str, path: &Path) -> Result<Values, Failure> {
    let table: toml::Table = text.parse().map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut values = Values::new();
    for (key, value) in table {
        let Some(name) = NAMES.iter().find(|name| file_key(name) == key) else {
            let known = NAMES.map(file_key).join(", ");
            return Err(
                Failure::usage(format!("{}: {key:?} is no setting", path.display())).hint(format!("there are {known}"))
            );
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            _ => return Err(Failure::usage(format!("{}: {key} must be a string or a number", path.display()))),
        };
        values.insert((*name).to_owned(), value);
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
