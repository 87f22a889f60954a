//! Batches: N registered DevEUIs with unique short codes, none wasted, none forgotten.
//!
//! # The life of a batch
//!
//! 1. `POST /api/v1/batches` writes the batch, its place in the worker's list and the idempotency
//!    key in one transaction ([`http`], [`store`]). A batch is little more than a random seed: its
//!    candidates are a pure function of seed and index ([`candidates`]), so nothing that a crash
//!    could lose decides which DevEUI is asked for.
//! 2. The worker ([`worker`], `shift`) takes the provider's lease: one process of all sends, at most ten
//!    requests at a time, at a pace that [`throttle`] finds.
//! 3. For each batch a [`run`] decides what to send next and what an answer means. A candidate is
//!    sent only after a durable write marks it as open ([`ledger`]). A lost answer is settled by
//!    asking again with the same DevEUI: 200 is ours, 422 is ours too, unless nobody had asked
//!    before.
//! 4. The batch ends `Completed`, `Cancelled` or `Failed`, and in each case its answer holds
//!    everything that may have been registered for it.
//!
//! Pure: [`deveui`], [`candidates`], [`ledger`], [`batch`], [`run`], [`throttle`]. The upstream is
//! only in [`provider`], the table only in [`store`], HTTP only in [`http`], with what
//! it shows in [`views`].

// Numbers here are counts and positions far below 2^32.
#![allow(clippy::cast_possible_truncation)]

pub mod batch;
pub mod candidates;
pub mod config;
pub mod deveui;
pub mod http;
pub mod ledger;
pub mod provider;
pub mod run;
mod shift;
pub mod store;
pub mod throttle;
pub mod views;
pub mod worker;

pub use http::{Batches, routes};
pub use store::TABLE;
