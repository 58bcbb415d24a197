//! Links the program with few addresses that each process must write when it starts, and names the commit that the
//! program is built from.
//!
//! There is a shim process for each pod, which needs nearly no other memory (docs/benchmarks.md, "a shim, memory of
//! its own"). Two choices keep its written pages few:
//!
//! - A position-independent program has tables of addresses, mostly of functions, that each process writes: 1.9 MiB of
//!   own memory instead of 0.28 at a fixed address. Stacks, heaps and shared libraries have random addresses in both
//!   cases.
//! - The addresses of functions of the C library are written in any case. They are in the order in which the linker
//!   first reads the names: scattered over 23 pages, or on three if the names come first. That saves 0.07 MiB, a
//!   quarter. A name that is missing in the file costs at most a page; a name that the program does not use costs nothing.

use std::path::Path;

#[path = "src/commit.rs"]
mod commit;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/commit.rs");
    println!("cargo:rerun-if-changed=c-library-functions.txt");
    name_commit();
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-arg-bin=mainstay=-no-pie");
        for function in include_str!("c-library-functions.txt").lines() {
            println!("cargo:rustc-link-arg-bin=mainstay=-Wl,--undefined={function}");
        }
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
