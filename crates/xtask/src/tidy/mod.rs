//! The rules of architecture and house that a machine can check. Every finding names the file and
//! the rule; all are reported, not just the first.

mod blocking;
mod citations;
mod clocks;
mod decoders;
mod dependencies;
mod documents;
mod layers;
mod leaks;
mod modules;
mod packages;
mod pages;
mod repetitions;
mod rows;
mod sentences;
mod sources;
mod task_pages;
mod walks;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
}

impl SourceFile {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }
}

/// Crates that are not in the product: tests, and tools of the developers.
const AROUND: &[&str] = &[
    "csi-test-driver",
    "end-to-end",
    "fuzzing",
    "model-check",
    "schema-check",
    "simulation",
    "xtask",
];

/// Checks the checkout at `root`.
pub fn run(root: &Path) -> Result<()> {
    let findings = findings(root)?;
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{}: {}", finding.file, finding.text);
    }
    bail!("{} rule(s) broken", findings.len())
}

fn findings(root: &Path) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    for top in ["crates", "docs", "examples", ".ci", ".cargo", ".config"] {
        collect(root, &root.join(top), &mut files)?;
    }
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "Cargo.toml",
        "clippy.toml",
    ] {
        let text = fs::read_to_string(root.join(name)).with_context(|| format!("read {name}"))?;
        files.push(SourceFile::new(name, text));
    }
    let mut findings = dependencies::check(&files)?;
    findings.extend(sources::check(&files));
    findings.extend(documents::check(root, &files));
    findings.extend(sentences::check(&files));
    findings.extend(citations::check(&files));
    findings.extend(modules::check(&files));
    findings.extend(layers::check(&files));
    findings.extend(blocking::check(&files));
    findings.extend(clocks::check(&files));
    findings.extend(leaks::check(&files));
    findings.extend(walks::check(&files));
    findings.extend(decoders::check(&files));
    findings.extend(packages::check(root)?);
    findings.extend(pages::check(&files));
    findings.extend(repetitions::check(&files));
    findings.extend(rows::check(&files));
    findings.extend(task_pages::check(&files));
    findings.sort();
    Ok(findings)
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_checkout_is_tidy() {
        let findings = findings(&crate::workspace_root()).unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
