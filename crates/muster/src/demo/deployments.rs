//! The seventh step: a deployment goes short, and the autoscaler gives it hosts.
//!
//! The simulator's time is moved by hand, and one tick is done before its half minute: nobody who
//! watches has to wait. The server's own ticks go on after that.

use std::time::Duration;

use autoscaler::{
    http::{DeploymentList, DeploymentView, Explanation},
    samples::slot,
    tick::Scaler,
};
use jiff::Timestamp;
use simulators::deployments::{Config, Load, Point, Spec};

use super::Story;
use crate::{cli::Format, deployments::table, exit::Failure};

/// The deployment that goes short.
pub const SHORT: &str = "eu-1";
/// When, in the simulator's time.
const AT: Duration = Duration::from_mins(10);
/// How long a host takes to boot there.
const BOOT: Duration = Duration::from_secs(90);
/// For how long the server's first tick is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Three deployments that have what they want, until one of them is asked for more.
pub fn fleet() -> Result<Config, Failure> {
    let deployment = |id: &str, servers_per_host, hosts, target: &str, load| {
        let target_free_pct = target.parse().map_err(|_| Failure::new(format!("{target} is no target")))?;
        Ok::<_, Failure>(Spec { id: id.to_owned(), servers_per_host, target_free_pct, hosts, load })
    };
    let point = |at, busy| Point { at, busy };
    let rise = Load::Points { points: vec![point(Duration::ZERO, 80), point(AT, 96)] };
    let fleet = vec![
        deployment(SHORT, 10, 10, "15", rise)?,
        deployment("us-2", 250, 3, "10", Load::Steady { busy: 640 })?,
        deployment("ap-3", 1, 40, "30", Load::Steady { busy: 20 })?,
    ];
    Ok(Config { fleet: Some(fleet), manual: true, boot: BOOT, ..Config::default() })
}

impl Story<'_> {
    /// Shows who has what, then how one goes short and is given hosts.
    pub(super) async fn show_deployments(&self, scaler: &Scaler) -> Result<(), Failure> {
        let list = "/api/v1/deployments";
        self.output.lines([String::new(), format!("7. Which deployments have the servers they want: GET {list}")])?;
        let all = self.until(|all| all.iter().all(|it| it.last_decision.is_some()) && !all.is_empty()).await?;
        self.show(&all)?;

        self.hosts.set_time(AT);
        let explain = format!("{list}/{SHORT}/explain");
        self.output.lines([format!("   {SHORT} is asked for more. What a tick would do about it: GET {explain}")])?;
        let told: Explanation = self.client.get(&explain).await?;
        self.output.lines(told.words.iter().map(|words| format!("     {words}")))?;

        self.output.lines([format!(
            "   The tick, then {} s for the hosts to boot (simulated, all of it at once):",
            BOOT.as_secs()
        )])?;
        let next = slot(Timestamp::now()) + 1;
        // If the server's own tick comes first, it does the same.
        scaler.tick(next, &tokio_util::sync::CancellationToken::new()).await?;
        let before = all.iter().find(|it| it.id == SHORT).and_then(|it| it.desired_hosts);
        let all = self.until(|all| all.iter().any(|it| it.id == SHORT && it.desired_hosts > before)).await?;
        let one: Vec<_> = all.into_iter().filter(|it| it.id == SHORT).collect();
        if let Some(last) = one.first().and_then(|it| it.last_decision.as_ref()) {
            self.output.lines([format!("     {}: {SHORT} {}", last.reason, last.words)])?;
        }
        self.hosts.advance(BOOT);
        if let Some(now) = self.hosts.deployment(SHORT) {
            let (free, total) = (now.status.free_servers, now.status.total_servers);
            let share = table::share(free, total).unwrap_or_default();
            let hosts = now.status.current_hosts;
            self.output.lines([format!(
                "     {hosts} hosts now, {free} of {total} servers free: {share} %, and {} % is wanted",
                now.target_free_pct
            )])?;
        }
        // For whoever looks at it from now on.
        self.hosts.change(|config| config.manual = false);
        Ok(())
    }

    /// The deployments, once `claim` is true of them.
    async fn until(&self, claim: impl Fn(&[DeploymentView]) -> bool) -> Result<Vec<DeploymentView>, Failure> {
        let look = async {
            loop {
                let all: DeploymentList = self.client.get("/api/v1/deployments").await?;
                if claim(&all.items) {
                    return Ok(all.items);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.map_err(|_| Failure::new("the autoscaler does not tick"))?
    }

    fn show(&self, all: &[DeploymentView]) -> Result<(), Failure> {
        self.indented(&table::deployments(all, Timestamp::now(), Format::Table))
    }
}
