//! Pods with a user namespace: ids and capabilities inside, on the node and on disk (KEP-127).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use container_runtime::spec::{
    ContainerStatus, ExecSpec, Mount, MountSource, Propagation, SandboxSpec, TerminalSize,
};
use container_runtime::{RuntimeError, Sandbox};

use crate::harness::{Harness, command, exec, logged, run, sandbox_spec, start};
use crate::mounts::Mounted;

fn own_users(id: &str) -> SandboxSpec {
    SandboxSpec {
        own_users: true,
        ..sandbox_spec(id)
    }
}

async fn sandbox(harness: &Harness, id: &str) -> Sandbox {
    harness.runtime.create_sandbox(own_users(id)).await.unwrap()
}

fn bind(path: &Path, to: &str, sub_path: Option<&str>) -> Mount {
    Mount {
        destination: to.into(),
        source: MountSource::Bind {
            path: path.to_owned(),
            sub_path: sub_path.map(Into::into),
            recursive_read_only: false,
            propagation: Propagation::Private,
        },
        read_only: false,
    }
}

async fn pid_of(sandbox: &Sandbox, container: &str) -> i32 {
    let state = sandbox.state().await.unwrap();
    match state.containers[container].status {
        ContainerStatus::Running { pid, .. } => pid,
        ref other => panic!("{other:?}"),
    }
}

/// Removes the access of other users from a directory.
fn closed(dir: PathBuf) -> PathBuf {
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

#[tokio::test]
async fn each_pod_has_ids_of_its_own_and_its_containers_share_them() {
    // statefulset.md 12.16
    let harness = Harness::new("userids");
    let (one, two) = (sandbox(&harness, "p1").await, sandbox(&harness, "p2").await);
    let show =
        "cat /proc/self/uid_map /proc/self/gid_map; readlink /proc/self/ns/user; exec sleep 1000";
    let mut maps = Vec::new();
    for (sandbox, id) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        let spec = harness.shell(id, show);
        start(sandbox, &spec).await;
        crate::harness::until("it is written", || logged(&spec).len() == 3).await;
        maps.push(logged(&spec));
    }
    assert_eq!(maps[0], maps[1]);
    assert_ne!(maps[0], maps[2]);
    let node = fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(maps[0][2], node.to_str().unwrap());
    let numbers = |line: &str| -> Vec<u32> {
        let words = line.split_whitespace();
        words.map(|word| word.parse().unwrap()).collect()
    };
    let first = numbers(&maps[0][0]);
    assert_eq!((first[0], first[2]), (0, 65_536));
    assert!(first[1] >= 65_536 && first[1].is_multiple_of(65_536));
    assert_eq!(maps[0][0], maps[0][1]);
    let on_node = fs::metadata(format!("/proc/{}", pid_of(&one, "a").await)).unwrap();
    assert_eq!((on_node.uid(), on_node.gid()), (first[1], first[1]));
    // A new agent reads the ids of all pods; the ids of a removed pod can be assigned again.
    let runtime = harness.reopened();
    let three = runtime.create_sandbox(own_users("p3")).await.unwrap();
    let spec = harness.container("d", &["cat", "/proc/self/uid_map"]);
    run(&three, &spec).await;
    assert!(!maps.iter().any(|map| map[0] == logged(&spec)[0]));
    one.destroy().await.unwrap();
    let four = runtime.create_sandbox(own_users("p4")).await.unwrap();
    let spec = harness.container("e", &["cat", "/proc/self/uid_map"]);
    run(&four, &spec).await;
    assert_eq!(logged(&spec)[0], maps[0][0]);
    harness.end().await;
}

