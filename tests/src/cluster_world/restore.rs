//! Beginning again from a backup.

use std::path::Path;

use super::ClusterWorld;

impl ClusterWorld {
    /// Every node is lost. As many that never were begin again from the backup, and edges trust them from then on.
    pub fn restore(&mut self, backup: &Path, nodes: usize) {
        let root_key = self.root_key();
        let mut first = self.new_node();
        std::fs::copy(self.nodes[0].seal_key(), first.seal_key()).unwrap();
        self.nodes.clear();
        first.configure(self.plan.timing, self.seal(), None);
        let data = first.data_dir();
        let restored = self
            .cli(&["cluster", "restore", backup.to_str().unwrap(), "--config", "node.toml"])
            .arg("--data-dir")
            .arg(&data)
            .current_dir(first.process.dir())
            .output()
            .unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        first.start(&self.network);
        self.nodes.push(first);
        self.serving(0);

        // Edges demand as many signatures as before, which takes more than one node.
        let mut arguments =
            vec!["cluster", "trust", "--root-key", root_key.to_str().unwrap(), "--yes"];
        let joined: Vec<String> = (1..nodes).map(|_| self.join()).collect();
        joined.iter().for_each(|name| arguments.extend(["--wait", name]));
        self.cli_ok(&arguments);
    }

    /// Invites a node and starts it; nobody signs anything. Gives its name.
    fn join(&mut self) -> String {
        let mut node = self.new_node();
        node.configure(self.plan.timing, self.seal(), Some(self.nodes[0].api));
        std::fs::copy(self.nodes[0].seal_key(), node.seal_key()).unwrap();
        let at = |name: &str| node.process.dir().join(name).to_str().unwrap().to_owned();
        let (token, ca) = (at("join-token"), at("join-ca.pem"));
        let name = node.name().to_owned();
        self.cli_ok(&["cluster", "add", &name, "--token-file", &token, "--ca-file", &ca]);
        node.start(&self.network);
        self.nodes.push(node);
        self.serving(self.nodes.len() - 1);
        name
    }
}
