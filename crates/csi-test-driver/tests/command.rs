//! The program as containers run it. The build of this test makes the program, which the end-to-end tests put into an image:
//! a build of the program alone would compile its libraries once more, without the features of tests.

use std::process::Command;

#[test]
fn a_role_is_required() {
    let program = env!("CARGO_BIN_EXE_csi-test-driver");
    let output = Command::new(program).output().expect("start the program");
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    for role in ["controller", "node", "provisioner", "registrar"] {
        assert!(errors.contains(role), "{role}: {errors}");
    }
}
