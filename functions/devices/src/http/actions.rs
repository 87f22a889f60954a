//! What can be done to a machine that is up.

use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use kit::{
    access::Caller,
    json::{Json, PathParams},
    problem::Problem,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IntoDeserializer as _, value::StringDeserializer},
};
use utoipa::ToSchema;

use super::{Devices, error::DeviceError, parse_id};
use crate::{
    device::{Device, State as DeviceState},
    vendor::{Vendor, VendorError},
};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceAction {
    /// What is to be done to the machine.
    #[serde(rename = "type", deserialize_with = "named")]
    pub kind: ActionType,
}

/// By way of a text: for an enum where there is a number serde_json says that this is no JSON.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ActionType, D::Error> {
    let name: StringDeserializer<D::Error> = String::deserialize(deserializer)?.into_deserializer();
    ActionType::deserialize(name)
}

/// What can be done to a machine that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeviceActionType)]
pub enum ActionType {
    /// Switch it off and on again.
    Reboot,
    /// Switch it on.
    PowerOn,
    /// Switch it off; it costs as much as before.
    PowerOff,
}

impl ActionType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOn => "power_on",
            Self::PowerOff => "power_off",
        }
    }
}

/// What the vendor has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceActionAccepted)]
pub struct ActionAccepted {
    /// The action.
    pub accepted: ActionType,
}

/// Reboots a machine that is up, or switches it on or off.
#[utoipa::path(
    post, path = "/api/v1/devices/{id}/actions", operation_id = "act_on_device", tag = "devices", params(("id" = Uuid, Path)),
    request_body = DeviceAction,
    responses(
        (status = 202, description = "The vendor does it", body = ActionAccepted),
        (status = 404, body = Problem),
        (status = 409, description = "It is not active, or the vendor refuses", body = Problem),
        (status = 422, description = "A value is not allowed", body = Problem),
        (status = 503, description = "No vendor is configured, or it is away", body = Problem),
    ),
    security(("key" = ["devices:write"]))
)]
pub(super) async fn act(
    State(devices): State<Devices>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    Json(DeviceAction { kind }): Json<DeviceAction>,
) -> Result<(StatusCode, axum::Json<ActionAccepted>), Problem> {
    let id = parse_id(&id)?;
    devices.device(&caller, id).await?;
    let vendor = devices.ready().await?.vendor();
    let note = |text: String| {
        move |device: &mut Device, now: Timestamp| match device.state() {
            DeviceState::Active => {
                device.note(now, kind.as_str(), &text);
                Ok(true)
            }
            state => Err(DeviceError::NotActive(state)),
        }
    };
    // Before it is asked for: whoever finds the machine rebooted can read why.
    let device = devices.change(&caller, id, note("was asked for".to_owned())).await?;
    let machine = device.machine_id().ok_or(DeviceError::Gone)?;
    if let Err(error) = perform(vendor, &device, machine, kind).await {
        // The device may have been changed meanwhile; the answer says it in any case.
        if let Err(error) = devices.change(&caller, id, note(format!("was not done: {error}"))).await {
            tracing::debug!(%error, "a failed action is not in the time line");
        }
        return Err(error.into());
    }
    Ok((StatusCode::ACCEPTED, axum::Json(ActionAccepted { accepted: kind })))
}

async fn perform(vendor: &Vendor, device: &Device, machine: &str, kind: ActionType) -> Result<(), DeviceError> {
    match vendor.act(machine, kind.as_str()).await {
        Ok(()) => Ok(()),
        Err(VendorError::NotFound(_)) => Err(DeviceError::Gone),
        // A machine that was taken back and a token that is not accepted look the same; a list tells.
        Err(VendorError::Denied { status: StatusCode::FORBIDDEN, .. }) if vendor.tagged(device.id).await.is_ok() => {
            Err(DeviceError::Gone)
        }
        Err(
            error @ (VendorError::Refused { .. }
            | VendorError::Place(_)
            | VendorError::Quota(_)
            | VendorError::OutOfCapacity(_)),
        ) => Err(DeviceError::Refused(error.words())),
        Err(error) => Err(error.into()),
    }
}
