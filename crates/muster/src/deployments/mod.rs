//! `muster deployments …` and `muster autoscaler run`: what every deployment has free and wants, what
//! was decided for it and why, and what may be done to it.
//!
//! **The one thing to know:** what is listed is what a tick has left: that of a server, or that of
//! `muster autoscaler run` on the state folder. Where nobody ticks, this process does: in memory and
//! as a dry run, so that nothing is kept or sent.
//!
//! - [`args`]: what can be typed;
//! - [`source`]: whoever knows the deployments;
//! - [`table`]: rows for people and for programs; [`detail`]: lines about one; [`watch`]: the list again
//!   and again;
//! - [`policy`]: pausing, resuming, setting; [`simulate`]: two policies side by side;
//! - [`scaler`]: the loop itself.

pub mod args;
pub mod detail;
pub mod policy;
pub mod scaler;
pub mod simulate;
pub mod source;
pub mod table;
pub mod watch;

use ::autoscaler::http::{
    DecisionView, DeploymentDetail, DeploymentList, DeploymentState, DeploymentView, Explanation,
};
use jiff::Timestamp;
use kit::paging::Page;
use serde::Serialize;

use self::{
    args::{Deployments, DeploymentsCommand, List, PolicyCommand},
    source::{Source, kept, of_deployment, path},
};
use crate::{
    cli::{Command, Format},
    exit::{Exit, Failure},
    output::{Output, printable},
    services::table::{Listing, time},
    settings::Settings,
    terminal,
};

/// Entries in a page.
const PAGE: usize = 500;
/// A tick that is older than this, in seconds, has nobody after it.
const OLD: i64 = 120;

/// Runs `muster deployments …`.
pub async fn run(command: &Deployments, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if command.command.is_some() && command.list != List::default() {
        return Err(Failure::usage("--only, --sort, --watch, --interval and --exit-status are for the list")
            .hint("leave them out, or the subcommand"));
    }
    match &command.command {
        None if command.list.watch => watch::run(&command.list, settings, output).await,
        None => list(&command.list, settings, output).await,
        Some(DeploymentsCommand::Show { id }) => show(id, settings, output).await,
        Some(DeploymentsCommand::Decisions(args)) => decisions(args, settings, output).await,
        Some(DeploymentsCommand::Explain(args)) => explain(args, settings, output).await,
        Some(DeploymentsCommand::Pause(args)) => policy::pause(args, settings, output).await,
        Some(DeploymentsCommand::Resume(which)) => policy::resume(which, settings, output).await,
        Some(DeploymentsCommand::Policy(PolicyCommand::Show(which))) => policy::show(which, settings, output).await,
        Some(DeploymentsCommand::Policy(PolicyCommand::Set(args))) => policy::set(args, settings, output).await,
        Some(DeploymentsCommand::Simulate(args)) => simulate::run(args, settings, output).await,
    }
}

/// Whether `command` is about to draw on the terminal, where nothing else may write.
pub fn draws(command: &Command, output: &Output) -> bool {
    let watches = matches!(command, Command::Deployments(Deployments { list, command: None, .. }) if list.watch);
    watches && output.format == Format::Table && terminal::is_there()
}

async fn list(args: &List, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = Source::open(settings).await?;
    let listed = source.list(args).await?;
    if output.format == Format::Json {
        output.json(&listed)?;
    } else if output.format == Format::Table && listed.items.is_empty() {
        output.note(if args.only.is_some() { "No such deployments." } else { "No deployments." });
    } else {
        table::deployments(&listed.items, Timestamp::now(), output.format).print(output)?;
    }
    if output.format != Format::Json {
        for note in notes(&listed, source.is_live(), Timestamp::now()) {
            output.note(&note);
        }
    }
    let is_well = listed.items.iter().all(is_well);
    Ok(if args.exit_status && !is_well { Exit::Failed } else { Exit::Fine })
}

/// Whether a deployment has what it wants, and can be read.
fn is_well(it: &DeploymentView) -> bool {
    let readable =
        !matches!(it.state, DeploymentState::Unreadable | DeploymentState::BreakerOpen | DeploymentState::Frozen);
    it.state == DeploymentState::Gone || (readable && !table::is_short(it))
}

/// What there is to say about a list beside its rows.
fn notes(listed: &DeploymentList, is_live: bool, now: Timestamp) -> Vec<String> {
    let fleet = &listed.fleet;
    let mut notes = Vec::new();
    if is_live {
        notes.push("Read from here just now, as a dry run: nothing is kept or sent.".to_owned());
    } else {
        match fleet.ticked_at {
            None => notes.push("No tick so far: `muster serve` and `muster autoscaler run` make them.".to_owned()),
            Some(at) if now.duration_since(at).as_secs() > OLD => notes.push(format!(
                "The last tick was at {}: nobody scales now. `muster serve` and `muster autoscaler run` do.",
                time(at)
            )),
            Some(_) => {}
        }
    }
    if let Some(doubt) = &fleet.doubt {
        notes.push(format!("The last list was not believed: {}", printable(doubt)));
    }
    if let Some(until) = fleet.frozen_until {
        notes.push(format!(
            "Too many deployments could not be read: until {} no host is taken away from any.",
            time(until)
        ));
    }
    if fleet.ignored > 0 {
        let entries = if fleet.ignored == 1 { "entry" } else { "entries" };
        notes.push(format!("{} {entries} of the list ignored: no usable id, or too many.", fleet.ignored));
    }
    notes
}

