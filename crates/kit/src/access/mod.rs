//! Who may call what: keys, scopes, tenants.
//!
//! `Authorization: Bearer mk_<id>_<secret>`. The store holds a SHA-256 of the secret, which has 256
//! bits of its own, so a slow hash would add nothing. The tenant comes from the key and from
//! nothing else. [`crate::http::app`] asks [`Access::authorize`] before any handler runs.

mod http;
mod keys;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::extract::FromRequestParts;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use self::{
    http::{Docs, KeyView, routes},
    keys::{ADMIN, ApiKey, KeyError, KeyStore, NewKey, TABLE},
};
use crate::{clock::Clock, dynamo::Store, http::Scope, problem::Problem};

/// How long a key that was read is trusted: a revoked one may live on that long elsewhere. By the
/// wall clock: the other one stands still in a function that is frozen between invocations.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(1);
/// Keys remembered at most. Ids of no key are remembered too, so this bounds what a flood costs.
const REMEMBERED_KEYS: usize = 4096;

/// Who calls: known once the key has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose data the caller sees.
    pub tenant: String,
    /// The key's id, for the record of who did something.
    pub key_id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A handler of a public route that asks for a caller is a mistake of ours.
        parts.extensions.get().cloned().ok_or_else(Problem::internal)
    }
}

/// Keys by id, and when they were read.
type Memory = HashMap<String, (Timestamp, Option<ApiKey>)>;

/// Checks keys against the store, with a short memory.
#[derive(Debug, Clone)]
pub struct Access {
    keys: KeyStore,
    clock: Clock,
    remembered: Arc<Mutex<Memory>>,
}

impl Access {
    /// Checks the keys that are in `store`.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { keys: KeyStore::new(store), clock, remembered: Arc::default() }
    }

    /// The keys themselves, to make and revoke some.
    pub fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The clock that expiry is judged by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who calls, if the key in `headers` is valid and has `scope`.
    ///
    /// # Errors
    /// 401 without a valid key, 403 without the scope, 503 when the store is away.
    pub async fn authorize(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
        let (id, secret) = bearer(headers)
            .ok_or_else(|| unauthorized("Send `Authorization: Bearer mk_…` with a key from `muster keys create`."))?;
        // One message for an unknown id and a wrong secret: ids are not to be found out.
        let wrong = || {
            unauthorized("The key is not known, has expired or was revoked. Make another with `muster keys create`.")
        };
        let key = self.find(id).await?.ok_or_else(wrong)?;
        let presented = Sha256::digest(secret.as_bytes());
        let same: bool = presented.as_slice().ct_eq(&key.secret_sha256).into();
        if !same || !key.is_live(self.clock.now()) {
            return Err(wrong());
        }
        if !key.allows(scope.0) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "missing-scope", "The key may not do this").detail(
                format!(
                    "This needs the scope `{}`. Make a key that has it: muster keys create --scope {}",
                    scope.0, scope.0
                ),
            ));
        }
        Ok(Caller { tenant: key.tenant, key_id: key.id })
    }

    async fn find(&self, id: &str) -> Result<Option<ApiKey>, Problem> {
        let now = self.clock.now();
        // A clock that was set back says nothing about when that was.
        let fresh = |read_at: Timestamp| read_at <= now && now.duration_since(read_at) < REMEMBERED;
        if let Some((read_at, key)) = self.memory().get(id)
            && fresh(*read_at)
        {
            return Ok(key.clone());
        }
        let key = self.keys.get(id).await?;
        let mut memory = self.memory();
        if memory.len() >= REMEMBERED_KEYS {
            memory.retain(|_, (read_at, _)| fresh(*read_at));
            if memory.len() >= REMEMBERED_KEYS {
                memory.clear();
            }
        }
        // A key that is not there yet may be made at any moment, and its maker will not wait.
        if key.is_some() {
            memory.insert(id.to_owned(), (now, key.clone()));
        }
        Ok(key)
    }

    /// Forgets `id`, so that a revocation counts at once in this process.
    pub fn forget(&self, id: &str) {
        self.memory().remove(id);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id and the secret of the key in `headers`, if there is exactly one of the right shape.
fn bearer(headers: &HeaderMap) -> Option<(&str, &str)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    keys::split(token.trim())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid key is needed")
        .detail(detail)
        .header(header::WWW_AUTHENTICATE.as_str(), "Bearer realm=\"muster\"")
}
