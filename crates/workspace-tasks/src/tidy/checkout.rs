//! The files of the checkout, and the findings in them.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::code;

/// Crates that are not in the product: tests, and tools of the developers.
pub const AROUND: &[&str] = &[
    "csi-test-driver",
    "end-to-end",
    "fuzzing",
    "model-check",
    "schema-validation",
    "cluster-simulation",
    "workspace-tasks",
];

/// The folders and files of the checkout that are checked.
const FOLDERS: [&str; 6] = ["crates", "docs", "examples", ".ci", ".cargo", ".config"];
const FILES: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    ROOT_MANIFEST,
    "clippy.toml",
];
const ROOT_MANIFEST: &str = "Cargo.toml";
/// Code that nobody edits by hand: a test of `service-protocols` checks it.
const GENERATED: &str = "crates/service-protocols/src/generated";

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the workspace.
    pub file: String,
    /// The problem and the alternative.
    pub text: String,
}

/// A file of the checkout, read.
#[derive(Debug)]
pub struct SourceFile {
    /// Path relative to the workspace, with forward slashes.
    pub path: String,
    /// Contents.
    pub text: String,
    /// The code of a Rust file (see [`code`]); blank in a file of tests, and empty in every other file.
    pub code: String,
    /// The byte ranges of the items for tests; the whole file if the file is a test.
    tests: Vec<Range<usize>>,
}

impl SourceFile {
    /// A file with its code.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let masked = match path.ends_with(".rs") {
            true => code::masked(&text),
            false => String::new(),
        };
        let tests = match has_tests_alone(&path) {
            true => std::iter::once(0..text.len()).collect(),
            false => code::test_items(&masked),
        };
        Self {
            code: code::without(&masked, &tests),
            path,
            text,
            tests,
        }
    }

    /// The text without the items for tests.
    pub fn product_text(&self) -> String {
        code::without(&self.text, &self.tests)
    }

    /// The text of the items for tests.
    pub fn tests_text(&self) -> String {
        let parts = self.tests.iter();
        let parts = parts.filter_map(|part| self.text.get(part.clone()));
        parts.collect::<Vec<_>>().join("\n")
    }

    fn mark_as_test(&mut self) {
        self.code = String::new();
        self.tests = std::iter::once(0..self.text.len()).collect();
    }
}

/// The names of the crates of these paths.
pub fn crate_names(paths: &[&str]) -> BTreeSet<String> {
    let names = paths.iter().filter_map(|path| path.split('/').nth(1));
    names.map(str::to_owned).collect()
}

/// Whether these are the files of a whole checkout, and not those of a unit test.
pub fn is_whole(files: &[SourceFile]) -> bool {
    files.iter().any(|file| file.path == ROOT_MANIFEST)
}

/// Reads the files of the checkout at `root`.
pub fn read(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for top in FOLDERS {
        collect(root, &root.join(top), &mut files)?;
    }
    for name in FILES {
        let text = fs::read_to_string(root.join(name)).with_context(|| format!("read {name}"))?;
        files.push(SourceFile::new(name, text));
    }
    mark_tests(&mut files);
    Ok(files)
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        if path == root.join(GENERATED) {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path
                .strip_prefix(root)
                .context("a file outside the workspace")?;
            let relative = relative.to_string_lossy().replace('\\', "/");
            files.push(SourceFile::new(relative, text));
        }
    }
    Ok(())
}

/// Whether a file has tests alone, by its name.
fn has_tests_alone(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

/// Marks the files of modules that are declared for tests alone.
fn mark_tests(files: &mut [SourceFile]) {
    let mut marked: BTreeSet<String> = BTreeSet::new();
    for file in files.iter().filter(|file| !has_tests_alone(&file.path)) {
        let folder = folder_of(&file.path);
        let items = code::masked(&file.tests_text());
        let modules = code::modules(&items).into_iter();
        marked.extend(modules.map(|name| format!("{folder}/{name}")));
    }
    for file in files.iter_mut().filter(|file| file.path.ends_with(".rs")) {
        let stem = file.path.trim_end_matches(".rs");
        let is_inside = |module: &String| {
            let rest = stem.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if marked.iter().any(is_inside) {
            file.mark_as_test();
        }
    }
}

/// The folder of the submodules of a module, by its file.
fn folder_of(path: &str) -> &str {
    let stem = path.trim_end_matches(".rs");
    let roots = ["/mod", "/lib", "/main"];
    let root = roots.iter().find_map(|root| stem.strip_suffix(root));
    root.unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_for_tests_have_no_code_of_the_product() {
        let mut files = [
            SourceFile::new("crates/a/src/lib.rs", "#[cfg(test)]\nmod model;\nmod b;"),
            SourceFile::new("crates/a/src/model/mod.rs", "fn a() {}"),
            SourceFile::new("crates/a/src/model/part.rs", "fn a() {}"),
            SourceFile::new("crates/a/src/models.rs", "fn a() {}"),
            SourceFile::new(
                "crates/a/src/b/mod.rs",
                "fn a() {}\n#[cfg(test)]\nmod tests;",
            ),
            SourceFile::new("crates/a/src/b/tests.rs", "fn a() {}"),
            SourceFile::new("crates/a/tests/c.rs", "fn a() {}"),
        ];
        mark_tests(&mut files);
        let product = files.iter().filter(|file| !file.code.trim().is_empty());
        let product: Vec<&str> = product.map(|file| file.path.as_str()).collect();
        assert_eq!(
            product,
            [
                "crates/a/src/lib.rs",
                "crates/a/src/models.rs",
                "crates/a/src/b/mod.rs"
            ]
        );
    }

    #[test]
    fn a_file_is_cut_into_product_and_tests() {
        let text = "fn a() {} // first\n#[cfg(test)]\nmod tests { \"b\" }\nfn c() {}\n";
        let file = SourceFile::new("crates/a/src/b.rs", text);
        assert!(file.product_text().contains("// first"));
        assert!(!file.product_text().contains("\"b\"") && file.product_text().contains("fn c"));
        assert_eq!(file.tests_text(), "#[cfg(test)]\nmod tests { \"b\" }");
        assert!(!file.code.contains("first") && file.code.contains("fn c"));
    }
}
