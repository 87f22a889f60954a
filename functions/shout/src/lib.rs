//! Text reversed and shouted: `hello` becomes `OLLEH`.
//!
//! The smallest capability, and the proof that a function reaches the internet: the shouting is
//! done by SHOUTCLOUD ([`shoutcloud`]). That is a hobby service, so when it is slow, gone or talks
//! nonsense the same is done here ([`text`]) and the answer says `"via":"local"`. A [`breaker`]
//! keeps a dead upstream from costing every caller two seconds.

pub mod breaker;
pub mod http;
pub mod shoutcloud;
pub mod text;

pub use http::{Shout, routes};
