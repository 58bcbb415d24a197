//! Links the program to a fixed place in memory, and names the commit that it is built from.
//!
//! A program that may be loaded anywhere has three megabytes of tables (of functions, mostly) that are
//! written again in each process, when it starts. There is a process for each container, which needs next
//! to nothing else; at a fixed place the tables are the file's, and shared by all. Stacks, heaps and
//! libraries are where chance puts them, as before.

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
        // Equal functions are linked once: generic code of different types is often the same. It is an
        // option of lld, the compiler's own linker there.
        if target("ARCH") == "x86_64" {
            println!("cargo:rustc-link-arg-bin=mainstay=-Wl,--icf=all,-O2");
        }
    }
}

/// Names the commit: `MAINSTAY_COMMIT`, or that of the checkout. Only a release asks for it, so that other builds
/// are not made again for each commit.
fn name_commit() {
    println!("cargo:rerun-if-env-changed=MAINSTAY_COMMIT");
    let given = std::env::var("MAINSTAY_COMMIT").unwrap_or_default();
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let found = match given.is_empty() && is_release {
        true => commit::Commit::of_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")),
        false => commit::Commit {
            id: given,
            files: Vec::new(),
        },
    };
    for file in found.files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    println!("cargo:rustc-env=MAINSTAY_COMMIT={}", found.id);
}
