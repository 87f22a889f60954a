//! `muster demo`: the whole system with simulated upstreams, told step by step.

mod deployments;
mod devices;

use std::time::Duration;

use autoscaler::tick::Scaler;
use batches::http::{BatchView, CodeView, PartitionView};
use kit::dynamo::embedded::Embedded;
use services::http::{Services, ShortServices};
use shout::http::{ShoutAnswer, ShoutRequest, Via};
use simulators::{cpx, lorawan, packet, shoutcloud};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::Backend,
    cli::{Demo, Format},
    client::Client,
    exit::{Exit, Failure},
    output::{self, Output, count, short_code},
    progress::{path, until_final},
    serve::Server,
    services::table::{self, Listing},
    settings::Settings,
    signals,
};

/// Share of DevEUIs that are somebody else's already.
const CONFLICTS: f64 = 0.01;
/// Rows of a long table that are shown at its beginning and at its end.
const ROWS: usize = 5;
const TEXT: &str = "hello, fleet";
/// Servers of the simulated CPX.
const SERVERS: u32 = 20;
/// Of its services each has two servers or more, and none is near a threshold.
const SEED: u64 = 6914;
/// So many servers of a service are sick, and in which way: they leave one that is healthy.
const SICK: [(&str, usize, cpx::Fate); 2] =
    [("AuthService", 3, cpx::Fate::Sick), ("TicketService", 2, cpx::Fate::Memory)];

/// Runs the command.
pub async fn run(options: &Demo, output: &Output) -> Result<Exit, Failure> {
    let stop = signals::listen()?;
    let failed = |error: simulators::server::StartError| Failure::new(error.to_string());
    let provider = lorawan::start(lorawan::Config {
        latency: options.latency,
        conflict_rate: CONFLICTS,
        seed: 1,
        ..lorawan::Config::default()
    });
    let provider = provider.await.map_err(failed)?;
    let shoutcloud =
        shoutcloud::start(shoutcloud::Config { latency: Duration::from_millis(50), ..shoutcloud::Config::default() });
    let shoutcloud = shoutcloud.await.map_err(failed)?;
    let cpx = cpx::start(fleet()).await.map_err(failed)?;
    let hosts = simulators::deployments::start(deployments::fleet()?).await.map_err(failed)?;
    let vendor = packet::start(devices::vendor()).await.map_err(failed)?;

    // Removed at the end, with everything in it.
    let dir = tempfile::Builder::new().prefix("muster-demo-").tempdir();
    let dir = dir.map_err(|error| Failure::new(format!("cannot make a folder for the demonstration: {error}")))?;
    let settings = Settings::of(&[
        (batches::config::URL, provider.url()),
        (shout::http::URL, shoutcloud.url()),
        (services::config::URL, cpx.url()),
        (autoscaler::config::URL, hosts.url()),
        (::devices::config::URL, vendor.url()),
        (::devices::config::PROJECT, packet::PROJECT),
        (::devices::config::TOKEN, packet::TOKEN),
    ]);
    let pace = devices::Pace::new();
    let backend = Backend::embedded(Embedded::open(dir.path())?, dir.path()).await?.with_device_clock(pace.clock());
    let key = backend.own_key().await?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    // Stays up for the story even if it is interrupted; ends with it.
    let end = CancellationToken::new();
    let server = Server::start(backend.clone(), &settings, address, end.clone()).await?;
    let url = server.url.clone();
    let serving = tokio::spawn(server.run());
    output.lines([
        format!(
            "1. A server is up at {url}, with a simulated LoRaWAN provider that takes {:?} for an answer",
            options.latency
        ),
        format!(
            "   and holds {:.0} % of all DevEUIs already, a simulated SHOUTCLOUD, a simulated CPX",
            CONFLICTS * 100.0
        ),
        format!("   with {SERVERS} servers, a simulated deployments API, and a simulated vendor of machines."),
    ])?;

    let client = Client::http(&url.parse().map_err(|_| Failure::new(format!("{url} is no URL")))?, Some(&key), None)?;
    let story = Story { output, client: &client, provider: &provider, hosts: &hosts, vendor: &vendor, stop: &stop };
    let Some(scaler) = backend.scaler(&settings)? else { return Err(Failure::new("there is no deployments API")) };
    let staying = async {
        let told = story.tell(options, &scaler, &pace).await;
        story.invite(&told, options, &url, &key).await?;
        told
    };
    let told = tokio::select! {
        told = staying => told,
        () = pace.pass(&backend, &vendor) => Ok(None),
    };
    end.cancel();
    serving.await.map_err(|error| Failure::new(format!("the server did not end well: {error}")))??;
    let was_interrupted = told?.is_none();
    Ok(if was_interrupted { Exit::Interrupted } else { Exit::Fine })
}

