//! The libraries of other projects in the program: their licences and their log records.

use std::process::Command;

use end_to_end::{Instance, binary};

/// findings-2 S48.
#[test]
fn the_program_prints_the_licences_of_its_libraries() {
    let output = Command::new(binary())
        .args(["version", "--licences"])
        .output()
        .expect("run mainstay version");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("a text");
    for part in [
        "mainstay is under the Apache License 2.0.",
        "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
        "Mozilla Public License Version 2.0",
        "\nimbl 7.",
        // The C code of the allocator has a licence of its own.
        "Copyright (c) 2018-2025 Microsoft Corporation, Daan Leijen",
        "BoringSSL",
    ] {
        assert!(text.contains(part), "{part:?} is missing");
    }
}

/// The storage engine writes its log with the crate `log`, the program with `tracing`; findings-2 R39.
#[test]
fn records_of_libraries_are_in_the_log() {
    let mut instance = Instance::prepare(&[]);
    instance.set_variable(("MAINSTAY_LOG", "warn,fjall=debug"));
    instance.launch();
    instance.wait_ready();
    let output = instance.output();
    assert!(output.contains("Acquiring database lock"), "{output}");
}
