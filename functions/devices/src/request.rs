//! What is asked for: the body of `POST /api/v1/devices`, checked once, as a whole.

mod check;

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use crate::catalog::{Memory, Price};

/// Combinations that are tried where the request does not say.
pub const DEFAULT_ATTEMPTS: u32 = 10;
/// Most combinations that may be tried.
pub const MAX_ATTEMPTS: u32 = 50;
/// For so long a device may take to come up where the request does not say.
pub const DEFAULT_PROVISION_TIMEOUT_SECONDS: u32 = 1800;
/// For so long it may show no progress where the request does not say.
pub const DEFAULT_STALL_TIMEOUT_SECONDS: u32 = 600;
/// Largest userdata, in bytes.
pub const MAX_USERDATA: usize = 64 * 1024;

/// A device that is asked for. Everything may be left out: an empty body asks for the cheapest
/// possible machine.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with what is asked for")]
pub struct CreateDevice {
    /// Its name, as RFC 1123 has it. Made from its id unless given.
    #[schema(max_length = 253)]
    hostname: Option<String>,
    /// Which operating systems will do; any unless given.
    os: Option<OsInput>,
    /// Which plans will do; any unless given.
    plan: Option<PlanInput>,
    /// Which facilities will do; any unless given.
    facility: Option<FacilityInput>,
    /// Up to 20 tags of up to 100 characters. One tag more is the device's own.
    #[schema(max_items = 20)]
    tags: Option<Vec<String>>,
    /// What the machine is given at its first start, up to 64 KiB. It is never shown.
    #[schema(value_type = Option<String>, max_length = 65536, write_only)]
    userdata: Option<Userdata>,
    /// Ids of up to 50 SSH keys, as the vendor has them.
    #[schema(max_items = 50)]
    ssh_keys: Option<Vec<String>>,
    /// When the device is torn down, RFC 3339. Never unless given. Not together with `ttl_seconds`.
    #[schema(format = DateTime)]
    termination_time: Option<String>,
    /// After how many seconds the device is torn down. Not together with `termination_time`.
    #[schema(value_type = Option<u32>, minimum = 600, maximum = 31_536_000)]
    ttl_seconds: Option<Number>,
    /// Whether the device is torn down as soon as it is active; `false` unless given.
    ephemeral: Option<bool>,
    /// How many combinations are tried at most; 10 unless given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 50)]
    max_attempts: Option<Number>,
    /// For how long one attempt may take to come up; 1800 unless given.
    #[schema(value_type = Option<u32>, minimum = 60, maximum = 21600)]
    provision_timeout_seconds: Option<Number>,
    /// For how long one attempt may show no progress; 600 unless given, and not above
    /// `provision_timeout_seconds`.
    #[schema(value_type = Option<u32>, minimum = 30, maximum = 21600)]
    stall_timeout_seconds: Option<Number>,
}

/// Which operating systems will do: those that are all of this.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with distro, version or slug")]
#[schema(as = CreateDeviceOs)]
struct OsInput {
    /// The distribution, such as `debian`.
    distro: Option<String>,
    /// The version, such as `12`.
    version: Option<String>,
    /// The vendor's name, such as `debian_12`.
    slug: Option<String>,
}

/// Which plans will do: those that are all of this.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with class, slug, max_price_per_hour, min_memory_gb or min_cores")]
#[schema(as = CreateDevicePlan)]
struct PlanInput {
    /// The class, such as `c3.small.x86`.
    class: Option<String>,
    /// The vendor's name, such as `c3.small.x86`.
    slug: Option<String>,
    /// At most so many US dollars an hour.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1_000_000)]
    max_price_per_hour: Option<Number>,
    /// At least so many GB of main memory.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1_000_000)]
    min_memory_gb: Option<Number>,
    /// At least so many cores.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    min_cores: Option<Number>,
}

/// Which facilities will do: those that have all features and, where codes or metros are given, are
/// one of the codes or in one of the metros.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with codes, features or metros")]
#[schema(as = CreateDeviceFacility)]
struct FacilityInput {
    /// Codes, such as `ewr1`; any of them will do.
    #[schema(max_items = 50)]
    codes: Option<Vec<String>>,
    /// Features, such as `layer_2`; a facility must have all of them.
    #[schema(max_items = 50)]
    features: Option<Vec<String>>,
    /// Codes of metros, such as `ny`; any of them will do.
    #[schema(max_items = 50)]
    metros: Option<Vec<String>>,
}

/// What a machine is given at its first start. Secrets are often in it, so it is no part of the
/// request that is stored, it cannot be serialised, and `Debug` shows its length only.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Userdata(String);

impl Userdata {
    /// The text itself, for the vendor.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Userdata {
    /// The text as it was checked before.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Userdata {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Userdata({} bytes)", self.0.len())
    }
}

/// What is asked for, checked: everything but the userdata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = DeviceRequest)]
pub struct Request {
    /// Its name; none where it is to be made from its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Which operating systems will do.
    pub os: OsWanted,
    /// Which plans will do.
    pub plan: PlanWanted,
    /// Which facilities will do.
    pub facility: FacilityWanted,
    /// The caller's tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Ids of the vendor's SSH keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// When it is torn down; not together with `ttl_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub termination_time: Option<Timestamp>,
    /// After how many seconds it is torn down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// Whether it is torn down as soon as it is active.
    pub ephemeral: bool,
    /// How many combinations are tried at most.
    pub max_attempts: u32,
    /// For how long one attempt may take to come up.
    pub provision_timeout_seconds: u32,
    /// For how long one attempt may show no progress.
    pub stall_timeout_seconds: u32,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            hostname: None,
            os: OsWanted::default(),
            plan: PlanWanted::default(),
            facility: FacilityWanted::default(),
            tags: Vec::new(),
            ssh_keys: Vec::new(),
            termination_time: None,
            ttl_seconds: None,
            ephemeral: false,
            max_attempts: DEFAULT_ATTEMPTS,
            provision_timeout_seconds: DEFAULT_PROVISION_TIMEOUT_SECONDS,
            stall_timeout_seconds: DEFAULT_STALL_TIMEOUT_SECONDS,
        }
    }
}

/// Which operating systems will do: those that are all of this. Names are compared without regard to
/// case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = DeviceOsWanted)]
pub struct OsWanted {
    /// The distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distro: Option<String>,
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The vendor's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
}

/// Which plans will do: those that are all of this. Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = DevicePlanWanted)]
pub struct PlanWanted {
    /// The class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The vendor's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// At most so many US dollars an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub max_price_per_hour: Option<Price>,
    /// At least so many GB of main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub min_memory_gb: Option<Memory>,
    /// At least so many cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cores: Option<u32>,
}

/// Which facilities will do: those that have all features and, where codes or metros are given, are
/// one of the codes or in one of the metros. Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = DeviceFacilityWanted)]
pub struct FacilityWanted {
    /// Codes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub codes: BTreeSet<String>,
    /// Features.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub features: BTreeSet<String>,
    /// Codes of metros.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub metros: BTreeSet<String>,
}

/// What is wrong with a request: a JSON pointer, and words that say what would be right.
pub type Wrong = (String, String);
