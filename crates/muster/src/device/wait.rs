//! Waiting for a device.

use std::time::{Duration, Instant};

use ::devices::http::DeviceView;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::screen::Screen;
use crate::{
    client::Client,
    exit::{Exit, Failure},
};

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an answer is held back while nothing changes, in seconds.
const HOLD: u8 = 1;
/// How long a server may be away before waiting for it is given up. A restart is much shorter.
const SERVER_AWAY: Duration = Duration::from_mins(1);

/// The address of a device.
pub fn path(id: Uuid) -> String {
    format!("/api/v1/devices/{id}")
}

/// Looks at a device again and again until `done`, or until `stop`; none where that came first.
pub async fn until(
    client: &Client,
    id: Uuid,
    done: impl Fn(&DeviceView) -> bool,
    stop: &CancellationToken,
    screen: &mut Screen<'_>,
) -> Result<Option<DeviceView>, Failure> {
    let path = path(id);
    let mut away_since: Option<Instant> = None;
    // The first look is at what is there already.
    let (first, mut held) = (client.clone().quiet(), false);
    loop {
        let asked_at = Instant::now();
        let look = async {
            if held { client.get_when_changed(&path, HOLD).await } else { first.get::<DeviceView>(&path).await }
        };
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            answer = look => answer,
        };
        match answer {
            Ok(device) => {
                (away_since, held) = (None, true);
                screen.show(&device, Timestamp::now());
                if done(&device) {
                    return Ok(Some(device));
                }
            }
            Err(failure) if failure.exit == Exit::Away && client.server().is_some() => {
                if away_since.get_or_insert(asked_at).elapsed() > SERVER_AWAY {
                    return Err(failure);
                }
                screen.trouble(&format!("{}; trying again", failure.message));
            }
            Err(failure) => return Err(failure),
        }
        let pause = if away_since.is_some() { PAUSE * 5 } else { PAUSE };
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(asked_at.elapsed())) => {}
            () = stop.cancelled() => {}
        }
    }
}