/// A CPX of which two services are short of healthy servers, for as long as it runs.
fn fleet() -> cpx::Config {
    let entry = |(service, count, state): (&str, usize, cpx::Fate)| cpx::Entry {
        at: Duration::ZERO,
        lasts: None,
        who: cpx::Who::Some { service: Some(service.to_owned()), count: Some(count) },
        state,
    };
    let script = cpx::Script(SICK.map(entry).to_vec());
    cpx::Config { servers: SERVERS, seed: SEED, script: Some(script), ..cpx::Config::default() }
}

struct Story<'a> {
    output: &'a Output,
    client: &'a Client,
    provider: &'a lorawan::Simulator,
    hosts: &'a simulators::deployments::Simulator,
    vendor: &'a packet::Simulator,
    stop: &'a CancellationToken,
}

impl Story<'_> {
    /// Tells it; answers the batch, or nothing where it was interrupted.
    async fn tell(&self, options: &Demo, scaler: &Scaler, pace: &devices::Pace) -> Result<Option<uuid::Uuid>, Failure> {
        self.output.lines([
            String::new(),
            format!("2. A batch of {}: POST /api/v1/batches {{\"batch_size\":{}}}", options.size, options.size),
        ])?;
        let body = serde_json::json!({"batch_size": options.size, "label": "demo"});
        let view: BatchView = self.client.post("/api/v1/batches", &body, None).await?.json()?;
        let view = until_final(self.client, &view.summary, self.stop, None, self.output).await?;
        if !view.summary.status.is_final() {
            return Ok(None);
        }
        let stats = self.provider.stats();
        let id = view.summary.id;
        let first = self.show_batch(&view).await?;

        self.output.lines([String::new(), "3. What the provider saw".to_owned()])?;
        let wasted = stats.registered.saturating_sub(view.summary.registered);
        self.output.lines([
            format!("   most requests in flight at once: {}", stats.traffic.max_in_flight),
            format!("   requests: {}, of which {} found a DevEUI taken", stats.traffic.requests, stats.conflicts),
            format!("   registered but not in the batch, and so wasted: {wasted}"),
        ])?;

        if let Some(deveui) = &first {
            let code = short_code(deveui);
            let found: CodeView = self.client.get(&format!("{}/codes/{code}", path(id))).await?;
            self.output.lines([
                String::new(),
                format!("4. A customer types {code}: GET {}/codes/{code}", path(id)),
                format!("   {} is {}", found.short_code, found.deveui),
            ])?;
        }
        let request = ShoutRequest { data: TEXT.to_owned() };
        let shouted: ShoutAnswer = self.client.post("/api/v1/shout", &request, None).await?.json()?;
        self.output.lines([
            String::new(),
            format!("5. A shout: POST /api/v1/shout {{\"data\":{TEXT:?}}}"),
            format!("   {} (via {})", shouted.data, if shouted.via == Via::Local { "local" } else { "shoutcloud" }),
        ])?;
        self.show_services().await?;
        self.show_deployments(scaler).await?;
        self.show_devices(pace).await?;
        Ok((!self.stop.is_cancelled()).then_some(id))
    }

    /// Says what can be tried, and stays until it is interrupted.
    async fn invite(
        &self,
        told: &Result<Option<uuid::Uuid>, Failure>,
        options: &Demo,
        url: &str,
        key: &str,
    ) -> Result<(), Failure> {
        let (Ok(Some(id)), false) = (told, options.exit) else { return Ok(()) };
        self.output.lines([
            String::new(),
            "Try it yourself, from another terminal:".to_owned(),
            format!("   export MUSTER_SERVER={url} MUSTER_KEY={key}"),
            "   muster batch create --size 20 --label 'line 3'".to_owned(),
            "   muster services".to_owned(),
            format!("   muster services track {}", SICK[0].0),
            "   muster deployments --watch".to_owned(),
            "   muster device launch --wait --class c3.small.x86 --metro ny".to_owned(),
            format!("   muster deployments explain {}", deployments::SHORT),
            format!("   curl -H \"Authorization: Bearer $MUSTER_KEY\" $MUSTER_SERVER{}", path(*id)),
            "   curl -H \"Authorization: Bearer $MUSTER_KEY\" $MUSTER_SERVER/api/v1/batches -d '{\"batch_size\":20}' -H 'Content-Type: application/json'".to_owned(),
            "   curl -H \"Authorization: Bearer $MUSTER_KEY\" $MUSTER_SERVER/api/v1/shout -d '{\"data\":\"hello\"}' -H 'Content-Type: application/json'".to_owned(),
            format!("   curl {}/_sim/stats", self.provider.url()),
            "Ctrl-C ends it, and removes everything.".to_owned(),
        ])?;
        self.stop.cancelled().await;
        Ok(())
    }

    async fn show_services(&self) -> Result<(), Failure> {
        let path = "/api/v1/services";
        self.output
            .lines([String::new(), format!("6. What runs on the servers, and how loaded they are: GET {path}")])?;
        let all: Services = self.client.get(path).await?;
        self.indented(&table::services(&all.items, Format::Table))?;
        let path = "/api/v1/unhealthy-services";
        let short: ShortServices = self.client.get(path).await?;
        let few = short.min_healthy;
        self.output.lines([format!("   Which have fewer than {few} healthy servers: GET {path}")])?;
        self.indented(&table::short_services(&short.items, Format::Table))
    }

    fn indented(&self, listing: &Listing) -> Result<(), Failure> {
        let table = output::table(&listing.header, &listing.rows, self.output.is_colored());
        self.output.lines(table.lines().map(|line| format!("   {line}")))
    }

    /// The table, without the middle of a long one; answers the first DevEUI.
    async fn show_batch(&self, view: &BatchView) -> Result<Option<String>, Failure> {
        let (head, tail) = self.ends(view).await?;
        let row = |deveui: &String| format!("   {}       {deveui}", short_code(deveui));
        let hidden = view.summary.registered - (head.len() + tail.len()) as u64;
        self.output.lines(["   Short Code  DevEUI"])?;
        self.output.lines(head.iter().map(row))?;
        if hidden > 0 {
            self.output.lines([format!("   …           {hidden} more")])?;
        }
        self.output.lines(tail.iter().map(row))?;
        self.output.lines([format!("   {} registered", count(view.summary.registered, "DevEUI"))])?;
        Ok(head.into_iter().next())
    }

    /// The first and the last DevEUIs, wherever they are.
    async fn ends(&self, view: &BatchView) -> Result<(Vec<String>, Vec<String>), Failure> {
        let fetch = async |href: &str| Ok::<_, Failure>(self.client.get::<PartitionView>(href).await?.deveuis);
        let (first, last) = match (&view.deveuis, view.partitions.as_deref()) {
            (Some(all), _) => (all.clone(), all.clone()),
            (None, Some([first, .., last])) => (fetch(&first.href).await?, fetch(&last.href).await?),
            _ => (Vec::new(), Vec::new()),
        };
        if view.summary.registered <= 2 * ROWS as u64 {
            return Ok((first, Vec::new()));
        }
        let tail = last[last.len().saturating_sub(ROWS)..].to_vec();
        Ok((first.into_iter().take(ROWS).collect(), tail))
    }
}
