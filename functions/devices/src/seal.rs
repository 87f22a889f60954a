//! Userdata is often full of secrets, so what the table holds of it is sealed.
//!
//! AES-256-GCM with a random nonce; the key is derived from the vendor's token (HKDF-SHA-256, RFC 5869)
//! and so needs no secret of its own: whoever has that token may ask the vendor for the userdata
//! anyway. With another token a device that has not been created yet cannot be created with its
//! userdata any more, and says so.

use std::time::Duration;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{self, HKDF_SHA256, Salt},
};
use kit::secrets::Secret;
use thiserror::Error;
use uuid::Uuid;

use crate::{config, request::Userdata};

const PURPOSE: &[u8] = b"muster devices userdata v1";
/// How long the token may take to be read.
const READ: Duration = Duration::from_secs(5);

/// Why userdata cannot be kept or used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// There is no token to derive a key from.
    #[error("{} is not set", config::TOKEN)]
    NoToken,
    /// It cannot be read now.
    #[error("{} cannot be read now", config::TOKEN)]
    Unreadable,
    /// It was sealed with another token, or is damaged.
    #[error("its userdata cannot be read any more: {} has changed since it was asked for", config::TOKEN)]
    Foreign,
}

/// Seals and opens userdata.
#[derive(Debug, Clone)]
pub struct Sealer(Secret);

impl Sealer {
    /// With a key from this token.
    pub const fn new(token: Secret) -> Self {
        Self(token)
    }

    /// Seals the userdata of a device.
    pub async fn seal(&self, id: Uuid, userdata: &Userdata) -> Result<Vec<u8>, SealError> {
        let mut sealed = userdata.expose().as_bytes().to_vec();
        let nonce = self
            .key()
            .await?
            .seal_in_place_append_tag(Aad::from(id.as_bytes()), &mut sealed)
            .map_err(|_| SealError::Unreadable)?;
        let mut all = nonce.as_ref().to_vec();
        all.append(&mut sealed);
        Ok(all)
    }

    /// Opens what was sealed for a device.
    pub async fn open(&self, id: Uuid, sealed: &[u8]) -> Result<Userdata, SealError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Foreign)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Foreign)?;
        let mut sealed = sealed.to_vec();
        let key = self.key().await?;
        let text =
            key.open_in_place(nonce, Aad::from(id.as_bytes()), &mut sealed).map_err(|_| SealError::Foreign)?.to_vec();
        String::from_utf8(text).map(Userdata::from).map_err(|_| SealError::Foreign)
    }

    async fn key(&self) -> Result<RandomizedNonceKey, SealError> {
        let token = self.0.token(READ).await.map_err(|_| SealError::Unreadable)?.ok_or(SealError::NoToken)?;
        let mut key = [0; 32];
        Salt::new(HKDF_SHA256, &[])
            .extract(token.expose().as_bytes())
            .expand(&[PURPOSE], KeyLength)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| SealError::Unreadable)?;
        RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Unreadable)
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sealer(token: &str) -> Sealer {
        Sealer::new(Secret::here(config::TOKEN, token).unwrap())
    }

    #[tokio::test]
    async fn what_is_sealed_can_be_opened_for_the_same_device_with_the_same_token_only() {
        let (id, userdata) = (Uuid::from_u128(7), Userdata::from("#cloud-config hunter2".to_owned()));
        let sealed = sealer("a").seal(id, &userdata).await.unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("hunter2"));
        assert_ne!(sealed, sealer("a").seal(id, &userdata).await.unwrap(), "a nonce is used once");
        assert_eq!(sealer("a").open(id, &sealed).await.unwrap(), userdata);
        assert_eq!(sealer("b").open(id, &sealed).await, Err(SealError::Foreign));
        assert_eq!(sealer("a").open(Uuid::from_u128(8), &sealed).await, Err(SealError::Foreign));
        let mut damaged = sealed.clone();
        damaged[20] ^= 1;
        assert_eq!(sealer("a").open(id, &damaged).await, Err(SealError::Foreign));
        assert_eq!(sealer("a").open(id, &sealed[..5]).await, Err(SealError::Foreign));
        assert_eq!(Sealer::new(Secret::none(config::TOKEN)).seal(id, &userdata).await, Err(SealError::NoToken));
    }
}
