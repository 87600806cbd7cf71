//! The architecture, held to its word: who may depend on whom, where `unsafe` may stand, and that what is said to be
//! pure reads no clock, starts no thread and touches no socket.
//!
//! The manifests and sources are read as text. Comments and literals are blanked before words are looked for, so that a
//! word in a sentence is no use of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of all crates of the workspace that have code of their own.
const CRATES: [&str; 7] = ["wal", "raft", "kv", "engine", "sim", "cli", "benches"];

/// The only files in which `unsafe` may stand. The second is no part of any crate that is used: it
/// measures what writing through a map would be like.
const UNSAFE_FILES: [&str; 2] = ["wal/src/map.rs", "benches/peers/src/map_file.rs"];

/// What needs an operating system, a clock or global randomness.
const IMPURE: [&str; 14] = [
    "Instant",
    "SystemTime",
    "spawn",
    "sleep",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "File",
    "OpenOptions",
    "RandomState",
    "getrandom",
    "rand",
    "thread_rng",
    "thread_local",
];

/// Modules of the standard library that have no place in pure code, whole.
const IMPURE_PATHS: [&str; 4] = ["std::net", "std::fs", "std::thread", "std::process"];

#[test]
fn the_log_the_protocol_and_the_machine_do_not_know_each_other() {
    for name in ["wal", "raft", "kv"] {
        let others: Vec<String> = dependencies(name)
            .into_iter()
            .filter(|name| name.starts_with("quorate"))
            .collect();
        assert!(others.is_empty(), "{name}/Cargo.toml names {others:?}");
    }
}

#[test]
fn the_engine_joins_the_three_and_knows_nothing_above_itself() {
    let ours: BTreeSet<String> = dependencies("engine")
        .into_iter()
        .filter(|name| name.starts_with("quorate"))
        .collect();
    let expected = ["quorate-kv", "quorate-raft", "quorate-wal"].map(str::to_owned);
    assert_eq!(ours, BTreeSet::from(expected));
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_the_log() {
    let roots = [
        "raft/src/lib.rs",
        "kv/src/lib.rs",
        "engine/src/lib.rs",
        "sim/src/lib.rs",
        "cli/src/main.rs",
    ];
    for root in roots {
        let code =
            code_of(&fs::read_to_string(workspace().join(root)).expect("a crate has a root"));
        let dense: String = code.split_whitespace().collect();
        assert!(
            dense.contains("#![forbid(unsafe_code)]"),
            "{root} does not forbid unsafe code"
        );
    }
}

#[test]
fn unsafe_stands_in_two_files() {
    let found: BTreeSet<PathBuf> = CRATES
        .iter()
        .flat_map(|name| sources(name))
        .filter(|path| words(&read_code(path)).contains("unsafe"))
        .collect();
    assert_eq!(found, BTreeSet::from(UNSAFE_FILES.map(PathBuf::from)));
}

#[test]
fn the_node_and_the_session_window_are_pure() {
    let mut files = sources("engine/src/node");
    files.push(PathBuf::from("engine/src/client/window.rs"));
    files.push(PathBuf::from("engine/src/client/window/reads.rs"));
    assert!(files.len() > 5, "the node's files were found: {files:?}");
    assert_pure(&files);
}

#[test]
fn the_protocol_and_the_machine_are_pure() {
    let files = [sources("raft/src"), sources("kv/src")].concat();
    assert!(files.len() > 20, "their files were found: {files:?}");
    assert_pure(&files);
}

#[test]
fn the_scan_sees_code_and_not_what_is_written_about_it() {
    let text = r##"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe"; let d = '"';
        fn not_unsafe<'a>(x: &'a str) { unsafe_code(); }
    "##;
    assert!(
        !words(&code_of(text)).contains("unsafe"),
        "{}",
        code_of(text)
    );
    for text in [
        "unsafe {}",
        "let c = '\\''; unsafe {}",
        "let q = '\"'; unsafe {}",
        "'a: loop { unsafe {} }",
    ] {
        assert!(words(&code_of(text)).contains("unsafe"), "{text}");
    }
}

fn assert_pure(files: &[PathBuf]) {
    for path in files {
        let code = read_code(path);
        let words = words(&code);
        let impure: Vec<&str> = IMPURE
            .into_iter()
            .filter(|word| words.contains(word))
            .collect();
        assert!(impure.is_empty(), "{} uses {impure:?}", path.display());
        let dense: String = code.split_whitespace().collect();
        let paths: Vec<&str> = IMPURE_PATHS
            .into_iter()
            .filter(|path| dense.contains(path))
            .collect();
        assert!(paths.is_empty(), "{} uses {paths:?}", path.display());
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a crate stands in the workspace")
        .to_path_buf()
}

/// The names of all other crates that a manifest depends on, for whatever purpose. (A crate names itself to have its tests use its
/// own features.)
fn dependencies(name: &str) -> BTreeSet<String> {
    let path = workspace().join(name).join("Cargo.toml");
    let manifest = fs::read_to_string(&path).expect("a crate has a manifest");
    let mut is_dependencies = false;
    let mut names = BTreeSet::new();
    for line in manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            is_dependencies = header.ends_with("dependencies");
            // A table of its own: `[dependencies.name]`.
            if let Some((before, name)) = header.rsplit_once('.')
                && before.ends_with("dependencies")
            {
                names.insert(name.to_owned());
            }
        } else if is_dependencies && let Some((name, _)) = line.split_once(['=', '.']) {
            names.insert(name.trim().trim_matches('"').to_owned());
        }
    }
    assert!(!names.is_empty(), "{} was read", path.display());
    let own = manifest
        .lines()
        .find_map(|line| line.strip_prefix("name = "));
    names.remove(own.expect("a package has a name").trim_matches('"'));
    names
}

/// All Rust files below a folder, relative to the workspace.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(workspace().join(&folder)).expect("a folder is readable") {
            let entry = entry.expect("a folder is readable");
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("a name has a type").is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read_code(path: &Path) -> String {
    code_of(&fs::read_to_string(workspace().join(path)).expect("a source is text"))
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect()
}

/// The text with comments and the insides of literals left out.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment_bytes(rest).or_else(|| literal_bytes(rest, &code));
        code.push(if skipped.is_some() { ' ' } else { first });
        let taken = skipped.unwrap_or_else(|| first.len_utf8());
        rest = &rest[taken.min(rest.len())..];
    }
    code
}

fn comment_bytes(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// How long the string or character literal is that begins here, if one does. `before` tells a raw string from a name
/// that ends in `r`.
fn literal_bytes(rest: &str, before: &str) -> Option<usize> {
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let marked = rest
        .strip_prefix("br")
        .or_else(|| rest.strip_prefix('r'))
        .filter(|_| !in_word);
    if let Some(marked) = marked {
        let hashes = marked.len() - marked.trim_start_matches('#').len();
        if marked[hashes..].starts_with('"') {
            let head = rest.len() - marked.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(
                rest[head..]
                    .find(&end)
                    .map_or(rest.len(), |at| head + at + end.len()),
            );
        }
    }
    match rest.as_bytes()[0] {
        b'"' => Some(quoted_bytes(rest, b'"')),
        // A quote begins a character if it is closed behind one; else it is a lifetime or a label.
        b'\'' if rest[1..].starts_with('\\') => Some(quoted_bytes(rest, b'\'')),
        b'\'' => {
            let inside = rest[1..].chars().next()?.len_utf8();
            rest[1 + inside..].starts_with('\'').then_some(inside + 2)
        }
        _ => None,
    }
}

fn quoted_bytes(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}
