//! The HTTP API of devices from the outside: what a client may rely on, claim by claim.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod actions;
mod away;
mod bad_input;
mod catalog;
mod common;
mod deletes;
mod docs;
mod events;
mod idempotency;
mod large;
mod life;
mod lists;
mod plan;
mod record;
mod secrets;
