//! Links the program to a fixed address in memory, and names the commit that it is built from.
//!
//! A position-independent program has tables of addresses, mostly of functions, that each process writes anew when it
//! starts. There is a shim process for each pod, which needs nearly no other memory: 1.9 MiB of its own with a
//! position-independent program, and 0.2 MiB at a fixed address (docs/benchmarks.md, "a shim, memory of its own").
//! Stacks, heaps and shared libraries have random addresses in both cases.

use std::path::Path;

#[path = "src/commit.rs"]
mod commit;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/commit.rs");
    name_commit();
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bin=mainstay=-no-pie");
    }
}

/// Sets `MAINSTAY_COMMIT` to its value in the environment or to the commit of the checkout. Only a release
/// build does so, because other builds would otherwise be repeated after each commit.
fn name_commit() {
    println!("cargo:rerun-if-env-changed=MAINSTAY_COMMIT");
    let configured = std::env::var("MAINSTAY_COMMIT").unwrap_or_default();
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match configured.is_empty() && is_release {
        true => commit::Commit::of_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")),
        false => commit::Commit {
            id: configured,
            files: Vec::new(),
        },
    };
    for file in commit.files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    println!("cargo:rustc-env=MAINSTAY_COMMIT={}", commit.id);
}
