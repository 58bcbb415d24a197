//! Sandboxes that stop with the Lease of their node, and with their shim.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_runtime::spec::{NodeLease, SandboxSpec, SandboxStatus};
use container_runtime::{RuntimeError, Sandbox};
use host_kernel::deadline::{DeadlineFile, DeadlinePage, now};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Harness, cgroup_dirs, command, exec, logged, sandbox_spec, start, until};

/// Longer than the longest test.
const HOUR: Duration = Duration::from_secs(3600);

/// A script that starts a second process, which leaves its parent, its session and its user.
fn runaway() -> String {
    let setsid = libc::SYS_setsid;
    format!(
        "perl -e 'exit if fork; syscall({setsid}); exit if fork; $< = $> = 1000; \
         open F, q(>/tmp/away); close F; sleep 1000' & \
         until [ -e /tmp/away ]; do sleep 0.1; done; echo away; exec sleep 1000"
    )
}

/// The deadline page of a node, mapped as in the agent and as in the shim.
struct Page {
    file: DeadlineFile,
    mapped: DeadlinePage,
}

impl Page {
    fn set(&self, deadline: Duration) {
        self.file.set(deadline).unwrap();
    }

    fn deadline(&self) -> Duration {
        self.mapped.deadline()
    }
}

fn page(harness: &Harness) -> (PathBuf, Page) {
    let path = harness.dir.join("deadline");
    let file = DeadlineFile::open(&path).unwrap();
    let mapped = DeadlinePage::open(&path).unwrap();
    (path, Page { file, mapped })
}

fn spec(page: &Path) -> SandboxSpec {
    SandboxSpec {
        lease: Some(NodeLease {
            page: page.to_owned(),
            warning_ms: 1000,
        }),
        ..sandbox_spec("p1")
    }
}

/// The processes of a sandbox's control groups.
fn processes(sandbox: &Sandbox) -> Vec<i32> {
    let mut ids = Vec::new();
    let mut dirs = cgroup_dirs(sandbox.cgroup().trim_start_matches('/'));
    while let Some(dir) = dirs.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        ids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    ids
}

async fn until_dead(sandbox: &Sandbox) {
    let begun = Instant::now();
    while sandbox.state().await.unwrap().status != SandboxStatus::Dead {
        assert!(
            begun.elapsed() < Duration::from_secs(240),
            "it does not end"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_starts_when_the_lease_has_lapsed() {
    let harness = Harness::new("lapsed");
    let (path, page) = page(&harness);
    let refused = harness
        .runtime
        .create_sandbox(spec(&path))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("has lapsed"), "{refused}");
    page.set(now() + HOUR);
    let of_node = SandboxSpec {
        host_pid: true,
        ..spec(&path)
    };
    let refused = harness.runtime.create_sandbox(of_node).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Invalid { .. }), "{refused}");
    harness.runtime.create_sandbox(spec(&path)).await.unwrap();
    harness.end().await;
}

/// Durations from the start of an attempt to its deadline: a busy machine needs a longer one.
const ATTEMPTS: [Duration; 3] = [
    Duration::from_secs(6),
    Duration::from_secs(20),
    Duration::from_secs(40),
];
const WARNED: &str = "trap 'echo warned' TERM; echo up; while :; do sleep 0.1; done";

/// A sandbox whose containers are asked to stop in the middle of the time until the deadline; `None` if the
/// deadline passes before the sandbox runs.
async fn closing(harness: &Harness, page: &Page, path: &Path, time: Duration) -> Option<Sandbox> {
    page.set(now() + time);
    let mut spec = spec(path);
    if let Some(lease) = &mut spec.lease {
        lease.warning_ms = u64::try_from(time.as_millis() / 2).unwrap();
    }
    let created = harness.runtime.create_sandbox(spec).await;
    match created {
        Err(error) if now() + time / 2 >= page.deadline() => {
            println!("too late: {error}");
            None
        }
        created => Some(created.unwrap()),
    }
}

#[tokio::test]
async fn a_sandbox_is_warned_and_ends_at_the_deadline() {
    let harness = Harness::new("deadline");
    let (path, page) = page(&harness);
    for time in ATTEMPTS {
        let Some(sandbox) = closing(&harness, &page, &path, time).await else {
            continue;
        };
        let deadline = page.deadline();
        let main = harness.shell("main", WARNED);
        let created = sandbox.create_container(main.clone()).await;
        let up = created.is_ok() && sandbox.start("main").await.is_ok();
        let mut warned = None;
        until("all has ended", || {
            if logged(&main).contains(&"warned".to_owned()) {
                warned.get_or_insert_with(now);
            }
            processes(&sandbox).is_empty()
        })
        .await;
        assert!(now() >= deadline);
        until_dead(&sandbox).await;
        sandbox.destroy().await.unwrap();
        let Some(warned) = warned.filter(|_| up) else {
            continue;
        };
        assert!(warned + time / 2 >= deadline);
        harness.end().await;
        return;
    }
    panic!("never warned");
}

