//! Names of code in back ticks on a page: each exists in the sources.

use std::collections::{BTreeSet, HashSet};

use super::checkout::{Finding, SourceFile};
use super::code;
use super::exceptions::Exceptions;

/// The words before a declared name.
const DECLARING: [&str; 9] = [
    "fn", "struct", "enum", "trait", "type", "const", "static", "mod", "union",
];

/// The pages, or folders of pages, whose names are checked.
const PAGES: [&str; 2] = ["ARCHITECTURE.md", "docs/contributing/"];

const TIDY: &str = "crates/workspace-tasks/src/tidy/";

/// Names of other projects: crates, functions and settings, each of which a page for contributors explains.
const FOREIGN: &[&str] = &[
    "PR_GET_AUXV",
    "encoding_rs",
    "idna_adapter",
    "jiff::Timestamp::now",
    "miniz_oxide",
    "mmap_threshold",
    "top_pad",
    "trim_threshold",
];

/// The file of these lists.
const LIST: &str = "documented_names.rs";

/// The Rust sources of the checkout.
struct Sources<'t> {
    files: Vec<&'t SourceFile>,
    /// The words of the lines that are no comments, without plain ones such as `text`.
    words: HashSet<&'t str>,
    /// The declared names, with the folder of their crate.
    declared: HashSet<(&'t str, &'t str)>,
}

impl<'t> Sources<'t> {
    /// The sources in these files, without tidy, whose tests have invented names.
    fn of(files: &'t [SourceFile]) -> Self {
        let files: Vec<&SourceFile> = files
            .iter()
            .filter(|file| file.path.ends_with(".rs"))
            .collect();
        let (mut all, mut declared) = (HashSet::new(), HashSet::new());
        for file in files.iter().filter(|file| !file.path.starts_with(TIDY)) {
            let words = words(&file.text);
            let pairs = words.windows(2).filter_map(|pair| match pair {
                [word, name] if DECLARING.contains(word) => Some(*name),
                _ => None,
            });
            declared.extend(pairs.map(|name| (crate_folder(&file.path), name)));
            all.extend(words.into_iter().filter(|word| may_be_named(word)));
        }
        Self {
            files,
            words: all,
            declared,
        }
    }

    /// Whether the name is a word of the code, a module or a crate.
    fn know(&self, name: &str) -> bool {
        self.words.contains(name)
            || self.has_crate(name)
            || self.files.iter().any(|file| is_module(&file.path, name))
    }

    /// Whether any code has the word.
    fn has_word(&self, word: &str) -> bool {
        match may_be_named(word) {
            true => self.know(word),
            false => self.have("crates/", word),
        }
    }

    /// Whether the code of the crate has the word.
    fn have(&self, folder: &str, word: &str) -> bool {
        let mut files = self.files_below(folder);
        files.any(|file| words(&file.text).contains(&word) || is_module(&file.path, word))
    }

    /// Whether the crate declares the name.
    fn declare(&self, folder: &str, name: &str) -> bool {
        let mut files = self.files_below(folder);
        self.declared.contains(&(folder, name)) || files.any(|file| is_module(&file.path, name))
    }

    /// Whether any crate declares the name.
    fn declare_anywhere(&self, name: &str) -> bool {
        self.declared.iter().any(|(_, existing)| *existing == name)
            || self.files.iter().any(|file| is_module(&file.path, name))
    }

    fn has_crate(&self, name: &str) -> bool {
        self.files_below(&folder_of(name)).next().is_some()
    }

    fn files_below(&self, folder: &str) -> impl Iterator<Item = &SourceFile> {
        let files = self.files.iter().copied();
        files.filter(move |file| file.path.starts_with(folder))
    }
}

/// The folder of the crate of a file, with the slash at its end.
fn crate_folder(path: &str) -> &str {
    let slashes = path.match_indices('/').nth(1);
    slashes.map_or(path, |(at, _)| path.get(..=at).unwrap_or(path))
}

/// The folder of a crate by its name in code.
fn folder_of(name: &str) -> String {
    format!("crates/{}/", name.replace('_', "-"))
}

fn is_module(path: &str, name: &str) -> bool {
    path.ends_with(&format!("/{name}.rs")) || path.contains(&format!("/{name}/"))
}

