//! The state that a new agent finds after any failure of the former agent or of a shim.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_runtime::RuntimeError;
use container_runtime::spec::{ContainerStatus, SandboxEvent, SandboxSpec, SandboxStatus};
use nix::sys::signal::Signal;

use crate::harness::{Harness, cgroup_dirs, command, exec, logged, sandbox_spec, start, until};

/// Whether the process runs. A process that is about to become a zombie has left its control group already
/// and runs no more code.
fn alive(pid: i32) -> bool {
    /// `PF_EXITING` of `include/linux/sched.h`.
    const EXITING: u64 = 4;
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let flags: u64 = fields[6].parse().unwrap();
    !matches!(fields[0], "Z" | "X") && flags & EXITING == 0
}

fn running_pid(status: &ContainerStatus) -> i32 {
    match status {
        ContainerStatus::Running { pid, .. } => *pid,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_agent_finds_running_containers_and_past_exits() {
    let harness = Harness::new("newagent");
    let sandbox = harness.sandbox("p1").await;
    let a = harness.container("a", &["sleep", "1000"]);
    start(&sandbox, &a).await;
    crate::harness::run(&sandbox, &harness.shell("b", "exit 3")).await;
    let before = sandbox.state().await.unwrap();
    drop(sandbox);

    let runtime = harness.reopened();
    let sandboxes = runtime.sandboxes().await.unwrap();
    assert_eq!(sandboxes.len(), 1);
    let state = sandboxes[0].state().await.unwrap();
    assert_eq!(state, before);
    assert_eq!(state.status, SandboxStatus::Ready);
    assert!(matches!(&state.containers["b"].status, ContainerStatus::Exited(e) if e.code == 3));
    assert!(alive(running_pid(&state.containers["a"].status)));
    // An equal specification returns the existing sandbox; a different specification with this id is
    // rejected.
    let again = runtime.create_sandbox(sandbox_spec("p1")).await.unwrap();
    assert_eq!(again.state().await.unwrap().pid, state.pid);
    let other = SandboxSpec {
        hostname: "other".into(),
        ..sandbox_spec("p1")
    };
    let error = runtime.create_sandbox(other).await.unwrap_err();
    assert!(matches!(error, RuntimeError::SandboxExists { .. }));
    let (out, _, code) = exec(&again, command("a", &["echo", "hi"]), b"").await;
    assert_eq!((out.as_str(), code), ("hi\n", Some(0)));
    harness.end().await;
}

/// Deletes all files of a sandbox's directory that can be deleted while its containers run.
fn lose_records(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            fs::remove_file(&path).unwrap();
        } else if path.ends_with("containers") {
            for container in fs::read_dir(&path).unwrap() {
                fs::remove_file(container.unwrap().path().join("spec.json")).unwrap();
            }
        }
    }
}

/// findings R3
#[tokio::test]
async fn bodies_whose_records_are_lost_end_before_others_begin() {
    let harness = Harness::new("lost");
    let dir = harness.dir.join("run/sandboxes/p1");
    let mut bodies = Vec::new();
    // Three cases: a new agent lists the sandboxes, creates the sandbox at once, or has the records of a
    // backup.
    for (round, way) in ["looks", "makes", "restored"].into_iter().enumerate() {
        let sandbox = harness.sandbox("p1").await;
        let container = harness.container("a", &["sleep", "1000"]);
        start(&sandbox, &container).await;
        let state = sandbox.state().await.unwrap();
        let body = [state.pid, running_pid(&state.containers["a"].status)];
        assert!(body.iter().all(|pid| alive(*pid)));
        bodies.push(body);
        let record = fs::read(dir.join("sandbox.json")).unwrap();
        lose_records(&dir);
        let runtime = harness.reopened();
        match way {
            "looks" => assert!(runtime.sandboxes().await.unwrap().is_empty()),
            "makes" => drop(runtime.create_sandbox(sandbox_spec("p1")).await.unwrap()),
            _ => {
                fs::write(dir.join("sandbox.json"), record).unwrap();
                let sandboxes = runtime.sandboxes().await.unwrap();
                sandboxes[0].destroy().await.unwrap();
            }
        }
        assert!(!bodies[round].iter().any(|pid| alive(*pid)), "{way}");
    }
    harness.end().await;
}

