//! Devices: a machine, launched wherever it can be had, watched until it is up, and torn down
//! without leftovers.

pub mod catalog;
pub mod config;
pub mod device;
pub mod failures;
pub mod machine;
pub mod request;
pub mod seal;
pub mod select;
pub mod store;
pub mod supply;
pub mod vendor;
pub mod worker;

pub use store::TABLE;
