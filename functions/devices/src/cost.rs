//! What the machines of a device have cost: computed from the price and the time, not invoiced.
//!
//! A machine costs from the vendor's `created_at` (or, where it tells none, from when we were told of
//! the machine) until the vendor has confirmed that it is gone, or until now. That is to the second,
//! while vendors bill each hour that has begun: [`Cost::billed_hours`] are those. Machines that a
//! create which was carried out twice has made besides, and that were removed, are not counted.

use jiff::Timestamp;

use crate::{
    catalog::Dollars,
    device::{Attempt, Code, Device, State},
};

/// What the machine of an attempt has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// For how many whole seconds it was there.
    pub seconds: u64,
    /// Its price an hour for these seconds, rounded to the millionth of a dollar.
    pub dollars: Dollars,
    /// How many hours have begun; none where there was no machine.
    pub billed_hours: u64,
}

impl Cost {
    /// That of an attempt of this device until `now`.
    pub fn of(device: &Device, attempt: &Attempt, now: Timestamp) -> Self {
        let Some(machine) = &attempt.machine else { return Self::default() };
        let told_at = attempt.states.first().map(|it| it.at);
        // Nothing of it was there before it was asked for, whatever the vendor's clock says.
        let from = machine.created_at.or(told_at).map_or(attempt.started_at, |at| at.max(attempt.started_at));
        let lasted = gone_at(device, attempt).unwrap_or(now).duration_since(from);
        let seconds = u64::try_from(lasted.as_secs()).unwrap_or_default();
        Self {
            seconds,
            dollars: attempt.candidate.price.for_seconds(seconds),
            billed_hours: seconds.div_ceil(3600).max(1),
        }
    }
}

/// When the vendor had confirmed that nothing was left of an attempt's machine.
fn gone_at(device: &Device, attempt: &Attempt) -> Option<Timestamp> {
    if attempt.reason.as_ref().is_some_and(|reason| reason.code == Code::CameUp) {
        // It ended with the machine being up. None follows it, so what ends the device ends the machine.
        return device.ended_at.filter(|_| matches!(device.state(), State::Deleted | State::Failed));
    }
    attempt.ended_at
}
