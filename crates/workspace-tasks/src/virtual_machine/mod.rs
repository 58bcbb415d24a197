//! `cargo xtask virtual-machine-test`: the tests of containers on the kernel of a distribution with cgroups
//! v2 only, and the tests of network storage and of WireGuard, in a virtual machine that shares this
//! machine's files.

mod image;
mod machine;

use std::collections::{BTreeMap, BTreeSet};
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

/// The environment in which a program starts in the machine: functions of `run.sh`.
#[derive(Clone, Copy)]
enum StartEnvironment {
    /// In a cgroup namespace, as in a container.
    Container,
    /// As a service of a service manager.
    Service,
}

/// A test program.
struct Program {
    /// The name for the filter.
    name: &'static str,
    /// The name of the target in cargo.
    target: &'static str,
    environment: StartEnvironment,
    /// Arguments that select some tests of the program, run one at a time; the user's words replace them.
    words: Option<&'static [&'static str]>,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "containers",
        target: "containers",
        environment: StartEnvironment::Container,
        words: None,
    },
    Program {
        name: "agent",
        target: "agent",
        environment: StartEnvironment::Service,
        words: None,
    },
    // A whole server, with a Ceph and an NFS server.
    Program {
        name: "storage",
        target: "walks",
        environment: StartEnvironment::Service,
        words: Some(&["network_storage::", "--test-threads=1"]),
    },
    // Nodes in network namespaces, with the WireGuard of the kernel.
    Program {
        name: "encryption",
        target: "encryption",
        environment: StartEnvironment::Service,
        words: None,
    },
    // Whole servers of nodes that encrypt.
    Program {
        name: "encrypted-nodes",
        target: "walks",
        environment: StartEnvironment::Service,
        words: Some(&["encrypted_traffic::", "--test-threads=1"]),
    },
];

/// Builds the test programs and runs them in a virtual machine.
pub fn run(root: &Path, options: &VirtualMachine) -> Result<()> {
    let chosen = |name: &str| {
        options
            .filter
            .as_deref()
            .is_none_or(|part| name.contains(part))
    };
    let chosen: Vec<&Program> = PROGRAMS.iter().filter(|row| chosen(row.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = PROGRAMS.iter().map(|row| row.name).collect();
        bail!("no test program matches; there are: {}", names.join(", "));
    }
    let target = std::path::absolute(setup::target(root)).context("find the target directory")?;
    if chosen.iter().any(|row| row.target == "walks") {
        setup::run(root)?;
        let program = target.join("release/mainstay");
        if !program.is_file() {
            bail!("{} is missing: cargo build --release", program.display());
        }
    }
    let programs = build(root, &chosen)?;
    let run = || {
        let image = Image::make(&target, |image| script(image, &programs, &options.words))?;
        machine::run(&image, Processor::choose(options.emulate))
    };
    let mut report = run()?;
    if report.has_hung {
        println!("xtask: an emulated processor stood still: the virtual machine starts again …");
        report = run()?;
    }
    let failed: Vec<String> = programs
        .keys()
        .filter_map(|name| match report.exit_codes.get(name) {
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

/// Builds the test programs, with the features that they have in a build of the workspace.
fn build(root: &Path, chosen: &[&Program]) -> Result<BTreeMap<String, PathBuf>> {
    let targets: BTreeSet<&str> = chosen.iter().map(|row| row.target).collect();
    let mut build = cargo::command(root);
    build
        .args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .arg("--workspace")
        .args(targets.iter().flat_map(|target| ["--test", target]))
        .stderr(Stdio::inherit());
    let output = build.output().context("start cargo")?;
    if !output.status.success() {
        bail!("the test programs cannot be built: {}", output.status);
    }
    let report = String::from_utf8(output.stdout).context("read what cargo built")?;
    let built: BTreeMap<String, PathBuf> = report.lines().filter_map(executable).collect();
    let mut programs = BTreeMap::new();
    for Program { name, target, .. } in chosen {
        let path = built.get(*target).cloned();
        let path = path.with_context(|| format!("cargo built no test program {target}"))?;
        programs.insert((*name).to_owned(), path);
    }
    Ok(programs)
}

/// Name and path of a test program, if the line of cargo's output names one.
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
    for row in PROGRAMS {
        let function = match row.environment {
            StartEnvironment::Container => "in_container",
            StartEnvironment::Service => "as_service",
        };
        if let Some(path) = programs.get(row.name) {
            script += &format!("{function} {} {}", row.name, quoted(path.display()));
            let row_words = row.words.filter(|_| words.is_empty()).unwrap_or_default();
            for word in row_words
                .iter()
                .copied()
                .chain(words.iter().map(String::as_str))
            {
                script += &format!(" {}", quoted(word));
            }
            script.push('\n');
        }
    }
    script + "/run/busybox poweroff -f\n"
}

/// Quotes a word for the shell.
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
        let walks = ("storage".to_owned(), PathBuf::from("/t/walks"));
        let programs = [(name, path), walks].into();
        let printed = |words: &[String]| script(&image, &programs, words);
        let all = printed(&[]);
        assert!(all.starts_with("KERNEL='/k'\nSCRATCH='/t/tmp'\n"), "{all}");
        let end = "as_service agent '/t/it'\\''s'\nas_service storage '/t/walks' \
            'network_storage::' '--test-threads=1'\n\
            /run/busybox poweroff -f\n";
        assert!(all.ends_with(end), "{all}");
        let one = printed(&["a b".to_owned()]);
        let end = "as_service agent '/t/it'\\''s' 'a b'\nas_service storage '/t/walks' 'a b'\n\
            /run/busybox poweroff -f\n";
        assert!(one.ends_with(end), "{one}");
    }
}
