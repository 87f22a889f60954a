//! The HTTP API as a whole: the real router, the real SDK on the embedded store, real ticks, and a
//! deployments API behind a socket (a simulator).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod common;
mod decisions;
mod explain;
mod lists;
mod policy;
mod simulate;
