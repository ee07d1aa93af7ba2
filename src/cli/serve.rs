//! `serve` and `check`.

use crate::app::{self, App, HangupSignals};
use crate::config::Config;
use crate::telemetry::{TraceFormat, start_tracing};
use anyhow::Context as _;
use clap::Args;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serves a bundle over gRPC and HTTP.
#[derive(Args, Debug)]
pub struct Serve {
    #[command(flatten)]
    source: Source,
    /// Where to listen, whatever the configuration says.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

/// Checks a configuration and the bundle that it names.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    source: Source,
}

/// Where the configuration comes from.
#[derive(Args, Debug)]
struct Source {
    /// A TOML file; without one, the defaults. Every key can be overridden by the environment, as
    /// in `RAISONNE__API__LISTEN=127.0.0.1:9000`.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The bundle to serve, whatever the configuration says.
    #[arg(long)]
    bundle: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut config = self.source.read()?;
        config.api.listen = self.listen.unwrap_or(config.api.listen);
        let people = std::io::stderr().is_terminal();
        start_tracing(if people { TraceFormat::Human } else { TraceFormat::Json })?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            // First of all, so that one that comes early does not end the process.
            let hangups = HangupSignals::listen()?;
            let (services, _) = app::open_services(&config).await?;
            let live = services.live.clone();
            let app = App::start(&config.api, services).await?;
            tokio::spawn(hangups.swap(live, config.bundle.path.clone()));
            app::shutdown_signal().await?;
            tracing::info!("told to stop: finishing what is in flight");
            Ok(app.stop().await?)
        });
        // A bundle that is being opened just now must not hold up the end.
        runtime.shutdown_timeout(config.api.shutdown_grace.0);
        served
    }
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = self.source.read()?;
        let (services, opened) = runtime()?.block_on(app::open_services(&config))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{config:#?}")?;
        writeln!(
            out,
            "{} is whole, scores as it should, and reaches {}: {} items, {} users",
            opened.version,
            services.live.ladder().top().as_str(),
            opened.model.catalog.len(),
            opened.model.cards.users.len(),
        )?;
        Ok(())
    }
}

impl Source {
    fn read(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(bundle) = &self.bundle {
            config.bundle.path.clone_from(bundle);
        }
        Ok(config)
    }
}

/// The runtime of a server.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}
