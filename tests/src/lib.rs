//! What the tests of the whole system share.
//!
//! - [`processes`]: the real `muster`, started, killed and interrupted like any other program;
//! - [`runtime_api`]: a function's real `bootstrap` behind a Lambda Runtime API.

pub mod processes;
pub mod runtime_api;
