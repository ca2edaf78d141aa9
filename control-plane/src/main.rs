//! The control plane's binary: read the configuration, serve until told to stop.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use countersign_control_plane::config::Config;
use countersign_control_plane::node::ControlPlane;
use countersign_control_plane::telemetry;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Not as a log line: what went wrong may be that there is no log.
            let _ = writeln!(std::io::stderr(), "countersign-control-plane: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let _telemetry = telemetry::init("countersign-control-plane")?;
    let config = Config::load(config_file()?.as_deref(), std::env::vars())?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let control_plane = ControlPlane::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("SIGINT cannot be waited for")?,
    }
    tracing::info!("told to stop");
    control_plane.shutdown().await;
    Ok(())
}

/// `--config FILE`, and nothing else.
fn config_file() -> anyhow::Result<Option<PathBuf>> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(None),
        (Some(flag), Some(file), None) if flag == "--config" => Ok(Some(file.into())),
        _ => anyhow::bail!("the arguments were not understood: the only one is `--config FILE`"),
    }
}
