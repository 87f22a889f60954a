//! Pausing, resuming, and setting policies: read what is set, change that, and write it in the place
//! of the version that was read.

use ::autoscaler::{
    http::PolicyView,
    policy::{Given, Mode},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    args::{FIELDS, Pause, PolicySet, Which},
    detail, print,
    source::{Source, kept, of_deployment, path},
};
use crate::{
    cli::Format,
    exit::{Exit, Failure},
    output::Output,
    services::table::time,
    settings::Settings,
};

const ALL: &str = "/api/v1/deployments-policy";

impl Which {
    fn path(&self) -> String {
        self.id.as_ref().map_or_else(|| ALL.to_owned(), |id| format!("{}/policy", path(id)))
    }

    /// As it is typed.
    fn typed(&self) -> String {
        self.id.clone().unwrap_or_else(|| "--all".to_owned())
    }

    /// As a sentence begins.
    fn name(&self) -> String {
        self.id.clone().unwrap_or_else(|| "All deployments".to_owned())
    }
}

/// Runs `muster deployments pause`.
pub async fn pause(args: &Pause, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = kept(settings, output).await?;
    let mode = match (args.inward, args.outward) {
        (true, _) => Mode::PausedIn,
        (_, true) => Mode::PausedOut,
        _ => Mode::Paused,
    };
    let until = end(args.until, args.seconds)?;
    let change = |given: Given| Given { mode: Some(mode), until, reason: Some(args.reason.clone()), ..given };
    let view = change_policy(&source, &args.which, &["mode", "until", "reason"], None, change).await?;
    print(&view, || detail::policy(&view, output.format), output)?;
    let scaled = match mode {
        Mode::PausedIn => "lose no host",
        Mode::PausedOut => "get no host",
        _ => "are not scaled",
    };
    let who = args.which.id.as_ref().map_or("All deployments".to_owned(), |id| format!("{id}: its hosts"));
    let scaled = if args.which.all { scaled } else { scaled_hosts(mode) };
    let until = until.map_or(" until they are resumed".to_owned(), |until| format!(" until {}", time(until)));
    note(output, &format!("{who} {scaled}{until}; `muster deployments resume {}` ends that.", args.which.typed()));
    Ok(Exit::Fine)
}

fn scaled_hosts(mode: Mode) -> &'static str {
    match mode {
        Mode::PausedIn => "do not become fewer",
        Mode::PausedOut => "do not become more",
        _ => "stay as they are",
    }
}

/// Runs `muster deployments resume`.
pub async fn resume(which: &Which, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = kept(settings, output).await?;
    let before: PolicyView = source.get(&which.path(), &[]).await.map_err(of_deployment)?;
    let view = if before.set.mode.is_some() {
        let change = |given| Given { mode: None, until: None, reason: None, ..given };
        change_policy(&source, which, &["mode", "until", "reason"], None, change).await?
    } else {
        before
    };
    print(&view, || detail::policy(&view, output.format), output)?;
    let mode = view.effective.mode;
    if mode == Mode::On {
        note(output, &format!("{}: scaled again, from the next tick on.", which.name()));
    } else {
        // The one's own mode is gone, so it is that of all.
        note(
            output,
            &format!(
                "{}: still {}, as all deployments are; `muster deployments resume --all` ends that.",
                which.name(),
                mode.as_str()
            ),
        );
    }
    Ok(Exit::Fine)
}

/// Runs `muster deployments policy show`.
pub async fn show(which: &Which, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = kept(settings, output).await?;
    let view: PolicyView = source.get(&which.path(), &[]).await.map_err(of_deployment)?;
    print(&view, || detail::policy(&view, output.format), output)?;
    note(output, &version(&view));
    Ok(Exit::Fine)
}

/// Runs `muster deployments policy set`.
pub async fn set(args: &PolicySet, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let until = end(args.until, args.seconds)?;
    let change = |given: Given| {
        let mut given = args.numbers.over(given);
        if let Some(mode) = args.mode() {
            // The end and the reason of another mode are not those of this one.
            (given.mode, given.until, given.reason) = (Some(mode), None, None);
        }
        given.until = until.or(given.until);
        given.reason = args.reason.clone().or(given.reason);
        without(given, &args.unset)
    };
    let names = names(args, until);
    if names.is_empty() {
        return Err(Failure::usage("nothing to set").hint(
            "say what, such as --min-hosts 3, --mode paused or --unset max_hosts; `policy show` tells what is set",
        ));
    }
    let given = set_fields(&given(args, until));
    if let Some(name) = args.unset.iter().find(|name| given.contains(name)) {
        return Err(Failure::usage(format!("--unset {name}, and it is set by another flag: give one of them")));
    }
    let source = kept(settings, output).await?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let view = change_policy(&source, &args.which, &names, args.if_version, change).await?;
    print(&view, || detail::policy(&view, output.format), output)?;
    note(output, &version(&view));
    Ok(Exit::Fine)
}

