//! The programs in release builds, which benches measure.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds them, unless the environment says where they are, and begins this bench again with an environment that does.
pub fn build() {
    if std::env::var_os("COUNTERSIGN_BIN_DIR").is_some() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--release", "--locked"]);
    for package in ["cli", "control-plane", "edge-gateway"] {
        cargo.args(["-p", &format!("countersign-{package}")]);
    }
    assert!(cargo.status().unwrap().success());
    let own = std::env::current_exe().unwrap();
    let built: PathBuf = own.ancestors().nth(2).unwrap().into();
    // This process has one thread still.
    let again = Command::new(own)
        .args(std::env::args_os().skip(1))
        .env("COUNTERSIGN_BIN_DIR", &built)
        .env("COUNTERSIGN_BIN", built.join("countersign"))
        .status()
        .unwrap();
    std::process::exit(again.code().unwrap_or(1));
}
