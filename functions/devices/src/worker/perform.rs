//! Carrying out what the machine asks for.

use std::sync::Arc;

use http::StatusCode;
use jiff::SignedDuration;
use kit::dynamo::StoreError;

use super::{Census, Worker};
use crate::{
    device::{Device, Stage},
    machine::{Action, DELETE_AGAIN, Deletion, Diagnosis, Observation, Outcome, Teardown},
    supply::SupplyError,
    vendor::{Create, Look, Seen, VendorError, VendorState},
};

impl Worker {
    /// Carries out an action. Only the store's failure is an error; whatever the vendor does is an
    /// outcome.
    pub(super) async fn perform(
        &self,
        action: Action,
        device: &Device,
        census: Option<Arc<Census>>,
    ) -> Result<Outcome, StoreError> {
        Ok(match action {
            Action::Select => match self.supply.choose(device).await {
                Ok(choice) => Outcome::Selected(Ok(choice)),
                Err(SupplyError::Vendor(error)) => Outcome::Selected(Err(error)),
                Err(SupplyError::Store(error)) => return Err(error),
            },
            Action::Claim => Outcome::Claimed,
            Action::Create => self.create(device).await?,
            Action::LookUp => Outcome::LookedUp(self.vendor().tagged(device.id).await),
            Action::Observe => Outcome::Observed(self.observe(device, census).await),
            Action::RemoveTwins => Outcome::TwinsRemoved(self.remove_twins(device).await),
            Action::SwitchOff => Outcome::SwitchedOff(match device.machine_id() {
                Some(id) => self.vendor().set_termination(id, None).await,
                None => Ok(None),
            }),
            Action::Diagnose => {
                let id = device.machine_id().unwrap_or_default();
                // At once: a health that is slow to come must not hold the teardown up.
                let (events, health) = tokio::join!(self.vendor().events(id), self.vendor().health(id));
                Outcome::Diagnosed(Diagnosis { events, health })
            }
            Action::TearDown => Outcome::TornDown(self.tear_down(device, census).await),
        })
    }

    async fn create(&self, device: &Device) -> Result<Outcome, StoreError> {
        let Some(attempt) = &device.attempt else {
            return Ok(Outcome::Unusable("there is no attempt to create a machine for".to_owned()));
        };
        let userdata = if device.has_userdata {
            let Some(sealed) = self.store.userdata(device.id).await? else {
                return Ok(Outcome::Unusable("its userdata is not there any more".to_owned()));
            };
            match self.sealer.open(device.id, &sealed).await {
                Ok(userdata) => Some(userdata),
                Err(error) => return Ok(Outcome::Unusable(error.to_string())),
            }
        } else {
            None
        };
        let mut tags = vec![self.vendor().tag(device.id)];
        tags.extend(device.request.tags.iter().cloned());
        let create = Create {
            candidate: &attempt.candidate,
            hostname: &device.hostname,
            tags,
            ssh_keys: &device.request.ssh_keys,
            userdata: userdata.as_ref(),
            termination_time: device.terminates_at().or(attempt.switch),
        };
        Ok(Outcome::Created(self.vendor().create(&create).await))
    }

    /// The machines with a device's tag.
    async fn listed(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Vec<Seen>, VendorError> {
        match census.as_deref() {
            Some(Ok(census)) => Ok(census.get(&device.id).cloned().unwrap_or_default()),
            Some(Err(error)) => Err(error.clone()),
            None => self.vendor().tagged(device.id).await,
        }
    }

    /// The machines with a device's tag that are not gone, and the one we know of, whatever its tags;
    /// where that one is missing, the status with which the vendor said so.
    ///
    /// A 403 or 404 alone would not be believed: a token that is no longer accepted looks the same. That
    /// the vendor answers a list of the project tells one from the other.
    async fn found(
        &self,
        device: &Device,
        census: Option<Arc<Census>>,
    ) -> Result<(Vec<Seen>, Option<StatusCode>), VendorError> {
        let mut found = self.listed(device, census).await?;
        found.retain(Seen::is_alive);
        let mut missing = None;
        if let Some(known) = device.machine_id()
            && !found.iter().any(|seen| seen.machine.id == known)
        {
            match self.vendor().look(known).await? {
                Look::Seen(seen) => found.extend(Some(*seen).filter(Seen::is_alive)),
                Look::Missing(status) => missing = Some(status),
            }
        }
        Ok((found, missing))
    }

    async fn observe(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Observation, VendorError> {
        let (mut found, missing) = self.found(device, census).await?;
        let known = device.machine_id();
        let at = found.iter().position(|seen| Some(seen.machine.id.as_str()) == known);
        let mut mine = at.map(|at| found.swap_remove(at));
        if let Some(seen) = &mut mine
            && seen.state == VendorState::Coming
            && seen.percent.is_none()
            && seen.events.is_empty()
        {
            // Without a sign of progress in it, its events are asked for.
            (_, seen.events) = self.vendor().events(&seen.machine.id).await?;
        }
        Ok(Observation { mine, others: found, missing })
    }

    async fn remove_twins(&self, device: &Device) -> Result<(), VendorError> {
        for twin in device.attempt.iter().flat_map(|attempt| &attempt.twins) {
            self.vendor().delete(twin).await?;
        }
        Ok(())
    }

    /// Asks for the deletion of a machine that was up as the only one with our tag: that need not be
    /// looked up once more, the next look tells what is left. Nothing where it is not such a one, or is
    /// gone, or where there was trouble before.
    async fn delete_known(&self, device: &Device) -> Option<Teardown> {
        let attempt = device.attempt.as_ref().filter(|attempt| attempt.alone && attempt.trouble.is_none())?;
        let machine = attempt.machine.clone()?;
        let said = self.vendor().delete(&machine.id).await;
        if said.as_ref().is_ok_and(|status| !status.is_success()) {
            return None;
        }
        let deletions = vec![Deletion { id: machine.id.clone(), said }];
        Some(Teardown { left: vec![Seen::known(machine)], deletions, missing: None })
    }

    async fn tear_down(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Teardown, VendorError> {
        let asked_at = match device.stage {
            Stage::Deleting { asked_at, .. } => asked_at,
            _ => None,
        };
        let since = |at| self.clock.now().duration_since(at);
        let is_due = asked_at.is_none_or(|at| since(at) >= DELETE_AGAIN);
        if asked_at.is_none()
            && census.is_none()
            && let Some(teardown) = self.delete_known(device).await
        {
            return Ok(teardown);
        }
        let (found, missing) = self.found(device, census).await?;
        let mut teardown = Teardown { missing, ..Teardown::default() };
        for seen in found {
            // One on its way out is left alone, unless it seems to be stuck there.
            let stuck = asked_at.is_some_and(|at| since(at) >= SignedDuration::from_mins(5));
            let wanted = is_due && (seen.state != VendorState::Going || stuck);
            if wanted {
                let id = seen.machine.id.clone();
                let said = self.vendor().delete(&id).await;
                // What could not be deleted is left all the same: it may have worked.
                let is_gone = said.as_ref().is_ok_and(|status| !status.is_success());
                teardown.deletions.push(Deletion { id, said });
                if is_gone {
                    continue;
                }
            }
            teardown.left.push(seen);
        }
        Ok(teardown)
    }
}
