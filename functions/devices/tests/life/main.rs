//! Whole lives of devices: the real worker on the embedded store, against the device API's simulator.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod record;
mod seeded;
mod steps;
mod way;
