//! `muster batch …`: register DevEUIs, and look at what is registered.
//!
//! **The one thing to know:** without a server nobody works on a batch unless a command does. So
//! `create`, and `show` and `cancel` of a batch that is not finished, run the worker in this
//! process until it is, and stop it in good order on Ctrl-C.

use batches::{
    batch::{OnUncertain, Status},
    http::{BatchSummary, BatchView, CodeView, PartitionView},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use kit::paging::Page;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use crate::{
    backend::{Backend, configured_provider},
    cli::{Batch, Create, Format},
    client::Client,
    connect::{Target, connect},
    exit::{Exit, Failure},
    output::{BATCH_HEADER, Output, batch_row},
    progress::{path, until_final},
    settings::{SERVER, Settings},
    signals,
};

const COLLECTION: &str = "/api/v1/batches";
/// Partitions of a long batch fetched at the same time.
const FETCHES: usize = 4;

/// Runs the command.
pub async fn run(command: &Batch, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if let Batch::Create(_) = command
        && settings.get(SERVER).is_none()
    {
        // A provider that cannot be one is refused before anything is opened.
        configured_provider(settings, None)?;
    }
    let session = Session::open(settings, output).await?;
    let ran = match command {
        Batch::Create(create) => session.create(create).await,
        Batch::List { status, limit, all, deleted } => session.list(*status, (!all).then_some(*limit), *deleted).await,
        Batch::Show { id, wait, no_wait, deleted } => session.show(*id, *wait, *no_wait, *deleted).await,
        Batch::Find { id, code } => session.find(*id, &code.to_string()).await,
        Batch::Cancel { id } => session.cancel(*id).await,
        Batch::Delete { id, yes } => session.delete(*id, *yes).await,
    };
    ran.map_err(|failure| match command {
        Batch::Find { .. } => failure,
        _ if failure.is_status(404) => {
            failure.hint("`muster batch list` shows the batches, with --deleted the deleted ones too")
        }
        _ => failure,
    })
}

/// One command and whom it talks to.
struct Session<'a> {
    client: Client,
    /// Where this process does the work.
    backend: Option<Backend>,
    settings: &'a Settings,
    output: &'a Output,
}

/// How a wait for a batch ended.
struct Waited {
    view: BatchView,
    interrupted: bool,
}

impl<'a> Session<'a> {
    async fn open(settings: &'a Settings, output: &'a Output) -> Result<Self, Failure> {
        let (client, backend) = match connect(settings, output).await? {
            Target::Server(client) => (client, None),
            Target::Embedded(backend) => {
                let provider = configured_provider(settings, None)?;
                (backend.client(settings, provider.as_ref()).await?, Some(backend))
            }
        };
        Ok(Self { client, backend, settings, output })
    }

    async fn create(&self, create: &Create) -> Result<Exit, Failure> {
        if let Some(server) = self.client.server()
            && self.settings.is_flag(batches::config::URL)
        {
            return Err(Failure::usage(format!(
                "--provider is for work without a server, and {server} has a provider of its own"
            ))
            .hint("leave --provider out, or use another state folder with --state DIR"));
        }
        let stop = signals::listen()?;
        let body = serde_json::json!({
            "batch_size": create.size,
            "prefix": create.prefix.as_ref().map_or("", |prefix| prefix.as_str()),
            "label": create.label,
            "on_uncertain": OnUncertain::from(create.on_uncertain),
        });
        let asked = tokio::select! {
            asked = self.client.post(COLLECTION, &body, create.key.as_deref()) => asked,
            () = stop.cancelled() => return Err(Failure::new("interrupted before the server answered")
                .exit(Exit::Interrupted)
                .hint("the batch may have been created; `muster batch list` shows it")),
        };
        let answer = asked.map_err(|failure| self.name_provider(failure))?;
        let view: BatchView = answer.json()?;
        let batch = &view.summary;
        let is_replay = answer.headers.contains_key("idempotency-replayed");
        self.output.note(&format!(
            "Batch {}{}: {} from {}",
            batch.id,
            if is_replay { " (created before with this key)" } else { "" },
            crate::output::count(batch.batch_size, "DevEUI"),
            batch.provider,
        ));
        if create.no_wait {
            if self.backend.is_some() {
                self.output.note(&format!(
                    "Nothing is sent until somebody works on it: `muster batch show {}` does.",
                    batch.id
                ));
            }
            return self.print_id(batch);
        }
        // A replayed answer shows the batch as it was created.
        let view = if is_replay { self.client.get(&path(batch.id)).await? } else { view };
        let waited = self.finish(view, &stop).await?;
        self.print_waited(waited).await
    }

    /// Says what to set in terms of this command line.
    fn name_provider(&self, failure: Failure) -> Failure {
        let unset = failure.problem.as_ref().is_some_and(|problem| problem.slug() == "not-configured");
        if unset && self.backend.is_some() {
            return Failure::usage("no LoRaWAN provider is set")
                .hint("give its base URL with --provider URL or MUSTER_LORAWAN_URL; `muster demo` shows everything with a simulated one");
        }
        failure
    }

