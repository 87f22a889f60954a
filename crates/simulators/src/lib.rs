//! The upstreams that muster drives, as simulators over real sockets with faults on demand.
//!
//! A test or a demonstration starts one and speaks the upstream's own protocol with it; nothing
//! of ours is replaced. The same simulators are a program for people: `muster-sim lorawan --help`.
//!
//! In reading order:
//! - [`faults`]: how it is decided which request goes wrong: a pure function of the seed, of what
//!   was asked and of how often it was asked, so a seed gives the same faults at any speed;
//! - [`call`]: one request and what becomes of it, an answer or a connection cut off;
//! - [`server`]: what all simulators share: listening, connections, counting, `/_sim/…`, stopping;
//! - [`lorawan`]: the provider that registers DevEUIs;
//! - [`shoutcloud`]: ALL-CAPS as a service;
//! - [`cpx`]: the cloud provider whose servers tell how loaded they are; its faults belong to
//!   servers and last, and a script can make servers sick at given times;
//! - [`deployments`]: deployments with hosts that boot and drain and a load that changes, in a time
//!   of the simulator's own that a test can move;
//! - [`packet`]: the device API, with a catalogue, a stock of servers, and devices that take their
//!   time to come and to go, in such a time of its own too.
//!
//! Each module has a `Config` (all faults off by default), `start`, and a [`server::Simulator`]
//! with `url()`, `stats()`, `set()` to change the faults while it runs, and `stop()`; dropping it
//! stops it at once. The same over HTTP, none of it counted as requests: `GET /_sim/stats`,
//! `GET /_sim/faults`, and `POST /_sim/faults` with the fields to change.
//!
//! ```
//! use simulators::lorawan::{self, Config};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The first answer to each DevEUI is lost after the provider has registered it.
//! let sim = lorawan::start(Config {
//!     drop_after_rate: 1.0,
//!     faulty_attempts: Some(1),
//!     ..Config::default()
//! })
//! .await?;
//!
//! let ask = || {
//!     reqwest::Client::new()
//!         .post(format!("{}/sensor-onboarding-sample", sim.url()))
//!         .json(&serde_json::json!({ "deveui": "78111FFFE452555B" }))
//!         .send()
//! };
//! assert!(ask().await.is_err());
//! assert!(sim.registered().contains("78111FFFE452555B"));
//! assert_eq!(ask().await?.status(), 422);
//! assert_eq!(sim.stop().await.answers_lost, 1);
//! # Ok(())
//! # }
//! ```

pub mod call;
mod clock;
pub mod cpx;
pub mod deployments;
pub mod faults;
pub mod lorawan;
pub mod packet;
mod script;
pub mod server;
pub mod shoutcloud;
