//! `muster device …`: machines, launched wherever they can be had, watched until they are up, and torn
//! down without leftovers.
//!
//! **The one thing to know:** without a server nobody works on a device unless a command does. So
//! whatever waits (`launch`, `run`, `delete`, `show --wait`, `events --follow`) runs the worker in this
//! process meanwhile, and that one goes on with every device of the state folder that is not finished.
//!
//! - [`args`]: what can be typed, and the request that it makes;
//! - `session`: whom a command talks to; `wait`, `screen`: waiting, and what is shown meanwhile;
//! - `launch`: asking for a device, and what an interruption does; `ask`: questions;
//! - `table`: rows and lines; `record`: one attempt as a whole; `view`: what is read out of answers.

pub mod args;
mod ask;
mod launch;
mod record;
mod screen;
mod session;
pub(crate) mod table;
pub(crate) mod view;
pub(crate) mod wait;

use std::time::Duration;

use ::devices::{
    device::State,
    http::{DeviceSummary, DeviceView, EventView, PlanView},
};
use http::StatusCode;
use jiff::Timestamp;
use kit::paging::Page;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use self::{
    args::{Device, DeviceCommand, Wanted},
    launch::{COLLECTION, body, print_launched},
    screen::Screen,
    session::{Needs, Session, told},
    view::{is_over, is_settled},
    wait::{path, until},
};
use crate::{
    cli::Format,
    exit::{Exit, Failure},
    output::Output,
    settings::Settings,
    signals::{self, LastWords},
};

/// Entries in a page.
const PAGE: u32 = 500;
/// From one look at a time line to the next.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(command: &Device, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let open = async |needs| Session::open(settings, output, needs).await;
    match &command.command {
        DeviceCommand::Launch(launch) => {
            // What cannot be is refused before anything is opened.
            let body = body(&launch.wanted, launch.ephemeral)?;
            launch::launch(&open(Needs::Vendor).await?, launch, &body).await
        }
        DeviceCommand::Run(run) => {
            let body = body(&run.wanted, true)?;
            launch::run(&open(Needs::Vendor).await?, run, &body).await
        }
        DeviceCommand::Plan { left_out, wanted } => plan(wanted, *left_out, settings, output).await,
        DeviceCommand::List { only, limit, all } => {
            list(&open(Needs::Records).await?, *only, (!all).then_some(*limit)).await
        }
        DeviceCommand::Show { id, wait: true } => show_and_wait(&open(Needs::Vendor).await?, *id).await,
        DeviceCommand::Show { id, wait: false } => show(&open(Needs::Records).await?, *id).await,
        DeviceCommand::Record { id, number } => record::run(&open(Needs::Records).await?, *id, *number).await,
        DeviceCommand::Events { id, follow: true } => follow(&open(Needs::Vendor).await?, *id).await,
        DeviceCommand::Events { id, follow: false } => events(&open(Needs::Records).await?, *id).await,
        DeviceCommand::Delete { id, wait, no_wait, yes } => {
            let session = open(Needs::Vendor).await?;
            let waits = *wait || (session.is_here() && !no_wait);
            delete(&session, *id, waits, *yes).await
        }
    }
}

async fn list(session: &Session<'_>, state: Option<State>, limit: Option<u32>) -> Result<Exit, Failure> {
    let output = session.output;
    let mut items: Vec<DeviceSummary> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &limit.unwrap_or(PAGE).to_string());
        query.extend_pairs(state.map(|state| ("state", state.as_str())));
        query.extend_pairs(cursor.iter().map(|cursor| ("cursor", cursor)));
        let path = format!("{COLLECTION}?{}", query.finish());
        let page: Page<DeviceSummary> = session.client.get(&path).await.map_err(told)?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() || limit.is_some_and(|limit| items.len() >= limit as usize) {
            break;
        }
    }
    items.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
    match output.format {
        Format::Json => output.json(&Page { items, next_cursor: cursor.clone() })?,
        Format::Plain => output.lines(items.iter().map(|device| device.id.to_string()))?,
        Format::Table if items.is_empty() => output.note(match state {
            None => "No devices. `muster device launch` asks for one.",
            Some(_) => "No such devices.",
        }),
        format => table::devices(&items, format).print(output)?,
    }
    if cursor.is_some() {
        output.note("There are more: --all shows them.");
    }
    Ok(Exit::Fine)
}

