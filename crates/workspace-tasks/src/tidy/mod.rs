//! The rules of architecture and house that a machine can check. Every finding names the file and
//! the rule; all are reported, not just the first.

mod architecture;
mod behaviours;
mod benchmarks;
mod blocking;
mod budgets;
mod checkout;
mod citations;
mod clocks;
mod code;
mod decisions;
mod decoders;
mod dependencies;
mod documented_names;
mod documents;
mod exceptions;
mod imports;
mod layers;
mod leaks;
mod lengths;
mod marks;
mod modules;
mod names;
mod pages;
mod repetitions;
mod rows;
mod sentences;
mod sources;
mod task_pages;
mod walks;

use std::path::Path;

use anyhow::{Result, bail};

use crate::licences;
use checkout::Finding;

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
    let files = checkout::read(root)?;
    let mut findings = dependencies::check(&files)?;
    findings.extend(sources::check(&files));
    findings.extend(documents::check(root, &files));
    findings.extend(sentences::check(&files));
    findings.extend(citations::check(&files));
    findings.extend(marks::check(&files));
    findings.extend(modules::check(&files));
    findings.extend(names::check(&files));
    findings.extend(layers::check(&files));
    findings.extend(blocking::check(&files));
    findings.extend(clocks::check(&files));
    findings.extend(leaks::check(&files));
    findings.extend(walks::check(&files));
    findings.extend(decoders::check(&files));
    findings.extend(licences(root)?);
    findings.extend(pages::check(&files));
    findings.extend(repetitions::check(&files));
    findings.extend(rows::check(&files));
    findings.extend(budgets::check(&files));
    findings.extend(task_pages::check(&files));
    findings.extend(lengths::check(&files));
    findings.extend(decisions::check(&files));
    findings.extend(behaviours::check(&files));
    findings.extend(benchmarks::check(&files));
    findings.extend(architecture::check(&files));
    findings.extend(documented_names::check(&files));
    findings.sort();
    Ok(findings)
}

fn licences(root: &Path) -> Result<Option<Finding>> {
    let is_current = licences::is_current(root)?;
    Ok((!is_current).then(|| Finding {
        file: licences::FILE.to_owned(),
        text: "is not the text of the present packages: cargo xtask licences".to_owned(),
    }))
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
