//! `cargo xtask virtual-machine-test`: the tests of containers on the kernel of a distribution, with
//! control groups of version 2 alone, in a virtual machine that has this machine's files.

mod image;
mod machine;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, setup};
use image::Image;
use machine::Processor;

/// The arguments of the virtual machine test.
#[derive(clap::Args)]
pub struct VirtualMachine {
    /// Emulates the processor, also where the machine's own could be used
    #[arg(long)]
    emulate: bool,
    /// Only the test programs whose name contains this
    filter: Option<String>,
    /// Words for the test programs: parts of the names of tests
    #[arg(last = true)]
    words: Vec<String>,
}

/// The way to start a program there: functions of `run.sh`.
#[derive(Clone, Copy)]
enum Place {
    /// As in a container with its own cgroups.
    Container,
    /// As a service manager does.
    Service,
}

/// The test programs, by their names.
const PROGRAMS: &[(&str, Place)] = &[
    ("containers", Place::Container),
    ("agent", Place::Service),
    ("encryption", Place::Service),
];

/// Builds the test programs and runs them in a virtual machine.
pub fn run(root: &Path, wanted: &VirtualMachine) -> Result<()> {
    let chosen = |name: &str| {
        wanted
            .filter
            .as_deref()
            .is_none_or(|part| name.contains(part))
    };
    let mut programs = build(root)?;
    programs.retain(|name, _| chosen(name));
    if programs.is_empty() {
        let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
        bail!("no test program matches; there are: {}", names.join(", "));
    }
    let target = std::path::absolute(setup::target(root)).context("find the target directory")?;
    let image = Image::make(&target, |image| script(image, &programs, &wanted.words))?;
    let ends = machine::run(&image, Processor::choose(wanted.emulate))?;
    let failed: Vec<String> = programs
        .keys()
        .filter_map(|name| match ends.get(name) {
            Some(0) => None,
            Some(code) => Some(format!("{name} ended with {code}")),
            None => Some(format!("{name} did not end")),
        })
        .collect();
    if !failed.is_empty() {
        bail!("in the virtual machine: {}", failed.join(", "));
    }
    println!("xtask: all tests passed in the virtual machine");
    Ok(())
}

/// Builds the test programs, with the features that they have in a build of everything.
fn build(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut build = cargo::command(root);
    build
        .args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .arg("--workspace")
        .args(PROGRAMS.iter().flat_map(|(name, _)| ["--test", *name]))
        .stderr(Stdio::inherit());
    let output = build.output().context("start cargo")?;
    if !output.status.success() {
        bail!("the test programs cannot be built: {}", output.status);
    }
    let told = String::from_utf8(output.stdout).context("read what cargo built")?;
    let mut built: BTreeMap<String, PathBuf> = told.lines().filter_map(executable).collect();
    let mut programs = BTreeMap::new();
    for (name, _) in PROGRAMS {
        let path = built.remove(*name);
        let path = path.with_context(|| format!("cargo built no test program {name}"))?;
        programs.insert((*name).to_owned(), path);
    }
    Ok(programs)
}

/// Name and path of a program, where a line of cargo's is about one.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?;
    let path = message["executable"].as_str()?;
    Some((name.to_owned(), path.into()))
}

/// The script that the machine runs.
fn script(image: &Image, programs: &BTreeMap<String, PathBuf>, words: &[String]) -> String {
    let mut script = format!(
        "KERNEL={}\nSCRATCH={}\n{}",
        quoted(image.kernel.display()),
        quoted(image.scratch.display()),
        include_str!("run.sh")
    );
    for (name, place) in PROGRAMS {
        let function = match place {
            Place::Container => "in_container",
            Place::Service => "as_service",
        };
        if let Some(path) = programs.get(*name) {
            script += &format!("{function} {name} {}", quoted(path.display()));
            for word in words {
                script += &format!(" {}", quoted(word));
            }
            script.push('\n');
        }
    }
    script + "/run/busybox poweroff -f\n"
}

/// One word for a shell.
fn quoted(word: impl Display) -> String {
    format!("'{}'", word.to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_built_is_found_and_run() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"agent"},
            "executable":"/t/it's"}"#;
        let (name, path) = executable(&line.replace('\n', "")).unwrap();
        assert_eq!(
            (name.as_str(), quoted(path.display())),
            ("agent", r"'/t/it'\''s'".to_owned())
        );
        assert!(executable(r#"{"reason":"build-finished","success":true}"#).is_none());
        let image = Image {
            kernel: "/k".into(),
            scratch: "/t/tmp".into(),
            ..Image::default()
        };
        let script = script(&image, &[(name, path)].into(), &["a b".to_owned()]);
        assert!(
            script.starts_with("KERNEL='/k'\nSCRATCH='/t/tmp'\n"),
            "{script}"
        );
        let end = "as_service agent '/t/it'\\''s' 'a b'\n/run/busybox poweroff -f\n";
        assert!(script.ends_with(end), "{script}");
    }
}
