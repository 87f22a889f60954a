//! What runs where, how loaded, and what is short of healthy servers.
//!
//! # A question, from end to end
//!
//! 1. `GET /api/v1/services` ([`http`]) wants a reading not older than five seconds. [`live`] has one,
//!    or joins the poll that goes on, or begins one.
//! 2. A [`poll`] asks CPX ([`cpx`]) for its list and then for each server: 64 at once, two where CPX
//!    handles one at a time ([`turns`]), each for two seconds, all of them for twenty.
//! 3. What a server said, or that it said nothing, is a [`server`]; a service is their sum. A server
//!    that does not answer is Unknown: not healthy, in no average, shown with the reason, and counted
//!    with the service that it belonged to when it said so last.
//!
//! # A minute, from end to end
//!
//! The [`worker`] claims the minute, polls, and keeps a snapshot of each service ([`store`]), from
//! which the [`history`] is made. Each service has one [`alert`]: short of healthy servers for three
//! minutes in a row. A change is written together with what is to be told of it, and [`notify`] tells
//! it, at least once.
//!
//! Pure: [`server`], [`turns`], [`alert`], [`history`]. CPX is only in [`cpx`], the table only in
//! [`store`], HTTP only in [`http`], with what it shows in [`views`].

pub mod alert;
pub mod config;
pub mod cpx;
pub mod history;
pub mod http;
pub mod live;
pub mod notify;
pub mod poll;
pub mod server;
pub mod store;
pub mod turns;
pub mod views;
pub mod worker;

pub use http::{Watch, routes};
pub use store::TABLE;