/// An agent may restart a container that has exited because it was asked to stop. The new container would
/// be killed at the deadline.
// findings-2 R28
#[tokio::test]
async fn nothing_starts_while_the_lease_is_closing() {
    let harness = Harness::new("closing");
    let (path, page) = page(&harness);
    page.set(now() + HOUR);
    let hour = u64::try_from(HOUR.as_millis()).unwrap();
    let mut spec = spec(&path);
    spec.lease.as_mut().unwrap().warning_ms = hour;
    let refused = harness.runtime.create_sandbox(spec.clone()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("it is not renewed"), "{refused}");
    page.set(now() + HOUR * 2);
    let sandbox = harness.runtime.create_sandbox(spec).await.unwrap();
    start(&sandbox, &harness.shell("first", "exit 0")).await;
    crate::harness::exit_of(&sandbox, "first").await;
    let created = harness.shell("made", "exit 0");
    sandbox.create_container(created.clone()).await.unwrap();
    page.set(now() + HOUR);
    let second = harness.shell("second", "exit 0");
    let closed = "the lease of the node is not renewed";
    let refused = [
        sandbox.create_container(second.clone()).await,
        sandbox.start(&created.id).await,
    ];
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(refused.to_string().starts_with(closed), "{refused}");
    }
    page.set(now() + HOUR * 2);
    start(&sandbox, &second).await;
    sandbox.start(&created.id).await.unwrap();
    harness.end().await;
}

#[tokio::test]
async fn a_renewed_lease_keeps_a_sandbox() {
    let harness = Harness::new("renewed");
    let (path, page) = page(&harness);
    for time in ATTEMPTS {
        let Some(sandbox) = closing(&harness, &page, &path, time).await else {
            continue;
        };
        let first = page.deadline();
        page.set(now() + HOUR);
        if now() + time / 2 >= first {
            sandbox.destroy().await.unwrap();
            continue;
        }
        let main = harness.shell("main", WARNED);
        start(&sandbox, &main).await;
        while now() < first + Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (out, _, _) = exec(&sandbox, command("main", &["echo", "alive"]), b"").await;
        assert_eq!(out, "alive\n");
        assert!(!logged(&main).contains(&"warned".to_owned()));
        harness.end().await;
        return;
    }
    panic!("never renewed in time");
}

/// Pods that stop with the Lease: an ordinary pod, a pod with a shared process namespace, and a pod with a
/// user namespace.
fn of_each_form(page: &Path) -> [SandboxSpec; 3] {
    let shared = SandboxSpec {
        share_process_namespace: true,
        ..spec(page)
    };
    let of_own_users = SandboxSpec {
        own_users: true,
        ..spec(page)
    };
    [spec(page), shared, of_own_users]
}

/// A parent-death signal of the container's process is not enough, because a change of the user clears it.
#[tokio::test]
async fn nothing_outlives_the_shim() {
    let harness = Harness::new("warden");
    let (path, page) = page(&harness);
    page.set(now() + HOUR);
    for (number, sandbox_spec) in of_each_form(&path).into_iter().enumerate() {
        let sandbox = harness
            .runtime
            .create_sandbox(sandbox_spec.clone())
            .await
            .unwrap();
        let main = harness.shell(&format!("main-{number}"), &runaway());
        start(&sandbox, &main).await;
        until("it has run away", || logged(&main) == ["away"]).await;
        let (out, err, code) = exec(&sandbox, command(&main.id, &["echo", "in"]), b"").await;
        assert_eq!((out.as_str(), code), ("in\n", Some(0)), "{err}");
        assert!(processes(&sandbox).len() >= 3, "{:?}", processes(&sandbox));
        let shim = sandbox.state().await.unwrap().pid;
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        until("all has ended", || processes(&sandbox).is_empty()).await;
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}

/// A shim that writes a log to a disk that does not respond is blocked like a stopped shim.
#[tokio::test]
async fn nothing_outlives_the_deadline_while_the_shim_stands_still() {
    let harness = Harness::new("still");
    let (path, page) = page(&harness);
    for (number, sandbox_spec) in of_each_form(&path).into_iter().enumerate() {
        let mut stopped = false;
        for time in ATTEMPTS {
            page.set(now() + time);
            let deadline = page.deadline();
            let Ok(sandbox) = harness.runtime.create_sandbox(sandbox_spec.clone()).await else {
                assert!(now() >= deadline, "refused");
                continue;
            };
            let main = harness.shell(&format!("main-{number}"), &runaway());
            let created = sandbox.create_container(main.clone()).await;
            let up = created.is_ok() && sandbox.start(&main.id).await.is_ok();
            let shim = Pid::from_raw(sandbox.state().await.unwrap().pid);
            until("it has run away, or has to end", || {
                logged(&main) == ["away"] || now() >= deadline
            })
            .await;
            kill(shim, Signal::SIGSTOP).unwrap();
            stopped = up && now() < deadline;
            until("all has ended", || processes(&sandbox).is_empty()).await;
            assert!(now() >= deadline);
            // For this pod, the renewal is too late.
            page.set(now() + HOUR);
            kill(shim, Signal::SIGCONT).unwrap();
            until_dead(&sandbox).await;
            sandbox.destroy().await.unwrap();
            if stopped {
                break;
            }
        }
        assert!(stopped, "never stopped in time");
    }
    harness.end().await;
}

#[tokio::test]
async fn a_container_ends_as_elsewhere() {
    let harness = Harness::new("nested");
    let (path, page) = page(&harness);
    page.set(now() + HOUR);
    let sandbox = harness.runtime.create_sandbox(spec(&path)).await.unwrap();
    let first = harness.shell("first", "echo $$; exit 7");
    let exit = crate::harness::run(&sandbox, &first).await;
    assert_eq!((exit.code, logged(&first)), (7, vec!["1".to_owned()]));
    let missing = harness.container("missing", &["/no/such/program"]);
    sandbox.create_container(missing).await.unwrap();
    let error = sandbox.start("missing").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    let sleeper = harness.container("sleeper", &["sleep", "1000"]);
    start(&sandbox, &sleeper).await;
    sandbox.signal("sleeper", libc::SIGKILL).await.unwrap();
    let exit = crate::harness::exit_of(&sandbox, "sleeper").await;
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    harness.end().await;
}
