//! Sandboxes that stop with the Lease of their node, and with their shim.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_runtime::spec::{NodeLease, SandboxSpec, SandboxStatus};
use container_runtime::{RuntimeError, Sandbox};
use host_kernel::deadline::{DeadlineFile, DeadlinePage, now};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, cgroup_dirs, command, exec, logged, sandbox_spec, start, until};

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

fn page(world: &World) -> (PathBuf, Page) {
    let path = world.dir.join("deadline");
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
    let mut found = Vec::new();
    let mut dirs = cgroup_dirs(sandbox.cgroup().trim_start_matches('/'));
    while let Some(dir) = dirs.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
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
    let world = World::new("lapsed");
    let (path, page) = page(&world);
    let refused = world.runtime.create_sandbox(spec(&path)).await.unwrap_err();
    assert!(refused.to_string().contains("has lapsed"), "{refused}");
    page.set(now() + HOUR);
    let of_node = SandboxSpec {
        host_pid: true,
        ..spec(&path)
    };
    let refused = world.runtime.create_sandbox(of_node).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Invalid { .. }), "{refused}");
    world.runtime.create_sandbox(spec(&path)).await.unwrap();
    world.end().await;
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
async fn closing(world: &World, page: &Page, path: &Path, time: Duration) -> Option<Sandbox> {
    page.set(now() + time);
    let mut spec = spec(path);
    if let Some(lease) = &mut spec.lease {
        lease.warning_ms = u64::try_from(time.as_millis() / 2).unwrap();
    }
    let made = world.runtime.create_sandbox(spec).await;
    match made {
        Err(error) if now() + time / 2 >= page.deadline() => {
            println!("too late: {error}");
            None
        }
        made => Some(made.unwrap()),
    }
}

#[tokio::test]
async fn a_sandbox_is_warned_and_ends_at_the_deadline() {
    let world = World::new("deadline");
    let (path, page) = page(&world);
    for time in ATTEMPTS {
        let Some(sandbox) = closing(&world, &page, &path, time).await else {
            continue;
        };
        let deadline = page.deadline();
        let main = world.shell("main", WARNED);
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
        world.end().await;
        return;
    }
    panic!("never warned");
}

/// An agent may restart a container that has exited because it was asked to stop. The new container would
/// be killed at the deadline.
// findings-2 R28
#[tokio::test]
async fn nothing_starts_while_the_lease_is_closing() {
    let world = World::new("closing");
    let (path, page) = page(&world);
    page.set(now() + HOUR);
    let hour = u64::try_from(HOUR.as_millis()).unwrap();
    let mut spec = spec(&path);
    spec.lease.as_mut().unwrap().warning_ms = hour;
    let refused = world.runtime.create_sandbox(spec.clone()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("it is not renewed"), "{refused}");
    page.set(now() + HOUR * 2);
    let sandbox = world.runtime.create_sandbox(spec).await.unwrap();
    start(&sandbox, &world.shell("first", "exit 0")).await;
    crate::world::exit_of(&sandbox, "first").await;
    let made = world.shell("made", "exit 0");
    sandbox.create_container(made.clone()).await.unwrap();
    page.set(now() + HOUR);
    let second = world.shell("second", "exit 0");
    let closed = "the lease of the node is not renewed";
    let refused = [
        sandbox.create_container(second.clone()).await,
        sandbox.start(&made.id).await,
    ];
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(refused.to_string().starts_with(closed), "{refused}");
    }
    page.set(now() + HOUR * 2);
    start(&sandbox, &second).await;
    sandbox.start(&made.id).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_renewed_lease_keeps_a_sandbox() {
    let world = World::new("renewed");
    let (path, page) = page(&world);
    for time in ATTEMPTS {
        let Some(sandbox) = closing(&world, &page, &path, time).await else {
            continue;
        };
        let first = page.deadline();
        page.set(now() + HOUR);
        if now() + time / 2 >= first {
            sandbox.destroy().await.unwrap();
            continue;
        }
        let main = world.shell("main", WARNED);
        start(&sandbox, &main).await;
        while now() < first + Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (out, _, _) = exec(&sandbox, command("main", &["echo", "alive"]), b"").await;
        assert_eq!(out, "alive\n");
        assert!(!logged(&main).contains(&"warned".to_owned()));
        world.end().await;
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
    let world = World::new("warden");
    let (path, page) = page(&world);
    page.set(now() + HOUR);
    for (number, wanted) in of_each_form(&path).into_iter().enumerate() {
        let sandbox = world.runtime.create_sandbox(wanted.clone()).await.unwrap();
        let main = world.shell(&format!("main-{number}"), &runaway());
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
    world.end().await;
}

/// A shim that writes a log to a disk that does not respond is blocked like a stopped shim.
#[tokio::test]
async fn nothing_outlives_the_deadline_while_the_shim_stands_still() {
    let world = World::new("still");
    let (path, page) = page(&world);
    for (number, wanted) in of_each_form(&path).into_iter().enumerate() {
        let mut stopped = false;
        for time in ATTEMPTS {
            page.set(now() + time);
            let deadline = page.deadline();
            let Ok(sandbox) = world.runtime.create_sandbox(wanted.clone()).await else {
                assert!(now() >= deadline, "refused");
                continue;
            };
            let main = world.shell(&format!("main-{number}"), &runaway());
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
    world.end().await;
}

#[tokio::test]
async fn a_container_ends_as_elsewhere() {
    let world = World::new("nested");
    let (path, page) = page(&world);
    page.set(now() + HOUR);
    let sandbox = world.runtime.create_sandbox(spec(&path)).await.unwrap();
    let first = world.shell("first", "echo $$; exit 7");
    let exit = crate::world::run(&sandbox, &first).await;
    assert_eq!((exit.code, logged(&first)), (7, vec!["1".to_owned()]));
    let missing = world.container("missing", &["/no/such/program"]);
    sandbox.create_container(missing).await.unwrap();
    let error = sandbox.start("missing").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    let sleeper = world.container("sleeper", &["sleep", "1000"]);
    start(&sandbox, &sleeper).await;
    sandbox.signal("sleeper", libc::SIGKILL).await.unwrap();
    let exit = crate::world::exit_of(&sandbox, "sleeper").await;
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    world.end().await;
}
