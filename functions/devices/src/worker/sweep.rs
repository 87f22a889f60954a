//! The sweep: machines that nobody knows, and devices that are no longer there.

use jiff::SignedDuration;
use kit::{
    dynamo::StoreError,
    metrics::{self, Metric, Unit},
};
use thiserror::Error;

use super::Worker;
use crate::{
    device::{Code, Device, State},
    machine::{Effects, lost},
    store::Swept,
    vendor::{Look, Seen, VendorError, VendorState},
};

/// How often all machines with our tag are compared with the records.
pub const SWEEP: SignedDuration = SignedDuration::from_mins(15);
/// How often it is asked whether a sweep is due: asking writes.
const ASKED: SignedDuration = SignedDuration::from_mins(5);

const ORPHANS: Metric = Metric::highest("DeviceOrphans", Unit::Count);

/// Why a sweep could not be done.
#[derive(Debug, Error)]
pub enum SweepError {
    /// The vendor.
    #[error(transparent)]
    Vendor(#[from] VendorError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Worker {
    /// Sweeps if the last sweep, by whomever, is long enough ago.
    pub(super) async fn sweep_if_due(&self) {
        let now = self.clock.now();
        if self.last_sweep().is_some_and(|at| now.duration_since(at) < ASKED) {
            return;
        }
        *self.last_sweep() = Some(now);
        match self.store.claim_sweep(now, SWEEP).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "whether a sweep is due is not known");
                return;
            }
        }
        if let Err(error) = self.sweep().await {
            tracing::warn!(%error, "the sweep could not be done; the next one is in a quarter of an hour");
        }
    }

    /// Compares all machines with our tag with the records.
    pub async fn sweep(&self) -> Result<Swept, SweepError> {
        let now = self.clock.now();
        let mut swept = Swept { at: now, ..Swept::default() };
        // The list of those that are up comes first: what comes up while the vendor lists is not in it.
        let up = self.store.alive().await?;
        let machines: Vec<Seen> = self.vendor().ours().await?.into_iter().filter(Seen::is_alive).collect();
        let mut ids: Vec<_> = machines.iter().filter_map(|seen| self.vendor().owner(seen)).collect();
        ids.extend(up.iter().map(|up| up.id));
        ids.sort_unstable();
        ids.dedup();
        // A record is written before its machine is asked for, so a machine without one has none.
        let devices = self.store.devices(&ids).await?;
        let record = |id| devices.iter().find(|device| device.id == id);

        for seen in machines.iter().filter(|seen| seen.state != VendorState::Going) {
            let device = self.vendor().owner(seen).and_then(record);
            match device.map(Device::state) {
                // The worker looks after it.
                Some(State::Requested | State::Creating | State::Provisioning | State::Deleting) => {}
                Some(State::Active) if device.and_then(Device::machine_id) == Some(&seen.machine.id) => {}
                // A second machine of a device that is up was never wanted.
                Some(State::Active) => self.orphan(seen, true, &mut swept).await,
                Some(State::Deleted | State::Failed) | None => {
                    self.orphan(seen, self.deletes_orphans, &mut swept).await;
                }
            }
        }
        for device in up.iter().filter_map(|up| record(up.id)).filter(|device| device.state() == State::Active) {
            self.visit(device, &machines, &mut swept).await?;
        }
        metrics::process().record(ORPHANS, swept.orphans.len() as u64);
        self.store.swept(&swept).await?;
        if !swept.lost.is_empty() {
            self.wake.notify_one();
        }
        Ok(swept)
    }

    async fn orphan(&self, seen: &Seen, delete: bool, swept: &mut Swept) {
        let id = &seen.machine.id;
        swept.orphans.push(id.clone());
        if !delete {
            tracing::warn!(machine = %id, "a machine with our tag that no record accounts for");
            return;
        }
        match self.vendor().delete(id).await {
            Ok(_) => {
                tracing::warn!(machine = %id, "deleted a machine with our tag that no record accounts for");
                swept.deleted.push(id.clone());
            }
            Err(error) => tracing::warn!(machine = %id, %error, "an orphan could not be deleted"),
        }
    }

    /// Looks after a device that is up.
    async fn visit(&self, device: &Device, machines: &[Seen], swept: &mut Swept) -> Result<(), SweepError> {
        let now = self.clock.now();
        let Some(id) = device.machine_id() else { return Ok(()) };
        let ended = device.terminates_at().is_some_and(|at| at <= now);
        let listed = machines.iter().find(|seen| seen.machine.id == id);
        let gone = match listed {
            Some(_) => false,
            None => matches!(self.vendor().look(id).await?, Look::Missing(_)),
        };
        let mut after = device.clone();
        if ended {
            lost(&mut after, Code::Terminated, "its termination time has come", now);
        } else if gone {
            lost(&mut after, Code::Reclaimed, "it was up, and the vendor no longer has it", now);
            swept.lost.push(device.id);
        } else if let Some(attempt) = &mut after.attempt
            && attempt.switch.is_some()
            && self.vendor().set_termination(id, None).await.is_ok_and(|seen| !keeps_termination(seen))
        {
            // It could not be taken back when it came up.
            attempt.switch = None;
            attempt.trouble = None;
            if let Some(machine) = &mut attempt.machine {
                machine.termination_time = None;
            }
            after.note(now, "termination_time", "the vendor has taken its termination time back");
        }
        if after != *device {
            // Where somebody has changed it meanwhile, the next sweep sees it.
            self.store.write(device, after, &Effects::default(), now).await?;
        }
        Ok(())
    }
}

fn keeps_termination(seen: Option<Seen>) -> bool {
    seen.is_some_and(|seen| seen.machine.termination_time.is_some())
}
