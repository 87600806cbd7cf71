//! The documents, held to their word: what they name between backquotes is there. A test that was renamed, or a file that was
//! moved, must not leave behind a promise that nothing holds any more.
//!
//! Judged are names of files and folders; paths of modules and tests; and single words of lower case. In
//! "`engine/tests/failover.rs`: `a_test`, `another_one`" each test must stand in that file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

/// The documents that name tests.
const DOCUMENTS: [&str; 2] = ["docs/guarantees.md", "docs/testing.md"];

/// A name of at least so many words is one of a test. Fields of options have four.
const WORDS_OF_A_TEST: usize = 5;

/// What is no part of the repository.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// Extensions of files that documents may name without a folder, and that are read.
const EXTENSIONS: [&str; 5] = ["rs", "sh", "md", "hex", "toml"];

#[test]
fn what_the_documents_name_is_there() {
    let tree = Tree::read();
    let mut problems = Vec::new();
    for document in DOCUMENTS {
        let names = names_of(&tree.texts[document]);
        assert!(names.len() > 100, "{document} names {}", names.len());
        for name in names {
            if let Err(problem) = tree.check(&name) {
                problems.push(format!("{document}:{}: {problem}", name.line));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_name_of_nothing_is_found() {
    let tree = Tree::read();
    let problems = |text: &str| {
        let names = names_of(text).into_iter();
        names.filter(|name| tree.check(name).is_err()).count()
    };
    let sound = [
        "`engine/tests/documents.rs`: `a_name_of_nothing_is_found`,\n  `what_the_documents_name_is_there`",
        "`engine/tests`: `documents::a_name_of_nothing_is_found`; `sim/tests/rules`, `docs`",
        "`documents.rs` and `tests/documents.rs`, `election_timeout`, `log.segment_bytes_min`",
        "`Db::trouble`, `cargo test --test none`, `QUORATE_SEED=7`, `documents::*`",
        "```\n`no_such_test_is_there`\n```",
        // Behind a semicolon nothing is said of the file any more.
        "`engine/tests/kill.rs`: twenty kills; `a_name_of_nothing_is_found`",
    ];
    for text in sound {
        assert_eq!(problems(text), 0, "{text}");
    }
    // Put together here, as this file is searched as well.
    let none = ["no", "such", "test", "is", "there"].join("_");
    let short = ["no", "suchtest"].join("_");
    let wrong = [
        format!("`{none}`"),
        format!("`documents::{none}`"),
        format!("`{short}`"),
        format!("`documents::{short}`"),
        format!("`{none}::a_name_of_nothing_is_found`"),
        format!("`engine/tests/{none}.rs`"),
        format!("`{none}.rs`"),
        "`engine/tests/kill.rs`: `a_name_of_nothing_is_found`".to_owned(),
    ];
    for text in wrong {
        assert_eq!(problems(&text), 1, "{text}");
    }
}

/// What stands between two backquotes.
struct Name {
    line: usize,
    text: String,
    /// The file or folder that the document says it is in.
    within: Option<String>,
}

/// All names of a document that are not in a block of code.
fn names_of(text: &str) -> Vec<Name> {
    let mut is_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_block ^= is_fence;
        if !is_block && !is_fence {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    let mut names: Vec<Name> = Vec::new();
    let (mut line, mut within) = (1, None);
    for (place, part) in prose.split('`').enumerate() {
        if place % 2 == 1 {
            let (text, within) = (part.to_owned(), within.clone());
            names.push(Name { line, text, within });
        } else if part.starts_with(':') && part[1..].trim().is_empty() {
            let before = names.last().map(|name| name.text.clone());
            within = before.filter(|text| is_file(text));
        } else if !matches!(part.trim(), "," | "and" | ", and") {
            within = None;
        }
        line += part.matches('\n').count();
    }
    names
}

/// Whether this is to be the name of a file or folder.
fn is_file(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.chars().all(is_plain) && (text.contains('/') || is_read(text))
}

fn is_read(path: &str) -> bool {
    extension(path).is_some_and(|it| EXTENSIONS.contains(&it))
}

fn extension(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(_, extension)| extension)
}

/// The modules and the last name of a path, if this is to be one.
fn path_of(text: &str) -> Option<(Vec<&str>, &str)> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut parts: Vec<&str> = text.split("::").collect();
    let last = parts.pop()?;
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(is_plain);
    let is_path = parts.iter().all(is_word) && (last == "*" || is_word(&last));
    is_path.then_some((parts, last))
}

/// What is in the repository.
struct Tree {
    /// All files and folders, relative to it.
    paths: BTreeSet<String>,
    /// What is written by hand, by path.
    texts: BTreeMap<String, String>,
    /// The files in which a function of this name is.
    functions: BTreeMap<String, BTreeSet<String>>,
    /// Files and folders of sources without their extension, and what is declared as a module or crate.
    modules: BTreeSet<String>,
    /// All words of sources and scripts.
    words: HashSet<String>,
}

impl Tree {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut tree = Self {
            paths: BTreeSet::new(),
            texts: BTreeMap::new(),
            functions: BTreeMap::new(),
            modules: BTreeSet::new(),
            words: HashSet::new(),
        };
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder is readable") {
                let entry = entry.expect("a folder is readable");
                let name = entry.file_name().into_string().expect("names are text");
                if LEFT_OUT.contains(&name.as_str()) {
                    continue;
                }
                let path = format!("{folder}{name}");
                if entry.file_type().expect("a name has a type").is_dir() {
                    folders.push(format!("{path}/"));
                } else if is_read(&path) {
                    let text = fs::read_to_string(entry.path()).expect("it is text");
                    tree.take(&path, &text);
                    tree.texts.insert(path.clone(), text);
                }
                tree.paths.insert(path);
            }
        }
        tree
    }

    /// Learns what a file has to offer.
    fn take(&mut self, path: &str, text: &str) {
        let source = path.strip_suffix(".rs");
        if matches!(extension(path), Some("md" | "hex")) {
            return;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let words: Vec<&str> = text
            .split(|c| !is_word(c))
            .filter(|word| !word.is_empty())
            .collect();
        for word in &words {
            if !self.words.contains(*word) {
                self.words.insert((*word).to_owned());
            }
        }
        let Some(source) = source else {
            return;
        };
        self.modules.extend(source.split('/').map(str::to_owned));
        for pair in words.windows(2) {
            match pair[0] {
                "fn" => {
                    let files = self.functions.entry(pair[1].to_owned()).or_default();
                    files.insert(path.to_owned());
                }
                "mod" | "use" => {
                    self.modules.insert(pair[1].to_owned());
                }
                _ => {}
            }
        }
    }

    fn check(&self, name: &Name) -> Result<(), String> {
        let text = name.text.as_str();
        if is_file(text) {
            let is_there = self.named(text).next().is_some();
            return is_there
                .then_some(())
                .ok_or(format!("there is no file or folder `{text}`"));
        }
        let Some((modules, last)) = path_of(text) else {
            return Ok(());
        };
        if let Some(none) = modules.iter().find(|&&it| !self.modules.contains(it)) {
            return Err(format!("`{text}`: there is no module `{none}`"));
        }
        if last == "*" {
            return Ok(());
        }
        let files = self.functions.get(last);
        let is_test = last.split('_').count() >= WORDS_OF_A_TEST;
        let is_module = self.modules.contains(last);
        if files.is_none() && (is_test || !modules.is_empty()) && !is_module {
            return Err(format!("there is no function `{text}`"));
        }
        if !self.words.contains(last) && !is_module {
            return Err(format!("`{text}` is a word of no source"));
        }
        let (Some(within), Some(files)) = (&name.within, files) else {
            return Ok(());
        };
        let is_in = |file: &str, path: &str| {
            let folder = path.strip_suffix(".rs").unwrap_or(path);
            let rest = file.strip_prefix(folder);
            file == path || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut places = self.named(within);
        if places.any(|path| files.iter().any(|file| is_in(file, path))) {
            return Ok(());
        }
        Err(format!("`{text}` is not in `{within}`, but in {files:?}"))
    }

    /// The files and folders that end in this path.
    fn named<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let path = path.trim_end_matches('/');
        let ends = move |whole: &&str| {
            let before = whole.strip_suffix(path);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        self.paths.iter().map(String::as_str).filter(ends)
    }
}
