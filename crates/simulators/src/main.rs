//! `muster-sim`: one simulated upstream for people, until it is interrupted.
//!
//! Its address is the one line on standard output, so a script can read it; the log goes to
//! standard error (`RUST_LOG=debug` shows each answer).

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use simulators::{
    cpx, deployments, lorawan, packet,
    server::{Simulator, Upstream},
    shoutcloud,
};
use tracing_subscriber::EnvFilter;

/// Simulates an upstream of muster on this machine, with faults on demand.
///
/// While it runs, GET /_sim/stats tells what it has seen, and POST /_sim/faults with JSON such as
/// {"error_rate": 0.5, "down": "503"} changes its faults.
#[derive(Debug, Parser)]
#[command(name = "muster-sim", version)]
struct Cli {
    #[command(subcommand)]
    upstream: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// The LoRaWAN provider that registers DevEUIs
    Lorawan {
        #[command(flatten)]
        at: At,
        #[command(flatten, next_help_heading = "Faults")]
        config: lorawan::Config,
    },
    /// SHOUTCLOUD, ALL-CAPS as a service
    Shoutcloud {
        #[command(flatten)]
        at: At,
        #[command(flatten, next_help_heading = "Faults")]
        config: shoutcloud::Config,
    },
    /// CPX, the cloud provider whose servers tell how loaded they are
    #[command(after_long_help = cpx::HELP)]
    Cpx {
        #[command(flatten)]
        at: At,
        #[command(flatten, next_help_heading = "Fleet and faults")]
        config: cpx::Config,
    },
    /// The deployments API, whose hosts boot and drain under a load that changes
    #[command(after_long_help = deployments::HELP)]
    Deployments {
        #[command(flatten)]
        at: At,
        #[command(flatten, next_help_heading = "Deployments and faults")]
        config: deployments::Config,
    },
    /// The Packet (Equinix Metal) device API: a catalogue, capacity, and devices that come and go
    #[command(after_long_help = packet::HELP)]
    Packet {
        #[command(flatten)]
        at: At,
        #[command(flatten, next_help_heading = "Catalogue, devices and faults")]
        config: packet::Config,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct At {
    /// A loopback address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl At {
    fn addr(self) -> SocketAddr {
        SocketAddr::new(self.listen, self.port)
    }
}

// One thread is enough for tens of thousands of requests per second and leaves the others to what
// is being tried out.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let log = EnvFilter::builder().with_default_directive(tracing::Level::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(io::stderr).init();

    match Cli::parse().upstream {
        Which::Lorawan { at, config } => run("lorawan", lorawan::start_on(at.addr(), config).await?).await,
        Which::Shoutcloud { at, config } => run("shoutcloud", shoutcloud::start_on(at.addr(), config).await?).await,
        Which::Cpx { at, config } => run("cpx", cpx::start_on(at.addr(), config).await?).await,
        Which::Deployments { at, config } => run("deployments", deployments::start_on(at.addr(), config).await?).await,
        Which::Packet { at, mut config } => {
            // No flag holds a token: others would see it in the list of processes.
            config.token = config.token.or_else(|| std::env::var(packet::TOKEN_VARIABLE).ok());
            run("packet", packet::start_on(at.addr(), config).await?).await
        }
    }
}

async fn run<U: Upstream>(name: &str, sim: Simulator<U>) -> anyhow::Result<()> {
    // Before the address is told: whoever reads it may send the signal at once.
    let mut interrupts = Interrupts::listen().context("cannot listen for signals")?;
    let mut out = io::stdout();
    writeln!(out, "{name} simulator on {}", sim.url())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;

    interrupts.next().await;
    tokio::select! {
        _ = sim.stop() => {}
        // Somebody is impatient.
        () = interrupts.next() => {}
    }
    Ok(())
}

/// SIGINT and SIGTERM.
#[cfg(unix)]
struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Interrupts {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(windows)]
struct Interrupts(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Interrupts {
    fn listen() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        _ = self.0.recv().await;
    }
}
