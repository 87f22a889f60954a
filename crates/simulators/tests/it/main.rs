//! The simulators as their clients see them: real sockets, a real HTTP client, the real program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(unix)]
mod binary;
mod common;
mod cpx;
mod lorawan;
mod lorawan_faults;
#[cfg(unix)]
mod program;
mod shoutcloud;
