//! Programs with the C library musl. Debian has the library, but no program that uses it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::debian;

/// Builds a static program from a C source with the machine's C compiler and the package `musl-dev` of that directory
/// of packages.
///
/// # Panics
///
/// The package or the compiler is missing.
pub fn build(source: &str, packages: &str, program: &Path) {
    let root = tempfile::tempdir().expect("a directory");
    let packages = debian::archives(&crate::tool("packages").join(packages));
    let is_musl = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("musl-dev_")
    };
    let package = packages.iter().find(is_musl).expect("the package musl-dev");
    let mut unpack = Command::new("dpkg-deb");
    run(unpack.arg("-x").arg(package).arg(root.path()));
    let input = root.path().join("program.c");
    fs::write(&input, source).expect("write the source");
    fs::create_dir_all(program.parent().expect("a parent")).expect("make a directory");
    let library = root.path().join("usr/lib/x86_64-linux-musl");
    let mut compile = Command::new("cc");
    compile
        .args(["-static", "-no-pie", "-fno-pie", "-nostdlib", "-nostdinc"])
        .arg("-isystem")
        .arg(root.path().join("usr/include/x86_64-linux-musl"))
        .args(["crt1.o", "crti.o"].map(|name| library.join(name)))
        .arg(&input)
        .arg(library.join("libc.a"))
        .arg("-lgcc")
        .arg(library.join("crtn.o"))
        .arg("-o")
        .arg(program);
    run(&mut compile);
}

fn run(command: &mut Command) {
    let output = command.output().expect("start a program");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
