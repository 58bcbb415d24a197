//! Facts in pages that no other test checks.

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).expect("a file of the checkout")
}

/// findings U2: who follows the README has the toolchain that the workspace asks for.
#[test]
fn the_readme_names_the_toolchain() {
    let manifest = read("Cargo.toml");
    let mut lines = manifest.lines();
    let version = lines.find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.expect("a version").trim_matches('"');
    let readme = read("README.md");
    assert!(
        readme.contains(&format!("Rust {version} or newer")),
        "README.md does not say that Rust {version} is needed"
    );
    for need in ["sudo", "0600", "kernel"] {
        assert!(readme.contains(need), "README.md does not speak of {need}");
    }
}

/// findings U1: a way to images without a registry, with tools that people have.
#[test]
fn the_page_on_images_says_how_they_come_without_a_registry() {
    let page = read("docs/images.md");
    for command in ["docker save ", "skopeo copy ", "mainstay image import "] {
        assert!(page.contains(command), "docs/images.md lacks `{command}`");
    }
}
