//! API keys in the store: what is kept of one, and how they are made, listed and revoked.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{Timestamp, ToSpan};
use rand::{RngCore, TryRngCore, rngs::OsRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    dynamo::{Item, Store, StoreError, TableDef, from_item, from_items, key, n, s, sort_key, to_item, was_written},
    problem::Problem,
};

/// The scope that has all the others, and the management of keys for every tenant.
pub const ADMIN: &str = "admin";

/// The table of keys. All are in one partition: a process reads a key once a minute at most, and
/// listing them is a Query.
pub const TABLE: TableDef = TableDef::new("access");

const PARTITION: &str = "KEY";
/// A revoked or expired key stays listed for this long.
const KEPT_DAYS: i64 = 30;

/// What the store holds of a key. The secret itself is nowhere but with its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Public part of the key.
    #[serde(rename = "sk")]
    pub id: String,
    /// SHA-256 of the secret part.
    #[serde(with = "serde_bytes_compat")]
    pub secret_sha256: Vec<u8>,
    /// Whose data the key opens.
    pub tenant: String,
    /// What it may do, such as `batches:read`.
    pub scopes: Vec<String>,
    /// For people: where the key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

mod serde_bytes_compat {
    //! Hex in a string: readable in the console, and the same through every serializer.
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("not hex"))
    }
}

impl ApiKey {
    /// Whether the key counts at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// Whether it has `scope`, or all of them.
    pub fn allows(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope || held == ADMIN)
    }
}

/// What a new key shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Whose data it opens: 1 to 64 of `a-z 0-9 - _`.
    pub tenant: String,
    /// At least one, such as `batches:read`.
    pub scopes: Vec<String>,
    /// For people, up to 200 characters.
    #[serde(default)]
    pub label: Option<String>,
    /// Seconds until it expires; never when absent. Up to ten years.
    #[serde(default)]
    pub expires_in_seconds: Option<i64>,
}

/// Why a key was not made or revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The input is not allowed.
    #[error("{pointer}: {detail}")]
    Invalid {
        /// JSON pointer to the field.
        pointer: &'static str,
        /// What would be right.
        detail: String,
    },
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid { pointer, detail } => {
                Problem::invalid("See `errors` for what to change.").error(pointer, detail)
            }
            KeyError::Unknown(_) => Problem::not_found("There is no such key; `muster keys list` shows them."),
            KeyError::Store(error) => error.into(),
        }
    }
}

/// The keys in the store.
#[derive(Debug, Clone)]
pub struct KeyStore {
    store: Store,
}

impl KeyStore {
    /// The keys of `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes a key; the token, with its secret, is answered this once.
    pub async fn create(&self, new: NewKey, now: Timestamp) -> Result<(ApiKey, String), KeyError> {
        check(&new)?;
        let id = random_hex(6);
        let mut secret = [0; 32];
        fill(&mut secret);
        let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
        let key = ApiKey {
            secret_sha256: Sha256::digest(secret.as_bytes()).to_vec(),
            tenant: new.tenant,
            scopes: new.scopes,
            label: new.label,
            created_at: now,
            expires_at: new.expires_in_seconds.map(|seconds| now + seconds.seconds()),
            revoked_at: None,
            id,
        };
        let mut item = to_item(&key)?;
        item.insert("pk".to_owned(), s(PARTITION));
        if let Some(expires_at) = key.expires_at {
            let ttl = (expires_at + (24 * KEPT_DAYS).hours()).as_second();
            item.insert("ttl".to_owned(), n(ttl));
        }
        self.store
            .client()
            .put_item()
            .table_name(self.store.table(&TABLE))
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await
            .map_err(StoreError::from)?;
        let token = format!("mk_{}_{secret}", key.id);
        Ok((key, token))
    }

    /// The key with this id.
    pub async fn get(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let get = self.store.client().get_item().table_name(self.store.table(&TABLE)).set_key(Some(item_key(id)));
        get.send().await?.item.map(from_item).transpose()
    }