async fn show(session: &Session<'_>, id: Uuid) -> Result<Exit, Failure> {
    let device = session.device(id).await?;
    print(session.output, &device)?;
    if !is_settled(&device) && session.output.format != Format::Json {
        session.output.note(&format!(
            "`muster device show {id} --wait` {}.",
            if session.is_here() { "goes on with it" } else { "waits for it" }
        ));
    }
    Ok(Exit::Fine)
}

fn print(output: &Output, device: &DeviceView) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json(device),
        Format::Table => output.lines(table::detail(device, Timestamp::now())),
        format => table::devices(&[summary(device)], format).print(output),
    }
}

/// The row of a device that was read as a whole.
fn summary(it: &DeviceView) -> DeviceSummary {
    let what = it.combination.as_ref();
    let addresses = it.device.as_ref().map(|machine| machine.addresses.as_slice()).unwrap_or_default();
    let best = addresses.iter().find(|it| it.public && it.family == 4).or(addresses.first());
    DeviceSummary {
        id: it.id,
        state: it.state,
        hostname: it.hostname.clone(),
        os: what.map(|what| what.os.clone()),
        plan: what.map(|what| what.plan.clone()),
        facility: what.map(|what| what.facility.clone()),
        price: what.map(|what| what.price),
        percent: it.percent,
        attempts: u32::try_from(it.attempts.len()).unwrap_or(u32::MAX),
        address: best.map(|it| it.address.clone()),
        created_at: it.created_at,
        updated_at: it.updated_at,
        reason: it.reason.clone(),
    }
}

async fn show_and_wait(session: &Session<'_>, id: Uuid) -> Result<Exit, Failure> {
    let stop = signals::listen()?;
    let device = session.device(id).await?;
    let work = session.start()?;
    let mut screen = Screen::new(session.output);
    screen.skip(&device);
    let waited = until(&session.client, id, is_settled, &stop, &mut screen).await;
    drop(screen);
    work.stop().await;
    let Some(device) = waited? else {
        print(session.output, &session.device(id).await?)?;
        return Ok(Exit::Interrupted);
    };
    if is_over(&device) && device.state != State::Failed {
        print(session.output, &device)?;
        return Ok(Exit::Fine);
    }
    print_launched(session, &device)
}

/// All entries of a time line, oldest first.
async fn time_line(session: &Session<'_>, id: Uuid) -> Result<Vec<EventView>, Failure> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string());
        query.extend_pairs(cursor.iter().map(|cursor| ("cursor", cursor)));
        let path = format!("{}/events?{}", path(id), query.finish());
        let page: Page<EventView> = session.client.get(&path).await.map_err(told)?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(items);
        }
    }
}

async fn events(session: &Session<'_>, id: Uuid) -> Result<Exit, Failure> {
    let items = time_line(session, id).await?;
    match session.output.format {
        Format::Json => session.output.json(&Page { items, next_cursor: None })?,
        format => table::events(&items, format).print(session.output)?,
    }
    Ok(Exit::Fine)
}

async fn follow(session: &Session<'_>, id: Uuid) -> Result<Exit, Failure> {
    let stop = signals::listen()?;
    let work = session.start()?;
    let followed = write_time_line(session, id, &stop).await;
    work.stop().await;
    followed
}

