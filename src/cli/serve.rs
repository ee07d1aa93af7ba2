//! `raisonne serve` and `raisonne check`.

use crate::app::{self, App, HangupSignals};
use crate::config::{Config, ConfigError};
use crate::telemetry::{TraceFormat, start_tracing};
use anyhow::Context as _;
use clap::Args;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::Table;

/// Arguments of `raisonne serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on; overrides the configuration.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

/// Arguments of `raisonne check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where the configuration comes from.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    /// TOML file with the configuration; without one, every key has its default. Environment variables override each
    /// key, as in `RAISONNE__API__LISTEN=127.0.0.1:9000`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Bundle to serve; overrides the configuration.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

impl ServeArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut config = self.config.load()?;
        config.api.listen = self.listen.unwrap_or(config.api.listen);
        let terminal = std::io::stderr().is_terminal();
        start_tracing(if terminal { TraceFormat::Human } else { TraceFormat::Json })?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            // Installed first, so that an early SIGHUP does not end the process.
            let hangups = HangupSignals::listen()?;
            let (services, _) = app::open_services(&config).await?;
            let live = services.live.clone();
            let app = App::start(&config.api, services).await?;
            tokio::spawn(hangups.swap_bundles(live, config.bundle.path.clone()));
            app::shutdown_signal().await?;
            tracing::info!("stopping: finishing the requests in flight");
            Ok(app.stop().await?)
        });
        // A swap in progress must not delay the exit.
        runtime.shutdown_timeout(config.api.shutdown_grace.0);
        served
    }
}

impl CheckArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let (services, opened) = runtime()?.block_on(app::open_services(&config))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{config:#?}")?;
        writeln!(
            out,
            "{} is intact, reproduces its golden scores, and reaches the rung {}: {} items, {} users",
            opened.version,
            services.live.ladder().top().as_str(),
            opened.model.catalog.len(),
            opened.model.cards.users.len(),
        )?;
        Ok(())
    }
}

impl ConfigArgs {
    pub(super) fn load(&self) -> anyhow::Result<Config> {
        self.load_over(Table::new())
    }

    /// The configuration, with other `defaults` for some keys.
    pub(super) fn load_over(&self, defaults: Table) -> anyhow::Result<Config> {
        let mut config = Config::load_over(defaults, self.config.as_deref()).map_err(|error| {
            let is_value = matches!(error, ConfigError::Wrong(_) | ConfigError::Range { .. });
            match self.config.as_deref().filter(|_| is_value) {
                Some(path) => {
                    anyhow::Error::new(error).context(format!("reading {}", path.display()))
                }
                None => error.into(),
            }
        })?;
        if let Some(bundle) = &self.bundle {
            config.bundle.path.clone_from(bundle);
        }
        Ok(config)
    }
}

/// The Tokio runtime of a server.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}