async fn show(id: &str, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = Source::open(settings).await?;
    let shown: DeploymentDetail = source.get(&path(id), &[]).await.map_err(of_deployment)?;
    match output.format {
        Format::Json => output.json(&shown)?,
        Format::Table => output.lines(detail::detail(&shown, Timestamp::now()))?,
        format @ (Format::Csv | Format::Plain) => {
            table::deployments(std::slice::from_ref(&shown.deployment), Timestamp::now(), format).print(output)?;
        }
    }
    if source.is_live() && output.format != Format::Json {
        output.note("Read from here just now, as a dry run: nothing is kept or sent.");
    }
    Ok(Exit::Fine)
}

async fn decisions(args: &args::Decisions, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = kept(settings, output).await?;
    let now = Timestamp::now();
    let wanted = args.limit as usize;
    let mut query = vec![("limit", wanted.min(PAGE).to_string())];
    query.extend(args.since.map(|since| ("since", since.at(now).to_string())));
    query.extend(args.until.map(|until| ("until", until.at(now).to_string())));
    query.extend(args.reason.map(|reason| ("reason", reason.to_string())));
    let path = format!("{}/decisions", path(&args.id));
    let mut page: Page<DecisionView> = source.get(&path, &query).await.map_err(of_deployment)?;
    // A page may be short although there is a next one.
    while page.items.len() < wanted
        && let Some(cursor) = page.next_cursor.take()
    {
        let query = [query.as_slice(), &[("cursor", cursor)]].concat();
        let next: Page<DecisionView> = source.get(&path, &query).await?;
        page.items.extend(next.items);
        page.next_cursor = next.next_cursor;
    }
    let has_more = page.next_cursor.is_some() || page.items.len() > wanted;
    page.items.truncate(wanted);
    if output.format == Format::Table && page.items.is_empty() {
        output.note("No such decisions.");
        return Ok(Exit::Fine);
    }
    print(&page, || table::decisions(&page.items, output.format), output)?;
    if has_more && output.format != Format::Json {
        output.note("There are more: --limit shows them.");
    }
    Ok(Exit::Fine)
}

async fn explain(args: &args::Explain, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let source = Source::unticked(settings).await?;
    let given = args.numbers.over(::autoscaler::policy::Given { mode: args.mode, ..Default::default() });
    let given = serde_json::to_value(given).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let given: Vec<_> =
        given.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect();
    let mut query: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    query.extend(args.target_free_pct.clone().map(|pct| ("target_free_pct", pct)));
    let told: Explanation = source.get(&format!("{}/explain", path(&args.id)), &query).await.map_err(of_deployment)?;
    match output.format {
        Format::Json => output.json(&told)?,
        Format::Table => output.lines(detail::explanation(&told))?,
        format @ (Format::Csv | Format::Plain) => {
            table::decisions(std::slice::from_ref(&told.decision), format).print(output)?;
        }
    }
    Ok(Exit::Fine)
}

/// Writes what the API answered, or the listing of it.
fn print(answer: &impl Serialize, listing: impl FnOnce() -> Listing, output: &Output) -> Result<(), Failure> {
    if output.format == Format::Json { output.json(answer) } else { listing().print(output) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(fleet: serde_json::Value, is_live: bool) -> String {
        let listed =
            DeploymentList { items: Vec::new(), next_cursor: None, fleet: serde_json::from_value(fleet).unwrap() };
        notes(&listed, is_live, "2027-01-15T08:00:00Z".parse().unwrap()).join("\n")
    }

    #[test]
    fn what_is_doubtful_about_a_list_is_told() {
        let fleet = |ticked: Option<&str>| {
            serde_json::json!({
                "ticked_at": ticked, "discovered_at": null, "doubt": null, "frozen_until": null, "ignored": 0,
            })
        };
        assert_eq!(told(fleet(Some("2027-01-15T07:58:00Z")), false), "");
        assert!(
            told(fleet(Some("2027-01-15T07:57:30Z")), false)
                .starts_with("The last tick was at 2027-01-15T07:57:30Z: nobody")
        );
        assert!(told(fleet(None), false).starts_with("No tick so far"));
        let mut wrong = fleet(Some("2027-01-15T08:00:00Z"));
        (wrong["doubt"], wrong["frozen_until"]) = ("it is empty\u{7}".into(), "2027-01-15T08:01:30Z".into());
        wrong["ignored"] = 2.into();
        insta::assert_snapshot!(told(wrong, true), @r"
        Read from here just now, as a dry run: nothing is kept or sent.
        The last list was not believed: it is empty�
        Too many deployments could not be read: until 2027-01-15T08:01:30Z no host is taken away from any.
        2 entries of the list ignored: no usable id, or too many.
        ");
    }

    #[test]
    fn well_is_who_has_what_it_wants_and_can_be_read() {
        let with = |free, state| {
            let it = table::tests::deployment("x", (100, free), 15.0);
            is_well(&DeploymentView { state, ..it })
        };
        assert!(
            with(15, DeploymentState::Ok) && with(15, DeploymentState::Limited) && with(15, DeploymentState::Paused)
        );
        assert!(!with(14, DeploymentState::Ok) && !with(14, DeploymentState::Paused));
        for state in [DeploymentState::Unreadable, DeploymentState::BreakerOpen, DeploymentState::Frozen] {
            assert!(!with(50, state), "{state:?}");
        }
        assert!(with(0, DeploymentState::Gone));
    }
}