/// Writes what is new in a time line, until nothing more can be or `stop`.
async fn write_time_line(session: &Session<'_>, id: Uuid, stop: &CancellationToken) -> Result<Exit, Failure> {
    let output = session.output;
    let mut written: Vec<EventView> = Vec::new();
    loop {
        let device = session.device(id).await?;
        let mut fresh = time_line(session, id).await?;
        // The vendor's entries may be older than ours that came first.
        for known in &written {
            if let Some(index) = fresh.iter().position(|it| it == known) {
                fresh.remove(index);
            }
        }
        match output.format {
            Format::Json => fresh.iter().try_for_each(|event| output.json_line(event))?,
            Format::Csv if written.is_empty() => table::events(&fresh, Format::Csv).print(output)?,
            Format::Csv => output.more_rows(&table::events(&fresh, Format::Csv).rows)?,
            Format::Table | Format::Plain => output.lines(fresh.iter().map(table::event_line))?,
        }
        written.extend(fresh);
        if is_settled(&device) {
            return Ok(Exit::Fine);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return Ok(Exit::Interrupted),
        }
    }
}

async fn delete(session: &Session<'_>, id: Uuid, waits: bool, yes: bool) -> Result<Exit, Failure> {
    let output = session.output;
    let device = session.device(id).await?;
    if is_over(&device) {
        output.note(&format!("Device {id} is {} already; nothing of it is left.", device.state.as_str()));
        return Ok(Exit::Fine);
    }
    let gone = || output.note(&format!("Device {id} is gone: the vendor has nothing of it left."));
    if !yes && device.delete_asked_at.is_none() {
        let what = device.combination.as_ref();
        let what =
            what.map(|it| format!(", {}", view::combination(&it.os, &it.plan, &it.facility))).unwrap_or_default();
        let question = format!("Tear down {} ({}{what})?", device.hostname, device.state.as_str());
        if !ask::is_possible() {
            return Err(Failure::usage(format!("device {id} is {}{what}", device.state.as_str()))
                .hint(format!("`muster device delete {id} --yes` tears it down")));
        }
        if !ask::is_sure(output, &question).await {
            return Err(Failure::new("nothing was done"));
        }
    }
    let last_words = LastWords::default();
    let stop = signals::listen_telling(&last_words)?;
    let asked = session.client.delete(&path(id)).await.map_err(told)?;
    if asked.status == StatusCode::NO_CONTENT {
        gone();
        return Ok(Exit::Fine);
    }
    last_words.set(launch::asked_to_go(&device, session.is_here()));
    if !waits {
        output.note(&launch::asked_to_go(&device, session.is_here()));
        return Ok(Exit::Fine);
    }
    let work = session.start()?;
    let mut screen = Screen::new(output);
    screen.skip(&device);
    let waited = until(&session.client, id, is_over, &stop, &mut screen).await;
    drop(screen);
    work.stop().await;
    let Some(device) = waited? else {
        output.note(&launch::asked_to_go(&device, session.is_here()));
        return Ok(Exit::Interrupted);
    };
    gone();
    if output.format == Format::Json {
        output.json(&device)?;
    }
    Ok(Exit::Fine)
}

async fn plan(wanted: &Wanted, shows_left_out: bool, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let body = body(wanted, false)?;
    let session = Session::open(settings, output, Needs::Vendor).await?;
    let answer = session.client.post(&format!("{COLLECTION}/plan"), &body, None).await.map_err(told)?;
    let plan: PlanView = answer.json()?;
    if output.format == Format::Json {
        output.json(&plan)?;
        return Ok(Exit::Fine);
    }
    table::candidates(&plan.candidates, output.format).print(output)?;
    let more = plan.total.saturating_sub(plan.candidates.len());
    if more > 0 {
        output.note(&format!("{more} more after these."));
    }
    if plan.left_out.is_empty() {
        return Ok(Exit::Fine);
    }
    if shows_left_out && output.format == Format::Table {
        output.lines([""])?;
        table::left_out(&plan.left_out).print(output)?;
        let more = plan.left_out_total.saturating_sub(plan.left_out.len());
        if more > 0 {
            output.note(&format!("{more} more are left out."));
        }
    } else if shows_left_out {
        // Rows of another kind would be in the way of whoever reads these.
        plan.left_out.iter().for_each(|it| output.note(&crate::output::printable(&it.text)));
    } else {
        output.note(&table::counted(&plan.left_out, plan.left_out_total));
    }
    Ok(Exit::Fine)
}
