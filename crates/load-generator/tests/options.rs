//! `mainstay-bench` without a server.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_question_that_makes_no_sense_is_told_so() {
    let nowhere = Path::new("/nowhere/kubeconfig");
    let status = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mainstay-bench"))
            .arg("--kubeconfig")
            .arg(nowhere)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("run mainstay-bench");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), errors)
    };
    let (code, errors) = status(&["--only", "memory"]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("--server-pid"), "{errors}");
    let (code, errors) = status(&[]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("/nowhere/kubeconfig"), "{errors}");
}
