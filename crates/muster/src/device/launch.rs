//! `muster device launch` and `run`: asking for a device, waiting for it, and what an interruption does.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use ::devices::{
    device::{Code, Machine, State},
    http::DeviceView,
    request::MAX_USERDATA,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    args::{Launch, OnInterrupt, Run, Wanted},
    ask,
    screen::Screen,
    session::{Session, told},
    table::{addresses, cost, lasting, price, reason},
    view::{combination, is_over, is_settled},
    wait::{path, until},
};
use crate::{
    cli::Format,
    deployments::detail::named,
    exit::{Exit, Failure},
    output::{count, printable},
    services::table::time,
    signals::{self, LastWords},
};

/// The collection of devices.
pub const COLLECTION: &str = "/api/v1/devices";

/// The body for what is wanted, its userdata read.
pub fn body(wanted: &Wanted, ephemeral: bool) -> Result<Value, Failure> {
    let userdata = wanted.userdata_file.as_deref().map(read_userdata).transpose()?;
    wanted.body(userdata, ephemeral, Timestamp::now())
}

/// The text of a file, or of standard input for `-`; of more than can be used no more than is needed
/// to say so.
fn read_userdata(file: &Path) -> Result<String, Failure> {
    let cannot = |error: io::Error| {
        Failure::usage(format!("--userdata-file: cannot read {}: {error}", file.display()))
            .hint("give the path of a file, or - for standard input")
    };
    let mut bytes = Vec::new();
    let most = MAX_USERDATA as u64 + 1;
    if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        fs::File::open(file).map_err(cannot)?.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    }
    if bytes.len() > MAX_USERDATA {
        return Err(Failure::usage(format!("--userdata-file: {} has more than {MAX_USERDATA} bytes", file.display()))
            .hint("let it fetch the rest when the machine starts"));
    }
    // Neither the text nor a part of it is in the error.
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("--userdata-file: {} is not UTF-8", file.display())))
}

/// Runs `muster device launch`, whose body is `body`.
pub async fn launch(session: &Session<'_>, launch: &Launch, body: &Value) -> Result<Exit, Failure> {
    let last_words = LastWords::default();
    let stop = signals::listen_telling(&last_words)?;
    let (device, is_replay) = ask_for(session, body, launch.idempotency_key.as_deref(), &last_words).await?;
    let waits = launch.wait || (session.is_here() && !launch.no_wait);
    if !waits {
        if session.is_here() {
            session.output.note(&format!(
                "Nothing is asked for until somebody works on it: `muster device show {} --wait` does.",
                device.id
            ));
        }
        return print_id(session, &device);
    }
    let ends = Ends { stop, last_words, on_interrupt: on_interrupt(launch.on_interrupt) };
    let work = session.start()?;
    let waited = wait(session, &device, is_replay, &ends).await;
    work.stop().await;
    match waited? {
        Waited::Done(device) if device.request.ephemeral => report(session, &device),
        Waited::Done(device) => print_launched(session, &device),
        Waited::Kept => {
            let device = session.device(device.id).await?;
            session.output.note(&kept(&device, session.is_here()));
            Ok(Exit::Interrupted)
        }
        Waited::TornDown => Ok(Exit::Interrupted),
    }
}

/// Runs `muster device run`, whose body is `body`.
pub async fn run(session: &Session<'_>, run: &Run, body: &Value) -> Result<Exit, Failure> {
    let last_words = LastWords::default();
    let stop = signals::listen_telling(&last_words)?;
    let (device, is_replay) = ask_for(session, body, run.idempotency_key.as_deref(), &last_words).await?;
    let ends = Ends { stop, last_words, on_interrupt: OnInterrupt::Teardown };
    let work = session.start()?;
    let waited = wait(session, &device, is_replay, &ends).await;
    work.stop().await;
    match waited? {
        Waited::Done(device) => report(session, &device),
        Waited::Kept | Waited::TornDown => Ok(Exit::Interrupted),
    }
}