/// Two agents that clean up concurrently can leave such a shim.
#[tokio::test]
async fn a_shim_without_record_and_control_group_is_ended() {
    let harness = Harness::new("alone");
    let sandbox = harness.sandbox("p1").await;
    let shim = sandbox.state().await.unwrap().pid;
    // The shim is stopped, so that it does not exit with its pod.
    send(shim, Signal::SIGSTOP);
    let dirs = cgroup_dirs(sandbox.cgroup().trim_start_matches('/'));
    let processes = dirs.iter().flat_map(|dir| {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        let pids = text.lines().map(|pid| pid.parse().unwrap());
        pids.collect::<Vec<i32>>()
    });
    for pid in processes.collect::<BTreeSet<_>>() {
        nix_kill(pid);
    }
    for dir in dirs {
        until("the control group is gone", || fs::remove_dir(&dir).is_ok()).await;
    }
    lose_records(&harness.dir.join("run/sandboxes/p1"));
    let runtime = harness.reopened();
    assert!(runtime.sandboxes().await.unwrap().is_empty());
    assert!(!alive(shim));
    harness.end().await;
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_cleaned_up() {
    let harness = Harness::new("shimdead");
    let sandbox = harness.sandbox("p1").await;
    let a = harness.shell("a", "sleep 101 & sleep 102 & wait");
    start(&sandbox, &a).await;
    let mut events = sandbox.events().await.unwrap();
    let state = sandbox.state().await.unwrap();
    let pid = running_pid(&state.containers["a"].status);
    nix_kill(state.pid);
    assert_eq!(events.next().await, Some(SandboxEvent::Gone));
    until("the shim is gone", || !alive(state.pid)).await;
    let dead = sandbox.state().await.unwrap();
    assert_eq!(dead.status, SandboxStatus::Dead);
    assert_eq!(running_pid(&dead.containers["a"].status), pid);
    let error = sandbox.signal("a", 9).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::SandboxDead { .. }),
        "{error:?}"
    );
    assert!(matches!(
        sandbox.netns_path(),
        Err(RuntimeError::SandboxDead { .. })
    ));
    assert!(alive(pid), "containers live on without their shim");
    // A sandbox with this id is created only after the old sandbox has left no process.
    let fresh = harness
        .runtime
        .create_sandbox(sandbox_spec("p1"))
        .await
        .unwrap();
    assert!(!alive(pid));
    let fresh_state = fresh.state().await.unwrap();
    assert_ne!(fresh_state.pid, state.pid);
    assert!(fresh_state.containers.is_empty());
    harness.end().await;
}

#[tokio::test]
async fn half_made_sandboxes_are_cleaned_up() {
    let harness = Harness::new("halfmade");
    let root = harness.dir.join("run/sandboxes");
    // The agent was killed before it had written the specification, and after.
    fs::create_dir_all(root.join("empty")).unwrap();
    let sandbox = harness.sandbox("p1").await;
    let file = fs::read(root.join("p1/sandbox.json")).unwrap();
    sandbox.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    assert!(!root.join("p1").exists());
    fs::create_dir_all(root.join("p1")).unwrap();
    fs::write(root.join("p1/sandbox.json"), file).unwrap();
    let sandboxes = harness.runtime.sandboxes().await.unwrap();
    assert_eq!(sandboxes.len(), 1);
    assert_eq!(
        sandboxes[0].state().await.unwrap().status,
        SandboxStatus::Dead
    );
    assert!(!root.join("empty").exists());
    sandboxes[0].destroy().await.unwrap();
    harness.end().await;
}

#[tokio::test]
async fn there_are_never_two_shims_for_one_sandbox() {
    let harness = Harness::new("twoshims");
    let agents: Vec<_> = (0..4).map(|_| harness.reopened()).collect();
    let creations = agents
        .iter()
        .map(|agent| agent.create_sandbox(sandbox_spec("p1")));
    let mut pids = BTreeSet::new();
    for sandbox in join_all(creations).await.into_iter().flatten() {
        // A shim that lost the race may have been removed by the other one.
        if let Ok(state) = sandbox.state().await {
            pids.insert(state.pid);
        }
    }
    let shims = shims_of(&harness.dir.join("run/sandboxes/p1"));
    assert!(shims.len() <= 1, "{shims:?}, {pids:?}");
    harness.end().await;
}

