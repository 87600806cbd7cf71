//! The known bugs that can be built in: that each is used, and that `docs/testing.md` tells of each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that have any.
const CRATES: [&str; 4] = ["raft", "wal", "kv", "engine"];

#[test]
fn each_known_bug_is_used_where_it_is_listed_and_nowhere_else() {
    for name in CRATES {
        let listed = listed_in(name);
        let mut used = BTreeSet::new();
        for path in sources(&root().join(name).join("src")) {
            let text = read(&path);
            let uses = text.split("mutants::").skip(1);
            used.extend(uses.map(|rest| leading_name(rest).to_owned()));
        }
        assert_eq!(used, listed, "{name}: what is used and what is listed");
    }
}

#[test]
fn the_documents_tell_of_each_known_bug_and_of_no_other() {
    let listed: BTreeSet<String> = CRATES.into_iter().flat_map(listed_in).collect();
    assert!(listed.len() >= 25, "{} bugs", listed.len());
    let text = read(&root().join("docs/testing.md"));
    let (_, section) = text
        .split_once("\n## Known bugs\n")
        .expect("there is a section on known bugs");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: Vec<String> = rows
        .filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect();
    let distinct: BTreeSet<String> = told.iter().cloned().collect();
    assert_eq!(told.len(), distinct.len(), "a bug has one row");
    assert_eq!(distinct, listed);
}

#[test]
fn no_known_bug_is_built_in_by_default() {
    for name in CRATES {
        let text = read(&root().join(name).join("Cargo.toml"));
        assert!(text.contains("\nmutants = ["), "{name} has the feature");
        assert!(
            !text.contains("default = ["),
            "{name} has no default features"
        );
        let dependents = ["engine", "sim", "cli", "benches"];
        for dependent in dependents {
            let text = read(&root().join(dependent).join("Cargo.toml"));
            assert!(!text.contains("\"mutants\""), "{dependent} asks for it");
        }
    }
}

fn listed_in(name: &str) -> BTreeSet<String> {
    let text = read(&root().join(name).join("src/mutants.rs"));
    let lines = text.lines().filter_map(|line| line.strip_suffix(';'));
    let names = lines.map(str::trim).filter(|name| is_name(name));
    names.map(str::to_owned).collect()
}

fn leading_name(text: &str) -> &str {
    let end = text.find(|it: char| !it.is_ascii_uppercase() && it != '_');
    &text[..end.unwrap_or(text.len())]
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && leading_name(text) == text
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the sources are here") {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    sim.parent().expect("it is in the workspace").to_path_buf()
}
