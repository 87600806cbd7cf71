//! The text to index: which files, how they are cut into pieces of work, and what a word is.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A section ends with the first line that ends beyond this, so that clerks share even one large
/// file.
const SECTION_BYTES: usize = 32 * 1024;

/// A longer word is indexed by its beginning.
const WORD_BYTES_MAX: usize = 128;

/// Which files of a folder are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// This repository's own sources and documents.
    OwnSources,
    /// A file, or all text files below a folder.
    Path(PathBuf),
}

/// Why there is nothing to index.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    #[error("cannot read {}: {source}; pass a file or folder that exists with --input", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} has no words in UTF-8 text; pass another file or folder with --input", path.display())]
    NoWords { path: PathBuf },
    #[error("{} has more files or lines than a position can name; pass a part of it", path.display())]
    TooLarge { path: PathBuf },
}

/// All of the text, in memory, which the index built from it exceeds by far.
#[derive(Debug)]
pub(crate) struct Text {
    files: Vec<String>,
    sections: Vec<Section>,
    /// Files that are not UTF-8 text, or could not be read.
    pub(crate) skipped: u64,
}

/// Some whole lines of one file, with a word in at least one of them.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) file: u32,
    first_line: u32,
    bytes: Range<usize>,
}

impl Text {
    /// Reads all of the input.
    pub(crate) fn read(input: &Input) -> Result<Self, TextError> {
        let (root, is_own) = match input {
            Input::OwnSources => (Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), true),
            Input::Path(path) => (path.as_path(), false),
        };
        let mut text = Self {
            files: Vec::new(),
            sections: Vec::new(),
            skipped: 0,
        };
        for path in files_below(root, is_own)? {
            match fs::read(&path).map(String::from_utf8) {
                Ok(Ok(content)) if !content.contains('\0') => {
                    text.add(content).ok_or(TextError::TooLarge { path })?;
                }
                _ => text.skipped += 1,
            }
        }
        if text.sections.is_empty() {
            return Err(TextError::NoWords {
                path: root.to_path_buf(),
            });
        }
        Ok(text)
    }

    /// The pieces of work of one round; at least one.
    pub(crate) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The words of a section, as written, each with its line, from 1.
    pub(crate) fn words<'a>(
        &'a self,
        section: &Section,
    ) -> impl Iterator<Item = (u32, &'a str)> + use<'a> {
        let lines = self.files[section.file as usize][section.bytes.clone()].lines();
        (section.first_line..)
            .zip(lines)
            .flat_map(|(number, line)| words_of_line(line).map(move |word| (number, word)))
    }

    pub(crate) fn files_count(&self) -> u64 {
        self.files.len() as u64
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Takes in a file; `None` if there are more files, or lines in it, than their numbers can
    /// count.
    fn add(&mut self, content: String) -> Option<()> {
        let file = u32::try_from(self.files.len()).ok()?;
        let (mut begin, mut end) = (0, 0);
        let (mut first_line, mut line_count) = (1, 0);
        for line in content.split_inclusive('\n') {
            end += line.len();
            line_count += 1;
            if end - begin >= SECTION_BYTES || end == content.len() {
                if words_of_line(&content[begin..end]).next().is_some() {
                    self.sections.push(Section {
                        file,
                        first_line,
                        bytes: begin..end,
                    });
                }
                begin = end;
                first_line = u32::try_from(1 + line_count).ok()?;
            }
        }
        self.files.push(content);
        Some(())
    }
}

/// Writes a word the way in which it is indexed: in lower case, and not overly long.
pub(crate) fn normalise(word: &str, normal: &mut String) {
    normal.clear();
    for letter in word.chars().flat_map(char::to_lowercase) {
        if normal.len() + letter.len_utf8() > WORD_BYTES_MAX {
            return;
        }
        normal.push(letter);
    }
}

fn words_of_line(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .filter(|word| !word.is_empty())
}

/// A file itself, or all files below a folder, sorted. Links are not followed, so that the walk
/// ends.
fn files_below(root: &Path, is_own: bool) -> Result<Vec<PathBuf>, TextError> {
    let unreadable = |path: &Path, source| TextError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    if fs::metadata(root)
        .map_err(|source| unreadable(root, source))?
        .is_file()
    {
        return Ok(vec![root.to_path_buf()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|source| unreadable(&folder, source))? {
            let entry = entry.map_err(|source| unreadable(&folder, source))?;
            let kind = entry
                .file_type()
                .map_err(|source| unreadable(&entry.path(), source))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") || (is_own && name == "target") {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && (!is_own || is_source(&entry.path())) {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn is_source(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "rs" || ending == "md" || ending == "toml")
}
