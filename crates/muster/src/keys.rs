//! `muster keys`: who may call the API. With `--store dynamodb` the table itself is worked on, as
//! the operator of a deployment on AWS does; otherwise the API, as an admin of a server does.

use http::StatusCode;
use jiff::Timestamp;
use kit::{
    access::{KeyStore, KeyView, NewKey},
    paging::{MAX_LIMIT, Page},
};
use url::form_urlencoded::Serializer;

use crate::{
    backend::Backend,
    cli::{Format, Keys, KeysCommand, StoreKind},
    client::Client,
    connect::{Target, connect},
    exit::{Exit, Failure},
    output::Output,
    settings::Settings,
};

const COLLECTION: &str = "/api/v1/keys";

/// Runs the command.
pub async fn run(keys: &Keys, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let book = Book::open(settings, output).await?;
    match &keys.command {
        KeysCommand::Create { tenant, scopes, label, expires } => {
            let new = NewKey {
                tenant: tenant.clone(),
                scopes: scopes.clone(),
                label: label.clone(),
                expires_in_seconds: *expires,
            };
            print_new(&book.create(new).await?, output)
        }
        KeysCommand::List => print_list(book.list().await?, output),
        KeysCommand::Revoke { id } => {
            book.revoke(id).await?;
            output.note(&format!("Key {id} is revoked. Other processes may remember it for up to a minute."));
            Ok(Exit::Fine)
        }
    }
}

/// Where the keys are.
enum Book {
    /// Behind the API.
    Api(Client),
    /// In a table of DynamoDB.
    Table(KeyStore),
}

impl Book {
    async fn open(settings: &Settings, output: &Output) -> Result<Self, Failure> {
        if settings.store()? == StoreKind::Dynamodb {
            return Ok(Self::Table(Backend::dynamodb(settings).await.access().keys().clone()));
        }
        Ok(Self::Api(match connect(settings, output).await? {
            Target::Server(client) => client,
            Target::Embedded(backend) => backend.client(settings, None).await?,
        }))
    }

    async fn create(&self, new: NewKey) -> Result<KeyView, Failure> {
        match self {
            Self::Api(client) => client.post(COLLECTION, &new, None).await.map_err(name_flags)?.json(),
            Self::Table(keys) => {
                let (key, token) = keys.create(new, Timestamp::now()).await?;
                Ok(KeyView { token: Some(token), ..key.into() })
            }
        }
    }

    async fn list(&self) -> Result<Vec<KeyView>, Failure> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            after = match self {
                Self::Api(client) => {
                    let mut query = Serializer::new(String::new());
                    query
                        .append_pair("limit", &MAX_LIMIT.to_string())
                        .extend_pairs(after.iter().map(|cursor| ("cursor", cursor)));
                    let page: Page<KeyView> = client.get(&format!("{COLLECTION}?{}", query.finish())).await?;
                    all.extend(page.items);
                    page.next_cursor
                }
                Self::Table(keys) => {
                    let (page, next) = keys.list(MAX_LIMIT, after.as_deref()).await?;
                    all.extend(page.into_iter().map(KeyView::from));
                    next
                }
            };
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn revoke(&self, id: &str) -> Result<(), Failure> {
        match self {
            Self::Api(client) => {
                let answer = client.delete(&format!("{COLLECTION}{}", kit::upstream::path(&[id]))).await?;
                debug_assert_eq!(answer.status, StatusCode::NO_CONTENT);
                Ok(())
            }
            Self::Table(keys) => Ok(keys.revoke(id, Timestamp::now()).await?),
        }
    }
}

/// What a JSON pointer of the API is called on the command line.
pub fn flag(pointer: &str) -> String {
    match pointer {
        "/scopes" => "--scope".to_owned(),
        other => format!("--{}", other.trim_start_matches('/').trim_end_matches("_in_seconds")),
    }
}

/// Says what is wrong with the key in terms of this command line.
fn name_flags(failure: Failure) -> Failure {
    let errors = failure.problem.iter().flat_map(|problem| &problem.errors);
    let errors: Vec<_> = errors.map(|error| format!("{}: {}", flag(&error.pointer), error.detail)).collect();
    if errors.is_empty() { failure } else { Failure { message: errors.join("\n"), ..failure } }
}

/// The token alone is data: `KEY=$(muster keys create …)` works.
fn print_new(key: &KeyView, output: &Output) -> Result<Exit, Failure> {
    match output.format {
        Format::Json => output.json(key)?,
        _ => output.lines(key.token.as_deref())?,
    }
    let expires = key.expires_at.as_ref().map_or(String::new(), |at| format!(", until {at}"));
    output.note(&format!(
        "Key {} of tenant {} for {}{expires}. It is shown this once.",
        key.id,
        key.tenant,
        key.scopes.join(", ")
    ));
    Ok(Exit::Fine)
}

fn print_list(keys: Vec<KeyView>, output: &Output) -> Result<Exit, Failure> {
    match output.format {
        Format::Json => output.json(&Page { items: keys, next_cursor: None })?,
        Format::Plain => output.lines(keys.iter().map(|key| &key.id))?,
        Format::Table | Format::Csv => {
            let rows: Vec<_> = keys.iter().map(row).collect();
            output.rows(&["ID", "Tenant", "Scopes", "Created", "Expires", "Revoked", "Label"], &rows)?;
        }
    }
    Ok(Exit::Fine)
}

fn row(key: &KeyView) -> Vec<String> {
    let seconds = |time: &str| {
        time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |it| it.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    vec![
        key.id.clone(),
        key.tenant.clone(),
        key.scopes.join(" "),
        seconds(&key.created_at),
        key.expires_at.as_deref().map_or(String::new(), seconds),
        key.revoked_at.as_deref().map_or(String::new(), seconds),
        key.label.clone().unwrap_or_default(),
    ]
}