/// What the flags say, without what they imply.
fn given(args: &PolicySet, until: Option<Timestamp>) -> Given {
    args.numbers.over(Given { mode: args.mode(), until, reason: args.reason.clone(), ..Given::default() })
}

/// Which fields a command sets or unsets.
fn names(args: &PolicySet, until: Option<Timestamp>) -> Vec<String> {
    let mut names = set_fields(&given(args, until));
    if args.mode().is_some() {
        names.extend(["until", "reason"].map(str::to_owned));
    }
    names.extend(args.unset.iter().cloned());
    names
}

fn set_fields(given: &Given) -> Vec<String> {
    let value = serde_json::to_value(given).unwrap_or_default();
    value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// `given` without these fields. Without a mode there is no end of it and no reason.
fn without(given: Given, fields: &[String]) -> Given {
    if fields.is_empty() {
        return given;
    }
    let mut value = serde_json::to_value(&given).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, _| !fields.contains(name));
        if !object.contains_key("mode") {
            object.retain(|name, _| name != "until" && name != "reason");
        }
    }
    serde_json::from_value(value).unwrap_or(given)
}

fn end(until: Option<Timestamp>, seconds: Option<i64>) -> Result<Option<Timestamp>, Failure> {
    let Some(seconds) = seconds else { return Ok(until) };
    let end = Timestamp::now().checked_add(SignedDuration::from_secs(seconds));
    let end = end.map_err(|_| Failure::usage("--for is too long: no calendar goes so far"))?;
    // To the second, as it is told.
    Ok(Timestamp::from_second(end.as_second()).ok())
}

/// Reads what is set, changes it, and writes it. Where somebody else has written meanwhile, but none
/// of the fields that are changed here, it is tried once more on what is there now.
async fn change_policy(
    source: &Source,
    which: &Which,
    fields: &[&str],
    version: Option<u64>,
    change: impl Fn(Given) -> Given,
) -> Result<PolicyView, Failure> {
    let path = which.path();
    let read = async || source.get::<PolicyView>(&path, &[]).await.map_err(of_deployment);
    let put = async |view: &PolicyView| {
        let sent = source.client().put(&path, &change(view.set.clone()), version.unwrap_or(view.version)).await;
        sent.and_then(|answer| answer.json())
    };
    let before = read().await?;
    match put(&before).await {
        Err(failure) if failure.is_status(412) && version.is_none() => {
            let now = read().await?;
            if picked(&before.set, fields) != picked(&now.set, fields) {
                return Err(stale(failure, which));
            }
            put(&now).await.map_err(|failure| stale(failure, which))
        }
        other => other.map_err(|failure| stale(failure, which)),
    }
}

/// Says what to do where another version is there.
fn stale(failure: Failure, which: &Which) -> Failure {
    if failure.is_status(412) {
        let words = "somebody else has set this policy meanwhile, and nothing was changed";
        return Failure { message: words.to_owned(), ..failure }
            .hint(format!("`muster deployments policy show {}` shows it; then try again", which.typed()));
    }
    failure
}

/// Those of a policy's fields.
fn picked(given: &Given, fields: &[&str]) -> Vec<serde_json::Value> {
    let value = serde_json::to_value(given).unwrap_or_default();
    FIELDS.iter().filter(|name| fields.contains(name)).map(|name| value[*name].clone()).collect()
}

/// `Version 3, set by key x of default at 2027-01-15T08:00:00Z.`
fn version(view: &PolicyView) -> String {
    let by = view.set_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let at = view.set_at.map(|at| format!(" at {}", time(at))).unwrap_or_default();
    if view.version == 0 {
        "Nothing was ever set.".to_owned()
    } else {
        format!("Version {}, set{by}{at}.", view.version)
    }
}