    /// Up to `limit` keys after the id `after`, and where to go on.
    pub async fn list(&self, limit: u32, after: Option<&str>) -> Result<(Vec<ApiKey>, Option<String>), StoreError> {
        let page = self
            .store
            .client()
            .query()
            .table_name(self.store.table(&TABLE))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(PARTITION))
            .set_exclusive_start_key(after.map(item_key))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await?;
        let next = page.last_evaluated_key.as_ref().and_then(sort_key).map(str::to_owned);
        Ok((from_items(page.items.unwrap_or_default())?, next))
    }

    /// Revokes a key; again is the same as once.
    pub async fn revoke(&self, id: &str, now: Timestamp) -> Result<(), KeyError> {
        if !is_id(id) {
            return Err(KeyError::Unknown(id.to_owned()));
        }
        let ttl = (now + (24 * KEPT_DAYS).hours()).as_second();
        let revoked = self
            .store
            .client()
            .update_item()
            .table_name(self.store.table(&TABLE))
            .set_key(Some(item_key(id)))
            .condition_expression("attribute_exists(pk)")
            .update_expression("SET revoked_at = if_not_exists(revoked_at, :now), #ttl = :ttl")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":now", s(now.to_string()))
            .expression_attribute_values(":ttl", n(ttl))
            .send()
            .await;
        if was_written(revoked)? { Ok(()) } else { Err(KeyError::Unknown(id.to_owned())) }
    }

    /// Whether there is any key at all.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.list(1, None).await?.0.is_empty())
    }
}

/// The id and the secret of a token `mk_<id>_<secret>`.
pub(super) fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix("mk_")?.split_once('_')?;
    (is_id(id) && (1..=128).contains(&secret.len())).then_some((id, secret))
}

/// Whether the text can be a key's id.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check(new: &NewKey) -> Result<(), KeyError> {
    let invalid = |pointer, detail: &str| Err(KeyError::Invalid { pointer, detail: detail.to_owned() });
    // Tenants become part of keys in the store, so no separator of ours may be in one.
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !(1..=64).contains(&new.tenant.len()) || !new.tenant.bytes().all(is_plain) {
        return invalid("/tenant", "1 to 64 of a-z, 0-9, - and _");
    }
    if new.scopes.is_empty() || new.scopes.len() > 50 {
        return invalid("/scopes", "1 to 50 scopes, such as batches:read");
    }
    let is_scope = |scope: &String| {
        scope.len() <= 64
            && (scope == ADMIN
                || scope.split_once(':').is_some_and(|(what, may)| {
                    !what.is_empty() && what.bytes().all(is_plain) && matches!(may, "read" | "write")
                }))
    };
    if let Some(odd) = new.scopes.iter().find(|scope| !is_scope(scope)) {
        return invalid("/scopes", &format!("{odd:?} is no scope; write CAPABILITY:read, CAPABILITY:write or admin"));
    }
    if new.label.as_ref().is_some_and(|label| label.chars().count() > 200) {
        return invalid("/label", "up to 200 characters");
    }
    if new.expires_in_seconds.is_some_and(|seconds| !(1..=10 * 366 * 86400).contains(&seconds)) {
        return invalid("/expires_in_seconds", "1 second to ten years");
    }
    Ok(())
}

fn item_key(id: &str) -> Item {
    key(PARTITION, id)
}

fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    fill(&mut random);
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The operating system's randomness. That it fails is not survivable: no key may be guessable.
fn fill(bytes: &mut [u8]) {
    OsRng.unwrap_err().fill_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_split_at_its_first_two_underscores() {
        assert_eq!(split("mk_0123456789ab_a_b-c"), Some(("0123456789ab", "a_b-c")));
        for bad in
            ["", "mk_", "mk_0123456789ab", "mk_0123456789ab_", "mk_0123_x", "xx_0123456789ab_y", "mk_0123456789a#_y"]
        {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn admin_has_every_scope_and_others_have_their_own() {
        let key = |scopes: &[&str]| ApiKey {
            id: String::new(),
            secret_sha256: Vec::new(),
            tenant: "t".to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            label: None,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            revoked_at: None,
        };
        assert!(key(&["admin"]).allows("batches:write"));
        assert!(key(&["batches:write"]).allows("batches:write"));
        assert!(!key(&["batches:write"]).allows("batches:read"));
        assert!(!key(&["batches:read"]).allows("admin"));
    }
}
