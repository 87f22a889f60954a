//! The eighth step: a machine is launched where one facility has none left and another hangs, and is
//! taken down again.
//!
//! Time passes faster for it: the simulator's and that of the worker on devices, both alike. So nobody
//! who watches has to wait for an installation, and the worker looks as often as it always does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use devices::http::{DeviceView, PlanView};
use jiff::Timestamp;
use kit::clock::Clock;
use serde_json::json;
use simulators::packet::{Config, Fault, Rule, Simulator};
use tokio::time::Instant;

use super::Story;
use crate::{
    backend::Backend,
    cli::Format,
    device::{
        table::{attempt, candidates, lasting, price},
        view::{combination, is_over, is_settled},
        wait::path,
    },
    exit::Failure,
};

/// How many seconds pass in one.
pub const SPEED: u32 = 40;
/// How often they do.
const STEP: Duration = Duration::from_millis(25);
/// How long an installation takes.
const PROVISION: Duration = Duration::from_secs(40);
/// How long one may show nothing new.
const STALL: u64 = 60;
/// For how long the launch is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows of the plan that are shown.
const ROWS: usize = 4;

/// A vendor with the built-in catalogue, whose time is moved by [`Pace`].
///
/// The first facility of the plan has no such machine left, though its capacity says otherwise; in the
/// second one an installation hangs.
pub fn vendor() -> Config {
    let at = |fault, facility: &str, step| Rule { facility: Some(facility.to_owned()), step, ..Rule::new(fault) };
    let faults = vec![at(Fault::OutOfCapacity, "am6", None), at(Fault::StuckAt, "ams1", Some(104))];
    Config { manual: true, provision: PROVISION, spread: 0.0, seed: 1, faults, ..Config::default() }
}

/// Time for devices: fast or as everywhere.
#[derive(Debug)]
pub struct Pace {
    clock: Clock,
    fast: Arc<AtomicBool>,
}

impl Pace {
    /// Time that is the same as everywhere until now.
    pub fn new() -> Self {
        Self { clock: Clock::manual(Timestamp::now()), fast: Arc::default() }
    }

    /// What time it is.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Lets it pass, for the worker of `backend` and for `vendor`, as long as it is polled.
    pub async fn pass(&self, backend: &Backend, vendor: &Simulator) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(STEP).await;
            let is_fast = self.fast.load(Ordering::Relaxed);
            let by = last.elapsed() * if is_fast { SPEED } else { 1 };
            last = Instant::now();
            self.clock.advance(by);
            vendor.advance(by);
            if is_fast {
                // It sleeps by the other clock.
                backend.wake_devices();
            }
        }
    }
}

impl Story<'_> {
    /// Shows what would be tried, then a launch with what goes wrong, then that nothing is left.
    pub(super) async fn show_devices(&self, pace: &Pace) -> Result<(), Failure> {
        let list = "/api/v1/devices";
        let wanted = json!({
            "os": {"slug": "debian_12"}, "plan": {"class": "c3.small.x86"}, "facility": {"metros": ["am", "ny"]},
            "stall_timeout_seconds": STALL,
        });
        self.output.lines([
            String::new(),
            format!("8. A machine, wherever it can be had. What would be tried, in order: POST {list}/plan"),
        ])?;
        let plan: PlanView = self.client.post(&format!("{list}/plan"), &wanted, None).await?.json()?;
        let shown = plan.candidates.get(..ROWS).unwrap_or(&plan.candidates);
        self.indented(&candidates(shown, Format::Table))?;
        self.output.lines([
            format!("   and {} things would not, each for a reason that is told.", plan.left_out_total),
            format!("   It is launched: POST {list}. Time passes {SPEED} times as fast for it."),
        ])?;

        pace.fast.store(true, Ordering::Relaxed);
        let told = self.launch(&wanted).await;
        pace.fast.store(false, Ordering::Relaxed);
        told
    }

    async fn launch(&self, wanted: &serde_json::Value) -> Result<(), Failure> {
        let device: DeviceView = self.client.post("/api/v1/devices", wanted, None).await?.json()?;
        let up = self.device_until(&device, is_settled).await?;
        self.output.lines(up.attempts.iter().map(|it| format!("     {}", attempt(it, Timestamp::now()))))?;
        let (Some(what), Some(at)) = (&up.combination, up.active_at) else {
            return Err(Failure::new(format!("the device is {}", up.state.as_str())));
        };
        let address = up.device.iter().flat_map(|it| &it.addresses).find(|it| it.public);
        self.output.lines([format!(
            "   Up after {}: {}, {}, {}",
            lasting(at.duration_since(up.created_at)),
            combination(&what.os, &what.plan, &what.facility),
            price(what.price),
            address.map_or("no address", |it| it.address.as_str())
        )])?;
        let (made, alive) = self.machines();
        self.output.lines([
            format!("   The vendor has made {made} machines for it, and {alive} is alive."),
            format!("   It is taken down, until the vendor has confirmed that: DELETE {}", path(up.id)),
        ])?;
        self.client.delete(&path(up.id)).await?;
        let gone = self.device_until(&up, is_over).await?;
        let (made, alive) = self.machines();
        self.output.lines([format!(
            "   {}: of {made} machines that the vendor has made {alive} are alive.",
            gone.state.as_str()
        )])
    }

    /// The device, once `claim` is true of it.
    async fn device_until(
        &self,
        device: &DeviceView,
        claim: impl Fn(&DeviceView) -> bool,
    ) -> Result<DeviceView, Failure> {
        let look = async {
            loop {
                let device: DeviceView = self.client.get(&path(device.id)).await?;
                if claim(&device) || self.stop.is_cancelled() {
                    return Ok(device);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.map_err(|_| Failure::new("the device gets no further"))?
    }

    /// How many machines the vendor has made, and how many of them cost.
    fn machines(&self) -> (usize, usize) {
        (self.vendor.devices().len(), self.vendor.alive().len())
    }
}
