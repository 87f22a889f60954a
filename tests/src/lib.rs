//! x
pub mod runtime_api;
