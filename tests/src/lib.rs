//! What the tests of the whole system share.
//!
//! - [`processes`]: the real `muster`, started, killed and interrupted like any other program;
//! - [`runtime_api`]: the functions' real `bootstrap` behind a Lambda Runtime API.

pub mod processes;
pub mod runtime_api;