/// Processes whose working directory is the sandbox's directory: its shims.
fn shims_of(dir: &std::path::Path) -> Vec<String> {
    let mut sandboxes = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir) {
            sandboxes.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    sandboxes
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |cx| {
        let mut pending = false;
        for (future, output) in &mut pinned {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        match pending {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(
                pinned
                    .iter_mut()
                    .map(|(_, output)| output.take().unwrap())
                    .collect(),
            ),
        }
    })
    .await
}

#[tokio::test]
async fn twenty_sandboxes_live_side_by_side() {
    let harness = Harness::new("twenty");
    let begun = Instant::now();
    let one = async |number: u32| {
        let sandbox = harness.sandbox(&format!("pod-{number}")).await;
        let spec = harness.shell("main", &format!("echo {number}; exec sleep 1000"));
        start(&sandbox, &spec).await;
        (sandbox, spec)
    };
    let pods = join_all((0..20).map(one)).await;
    let took = begun.elapsed();
    for (number, (_, spec)) in pods.iter().enumerate() {
        until("it is logged", || logged(spec) == [number.to_string()]).await;
    }
    let (mut private, mut pids) = (Vec::new(), Vec::new());
    for (sandbox, _) in &pods {
        let pid = sandbox.state().await.unwrap().pid;
        private.push(private_kib(pid));
        pids.push(pid);
    }
    private.sort_unstable();
    println!("20 pods in {took:?}; a shim's private memory in KiB: {private:?}");
    assert!(
        *private.last().unwrap() < 3 << 10,
        "KiB of private memory: {private:?}"
    );
    // An idle shim uses no processor time.
    comes_to_rest(&pids, 0).await;
    join_all(pods.iter().map(|(sandbox, _)| sandbox.destroy())).await;
    assert!(harness.runtime.sandboxes().await.unwrap().is_empty());
    harness.end().await;
}

#[tokio::test]
async fn sandboxes_start_one_after_the_other() {
    let harness = Harness::new("latency");
    let (mut created, mut started, mut executed) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..15 {
        let begun = Instant::now();
        let sandbox = harness.sandbox(&format!("p{number}")).await;
        created.push(begun.elapsed());
        let spec = harness.container("a", &["sleep", "1000"]);
        let begun = Instant::now();
        start(&sandbox, &spec).await;
        started.push(begun.elapsed());
        let begun = Instant::now();
        exec(&sandbox, command("a", &["true"]), b"").await;
        executed.push(begun.elapsed());
        sandbox.destroy().await.unwrap();
    }
    for (what, mut times) in [
        ("sandbox", created),
        ("container", started),
        ("exec", executed),
    ] {
        times.sort_unstable();
        println!(
            "{what}: min {:?} median {:?} max {:?}",
            times[0], times[7], times[14]
        );
    }
    harness.end().await;
}

pub fn private_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    private
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

/// Waits until the processes together use at most `most` ticks of processor time in an interval.
pub async fn comes_to_rest(pids: &[i32], most: u64) {
    let used = || pids.iter().map(|pid| ticks(*pid)).sum::<u64>();
    for _ in 0..120 {
        let before = used();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if used() - before <= most {
            return;
        }
    }
    panic!("idle shims use the processor");
}

fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn nix_kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test]
async fn a_sandbox_whose_agent_died_before_it_was_ready_leaves_nothing() {
    let harness = Harness::new("unheard");
    let sandbox = harness.sandbox("p1").await;
    let group = sandbox.cgroup().trim_start_matches('/').to_owned();
    let dir = harness.dir.join("run/sandboxes/p1");
    let file = fs::read(dir.join("sandbox.json")).unwrap();
    sandbox.destroy().await.unwrap();
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("sandbox.json"), file).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_container-runtime-shim"))
        .arg(&dir)
        .current_dir(&dir)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The output of the process is not read any more.
    drop(child.stdout.take());
    child.wait().unwrap();
    until("it has ended", || shims_of(&dir).is_empty()).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    assert!(crate::harness::cgroup_dirs(&group).is_empty());
    harness.end().await;
}

