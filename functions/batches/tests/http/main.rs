//! The HTTP API of batches from the outside: what a client may rely on, claim by claim.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod away;
mod bad_input;
mod idempotency;
mod life;
mod lists;
mod long;
