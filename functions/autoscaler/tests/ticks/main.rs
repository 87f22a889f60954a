//! Ticks as a whole: the real worker, the real SDK on the embedded store, and a deployments API
//! behind a socket (a simulator) whose time the tests move.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod crash;
mod day;
mod life;
