//! The capability as a whole: the real router, the real SDK on the embedded store, the real worker,
//! and a CPX behind a socket (a simulator).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod bad_input;
mod common;
mod faults;
mod notices;
mod store;
mod worker;