/// Asks for a device. An interruption does not cut this short: what was asked for without its id
/// being known could not be taken back.
async fn ask_for(
    session: &Session<'_>,
    body: &Value,
    key: Option<&str>,
    last_words: &LastWords,
) -> Result<(DeviceView, bool), Failure> {
    let unknown = "It may have been asked for: `muster device list` shows it, `muster device delete ID` removes it.";
    last_words.set(unknown.to_owned());
    let answer = session.client.post(COLLECTION, body, key).await.map_err(told)?;
    let device: DeviceView = answer.json()?;
    let is_replay = answer.headers.contains_key("idempotency-replayed");
    last_words.set(left(&device, session.is_here()));
    session.output.note(&format!(
        "Device {} ({}){}",
        device.id,
        device.hostname,
        if is_replay { ", asked for before with this key" } else { "" },
    ));
    // A replayed answer shows the device as it was asked for.
    if is_replay { Ok((session.device(device.id).await?, true)) } else { Ok((device, false)) }
}

/// What ends a wait before its time.
struct Ends {
    stop: CancellationToken,
    last_words: LastWords,
    on_interrupt: OnInterrupt,
}

/// How a wait ended.
enum Waited {
    Done(Box<DeviceView>),
    Kept,
    TornDown,
}

/// What Ctrl-C does, where a terminal is there to ask and where none is.
fn on_interrupt(given: Option<OnInterrupt>) -> OnInterrupt {
    match given {
        None | Some(OnInterrupt::Ask) if !ask::is_possible() => OnInterrupt::Keep,
        None => OnInterrupt::Ask,
        Some(given) => given,
    }
}

async fn wait(session: &Session<'_>, device: &DeviceView, is_replay: bool, ends: &Ends) -> Result<Waited, Failure> {
    let mut screen = Screen::new(session.output);
    if is_replay {
        screen.skip(device);
    }
    if let Some(device) = until(&session.client, device.id, is_settled, &ends.stop, &mut screen).await? {
        return Ok(Waited::Done(Box::new(device)));
    }
    drop(screen);
    let what = match ends.on_interrupt {
        OnInterrupt::Ask => ask::keep_or_tear_down(session.output, device).await,
        given => given,
    };
    if what != OnInterrupt::Teardown {
        return Ok(Waited::Kept);
    }
    tear_down(session, device, &ends.last_words).await?;
    Ok(Waited::TornDown)
}

/// Takes a device down, and waits until the vendor has confirmed that. Only a second signal ends the
/// wait.
async fn tear_down(session: &Session<'_>, device: &DeviceView, last_words: &LastWords) -> Result<(), Failure> {
    let output = session.output;
    output.note("Tearing it down, until the vendor has confirmed that it is gone. Ctrl-C again ends at once.");
    session.client.delete(&path(device.id)).await.map_err(told)?;
    last_words.set(asked_to_go(device, session.is_here()));
    let mut screen = Screen::new(output);
    screen.skip(&session.device(device.id).await?);
    let gone = until(&session.client, device.id, is_over, &CancellationToken::new(), &mut screen).await?;
    drop(screen);
    if gone.is_some() {
        output.note(&format!("Device {} is gone: the vendor has nothing of it left.", device.id));
    }
    Ok(())
}

/// What a second signal leaves behind.
fn left(device: &DeviceView, is_here: bool) -> String {
    let id = device.id;
    if is_here {
        format!(
            "Left as it is: device {id}. `muster device delete {id}` removes it, `muster device show {id} --wait` goes \
             on with it; until then nobody looks after it."
        )
    } else {
        format!("The server goes on with device {id}. `muster device delete {id}` removes it.")
    }
}

/// The same once its deletion has been asked for.
pub fn asked_to_go(device: &DeviceView, is_here: bool) -> String {
    let id = device.id;
    if is_here {
        format!(
            "The deletion of device {id} is not confirmed yet: `muster device delete {id}` goes on with it; until then \
             nobody does."
        )
    } else {
        format!(
            "The deletion of device {id} is not confirmed yet: the server goes on with it, \
             `muster device show {id}` tells how far it is."
        )
    }
}

