//! Every deployment keeps its share of free servers, and no harm is done.
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
