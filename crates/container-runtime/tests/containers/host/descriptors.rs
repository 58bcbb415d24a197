//! Open descriptors of the shim, and of the process that started it (CVE-2024-21626).

use std::fs::{self, File};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{Rights, refusal};
use crate::harness::{Harness, command, exec, start};

/// Links in `/proc` to directories: links of descriptors, and the links that every process has.
fn links() -> Vec<String> {
    let descriptors = (0..40).map(|number| format!("/proc/self/fd/{number}"));
    let pid = [
        "/proc/self/cwd",
        "/proc/self/root",
        "/proc/1/cwd",
        "/proc/1/root/etc",
    ];
    descriptors.chain(pid.map(str::to_owned)).collect()
}

/// Protected by `openat2` without magic links for the working directory; findings S16.
#[tokio::test]
async fn no_working_directory_is_reached_by_a_descriptor() {
    let harness = Harness::new("fd-cwd");
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&harness).await;
        for link in ["/proc/self/fd/7", "/proc/self/cwd", "/proc/self/root/etc"] {
            let mut spec = rights.give(harness.container("a", &["pwd"]));
            spec.cwd = link.into();
            let error = refusal(&sandbox, spec).await.to_string();
            assert!(
                error.contains("enter the working directory"),
                "{link}: {error}"
            );
        }
        start(
            &sandbox,
            &rights.give(harness.container("b", &["sleep", "1000"])),
        )
        .await;
        for link in links() {
            let mut spec = command("b", &["pwd"]);
            spec.cwd = link.clone();
            let error = sandbox.exec(spec).await.unwrap_err().to_string();
            assert!(
                error.contains("enter the working directory"),
                "{link}: {error}"
            );
        }
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}

/// Protected by `close_inherited` in the shim; findings S16.
#[tokio::test]
async fn what_was_left_open_for_the_program_reaches_no_shim_and_no_container() {
    let harness = Harness::new("left-open");
    let secret = harness.dir.join("left-open-by-who-started-it");
    fs::create_dir(&secret).unwrap();
    let left_open = File::open(&secret).unwrap();
    fcntl(&left_open, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let sandbox = harness.sandbox("p1").await;
    let shim = sandbox.state().await.unwrap().pid;
    let open: Vec<_> = fs::read_dir(format!("/proc/{shim}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.is_empty() && !open.contains(&secret), "{open:?}");
    start(&sandbox, &harness.container("a", &["sleep", "1000"])).await;
    // Three standard streams, and the directory that `ls` reads.
    let (out, _, _) = exec(&sandbox, command("a", &["ls", "/proc/self/fd"]), b"").await;
    assert_eq!(out.lines().count(), 4, "{out}");
    harness.end().await;
}