    fn print_id(&self, batch: &BatchSummary) -> Result<Exit, Failure> {
        match self.output.format {
            Format::Json => self.output.json(batch)?,
            Format::Csv => self.output.rows(&BATCH_HEADER, &[batch_row(batch)])?,
            Format::Table | Format::Plain => self.output.lines([batch.id.to_string()])?,
        }
        Ok(Exit::Fine)
    }

    async fn list(&self, status: Option<Status>, limit: Option<u32>, deleted: bool) -> Result<Exit, Failure> {
        let mut items: Vec<BatchSummary> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = Serializer::new(String::new());
            query.append_pair("limit", &limit.unwrap_or(500).to_string());
            if let Some(status) = status {
                query.append_pair("status", status.as_str());
            }
            if deleted {
                query.append_pair("deleted", "true");
            }
            if let Some(cursor) = &cursor {
                query.append_pair("cursor", cursor);
            }
            let page: Page<BatchSummary> = self.client.get(&format!("{COLLECTION}?{}", query.finish())).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || limit.is_some_and(|limit| items.len() >= limit as usize) {
                break;
            }
        }
        items.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
        match self.output.format {
            Format::Json => self.output.json(&Page { items, next_cursor: cursor.clone() })?,
            Format::Plain => self.output.lines(items.iter().map(|batch| batch.id.to_string()))?,
            Format::Table if items.is_empty() => self.output.note("No batches. `muster batch create` makes one."),
            Format::Table | Format::Csv => {
                self.output.rows(&BATCH_HEADER, &items.iter().map(batch_row).collect::<Vec<_>>())?;
            }
        }
        if cursor.is_some() {
            self.output.note("There are more: --all shows them.");
        }
        Ok(Exit::Fine)
    }

    async fn show(&self, id: Uuid, wait: bool, no_wait: bool, deleted: bool) -> Result<Exit, Failure> {
        let query = if deleted { "?deleted=true" } else { "" };
        let view: BatchView = self.client.get(&format!("{}{query}", path(id))).await?;
        let batch = &view.summary;
        if batch.status.is_final() || no_wait || !(wait || self.backend.is_some()) {
            self.describe(batch);
            let is_bad = wait && batch.status != Status::Completed;
            self.print(view).await?;
            return Ok(if is_bad { Exit::Failed } else { Exit::Fine });
        }
        let stop = signals::listen()?;
        let waited = self.finish(view, &stop).await?;
        self.print_waited(waited).await
    }

    /// Says in words what the rows of DevEUIs do not.
    fn describe(&self, batch: &BatchSummary) {
        let label = batch.label.as_ref().map_or(String::new(), |label| format!(" {label:?}"));
        self.output.note(&format!(
            "Batch {}{label}: {}, {} of {} registered, {}",
            batch.id,
            batch.status.as_str(),
            batch.registered,
            batch.batch_size,
            crate::output::count(batch.conflicts, "conflict"),
        ));
        if let Some(error) = &batch.last_error {
            self.output.note(&format!("Last error: {error}"));
        }
        if !batch.status.is_final() {
            self.output.note(&format!("`muster batch show {} --wait` waits for the rest.", batch.id));
        }
    }

    async fn find(&self, id: Uuid, code: &str) -> Result<Exit, Failure> {
        let found: CodeView = self.client.get(&format!("{}/codes/{code}", path(id))).await?;
        match self.output.format {
            Format::Json => self.output.json(&found)?,
            Format::Plain => self.output.lines([&found.deveui])?,
            Format::Table | Format::Csv => {
                self.output.rows(&["Short Code", "DevEUI"], &[vec![found.short_code, found.deveui.clone()]])?;
            }
        }
        if found.recovered {
            self.output.note(&format!("{} is listed as recovered: see `muster batch show {id}`.", found.deveui));
        }
        Ok(Exit::Fine)
    }

    async fn cancel(&self, id: Uuid) -> Result<Exit, Failure> {
        let view: BatchView = self.client.get(&path(id)).await?;
        let status = view.summary.status;
        if status.is_final() {
            self.output.note(&format!("Batch {id} is {} already; there is nothing to cancel.", status.as_str()));
            self.print(view).await?;
            return Ok(Exit::Fine);
        }
        let stop = signals::listen()?;
        let Some(view) = self.ask_to_cancel(view).await? else {
            self.output.note(&format!("Batch {id} was finished at that very moment, and is deleted: `muster batch show {id} --deleted` has it."));
            return Ok(Exit::Fine);
        };
        let waited = self.finish(view, &stop).await?;
        if waited.interrupted {
            return self.print_waited(waited).await;
        }
        self.print(waited.view).await?;
        Ok(Exit::Fine)
    }

    /// Asks for a batch to be cancelled; `None` where it had become final, so that it was deleted.
    async fn ask_to_cancel(&self, view: BatchView) -> Result<Option<BatchView>, Failure> {
        if view.summary.status == Status::Cancelling {
            return Ok(Some(view));
        }
        let answer = self.client.delete(&path(view.summary.id)).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        answer.json().map(Some)
    }

    async fn delete(&self, id: Uuid, yes: bool) -> Result<Exit, Failure> {
        let view: BatchView = match self.client.get(&path(id)).await {
            // What has been deleted stays deleted, as in the API.
            Err(failure) if failure.is_status(404) => self.client.get(&format!("{}?deleted=true", path(id))).await?,
            other => other?,
        };
        let batch = &view.summary;
        if !batch.status.is_final() {
            if !yes {
                let (status, registered, size) = (batch.status.as_str(), batch.registered, batch.batch_size);
                return Err(Failure::usage(format!("batch {id} is {status}: {registered} of {size} registered")).hint(
                    format!("`muster batch cancel {id}` ends it and prints them; --yes cancels and deletes it"),
                ));
            }
            let stop = signals::listen()?;
            if let Some(view) = self.ask_to_cancel(view).await? {
                let waited = self.finish(view, &stop).await?;
                if waited.interrupted {
                    return self.print_waited(waited).await;
                }
            }
        }
        self.client.delete(&path(id)).await?;
        self.output.note(&format!("Deleted. For 30 days `muster batch show {id} --deleted` still shows it."));
        Ok(Exit::Fine)
    }

    /// Waits until the batch is final or `stop`; does the work where nobody else does.
    async fn finish(&self, view: BatchView, stop: &CancellationToken) -> Result<Waited, Failure> {
        if view.summary.status.is_final() {
            return Ok(Waited { view, interrupted: false });
        }
        let batch = &view.summary;
        let Some(backend) = &self.backend else {
            let view = until_final(&self.client, batch, stop, None, self.output).await?;
            let interrupted = !view.summary.status.is_final();
            if interrupted {
                self.output.note(&format!("The server goes on with it: `muster batch show {} --wait`", batch.id));
            }
            return Ok(Waited { view, interrupted });
        };
        // The batch's own provider: it may have been created with another one than is set now.
        let Some(provider) = configured_provider(self.settings, Some(&batch.provider))? else {
            return Err(Failure::new(format!("batch {} has no provider", batch.id)));
        };
        let working = backend.start_worker(provider, stop);
        let waiting = until_final(&self.client, batch, stop, Some(working.held_until.clone()), self.output);
        let waited = tokio::select! {
            waited = waiting => waited,
            () = backend.keep_house() => Err(Failure::new("the store is gone")),
        };
        if stop.is_cancelled() {
            self.output
                .note("Stopping: nothing new is sent, what is in flight is finished. Ctrl-C again ends at once.");
        }
        working.stop().await;
        let view = waited?;
        if view.summary.status.is_final() {
            return Ok(Waited { view, interrupted: false });
        }
        let view: BatchView = self.client.get(&path(view.summary.id)).await?;
        let interrupted = !view.summary.status.is_final();
        if interrupted {
            self.output.note(&format!(
                "Stopped: {} of {} registered. Go on with: muster batch show {}",
                view.summary.registered, view.summary.batch_size, view.summary.id
            ));
        }
        Ok(Waited { view, interrupted })
    }

    async fn print_waited(&self, waited: Waited) -> Result<Exit, Failure> {
        let Waited { view, interrupted } = waited;
        let status = view.summary.status;
        if let Some(error) = view.summary.last_error.as_ref().filter(|_| status == Status::Failed) {
            self.output.note(&format!("It failed: {error}"));
        }
        self.print(view).await?;
        Ok(match status {
            _ if interrupted => Exit::Interrupted,
            Status::Completed => Exit::Fine,
            _ => Exit::Failed,
        })
    }

    async fn print(&self, view: BatchView) -> Result<(), Failure> {
        self.output.deveuis(&self.fill(view).await?)
    }

    /// The batch with all its DevEUIs, fetched by partitions where there are many.
    async fn fill(&self, mut view: BatchView) -> Result<BatchView, Failure> {
        let Some(partitions) = view.partitions.take() else { return Ok(view) };
        let query = if view.summary.deleted_at.is_some() { "?deleted=true" } else { "" };
        let fetch = |href: String| {
            let client = self.client.clone();
            async move { client.get::<PartitionView>(&format!("{href}{query}")).await }
        };
        let fetched = stream::iter(partitions).map(|partition| fetch(partition.href)).buffered(FETCHES);
        let filled = (Vec::new(), Vec::new());
        let (deveuis, recovered) = fetched
            .try_fold(filled, async |(mut deveuis, mut recovered), part| {
                deveuis.extend(part.deveuis);
                recovered.extend(part.recovered);
                Ok((deveuis, recovered))
            })
            .await?;
        Ok(BatchView { deveuis: Some(deveuis), recovered: Some(recovered), ..view })
    }
}
