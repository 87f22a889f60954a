//! The `muster` command: client, server and demonstration of all capabilities.
//!
//! In reading order:
//! - [`cli`]: what can be typed; [`settings`]: flag, then environment, then `muster.toml`;
//! - [`exit`]: how a command ends, and what it says when it fails;
//! - [`client`]: the one client of the HTTP API, over a socket or straight into routers of this
//!   process; [`backend`]: those routers and what is behind them; [`connect`]: which of
//!   the two a command talks to;
//! - [`batch`], [`device`], [`services`], [`deployments`], [`shout`], [`login`], [`keys`], [`secrets`]: the commands;
//!   [`progress`] waits for a batch and shows it, [`output`] prints tables, JSON and CSV, [`terminal`] is drawn on and given back,
//!   [`input`] reads what nobody may see, [`signals`] is what Ctrl-C does;
//! - [`serve`]: everything in one process, behind [`listen`]; [`demo`]: the same with simulators, told step by step;
//! - [`docs`]: shell completions, man pages, the OpenAPI document, the routing table, the tables.
//!
//! **Invariant:** a command knows capabilities by their HTTP API alone, so that it does the same
//! with a server, with none, and on AWS. Only [`backend`] knows what answers behind it.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;

pub mod backend;
pub mod batch;
pub mod cli;
pub mod client;
pub mod connect;
pub mod demo;
pub mod deployments;
pub mod device;
pub mod docs;
pub mod exit;
pub mod input;
pub mod keys;
pub mod listen;
pub mod login;
pub mod output;
pub mod progress;
pub mod secrets;
pub mod serve;
pub mod services;
pub mod settings;
pub mod shout;
pub mod signals;
pub mod terminal;

use cli::{Cli, Command};
use deployments::args::AutoscalerCommand;
use exit::{Exit, Failure};
use output::Output;
use settings::Settings;

/// Runs the command that `args` say (the program's name first) and answers its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args).into(),
    };
    let output = Output::new(cli.global.output, cli.global.color);
    match dispatch(&cli, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Says why a command line was not understood; help and version are asked for, and no failure.
fn refuse(error: &clap::Error, args: &[OsString]) -> Exit {
    if error.use_stderr() && cli::wants_json(args) {
        let text = error.to_string();
        Output::new(cli::Format::Json, cli::Color::Never)
            .failure(&Failure::usage(text.trim_start_matches("error: ").trim_end()));
        return Exit::Usage;
    }
    // A closed pipe is nobody's failure.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Fine }
}

fn dispatch(cli: &Cli, output: &Output) -> Result<Exit, Failure> {
    match &cli.command {
        // Nothing but text: no settings, no runtime.
        Command::Completions { shell } => return docs::completions(*shell, output),
        Command::Man { dir } => return docs::man(dir.as_deref(), output),
        Command::Openapi => return docs::openapi(output),
        Command::Tables => return docs::tables(output),
        _ => {}
    }
    let settings = Settings::load(&cli.global, &cli.command)?;
    let level = settings.get(settings::LOG).filter(|_| cli.global.verbose == 0);
    // Lines of a log would land in the middle of what is drawn.
    let draws = services::draws(&cli.command, output) || deployments::draws(&cli.command, output);
    let level = if draws && output.is_watched() { Some("off".to_owned()) } else { level };
    kit::telemetry::init_for_people(level.as_deref().unwrap_or(cli.log_level()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let result = runtime.block_on(async {
        match &cli.command {
            Command::Batch(command) => batch::run(command, &settings, output).await,
            Command::Device(command) => device::run(command, &settings, output).await,
            Command::Servers(command) => services::servers(command, &settings, output).await,
            Command::Services(command) => services::run(command, &settings, output).await,
            Command::Deployments(command) => deployments::run(command, &settings, output).await,
            Command::Autoscaler(AutoscalerCommand::Run(options)) => {
                deployments::scaler::run(options, &settings, output).await
            }
            Command::Shout { text } => shout::run(text, &settings, output).await,
            Command::Login(command) => login::login(command, &settings, output).await,
            Command::Logout => login::logout(&settings, output),
            Command::Secrets(command) => secrets::run(command, &settings, output).await,
            Command::Keys(command) => keys::run(command, &settings, output).await,
            Command::Serve(options) => serve::run(options, &settings, output).await,
            Command::Demo(options) => demo::run(options, output).await,
            Command::Routes => docs::routes(output).await,
            Command::Completions { .. } | Command::Man { .. } | Command::Openapi | Command::Tables => Ok(Exit::Fine),
        }
    });
    // A read from standard input that never comes must not keep the process.
    runtime.shutdown_background();
    result
}
