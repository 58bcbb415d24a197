//! The generated code is that of the published files. `cargo xtask protocols` runs these tests with `UPDATE_PROTOCOLS`,
//! and the first one then writes the files that differ.

mod generator;

use std::fs;
use std::path::{Path, PathBuf};

use generator::{CODE, Generated, differing, generate, snake_case};

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.join("../..")
}

#[test]
fn the_code_is_that_of_the_published_files() {
    let root = workspace();
    let files = generate(&root).unwrap();
    if std::env::var_os("UPDATE_PROTOCOLS").is_some() {
        for file in &files {
            fs::write(root.join(&file.path), &file.content).unwrap();
        }
    }
    let differing = differing(&root, &files);
    let cure = "`cargo xtask protocols` writes it";
    assert_eq!(
        differing, [""; 0],
        "not the code of the published files: {cure}"
    );
    let is_code = |file: &&Generated| file.path.extension() == Some("rs".as_ref());
    assert_eq!(files.iter().filter(is_code).count(), 8);
}

#[test]
fn a_changed_number_of_a_field_is_a_difference() {
    let root = workspace();
    let mut files = generate(&root).unwrap();
    let csi = files
        .iter_mut()
        .find(|file| file.path.ends_with("csi_v1.rs"));
    let csi = csi.unwrap();
    let code = String::from_utf8(csi.content.clone()).unwrap();
    let changed = code.replacen("tag = \"3\"", "tag = \"33\"", 1);
    assert_ne!(code, changed);
    csi.content = changed.into_bytes();
    assert_eq!(
        differing(&root, &files),
        ["crates/service-protocols/src/generated/csi_v1.rs"]
    );
}

#[test]
fn the_answers_of_each_protocol_are_fed_to_its_decoders() {
    let root = workspace();
    let library = root.join(CODE).with_file_name("lib.rs");
    let library = fs::read_to_string(library).unwrap();
    for file in generate(&root).unwrap() {
        let code = String::from_utf8_lossy(&file.content);
        if code.contains("pub const ANSWERS") {
            let module = file.path.file_stem().unwrap().to_string_lossy();
            // A module may have a shorter name than its file.
            let (_, after) = library
                .split_once(&format!("generated/{module}.rs\"]\npub mod "))
                .unwrap();
            let (name, _) = after.split_once(';').unwrap();
            assert!(library.contains(&format!("{name}::ANSWERS")), "{module}");
        }
    }
}

#[test]
fn modules_have_the_names_of_their_services() {
    for (service, module) in [
        ("Kv", "kv"),
        ("Watch", "watch"),
        ("GroupController", "group_controller"),
    ] {
        assert_eq!(snake_case(service), module);
    }
}