/// What becomes of a device that an interrupted command leaves.
fn kept(device: &DeviceView, is_here: bool) -> String {
    let id = device.id;
    let what = device.combination.as_ref();
    let what = what.map(|it| format!(", {}", combination(&it.os, &it.plan, &it.facility))).unwrap_or_default();
    let who = if device.state == State::Active || is_over(device) {
        String::new()
    } else if is_here {
        let end = device.device.as_ref().and_then(|machine| machine.termination_time);
        let end = end.map(|at| format!(", though the vendor ends it by itself at {}", time(at))).unwrap_or_default();
        format!(
            "\nIt goes on when the next command that waits, such as `muster device show {id} --wait`, or `muster serve` \
             runs; until then nobody looks after it{end}."
        )
    } else {
        format!("\nThe server goes on with it: `muster device show {id} --wait` waits for it.")
    };
    let state = device.state.as_str();
    format!("Kept: device {id} is {state}{what}.{who}\n`muster device delete {id}` removes it.")
}

/// The id, for what is not waited for.
fn print_id(session: &Session<'_>, device: &DeviceView) -> Result<Exit, Failure> {
    let output = session.output;
    match output.format {
        Format::Json => output.json(device)?,
        Format::Csv => {
            output.rows(&["ID", "State"], &[vec![device.id.to_string(), device.state.as_str().to_owned()]])?;
        }
        Format::Table | Format::Plain => output.lines([device.id.to_string()])?,
    }
    Ok(Exit::Fine)
}

/// The addresses of a device that is up; or why there is none.
pub fn print_launched(session: &Session<'_>, device: &DeviceView) -> Result<Exit, Failure> {
    let output = session.output;
    if output.format == Format::Json {
        output.json(device)?;
    }
    if device.state != State::Active {
        return Err(not_up(device));
    }
    if let Some(what) = &device.combination {
        let took = device.active_at.map(|at| format!(" after {}", lasting(at.duration_since(device.created_at))));
        output.note(&format!(
            "Up{}: {} for {}",
            took.unwrap_or_default(),
            combination(&what.os, &what.plan, &what.facility),
            price(what.price)
        ));
    }
    let machine: Option<&Machine> = device.device.as_ref();
    let list = machine.map(|machine| machine.addresses.as_slice()).unwrap_or_default();
    match output.format {
        Format::Json => {}
        Format::Table if list.is_empty() => output.note("The vendor tells no address of it."),
        format => addresses(list, format).print(output)?,
    }
    Ok(Exit::Fine)
}

/// Why a device is not up.
fn not_up(device: &DeviceView) -> Failure {
    let why = device.reason.as_ref();
    let words = why.map_or_else(|| "no reason is known".to_owned(), reason);
    let exit = match why.map(|why| why.code) {
        Some(Code::Credentials) => Exit::NoAccess,
        Some(Code::VendorAway) => Exit::Away,
        _ => Exit::Failed,
    };
    Failure::new(format!("device {} is {}: {words}", device.id, device.state.as_str()))
        .exit(exit)
        .hint(format!("`muster device events {}` tells what happened", device.id))
}

/// What came of an ephemeral device.
fn report(session: &Session<'_>, device: &DeviceView) -> Result<Exit, Failure> {
    let output = session.output;
    let since = |at: Option<Timestamp>| at.map(|at| at.duration_since(device.created_at));
    let (up, gone) = (since(device.active_at), since(device.ended_at));
    let dollars = device.combination.as_ref().map(|what| what.price);
    let took = |lasted: Option<SignedDuration>| lasted.map(|lasted| lasted.as_secs());
    match output.format {
        Format::Json => output.json(&json!({
            "up_after_seconds": took(up), "gone_after_seconds": took(gone), "price_per_hour": dollars,
            "cost_usd": device.cost_usd, "device": device,
        }))?,
        Format::Table => output.lines(named(&report_lines(device)))?,
        Format::Csv | Format::Plain => {
            let number = |it: Option<i64>| it.map(|it| it.to_string()).unwrap_or_default();
            let row = vec![
                device.id.to_string(),
                device.state.as_str().to_owned(),
                number(took(up)),
                number(took(gone)),
                dollars.map(|it| it.to_string()).unwrap_or_default(),
                device.attempts.len().to_string(),
                device.cost_usd.to_string(),
            ];
            let header =
                ["ID", "State", "Up After Seconds", "Gone After Seconds", "Price Per Hour", "Attempts", "Cost USD"];
            if output.format == Format::Csv {
                output.rows(&header, &[row])?;
            } else {
                output.lines([row.join("\t")])?;
            }
        }
    }
    if device.reason.as_ref().is_some_and(|why| why.code == Code::Ephemeral) {
        Ok(Exit::Fine)
    } else {
        Err(not_up(device))
    }
}

