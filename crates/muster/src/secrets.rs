//! `muster secrets`: the upstreams' tokens of a deployment on AWS, kept in Secrets Manager.
//!
//! Works with the operator's own AWS credentials. Terraform has made the secrets; which there are
//! is said by infra/functions.json. A value goes in and never comes out again.

use std::collections::BTreeSet;

use kit::secrets::{Entry, Token, Vault, VaultError};
use serde::{Deserialize, Serialize};

use crate::{
    cli::{Format, Secrets, SecretsCommand},
    exit::{Exit, Failure},
    input,
    output::{Output, patiently},
    settings::{ENVIRONMENT, Settings},
};

/// The routing table of the stack, which lists each function's secrets.
const FUNCTIONS: &str = include_str!("../../../infra/functions.json");

/// Runs the command.
pub async fn run(secrets: &Secrets, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let environment = settings.get(ENVIRONMENT).ok_or_else(|| {
        Failure::usage("it is not said which deployment")
            .hint("give its name with --environment or MUSTER_ENVIRONMENT, such as --environment muster-test")
    })?;
    match &secrets.command {
        SecretsCommand::Set { name } => set(name, &environment, output).await,
        SecretsCommand::List => list(&environment, output).await,
    }
}

/// The secrets there are.
fn known() -> Result<BTreeSet<String>, Failure> {
    #[derive(Deserialize)]
    struct Table {
        functions: Vec<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        secrets: Vec<String>,
    }
    let table: Table = serde_json::from_str(FUNCTIONS)
        .map_err(|error| Failure::new(format!("infra/functions.json cannot be read: {error}")))?;
    Ok(table.functions.into_iter().flat_map(|function| function.secrets).collect())
}

async fn set(name: &str, environment: &str, output: &Output) -> Result<Exit, Failure> {
    let known = known()?;
    if !known.contains(name) {
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        return Err(Failure::usage(format!("{name:?} is no secret")).hint(format!("there are: {}", known.join(", "))));
    }
    let token = Token::parse("the value", &input::secret(name)?).map_err(|error| Failure::usage(error.to_string()))?;
    let vault = Vault::new(environment).await;
    let id = vault.id(name);
    patiently("Asking Secrets Manager", vault.set(name, &token)).await.map_err(|error| about(&id, error))?;
    output.note(&format!("{id} is set. The functions use it within five minutes."));
    Ok(Exit::Fine)
}

/// What is listed of a secret.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_at: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It has a value.
    Set,
    /// It has none yet.
    Empty,
    /// Terraform has not made it yet.
    Missing,
}

async fn list(environment: &str, output: &Output) -> Result<Exit, Failure> {
    let vault = Vault::new(environment).await;
    let mut rows = Vec::new();
    let mut missing = None;
    for name in known()? {
        let id = vault.id(&name);
        let (state, changed_at) = match patiently("Asking Secrets Manager", vault.entry(&name)).await {
            Ok(Entry { is_set, changed_at }) => (if is_set { State::Set } else { State::Empty }, changed_at),
            Err(error @ VaultError::NotFound { .. }) => {
                missing = Some(about(&id, error));
                (State::Missing, None)
            }
            Err(error) => return Err(about(&id, error)),
        };
        rows.push(Row { name, state, changed_at: changed_at.map(|at| at.to_string()) });
    }
    // Some may be missing after an update of muster; all are where there is no such deployment.
    if let Some(missing) = missing.filter(|_| rows.iter().all(|row| row.state == State::Missing)) {
        return Err(missing);
    }
    match output.format {
        Format::Json => output.json(&serde_json::json!({ "items": rows }))?,
        Format::Plain => output.lines(rows.iter().map(|row| &row.name))?,
        Format::Table | Format::Csv => {
            let rows: Vec<_> = rows.into_iter().map(cells).collect();
            output.rows(&["Name", "Value", "Changed"], &rows)?;
        }
    }
    Ok(Exit::Fine)
}

fn cells(row: Row) -> Vec<String> {
    let state = match row.state {
        State::Set => "set",
        State::Empty => "empty: run `muster secrets set`",
        State::Missing => "missing: run scripts/apply",
    };
    vec![row.name, state.to_owned(), row.changed_at.unwrap_or_default()]
}

/// The failure with the secret that it is about.
fn about(id: &str, error: VaultError) -> Failure {
    let failure = Failure::from(error);
    Failure { message: format!("{id}: {}", failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_known_secrets_are_those_of_the_functions() {
        assert!(known().unwrap().contains(batches::config::TOKEN));
    }
}
