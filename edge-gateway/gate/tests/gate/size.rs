//! The gate is read in one sitting: how long it is, and that README says so.

use std::fs;
use std::path::Path;

/// Raise it with a reason in the commit.
const MOST: usize = 1_300;

/// Lines of the gate's source that are neither blank nor a comment.
fn code_lines() -> usize {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lines = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .count()
    };
    fs::read_dir(source).unwrap().map(|entry| lines(&entry.unwrap().path())).sum()
}

#[test]
fn the_gate_stays_short() {
    let lines = code_lines();
    assert!(lines <= MOST, "the gate has {lines} lines of code, more than {MOST}");
}

#[test]
fn readme_says_how_long_the_gate_is() {
    let readme =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (before, _) = readme
        .split_once(" lines of code, in `edge-gateway/gate/src`")
        .expect("README tells the gate's size");
    let said = before.rsplit(' ').next().unwrap().replace(',', "");
    assert_eq!(
        said,
        code_lines().to_string(),
        "README's figure of the gate's lines of code is not right"
    );
}

#[test]
fn readme_names_the_gates_files() {
    let readme =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "README does not say when to read {name}");
    }
}
