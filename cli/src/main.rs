//! `countersign`: the operator's hand. It says to the control plane what the AdminService lets anyone say, and knows no
//! other door; `dev` and `demo` run a control plane and an edge of their own, in this process.
//!
//! # Layout
//!
//! ```text
//! args       what can be typed                       cmd/*    a noun each: words in, one or two calls, words out
//! context    which control plane, as whom            dev      a whole site in one process, on loopback
//! client     the line to it                          demo     the story, played and checked
//! gateway    an agent's line to its edge
//! secret keep             in, and out                 site     what dev and demo start
//! print progress failure  what is said
//! ```

mod args;
mod client;
mod cmd;
mod context;
mod demo;
mod dev;
mod failure;
mod gateway;
mod keep;
mod print;
mod progress;
mod secret;
mod site;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Approval, Args, Channel, Command};
use crate::context::Context;
use crate::failure::{Done, Failure};

fn main() -> ExitCode {
    let args = Args::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Failure::refused("TLS could not be set up").report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Failure::Refused(format!("no threads can be started: {error}")).report();
        }
    };
    let done = runtime.block_on(run(args));
    runtime.shutdown_background();
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

async fn run(args: Args) -> Done {
    let context = || {
        let found = Context::find(args.context.as_deref(), variable)?;
        args.at_node.as_deref().map_or(Ok(found.clone()), |node| found.of(node))
    };
    match args.command {
        Command::Agent(command) => cmd::agent::run(&context()?, command).await,
        Command::Approval(Approval::Wait { id, timeout, proxy, show }) => {
            match cmd::approval::waiting_as_agent(proxy, context)? {
                Some(gateway) => cmd::approval::wait_as_agent(&gateway, &id, timeout, &show).await,
                None => cmd::approval::wait(&context()?, id, timeout, &show).await,
            }
        }
        Command::Approval(command) => cmd::approval::run(&context()?, command).await,
        Command::Approver(command) => cmd::approver::run(&context()?, command).await,
        Command::Channel(Channel::Guide { platform, hook_url, manifest }) => {
            cmd::channel::guide(platform.as_deref(), hook_url.as_deref(), manifest)
        }
        Command::Channel(command) => cmd::channel::run(&context()?, command).await,
        Command::Audit(command) => cmd::audit::run(context, command).await,
        Command::Change(command) => cmd::change::run(&context()?, command).await,
        Command::Cluster(command) => cmd::cluster::run(context, command).await,
        Command::Completions(command) => cmd::manual::completions(&command),
        Command::Credential(command) => cmd::credential::run(&context()?, command).await,
        Command::Demo(command) => demo::run(&command).await,
        Command::Dev(command) => dev::run(command).await,
        Command::Doctor(command) => cmd::doctor::run(context, &command).await,
        Command::Edge(command) => cmd::edge::run(&context()?, command).await,
        Command::Env(command) => cmd::env::run(&context()?, &command),
        Command::Grant(command) => cmd::grant::run(&context()?, command).await,
        Command::Login(command) => cmd::login::run(command).await,
        Command::Man(command) => cmd::manual::man(&command),
        Command::Mcp(command) => cmd::mcp::run(&command).await,
        Command::Policy(command) => cmd::policy::run(context, command).await,
        Command::Seal(command) => cmd::seal::run(&context()?, command).await,
        Command::Status(command) => cmd::status::run(&context()?, &command).await,
    }
}

/// A variable of our environment; an empty one is not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
