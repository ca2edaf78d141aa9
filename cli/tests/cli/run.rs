//! The binary in an empty directory, with nothing of ours in its environment.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::control_plane::ControlPlane;

/// A directory, and the variables that a run gets.
pub(crate) struct Place {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// Where this control plane is known, as the environment says it.
    pub(crate) fn knowing(control_plane: &ControlPlane) -> Self {
        let mut place = Self::empty();
        let ca = place.write("api-ca.pem", control_plane.ca_pem());
        place.set("COUNTERSIGN_ADDR", control_plane.addr());
        place.set("COUNTERSIGN_CA", &ca);
        place.set("COUNTERSIGN_TOKEN", "cs_adm_right");
        place
    }

    /// Where these nodes of one cluster are known.
    pub(crate) fn knowing_all(nodes: &[&ControlPlane]) -> Self {
        let mut place = Self::knowing(nodes[0]);
        let addrs: Vec<&str> = nodes.iter().map(|node| node.addr()).collect();
        place.set("COUNTERSIGN_ADDR", &addrs.join(","));
        place
    }

    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }

    /// Writes a file and gives its absolute path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(self.dir.path().join(name)).unwrap().permissions().mode() & 0o777
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    /// With a terminal, at which somebody types this. All that is said shows there.
    pub(crate) fn run_on_a_terminal(&self, arguments: &[&str], typed: &str) -> Ran {
        let quoted = arguments.iter().map(|word| format!(" '{word}'")).collect::<String>();
        let line = format!("{}{quoted}", env!("CARGO_BIN_EXE_countersign"));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        self.spawned(script, typed)
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut countersign = Command::new(env!("CARGO_BIN_EXE_countersign"));
        countersign.args(arguments);
        self.spawned(countersign, input)
    }

    fn spawned(&self, mut command: Command, input: &str) -> Ran {
        let mut child = command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A run that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ran::from(child.wait_with_output().unwrap())
    }
}

/// What a run came to.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) said: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), said: text(output.stderr) }
    }
}

impl Ran {
    /// Exit 0: what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.said);
        self.out
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|why| panic!("{why}: {out}"))
    }

    /// Exit `code`, one line on stderr that holds all of `words`, and nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.said);
        assert_eq!(self.said.lines().count(), 1, "one line: {}", self.said);
        assert_eq!(self.out, "");
        for word in words {
            assert!(self.said.contains(word), "{word:?} is not in {:?}", self.said);
        }
    }
}