#[tokio::test]
async fn files_belong_to_whom_they_belong_on_disk() {
    let harness = Harness::new("userfiles");
    let sandbox = sandbox(&harness, "p1").await;
    // The pod's users have no access to the parent directories of the volumes and of the root.
    let volume = closed(harness.dir.join("closed")).join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "").unwrap();
    fs::write(harness.dir.join("hosts"), "the pod's hosts\n").unwrap();
    fs::set_permissions(&harness.dir, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(volume.join("file"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(volume.join("sub"), None, Some(3000)).unwrap();
    fs::set_permissions(volume.join("sub"), fs::Permissions::from_mode(0o2770)).unwrap();
    let script = "busybox stat -c '%u:%g' /bin/busybox /etc/passwd / /data /data/file; \
         touch /data/made /own; busybox chown 7:8 /own; busybox stat -c '%u:%g' /data/made /own; \
         cat /etc/hosts; touch /dev/shm/x && echo shared memory; \
         echo ok > /dev/null && echo null; echo out > /dev/stdout; busybox id";
    let mut spec = harness.shell("a", script);
    spec.mounts = vec![
        bind(&volume, "/data", None),
        bind(&harness.dir.join("hosts"), "/etc/hosts", None),
    ];
    assert_eq!(run(&sandbox, &spec).await.code, 0, "{:?}", logged(&spec));
    let expected = [
        "0:0",
        "0:0",
        "0:0",
        "0:0",
        "1000:1001",
        "0:0",
        "7:8",
        "the pod's hosts",
        "shared memory",
        "null",
        "out",
        "uid=0(root) gid=0(root) groups=0(root)",
    ];
    assert_eq!(logged(&spec), expected);
    let owner = |path: PathBuf| {
        let result = fs::metadata(path).unwrap();
        (result.uid(), result.gid())
    };
    assert_eq!(owner(volume.join("made")), (0, 0));
    // A user with a group of the volume.
    let mut user = harness.shell(
        "b",
        "touch /sub/made && busybox stat -c '%u:%g' /sub/made; echo again > /dev/stdout; busybox id -G",
    );
    user.mounts = vec![bind(&volume, "/sub", Some("sub"))];
    user.user.uid = Some(1000);
    user.user.supplementary_groups = vec![3000];
    assert_eq!(run(&sandbox, &user).await.code, 0, "{:?}", logged(&user));
    assert_eq!(logged(&user), ["1000:3000", "again", "1001 4 3000"]);
    assert_eq!(owner(volume.join("sub/made")), (1000, 3000));
    let state = sandbox.state().await.unwrap();
    assert_eq!(state.containers["b"].user.uid, 1000);
    let mut beyond = harness.shell("c", "true");
    beyond.user.uid = Some(70_000);
    let refused = sandbox.create_container(beyond).await.unwrap_err();
    assert!(refused.to_string().contains("70000"), "{refused}");
    harness.end().await;
}

#[tokio::test]
async fn the_files_of_an_image_volume_belong_to_the_pods_root() {
    let harness = Harness::new("userlayers");
    let sandbox = sandbox(&harness, "p1").await;
    let layers = ["base", "top"].map(|name| harness.dir.join(name));
    for layer in &layers {
        fs::create_dir_all(layer.join("sub")).unwrap();
        let name = layer.file_name().unwrap();
        fs::write(layer.join("sub").join(name), "").unwrap();
    }
    let mount = |to: &str, sub_path: Option<&str>| Mount {
        destination: to.into(),
        source: MountSource::Layers {
            lowerdirs: layers.to_vec(),
            sub_path: sub_path.map(Into::into),
        },
        read_only: true,
    };
    let mut spec = harness.shell("a", "busybox stat -c '%u %n' /whole/sub/base /part/top");
    spec.mounts = vec![mount("/whole", None), mount("/part", Some("sub"))];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["0 /whole/sub/base", "0 /part/top"]);
    harness.end().await;
}

#[tokio::test]
async fn capabilities_count_in_the_pod_alone() {
    let harness = Harness::new("usercaps");
    let sandbox = sandbox(&harness, "p1").await;
    fs::write(harness.dir.join("secret"), "of the node\n").unwrap();
    let secret = harness.dir.join("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // A user with all capabilities, which are limited to the user namespace.
    let script = "grep CapEff /proc/self/status; hostname; \
         busybox mknod /tmp/disk b 254 0 2>/dev/null || echo no device; \
         mount -t tmpfs none /tmp && echo mounted inside; \
         mount -o remount,rw /sys/fs/cgroup 2>/dev/null || echo guarded; \
         (echo 1 > /proc/sys/kernel/printk) 2>/dev/null || echo no kernel parameter; \
         hostname renamed && hostname; ip link add d type dummy 2>/dev/null; ip link set lo mtu 1400 \
             && echo own network; \
         busybox chroot /tmp true 2>/dev/null; ls /dev/shm | wc -l";
    let mut spec = harness.shell("a", script);
    spec.security.privileged = true;
    run(&sandbox, &spec).await;
    let all = "CapEff:\t000001ffffffffff";
    assert_eq!(
        logged(&spec),
        [
            all,
            "web-0",
            "no device",
            "mounted inside",
            "guarded",
            "no kernel parameter",
            "renamed",
            "own network",
            "0"
        ]
    );
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        "renamed\n"
    );
    // A process that escaped from its root would still have no rights on the node.
    let a = harness.shell("b", "exec sleep 1000");
    start(&sandbox, &a).await;
    let pid = pid_of(&sandbox, "b").await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("Uid:\t0"), "{status}");
    harness.end().await;
}

