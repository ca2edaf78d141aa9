//! `countersign dev`: a site on loopback, for development.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use countersign_control_plane::telemetry;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::args::Dev;
use crate::cmd::policy;
use crate::context::{DEV_FILE, Saved};
use crate::failure::{Done, Failure};
use crate::site::{self, Plan, Policy, Site};

pub(crate) async fn run(command: Dev) -> Done {
    // All that can be wrong with what was typed shows before anything starts.
    let (plan, ready_file) = prepared(&command)?;
    let data_dir = plan.data_dir.clone();
    let mut stop = Stop::listen()?;
    let _telemetry = telemetry::init("countersign-dev")?;
    eprintln!("{BANNER}");

    let site = tokio::select! {
        site = Site::start(plan) => site?,
        () = stop.asked() => return Ok(()),
    };
    let announced = announce(&site, &data_dir, ready_file);
    if announced.is_ok() {
        tracing::info!(
            edge = site.proxy(),
            api = %site.context.nodes,
            web = site.web(),
            "everything serves"
        );
        stop.asked().await;
        tracing::info!("going down; once more to go at once");
    }
    tokio::select! {
        () = site.shutdown() => {}
        () = stop.asked() => {}
    }
    announced
}

const BANNER: &str = "\
################################################################################
##  countersign dev: NOT FOR PRODUCTION.                                      ##
##  The key that opens the vault lies beside it, in the same directory:       ##
##  whoever reads that directory has every credential in it.                  ##
################################################################################";

fn prepared(command: &Dev) -> Result<(Plan, Option<ReadyFile>), Failure> {
    let policy = command.policy.as_deref().map(compiled).transpose()?;
    let upstream_ca = site::authorities(&command.upstream_ca)?;
    let ready_file = command.ready_file.as_deref().map(ReadyFile::reserve).transpose()?;
    let plan = Plan {
        data_dir: site::data_dir(&command.data_dir)?,
        api_listen: command.api_listen,
        edge_listen: command.edge_listen,
        gateway_listen: command.gateway_listen,
        web_listen: command.web_listen,
        policy,
        upstream_ca,
        connect_to: command.connect_to.clone(),
        allow_private: command.allow_private.clone(),
    };
    Ok((plan, ready_file))
}

fn compiled(file: &Path) -> Result<Policy, Failure> {
    let (text, file_name) = (policy::text(file)?, policy::file_name(file));
    countersign_policy::Policy::compile(&text, &file_name)
        .map_err(|mistakes| policy::diagnosed(&mistakes))?;
    Ok(Policy { text, file_name })
}

/// The context for commands, and the ready file for whoever waits for it.
fn announce(site: &Site, data_dir: &Path, ready_file: Option<ReadyFile>) -> Done {
    let context = &site.context;
    let saved = Saved {
        addr: context.nodes.to_string(),
        ca: context.ca.clone(),
        token: site::token(context),
        edge_proxy: context.edge.proxy.clone(),
        edge_ca: context.edge.ca.clone(),
    };
    saved.write(&data_dir.join(DEV_FILE))?;
    let Some(ready_file) = ready_file else { return Ok(()) };
    let (token, addr) = (site::token(context), context.nodes.to_string());
    let ready = Ready {
        edge: Proxy { proxy: site.proxy(), ca: context.edge.ca.clone() },
        api: Api { addr: &addr, ca: context.ca.as_deref() },
        web: site.web(),
        admin_token: &token,
        pid: std::process::id(),
    };
    ready_file.publish(&ready)
}

#[derive(Serialize)]
struct Ready<'a> {
    edge: Proxy,
    api: Api<'a>,
    web: Option<String>,
    admin_token: &'a str,
    pid: u32,
}

#[derive(Serialize)]
struct Proxy {
    proxy: String,
    ca: Option<PathBuf>,
}

#[derive(Serialize)]
struct Api<'a> {
    addr: &'a str,
    ca: Option<&'a Path>,
}

/// A file that appears all at once. Its place is taken before anything starts, so that a path that cannot be written
/// is said then.
struct ReadyFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
}

impl ReadyFile {
    fn reserve(path: &Path) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| Self::failure(path, &error);
        let name =
            path.file_name().ok_or_else(|| fail(std::io::Error::other("it names no file")))?;
        if path.is_dir() {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let partial = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(fail)?;
        Ok(Self { path: path.to_owned(), partial, file })
    }

    fn publish(mut self, ready: &Ready<'_>) -> Done {
        let text = Zeroizing::new(serde_json::to_string(ready).map_err(Failure::refused)?);
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let published = written.and_then(|()| std::fs::rename(&self.partial, &self.path));
        published.map_err(|error| Self::failure(&self.path, &error))
    }

    fn failure(path: &Path, error: &std::io::Error) -> Failure {
        Failure::Refused(format!("the ready file {} cannot be written: {error}", path.display()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Gone already when it was published.
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::Refused(format!("signals cannot be heard: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
