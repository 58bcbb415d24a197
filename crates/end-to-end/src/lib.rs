//! The harness of the end-to-end tests: the release binary, the standard client, a real registry, images made of Debian
//! packages. The tests themselves are in `tests/`.
//!
//! Everything that a test starts belongs to a value of this crate and is stopped with the value, by process ID.

pub mod api;
pub mod applications;
pub mod background;
pub mod cluster;
pub mod csi;
pub mod debian;
pub mod disk;
mod engine;
pub mod etcd;
pub mod helm;
pub mod image;
pub mod instance;
pub mod kubectl;
pub mod lan;
pub mod load;
pub mod machine;
pub mod mounts;
pub mod musl;
pub mod network;
pub mod page;
pub mod pasted;
pub mod process;
pub mod program;
mod read;
pub mod registry;
pub mod runc;
pub mod samples;
mod schema;
pub mod screen;
pub mod servers;
pub mod shell;
pub mod stateful_set;
pub mod streams;
pub mod wait;

use std::path::PathBuf;

pub use api::Api;
pub use cluster::{text, words};
pub use engine::ReservedRanges;
pub use helm::Helm;
pub use instance::{Instance, with_images, with_registry_of};
pub use kubectl::{Kubectl, Output};
pub use machine::Machine;
pub use network::Network;
pub use page::Page;
pub use pasted::Pasted;
pub use registry::Registry;
pub use shell::Shell;
pub use wait::{wait_for, wait_for_or_report, wait_for_text};

/// Cargo's target directory.
fn target() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

/// The checkout's `examples` directory, or a file in it.
pub fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
}

/// The release binary under test.
///
/// # Panics
/// The binary has not been built.
pub fn binary() -> PathBuf {
    built(target().join("release/mainstay"), "cargo build --release")
}

/// The load generator of the tests' build.
///
/// # Panics
/// The load generator has not been built.
pub fn load_generator() -> PathBuf {
    let path = build_directory().join("mainstay-bench");
    built(path, "cargo build --package load-generator")
}

/// The CSI driver of the tests, with the profile of this program.
///
/// # Panics
/// The driver has not been built.
pub fn csi_test_driver() -> PathBuf {
    let path = build_directory().join("csi-test-driver");
    built(
        path,
        "cargo build --package csi-test-driver, of a benchmark with --release",
    )
}

/// The parent of this program's directory: the directory of a build for the programs of one profile.
fn build_directory() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let directory = this.ancestors().nth(2);
    let directory = directory.expect("a program of tests lies in a directory of the build");
    directory.to_path_buf()
}

fn built(path: PathBuf, command: &str) -> PathBuf {
    assert!(path.is_file(), "{} is missing: {command}", path.display());
    path
}

/// The directory into which `cargo xtask setup` installs.
fn tools() -> PathBuf {
    target().join("end-to-end-tools")
}

/// A tool or package directory that `cargo xtask setup` installs.
///
/// # Panics
///
/// The directory is missing.
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo xtask setup",
        path.display()
    );
    path
}
