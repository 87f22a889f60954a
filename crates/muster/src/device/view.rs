//! What is read out of the API's answers.

use ::devices::{
    device::{Source, State},
    http::{AttemptView, DeviceView, EventView},
};

/// How many steps the vendor counts.
pub const STEPS: u8 = 10;

/// The attempt that is under way.
pub fn present(device: &DeviceView) -> Option<&AttemptView> {
    device.attempts.last().filter(|attempt| attempt.ended_at.is_none())
}

/// Whether it is gone for good, or will never be.
pub const fn is_over(device: &DeviceView) -> bool {
    matches!(device.state, State::Deleted | State::Failed)
}

/// Whether nothing more happens until somebody asks for it.
pub fn is_settled(device: &DeviceView) -> bool {
    is_over(device) || (device.state == State::Active && !device.request.ephemeral)
}

/// The last of the vendor's steps that was reached: its events are called `provisioning.101` to
/// `provisioning.110`.
pub fn step(attempt: &AttemptView) -> u8 {
    let step = |event: &EventView| {
        let number: u8 = event.kind.strip_prefix("provisioning.")?.parse().ok()?;
        number.checked_sub(100).filter(|step| (1..=STEPS).contains(step))
    };
    let vendors = attempt.events.iter().filter(|event| event.source == Source::Vendor);
    vendors.filter_map(step).max().unwrap_or_default()
}

/// What is tried, in words: `debian_12 on c3.small.x86 in ewr1`.
pub fn combination(os: &str, plan: &str, facility: &str) -> String {
    format!("{os} on {plan} in {facility}")
}

/// The same of an attempt.
pub fn of_attempt(attempt: &AttemptView) -> String {
    combination(&attempt.os, &attempt.plan, &attempt.facility)
}
