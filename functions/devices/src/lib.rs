//! Devices: a machine, launched wherever it can be had, watched until it is up, and torn down
//! without leftovers.
//!
//! # The life of a device
//!
//! 1. `POST /api/v1/devices` checks the [`request`], writes the [`device`]'s record, its place in the
//!    worker's list and the idempotency key in one transaction ([`http`], [`store`]). Userdata is
//!    [`seal`]ed.
//! 2. The [`worker`] chooses a combination of operating system, plan and facility from what can be had
//!    ([`supply`]: the [`catalog`], capacity, remembered [`failures`]; the choice itself is [`select`]).
//!    The choice is an intent: it is in the store before the vendor is asked, once.
//! 3. Every step is the [`machine`]'s: it names one action, the worker carries it out, and what follows
//!    is written before the next. A lost answer is settled by looking for our tag, never by asking
//!    again blindly.
//! 4. It is `Active` when the vendor says so, it is the only machine with our tag, and it is to stay.
//!    An attempt that fails or stands still is taken down, with its diagnostic [`record`] kept, the
//!    vendor confirms that nothing is left, and only then the next combination is tried. A device is
//!    over only when nothing of it is left.
//! 5. A sweep compares all machines with our tags with the records.
//!
//! Pure: [`device`], [`machine`], [`record`], [`cost`], [`request`], [`catalog`], [`failures`],
//! [`select`]. The vendor is only in [`vendor`], the table only in [`store`], HTTP only in [`http`],
//! with what it shows in `views`.

pub mod catalog;
pub mod config;
pub mod cost;
pub mod device;
pub mod failures;
pub mod http;
pub mod machine;
pub mod record;
pub mod request;
pub mod seal;
pub mod select;
pub mod store;
pub mod supply;
pub mod vendor;
mod views;
pub mod worker;

pub use http::{Devices, routes};
pub use store::TABLE;