fn report_lines(device: &DeviceView) -> Vec<(&'static str, String)> {
    let after = |at: Timestamp| lasting(at.duration_since(device.created_at));
    let mut lines = vec![("Device", device.id.to_string()), ("State", device.state.as_str().to_owned())];
    if let Some(what) = &device.combination {
        lines.push(("Combination", combination(&what.os, &what.plan, &what.facility)));
        lines.push(("Price", price(what.price)));
    }
    let machine = device.device.as_ref();
    lines.extend(machine.into_iter().flat_map(|it| &it.addresses).map(|it| ("Address", it.address.clone())));
    lines.extend(device.active_at.map(|at| ("Up after", after(at))));
    lines.extend(device.ended_at.map(|at| ("Gone after", after(at))));
    let hours: u64 = device.attempts.iter().map(|attempt| attempt.billed_hours).sum();
    lines.push(("Cost", format!("{}, computed to the second; {} begun", cost(device.cost_usd), count(hours, "hour"))));
    lines.push(("Attempts", device.attempts.len().to_string()));
    lines.into_iter().map(|(name, text)| (name, printable(&text))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::device::table::tests::{launching, view};

    #[test]
    fn what_is_kept_says_who_goes_on_and_how_it_is_removed() {
        let mut it = launching();
        it["device"]["termination_time"] = "2027-01-15T09:30:00Z".into();
        insta::assert_snapshot!(kept(&view(it.clone()), true), @r"
        Kept: device 0198c6d2-6f7e-7a7e-8000-000000000000 is Provisioning, debian_12 on c3.small.x86 in ewr1.
        It goes on when the next command that waits, such as `muster device show 0198c6d2-6f7e-7a7e-8000-000000000000 --wait`, or `muster serve` runs; until then nobody looks after it, though the vendor ends it by itself at 2027-01-15T09:30:00Z.
        `muster device delete 0198c6d2-6f7e-7a7e-8000-000000000000` removes it.
        ");
        insta::assert_snapshot!(kept(&view(it.clone()), false), @r"
        Kept: device 0198c6d2-6f7e-7a7e-8000-000000000000 is Provisioning, debian_12 on c3.small.x86 in ewr1.
        The server goes on with it: `muster device show 0198c6d2-6f7e-7a7e-8000-000000000000 --wait` waits for it.
        `muster device delete 0198c6d2-6f7e-7a7e-8000-000000000000` removes it.
        ");
        it["state"] = "Active".into();
        insta::assert_snapshot!(kept(&view(it), true), @r"
        Kept: device 0198c6d2-6f7e-7a7e-8000-000000000000 is Active, debian_12 on c3.small.x86 in ewr1.
        `muster device delete 0198c6d2-6f7e-7a7e-8000-000000000000` removes it.
        ");
    }

    #[test]
    fn a_device_that_did_not_come_up_fails_with_its_reason_and_code() {
        let mut it = launching();
        it["state"] = "Failed".into();
        for (code, exit) in [("Credentials", Exit::NoAccess), ("VendorAway", Exit::Away), ("NothingLeft", Exit::Failed)]
        {
            it["reason"] = json!({"code": code, "detail": "words"});
            let failure = not_up(&view(it.clone()));
            assert_eq!(failure.exit, exit);
            assert!(failure.message.ends_with(&format!("is Failed: {code}: words")), "{failure}");
            assert!(failure.hint.unwrap().contains("muster device events"));
        }
    }

    #[test]
    fn userdata_that_cannot_be_read_or_sent_is_refused_without_a_word_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("userdata");
        let refused = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            read_userdata(&file).unwrap_err().to_string()
        };
        let failure = read_userdata(&file).unwrap_err();
        assert!(failure.message.starts_with("--userdata-file: cannot read"), "{failure}");
        assert!(refused(&b"s".repeat(MAX_USERDATA + 1)).contains("more than 65536 bytes"));
        let failure = refused(b"secret\xff");
        assert!(failure.contains("not UTF-8") && !failure.contains("secret"), "{failure}");
        fs::write(&file, "#!/bin/sh").unwrap();
        assert_eq!(read_userdata(&file).unwrap(), "#!/bin/sh");
    }
}
