//! Carrying out what the machine asks for.

use std::sync::Arc;

use jiff::SignedDuration;
use kit::dynamo::StoreError;

use super::{Census, Worker};
use crate::{
    device::{Device, Stage},
    machine::{Action, DELETE_AGAIN, Observation, Outcome, Teardown},
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
            Action::Diagnose => Outcome::Diagnosed(match device.machine_id() {
                Some(id) => self.vendor().events(id).await,
                None => Ok(Vec::new()),
            }),
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

    /// The machines with a device's tag that are not gone, and the one we know of, whatever its tags.
    ///
    /// A 403 or 404 alone would not be believed: a token that is no longer accepted looks the same. That
    /// the vendor answers a list of the project tells one from the other.
    async fn found(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Vec<Seen>, VendorError> {
        let mut found = self.listed(device, census).await?;
        found.retain(Seen::is_alive);
        if let Some(known) = device.machine_id()
            && !found.iter().any(|seen| seen.machine.id == known)
            && let Look::Seen(seen) = self.vendor().look(known).await?
            && seen.is_alive()
        {
            found.push(*seen);
        }
        Ok(found)
    }

    async fn observe(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Observation, VendorError> {
        let mut found = self.found(device, census).await?;
        let known = device.machine_id();
        let at = found.iter().position(|seen| Some(seen.machine.id.as_str()) == known);
        let mut mine = at.map(|at| found.swap_remove(at));
        if let Some(seen) = &mut mine
            && seen.state == VendorState::Coming
            && seen.percent.is_none()
            && seen.events.is_empty()
        {
            // Without a sign of progress in it, its events are asked for.
            seen.events = self.vendor().events(&seen.machine.id).await?;
        }
        Ok(Observation { mine, others: found })
    }

    async fn remove_twins(&self, device: &Device) -> Result<(), VendorError> {
        for twin in device.attempt.iter().flat_map(|attempt| &attempt.twins) {
            self.vendor().delete(twin).await?;
        }
        Ok(())
    }

    async fn tear_down(&self, device: &Device, census: Option<Arc<Census>>) -> Result<Teardown, VendorError> {
        let asked_at = match device.stage {
            Stage::Deleting { asked_at, .. } => asked_at,
            _ => None,
        };
        let since = |at| self.clock.now().duration_since(at);
        let is_due = asked_at.is_none_or(|at| since(at) >= DELETE_AGAIN);
        let mut teardown = Teardown::default();
        for seen in self.found(device, census).await? {
            // One on its way out is left alone, unless it seems to be stuck there.
            let stuck = asked_at.is_some_and(|at| since(at) >= SignedDuration::from_mins(5));
            let wanted = is_due && (seen.state != VendorState::Going || stuck);
            if wanted {
                match self.vendor().delete(&seen.machine.id).await {
                    Ok(true) => teardown.asked = true,
                    Ok(false) => continue,
                    // What was found is told all the same: it may have worked.
                    Err(error) => teardown.refused = Some(error.to_string()),
                }
            }
            teardown.left.push(seen);
        }
        Ok(teardown)
    }
}
