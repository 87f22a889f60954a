//! What every capability shares, and nothing that only one of them knows.
//!
//! Read in this order: [`http`] (how routes are declared and what every answer goes through),
//! [`problem`] (errors), [`access`] (who may call), [`json`], [`paging`], [`idempotency`] and
//! [`wait`] (the HTTP conventions one by one), [`dynamo`] (tables and the store, embedded or on
//! AWS), [`upstream`] (calls to other people's services) and [`secrets`] (their tokens), [`lambda`],
//! [`telemetry`] and [`metrics`] (how a function is run and watched).
//!
//! **Invariant:** kit knows no capability. A function crate depends on kit and on no other
//! function.

pub mod access;
pub mod clock;
pub mod dynamo;
pub mod http;
pub mod idempotency;
pub mod json;
pub mod lambda;
pub mod metrics;
pub mod paging;
pub mod problem;
pub mod request;
pub mod secrets;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod upstream;
pub mod wait;
