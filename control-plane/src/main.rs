//! The control plane's binary: read the configuration, serve until told to stop.

use std::ffi::OsString;
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
    let arguments = Arguments::read(std::env::args_os().skip(1))?;
    let mut config = Config::load(arguments.config.as_deref(), std::env::vars())?;
    config.accept_rollback = arguments.accept_rollback;
    let told_to_stop = told_to_stop()?;
    tokio::pin!(told_to_stop);
    // A node that joins waits for the other side as long as it takes.
    let control_plane = tokio::select! {
        started = ControlPlane::start(config) => started?,
        stopped = &mut told_to_stop => return stopped,
    };
    told_to_stop.await?;
    control_plane.shutdown().await;
    Ok(())
}

/// Waits for SIGTERM or SIGINT, from now on.
fn told_to_stop() -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        Ok(())
    })
}

#[derive(Default)]
struct Arguments {
    config: Option<PathBuf>,
    accept_rollback: bool,
}

impl Arguments {
    /// `--config FILE`, `--accept-rollback`, and nothing else.
    fn read(mut given: impl Iterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut arguments = Self::default();
        while let Some(flag) = given.next() {
            match flag.to_str() {
                Some("--config") if arguments.config.is_none() => {
                    let file = given.next().context("`--config` takes a FILE")?;
                    arguments.config = Some(file.into());
                }
                Some("--accept-rollback") => arguments.accept_rollback = true,
                _ => anyhow::bail!(
                    "the arguments were not understood: there are `--config FILE` and `--accept-rollback`"
                ),
            }
        }
        Ok(arguments)
    }
}
