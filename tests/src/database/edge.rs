//! A real edge before a real PostgreSQL, and what an agent has of it: a URL.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{DATABASE, HOST, PASSWORD, Postgres, ROLE};
use crate::world::{Setup, binary};
use crate::{World, eventually};

pub struct EdgeBefore {
    // In the order in which they go: the edge before what it is attached to.
    edge: Child,
    pub world: World,
    pub server: Postgres,
    /// With the agent's own password in it.
    pub url: String,
}

impl EdgeBefore {
    /// Waits until this agent is let in. The policy gives it the key "shop-db"; `variables` are the edge's.
    pub fn start(server: Postgres, policy: &str, agent: &str, variables: &[(&str, &str)]) -> Self {
        let world = World::with(Setup { policy: policy.to_owned(), ..Setup::default() });
        let token = world.agent(agent).token;
        let arguments = ["--host", HOST, "--postgres-role", ROLE];
        let fake_key = world.credential("shop-db", PASSWORD, &arguments).fake_key;

        world.ok(&["edge", "enroll", "databases", "--out", "edge"]);
        let path = world.dir().join("edge/edge.toml");
        std::fs::write(world.dir().join("edge/upstream.pem"), server.ca_pem()).unwrap();
        let written =
            std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:7080", "127.0.0.1:0");
        let more = format!(
            "\n[upstream]\nca_files = [{:?}]\nconnect_to = [\"{HOST}:5432:127.0.0.1:{}\"]\n\n\
             [[postgres]]\nlisten = \"127.0.0.1:0\"\nupstream = \"{HOST}\"\n",
            world.dir().join("edge/upstream.pem"),
            server.port()
        );
        std::fs::write(&path, written + &more).unwrap();
        let log = File::create(world.dir().join("edge.log")).unwrap();
        let edge = Command::new(binary().with_file_name("countersign-edge-gateway"))
            .arg(&path)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the edge starts");
        let mut before = Self { edge, world, server, url: String::new() };
        let address = eventually("the edge listens for clients of Postgres", || {
            let log = before.log();
            let line = log.lines().find(|line| line.contains("for clients of Postgres"))?;
            let line: Value = serde_json::from_str(line).unwrap();
            Some(line["postgres"].as_str()?.replace("127.0.0.1", "localhost"))
        });
        let ca = before.world.dir().join("edge/edge-ca.pem");
        let printed = before
            .world
            .cli(&["credential", "postgres-url", "shop-db", "--agent", agent])
            .args(["--database", DATABASE, "--edge", &address, "--ca-path", ca.to_str().unwrap()])
            .env("COUNTERSIGN_AGENT_TOKEN", &token)
            .env("COUNTERSIGN_FAKE_KEY", &fake_key)
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        String::from_utf8(printed.stdout).unwrap().trim().clone_into(&mut before.url);
        eventually("the edge lets it connect", || {
            before.psql(&["-c", "select 1"]).output().unwrap().status.success().then_some(())
        });
        before
    }

    /// Of the edge.
    pub fn pid(&self) -> u32 {
        self.edge.id()
    }

    /// The agent's psql.
    pub fn psql(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-X", "-A", "-t", &self.url])
            .args(arguments)
            .env_remove("PGPASSWORD")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Everything that the edge has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.world.dir().join("edge.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for EdgeBefore {
    fn drop(&mut self) {
        let _ = self.edge.kill();
        let _ = self.edge.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!(
                "--- the end of the edge's log\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}