#[tokio::test]
async fn commands_and_terminals_are_the_pods_too() {
    let harness = Harness::new("userexec");
    let sandbox = sandbox(&harness, "p1").await;
    let mut spec = harness.shell("a", "exec sleep 1000");
    spec.cwd = "/made/for/it".into();
    start(&sandbox, &spec).await;
    let show = "readlink /proc/self/ns/user; readlink /proc/1/ns/user; busybox id -u; \
         busybox stat -c %u /made/for; touch /made/x && busybox stat -c %u /made/x; pwd; \
         echo written > /dev/stdout";
    let (out, err, code) = exec(&sandbox, command("a", &["sh", "-c", show]), b"").await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(err, "");
    assert_eq!(lines[2..], ["0", "0", "0", "/made/for/it", "written"]);
    let terminal = ExecSpec {
        tty: true,
        terminal: Some(TerminalSize {
            width: 91,
            height: 31,
        }),
        ..command(
            "a",
            &[
                "sh",
                "-c",
                "busybox tty; busybox stty size; echo x > /dev/tty",
            ],
        )
    };
    let (out, _, code) = exec(&sandbox, terminal, b"").await;
    assert_eq!(
        (out.as_str(), code),
        ("/dev/pts/0\r\n31 91\r\nx\r\n", Some(0))
    );
    let mut with_terminal = harness.shell("t", "busybox tty; busybox stat -c %u $(busybox tty)");
    with_terminal.tty = true;
    with_terminal.user.uid = Some(1000);
    run(&sandbox, &with_terminal).await;
    assert_eq!(logged(&with_terminal), ["/dev/pts/0", "1000"]);
    harness.end().await;
}

#[tokio::test]
async fn containers_share_processes_and_look_into_each_other() {
    // kubectl.md 5.8
    let harness = Harness::new("userpids");
    let alone = sandbox(&harness, "p1").await;
    start(&alone, &harness.shell("app", "exec sleep 1000")).await;
    let observed = "tr '\\0' ' ' < /proc/1/cmdline; echo; ls /proc/1/root >/dev/null && echo root";
    let mut debugger = harness.shell("debugger", observed);
    debugger.process_target = Some("app".into());
    debugger.security.capabilities_add = vec!["SYS_PTRACE".into()];
    assert_eq!(run(&alone, &debugger).await.code, 0);
    assert_eq!(logged(&debugger), ["sleep 1000 ", "root"]);
    let shared = SandboxSpec {
        share_process_namespace: true,
        sysctls: [
            (
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "321".to_owned(),
            ),
            ("kernel.shmmax".to_owned(), "4242".to_owned()),
        ]
        .into(),
        ..own_users("p2")
    };
    let shared = harness.runtime.create_sandbox(shared).await.unwrap();
    start(
        &shared,
        &harness.shell("a", "echo there > /dev/shm/x; exec sleep 1000"),
    )
    .await;
    let script = "ps | grep -c '[s]leep 100'; cat /proc/1/comm; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax";
    let b = harness.shell("b", script);
    run(&shared, &b).await;
    assert_eq!(logged(&b), ["1", "pause", "321", "4242"]);
    harness.end().await;
}

