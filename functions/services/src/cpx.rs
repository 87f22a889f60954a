//! CPX's client: `GET {base}/servers` and `GET {base}/{ip}`.
//!
//! **The one thing to know:** what CPX lists never becomes part of a URL as it is. Only what parses
//! as an address is asked for, in the spelling of our own.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use http::{StatusCode, Version};
use kit::upstream::{Upstream, UpstreamError};
use serde_json::Value;
use thiserror::Error;

use crate::{
    config::URL,
    server::{Load, ServiceName, parse_answer},
};

/// Most servers that are watched.
pub const MOST: usize = 20_000;
/// A list of that many addresses, IPv6 ones, with some room for what is none.
const LIST_LIMIT: usize = 4 << 20;
/// An answer about one server is a hundred bytes.
const ANSWER_LIMIT: usize = 16 << 10;

/// CPX, behind its base URL.
#[derive(Debug, Clone)]
pub struct Cpx(Upstream);

/// Why there is no list of servers. The words are for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CpxError {
    /// No whole answer.
    #[error("CPX did not list its servers: {0}; is {URL} right?")]
    Upstream(#[from] UpstreamError),
    /// An answer with another status than 200.
    #[error("CPX answered {0} where its list of servers was asked for; is {URL} right?")]
    Status(StatusCode),
    /// An answer that is no list.
    #[error("CPX's list of servers is no JSON array; is {URL} right?")]
    NoList,
    /// A bug of ours.
    #[error("the reading of CPX broke off")]
    Broken,
}

/// The servers that CPX lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Each once, at most [`MOST`].
    pub ips: Vec<IpAddr>,
    /// Entries that are no address, or above the most.
    pub ignored: usize,
    /// Whether there were more than the most.
    pub too_many: bool,
    /// Whether CPX is the stock one, which handles one request at a time: it speaks HTTP/1.0.
    pub one_at_a_time: bool,
}

impl Cpx {
    /// CPX behind `upstream`.
    pub fn new(upstream: Upstream) -> Self {
        Self(upstream)
    }

    /// Its base URL, which also names it in the store.
    pub fn name(&self) -> &str {
        self.0.base()
    }

    /// The servers there are.
    pub async fn list(&self, timeout: Duration) -> Result<Listed, CpxError> {
        let answer = self.0.with_body_limit(LIST_LIMIT).get("/servers", timeout).await?;
        if answer.status != StatusCode::OK {
            return Err(CpxError::Status(answer.status));
        }
        let one_at_a_time = answer.version <= Version::HTTP_10;
        Ok(Listed { one_at_a_time, ..parse_list(&answer.body)? })
    }

    /// One server's service and load, or why they are not known, in words for people.
    pub async fn ask(&self, ip: IpAddr, timeout: Duration) -> Result<(ServiceName, Load), String> {
        let answer = self.0.with_body_limit(ANSWER_LIMIT).get(&format!("/{ip}"), timeout).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("CPX answered {}", answer.status));
        }
        parse_answer(&answer.body).map_err(|nonsense| nonsense.to_string())
    }
}

/// Reads CPX's list: texts that are addresses, each once and whatever their order.
pub fn parse_list(body: &[u8]) -> Result<Listed, CpxError> {
    let entries: Vec<Value> = serde_json::from_slice(body).map_err(|_| CpxError::NoList)?;
    let mut ips = BTreeSet::new();
    let (mut ignored, mut too_many) = (0, false);
    for entry in &entries {
        match entry.as_str().and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(ip) if ips.contains(&ip) => {}
            Some(ip) if ips.len() < MOST => {
                ips.insert(ip);
            }
            Some(_) => {
                ignored += 1;
                too_many = true;
            }
            None => ignored += 1,
        }
    }
    Ok(Listed { ips: ips.into_iter().collect(), ignored, too_many, one_at_a_time: false })
}