/// The words of the lines that are no comments.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        let mut start = 0;
        for (at, byte) in line.bytes().chain([b' ']).enumerate() {
            if code::is_word(byte) {
                continue;
            }
            if start < at {
                words.extend(line.get(start..at));
            }
            start = at + 1;
        }
    }
    words
}

/// Checks the pages for contributors.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let sources = Sources::of(files);
    let pages = files.iter().filter(|file| {
        file.path.ends_with(".md") && PAGES.iter().any(|start| file.path.starts_with(start))
    });
    let mut foreign = Exceptions::new(LIST, FOREIGN.iter().copied());
    let mut findings = Vec::new();
    for page in pages {
        let unknown = unknown(&page.text, &sources).into_iter();
        let unknown = unknown.filter(|name| !foreign.allow(name));
        findings.extend(unknown.map(|name| Finding {
            file: page.path.clone(),
            text: format!("names `{name}`, which is not in the code"),
        }));
    }
    findings.extend(foreign.unneeded(files));
    findings
}

/// The texts in single back ticks on a page, without its blocks of code.
pub fn quoted(page: &str) -> Vec<&str> {
    let blocks = page.split("```").step_by(2);
    let words = blocks.flat_map(|block| block.split('`').skip(1).step_by(2));
    words.collect()
}

/// The names of code on the page that the sources do not have.
fn unknown<'p>(page: &'p str, sources: &Sources<'_>) -> BTreeSet<&'p str> {
    let names = quoted(page).into_iter().filter_map(name_of_code);
    names.filter(|name| !exists(name, sources)).collect()
}

/// A name of code: a path with `::`, a word with an underscore, or one in camel case.
fn name_of_code(word: &str) -> Option<&str> {
    let word = word.trim_end_matches("()");
    let is_name = !word.is_empty()
        && word.bytes().all(|byte| code::is_word(byte) || byte == b':')
        && !word.starts_with(|first: char| first.is_ascii_digit());
    let lower_then_upper = word
        .as_bytes()
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.is_ascii_lowercase() && b.is_ascii_uppercase()));
    (is_name && (word.contains("::") || word.contains('_') || lower_then_upper)).then_some(word)
}

/// Whether a word of the code may be a name by [`name_of_code`]; quicker than that.
fn may_be_named(word: &str) -> bool {
    let mut letters = word.bytes();
    letters.any(|byte| byte == b'_' || byte.is_ascii_uppercase())
}

fn exists(name: &str, sources: &Sources<'_>) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    match parts[..] {
        [word] => sources.know(word),
        [first, .., last] if sources.has_crate(first) => {
            let folder = folder_of(first);
            let middle = parts.iter().skip(1).take(parts.len().saturating_sub(2));
            middle
                .into_iter()
                .all(|part| sources.declare(&folder, part))
                && sources.have(&folder, last)
        }
        [first, .., last] => sources.declare_anywhere(first) && sources.has_word(last),
        [] => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_names(page: &str) -> Vec<String> {
        let findings = check(&[
            SourceFile::new("docs/contributing/a.md", page),
            SourceFile::new("docs/a.md", "`not_checked`"),
            SourceFile::new(
                "crates/workspace-tasks/src/tidy/pages.rs",
                "let a = invented_name;",
            ),
            SourceFile::new(
                "crates/disk-store/src/lib.rs",
                "mod pages;\n// gone_function\npub struct PageCache;\nimpl PageCache { pub fn read_page() {} }\n",
            ),
            SourceFile::new("crates/disk-store/src/pages.rs", "pub fn split() {}\n"),
        ]);
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn names_in_the_code_are_known() {
        let page = "`PageCache`, `PageCache::read_page`, `read_page()`, `disk_store::pages::split`, `pages`, \
                    `kubectl get pods`, `a-b`\n```\n`NotCode::at_all`\n```\n";
        assert_eq!(unknown_names(page), Vec::<String>::new());
    }

    #[test]
    fn names_that_the_code_lacks_are_findings() {
        for name in [
            "gone_function",
            "invented_name",
            "PageStore",
            "PageCache::write_page",
            "disk_store::files::split",
            "disk_store::pages::join",
            "tape_store::pages",
        ] {
            assert_eq!(unknown_names(&format!("`{name}`")).len(), 1, "{name}");
        }
    }
}