#[tokio::test]
async fn later_mounts_of_the_node_are_seen_where_that_is_asked_for() {
    let harness = Harness::new("usertravel");
    let volume = Mounted::itself(closed(harness.dir.join("closed")).join("volume")).shared();
    fs::create_dir_all(volume.path().join("sub/node")).unwrap();
    let kinds = [
        ("none", Propagation::Private, "0\n"),
        ("in", Propagation::HostToContainer, "1\n"),
    ];
    for own_users in [false, true] {
        let spec = SandboxSpec {
            own_users,
            ..sandbox_spec("p1")
        };
        let sandbox = harness.runtime.create_sandbox(spec).await.unwrap();
        for (id, propagation, _) in kinds {
            let mut spec = harness.container(id, &["sleep", "1000"]);
            spec.mounts = vec![bind(volume.path(), "/v", Some("sub"))];
            if let MountSource::Bind { propagation: p, .. } = &mut spec.mounts[0].source {
                *p = propagation;
            }
            start(&sandbox, &spec).await;
        }
        let later = Mounted::memory(volume.path().join("sub/node"));
        fs::write(later.path().join("later"), "").unwrap();
        for (id, _, expected) in kinds {
            let count = command(id, &["sh", "-c", "ls /v/node | wc -l"]);
            let observed = exec(&sandbox, count, b"").await.0;
            assert_eq!(observed, expected, "{id}, users of its own: {own_users}");
            sandbox.remove(id).await.unwrap();
            assert!(
                later.path().join("later").exists(),
                "the node's goes with {id}"
            );
        }
        sandbox.destroy().await.unwrap();
        drop(later);
    }
    drop(volume);
    harness.end().await;
}

#[tokio::test]
async fn what_cannot_be_mapped_is_refused() {
    let harness = Harness::new("userrefused");
    let sandbox = sandbox(&harness, "p1").await;
    // The process file system does not support mapped mounts, which the error reports.
    let mut spec = harness.container("a", &["true"]);
    spec.mounts = vec![bind(Path::new("/proc"), "/node", None)];
    let refused = sandbox
        .create_container(spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("mount /proc to /node: "), "{refused}");
    assert!(refused.contains("cannot show the ids"), "{refused}");
    let mut spec = harness.container("b", &["true"]);
    spec.security.privileged = true;
    let mut both_ways = bind(&harness.dir, "/node", None);
    if let MountSource::Bind { propagation, .. } = &mut both_ways.source {
        *propagation = Propagation::Bidirectional;
    }
    spec.mounts = vec![both_ways];
    let refused = sandbox
        .create_container(spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("Bidirectional"), "{refused}");
    let spec = SandboxSpec {
        host_network: true,
        ..own_users("p2")
    };
    let refused = harness.runtime.create_sandbox(spec).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Invalid { .. }), "{refused}");
    harness.end().await;
}

#[tokio::test]
async fn an_unmasked_process_file_system_can_be_mounted_again() {
    let harness = Harness::new("userproc");
    let sandbox = sandbox(&harness, "p1").await;
    // A process that creates a nested namespace cannot access paths that are hidden outside.
    let script = "unshare -U -r -m -p -f mount -t proc proc /tmp 2>/dev/null && echo mounted; \
         (echo 1 > /proc/sys/net/ipv4/ip_unprivileged_port_start) 2>/dev/null && echo written; true";
    let mut masked = harness.shell("masked", script);
    masked.security.capabilities_add = vec!["NET_ADMIN".into()];
    run(&sandbox, &masked).await;
    assert!(logged(&masked).is_empty(), "{:?}", logged(&masked));
    let mut unmasked = harness.shell("unmasked", script);
    unmasked.security.capabilities_add = vec!["NET_ADMIN".into()];
    unmasked.security.unmasked_proc = true;
    run(&sandbox, &unmasked).await;
    assert_eq!(logged(&unmasked), ["mounted", "written"]);
    harness.end().await;
}
