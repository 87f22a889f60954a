//! The pure half of `devices`: what is asked for, what the vendor has, and what would be tried.
#![allow(clippy::unwrap_used)]

mod common;
mod failures;
mod golden;
mod impossible;
mod lists;
mod properties;
mod requests;
