//! Every deployment keeps its share of free servers, and no harm is done.
//!
//! # A slot, from end to end
//!
//! 1. Half a minute is a slot ([`samples`]). The [`worker`] is there when one begins, by an event or by
//!    its own clock, and a [`tick`] claims it: a slot's work is done once.
//! 2. Every minute the [`deployments`] API is asked what there is, and [`discovery`] decides whether to
//!    believe it. Then every deployment is asked how many servers are free, 256 at once.
//! 3. The [`machine`] takes each deployment one step further, with what it needs ([`need`], exact
//!    whole numbers), what it may do ([`policy`]) and how its last [`samples`] were. The outcome is a
//!    [`decision`] with its reason: up at once, down only when a whole window agrees.
//! 4. A decision to scale is an intent: it is in the [`store`] before its one request is sent. What has
//!    become of a request without an answer is told by the next readings, never by sending it again.
//!
//! # A question
//!
//! [`http`] answers what is decided, what was, and with [`explain`] what would be; [`simulate`] drives
//! a past day with other policies. What it shows is in [`views`].
//!
//! Pure: [`need`], [`policy`], [`samples`], [`decision`], [`machine`], [`discovery`], [`simulate`]. The
//! deployments API is only in [`deployments`], the table only in [`store`], HTTP only in [`http`].

pub mod config;
pub mod decision;
pub mod deployments;
pub mod discovery;
pub mod explain;
pub mod http;
pub mod machine;
pub mod need;
pub mod policy;
pub mod samples;
pub mod simulate;
pub mod store;
pub mod tick;
pub mod views;
pub mod worker;

pub use http::{Scaling, routes};
pub use store::TABLE;
