//! `countersign-edge-gateway [CONFIG.toml]`: reads its configuration and runs until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use countersign_edge_gateway::config::Config;
use countersign_edge_gateway::{run, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Freed memory is overwritten: keys pass through buffers of libraries that know nothing of them.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let file = std::env::args_os()
        .nth(1)
        .or_else(|| std::env::var_os("COUNTERSIGN_EDGE_CONFIG"))
        .map(PathBuf::from);
    let config = match Config::read(file.as_deref(), |name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(mistakes) => return failed(&mistakes, 2),
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&format!("{why:#}"), 1),
    }
}

#[tokio::main]
async fn start(config: Config) -> anyhow::Result<()> {
    let _telemetry = telemetry::init()?;
    keep_memory_to_ourselves()?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    run(config, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

/// No core dumps, and no debugger of the same user: real keys pass through this memory.
fn keep_memory_to_ourselves() -> anyhow::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn failed(why: &dyn std::fmt::Display, code: u8) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "countersign-edge-gateway: {why}");
    ExitCode::from(code)
}