fn note(output: &Output, text: &str) {
    if output.format != Format::Json {
        output.note(text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use ::autoscaler::policy::Policy;
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        deployments::args::{Deployments, DeploymentsCommand, PolicyCommand},
    };

    /// What was written: in the place of which version, and what.
    type Written = Arc<Mutex<Vec<(String, Given)>>>;

    /// A policy whose first reader is too late: somebody sets `then` before he writes.
    fn raced(then: Given) -> (Source, Written) {
        use axum::{Json, Router, routing::get};
        use http::{HeaderMap, StatusCode};
        let reads = Arc::new(AtomicU64::new(0));
        let read = async move || {
            let version = reads.fetch_add(1, Ordering::SeqCst) + 1;
            let set = if version == 1 { Given { min_hosts: Some(1), ..Given::default() } } else { then };
            Json(view(version, set))
        };
        let written = Written::default();
        let writes = Arc::clone(&written);
        let write = async move |headers: HeaderMap, Json(given): Json<Given>| {
            let tag = headers["if-match"].to_str().unwrap().to_owned();
            writes.lock().unwrap().push((tag.clone(), given.clone()));
            if tag == "\"1\"" {
                let slug = "precondition-failed";
                return Err(kit::problem::Problem::new(StatusCode::PRECONDITION_FAILED, slug, "Another version"));
            }
            Ok(Json(view(3, given)))
        };
        let router = Router::new().route("/api/v1/deployments-policy", get(read).put(write));
        (Source::of(crate::client::Client::in_process(router, None).unwrap()), written)
    }

    fn view(version: u64, set: Given) -> PolicyView {
        PolicyView { version, set, effective: Policy::default(), set_by: None, set_at: None }
    }

    #[tokio::test]
    async fn what_somebody_else_has_set_meanwhile_is_kept_and_never_overwritten() {
        let all = Which { id: None, all: true };
        let change = |given: Given| Given { max_hosts: Some(9), ..given };
        // Another field: both have their way.
        let (source, written) = raced(Given { min_hosts: Some(2), ..Given::default() });
        let set = change_policy(&source, &all, &["max_hosts"], None, change).await.unwrap().set;
        assert_eq!(set, Given { min_hosts: Some(2), max_hosts: Some(9), ..Given::default() });
        assert_eq!(written.lock().unwrap().iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), ["\"1\"", "\"2\""]);
        // The same field: somebody has to decide.
        let (source, written) = raced(Given { max_hosts: Some(5), ..Given::default() });
        let failure = change_policy(&source, &all, &["max_hosts"], None, change).await.unwrap_err();
        assert!(failure.message.contains("nothing was changed"), "{failure}");
        assert_eq!(written.lock().unwrap().len(), 1);
        // One version and no other.
        let (source, written) = raced(Given::default());
        let failure = change_policy(&source, &all, &["max_hosts"], Some(1), change).await.unwrap_err();
        assert!(failure.message.contains("nothing was changed"), "{failure}");
        assert_eq!(written.lock().unwrap().len(), 1);
    }

    fn parsed(line: &str) -> PolicySet {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Deployments(Deployments {
            command: Some(DeploymentsCommand::Policy(PolicyCommand::Set(set))),
            ..
        }) = cli.command
        else {
            panic!("{line}")
        };
        *set
    }

    #[test]
    fn a_command_knows_which_fields_it_changes() {
        let names = |line: &str| names(&parsed(&format!("muster deployments policy set eu-1{line}")), None);
        assert_eq!(names(" --min-hosts 3 --unset max-hosts"), ["min_hosts", "max_hosts"]);
        assert_eq!(names(" --dry-run"), ["mode", "until", "reason"]);
        assert!(names("").is_empty());
    }

    #[test]
    fn with_its_mode_go_its_end_and_its_reason() {
        let given = Given {
            mode: Some(Mode::Paused),
            until: Some(Timestamp::UNIX_EPOCH),
            reason: Some("x".to_owned()),
            min_hosts: Some(2),
            ..Given::default()
        };
        let left = without(given.clone(), &["mode".to_owned()]);
        assert_eq!(left, Given { min_hosts: Some(2), ..Given::default() });
        let left = without(given.clone(), &["min_hosts".to_owned(), "until".to_owned()]);
        assert_eq!(left, Given { min_hosts: None, until: None, ..given.clone() });
        assert_eq!(without(given.clone(), &[]), given);
    }

    #[test]
    fn only_the_fields_that_a_command_changes_are_compared() {
        let one = Given { min_hosts: Some(2), max_hosts: Some(9), ..Given::default() };
        let other = Given { min_hosts: Some(3), max_hosts: Some(9), ..Given::default() };
        assert_eq!(picked(&one, &["max_hosts", "mode"]), picked(&other, &["max_hosts", "mode"]));
        assert_ne!(picked(&one, &["min_hosts"]), picked(&other, &["min_hosts"]));
    }
}