/// findings R12
#[tokio::test]
async fn a_shim_that_does_not_answer_keeps_nothing_alive() {
    let harness = Harness::new("silent");
    for destroys in [false, true] {
        let sandbox = harness.sandbox(&format!("p-{destroys}")).await;
        start(
            &sandbox,
            &harness.shell("a", "sleep 103 & sleep 104 & wait"),
        )
        .await;
        let state = sandbox.state().await.unwrap();
        let pid = running_pid(&state.containers["a"].status);
        let shim = nix::unistd::Pid::from_raw(state.pid);
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP).unwrap();
        // The paused clock ends all time limits at once.
        tokio::time::pause();
        let failure = sandbox.state().await.unwrap_err();
        assert!(
            matches!(failure, RuntimeError::ShimSilent { .. }),
            "{failure:?}"
        );
        assert!(failure.to_string().contains("does not answer"), "{failure}");
        let failure = sandbox.signal("a", 15).await.unwrap_err();
        assert!(
            matches!(failure, RuntimeError::ShimSilent { .. }),
            "{failure:?}"
        );
        assert!(alive(pid) && alive(state.pid));
        match destroys {
            true => sandbox.destroy().await.unwrap(),
            false => sandbox.signal("a", 9).await.unwrap(),
        }
        tokio::time::resume();
        // A process leaves its control group shortly before it becomes a zombie.
        until("all have ended", || !alive(pid) && !alive(state.pid)).await;
        let dead = sandbox.state().await.unwrap();
        assert_eq!(dead.status, SandboxStatus::Dead);
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}

/// The control group that can freeze a process, the file that freezes it, and the text to write.
fn freezer(pid: i32) -> (PathBuf, &'static str, &'static str) {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |mark: &str| {
        let mut lines = membership.lines();
        lines.find_map(|line| Some(line.split_once(mark)?.1.trim_start_matches('/')))
    };
    let unified = || Path::new("/sys/fs/cgroup").join(of("0::").unwrap());
    match of(":freezer:") {
        Some(group) => {
            let group = Path::new("/sys/fs/cgroup/freezer").join(group);
            (group, "freezer.state", "FROZEN")
        }
        None => (unified(), "cgroup.freeze", "1"),
    }
}

/// findings R12: frozen processes can be killed. In version 1 of control groups, the freezer delays even
/// `SIGKILL`.
#[tokio::test]
async fn frozen_processes_are_thawed_to_be_killed() {
    let harness = Harness::new("frozen");
    let sandbox = harness.sandbox("p1").await;
    start(&sandbox, &harness.container("a", &["sleep", "105"])).await;
    let state = sandbox.state().await.unwrap();
    let pid = running_pid(&state.containers["a"].status);
    let (group, file, frozen) = freezer(pid);
    // A group below a frozen group stays frozen.
    let inner = group.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
    for group in [&inner, &group] {
        fs::write(group.join(file), frozen).unwrap();
        until("it is frozen", || {
            fs::read_to_string(group.join(file)).is_ok_and(|state| state.trim() == frozen)
        })
        .await;
    }
    assert!(alive(pid));
    sandbox.destroy().await.unwrap();
    assert!(!alive(pid));
    harness.end().await;
}

/// findings R15
#[tokio::test]
async fn a_directory_that_cannot_be_removed_keeps_no_sandbox_from_being_found() {
    let harness = Harness::new("stuck");
    let _sandbox = harness.sandbox("p1").await;
    let sandboxes = harness.dir.join("run/sandboxes");
    let stuck = crate::mounts::Mounted::memory(sandboxes.join("stuck/mounted"));
    fs::create_dir(sandboxes.join("odd name")).unwrap();
    fs::create_dir(sandboxes.join("unreadable")).unwrap();
    fs::write(sandboxes.join("unreadable/sandbox.json"), "{").unwrap();
    let existing = harness.reopened().sandboxes().await.unwrap();
    let ids: Vec<_> = existing
        .iter()
        .map(|sandbox| sandbox.id().to_owned())
        .collect();
    assert_eq!(ids, ["p1"]);
    assert!(stuck.path().exists());
    drop(stuck);
    harness.end().await;
}
