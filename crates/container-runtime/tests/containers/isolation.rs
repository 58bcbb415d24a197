//! The rights and the limits of a container.

use std::fs;

use container_runtime::RuntimeError;
use container_runtime::spec::{
    Device, EnvVar, Mount, MountSource, Resources, SandboxSpec, Seccomp, StartErrorKind, UserSpec,
};

use crate::harness::{
    Harness, cgroup_file, command, exec, exit_of, logged, run, sandbox_spec, start,
};

#[tokio::test]
async fn the_usual_file_systems_are_there_and_guarded() {
    let harness = Harness::new("guarded");
    let sandbox = harness.sandbox("p1").await;
    let script = "echo $$; ls /proc/self/fd | wc -l; \
         head -c 4 /proc/kcore 2>/dev/null | wc -c; \
         (echo 1 > /proc/sys/kernel/printk) 2>/dev/null || echo ro-sys; \
         touch /sys/x 2>/dev/null || echo ro-sysfs; \
         touch /dev/shm/x && echo shm; \
         echo ok > /dev/null && echo null; \
         set -- $(stat -L -c %d:%i /dev/null /proc/self/fd/0); [ $1 = $2 ] && echo own-null; \
         ls /sys/fs/cgroup | head -1 | wc -l; \
         for f in /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max; do \
             (echo 7 > $f) 2>/dev/null && echo raised; done; \
         mknod /tmp/sda b 254 0 2>/dev/null; head -c 1 /tmp/sda >/dev/null 2>&1 || echo no-disk; \
         ls / | grep -c old";
    let spec = harness.shell("a", script);
    assert_eq!(run(&sandbox, &spec).await.code, 1);
    // Three standard streams, and the directory that `ls` reads.
    assert_eq!(
        logged(&spec),
        [
            "1", "4", "0", "ro-sys", "ro-sysfs", "shm", "null", "own-null", "1", "no-disk", "0"
        ]
    );
    harness.end().await;
}

#[tokio::test]
async fn capabilities_are_the_default_set_with_drops_and_additions() {
    let harness = Harness::new("caps");
    let sandbox = harness.sandbox("p1").await;
    let script = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status";
    let default = harness.shell("default", script);
    run(&sandbox, &default).await;
    let customary = "00000000a80425fb";
    let none = "0000000000000000";
    let lines = |inh: &str, prm: &str, eff: &str, bnd: &str, nnp: &str, seccomp: &str| {
        vec![
            format!("CapInh:\t{inh}"),
            format!("CapPrm:\t{prm}"),
            format!("CapEff:\t{eff}"),
            format!("CapBnd:\t{bnd}"),
            format!("CapAmb:\t{none}"),
            format!("NoNewPrivs:\t{nnp}"),
            format!("Seccomp:\t{seccomp}"),
        ]
    };
    assert_eq!(
        logged(&default),
        lines(none, customary, customary, customary, "0", "0")
    );
    let mut tight = harness.shell("tight", script);
    tight.security.capabilities_drop = vec!["ALL".into()];
    tight.security.capabilities_add = vec!["NET_BIND_SERVICE".into()];
    tight.security.no_new_privileges = true;
    tight.security.seccomp = Seccomp::RuntimeDefault;
    run(&sandbox, &tight).await;
    let bind = "0000000000000400";
    assert_eq!(logged(&tight), lines(none, bind, bind, bind, "1", "2"));
    // A filter without no-new-privileges, for a user that loses its capabilities.
    let mut user = harness.shell("user", script);
    user.security.seccomp = Seccomp::RuntimeDefault;
    user.user.uid = Some(1000);
    run(&sandbox, &user).await;
    assert_eq!(logged(&user), lines(none, none, none, customary, "0", "2"));
    harness.end().await;
}

#[tokio::test]
async fn seccomp_default_refuses_what_containers_do_not_need() {
    let harness = Harness::new("seccomp");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell(
        "a",
        "unshare -n true 2>&1 | grep -c 'not permitted'; echo alive",
    );
    spec.security.seccomp = Seccomp::RuntimeDefault;
    assert_eq!(run(&sandbox, &spec).await.code, 0);
    assert_eq!(logged(&spec), ["1", "alive"]);
    harness.end().await;
}

#[tokio::test]
async fn a_file_stays_in_its_project() {
    let harness = Harness::new("project");
    let sandbox = harness.sandbox("p1").await;
    let script = "mkdir /d; chattr +d /d 2>&1 && echo set; chattr -p 7 /d 2>&1; lsattr -d /d";
    // The test uses programs of the machine, because busybox does not have them.
    let programs = [
        ("/usr/bin", "/usr/bin"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
    ];
    let mounts = programs.map(|(from, to)| Mount {
        destination: to.into(),
        source: MountSource::Bind {
            path: from.into(),
            sub_path: None,
            recursive_read_only: false,
            propagation: Default::default(),
        },
        read_only: true,
    });
    let mut free = harness.shell("free", script);
    free.mounts.extend(mounts.clone());
    let mut retained = harness.shell("kept", script);
    retained.mounts.extend(mounts);
    retained.security.keeps_projects = true;
    run(&sandbox, &free).await;
    assert_eq!(logged(&free).first().map(String::as_str), Some("set"));
    run(&sandbox, &retained).await;
    let output = logged(&retained);
    assert_eq!(output.len(), 3, "{output:?}");
    for line in &output[..2] {
        assert!(line.contains("Operation not supported"), "{output:?}");
    }
    assert!(
        output[2].ends_with("/d") && !output[2].contains("d-"),
        "{output:?}"
    );
    harness.end().await;
}

#[tokio::test]
async fn a_profile_of_the_node_decides_about_calls() {
    let harness = Harness::new("profile");
    let sandbox = harness.sandbox("p1").await;
    let file = harness.dir.join("no-directories.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(&file, profile).unwrap();
    let mut spec = harness.shell("a", "mkdir /x 2>&1 | grep -c 'No space left'; echo alive");
    spec.security.seccomp = Seccomp::Localhost(file);
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["1", "alive"]);
    let mut missing = harness.container("b", &["true"]);
    missing.security.seccomp = Seccomp::Localhost("/no/such/profile".into());
    let error = sandbox.create_container(missing).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cannot load seccomp profile"), "{text}");
    harness.end().await;
}

#[tokio::test]
async fn privileged_containers_have_everything() {
    let harness = Harness::new("privileged");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell(
        "a",
        "mount -t tmpfs none /tmp && echo mounted; [ -c /dev/kmsg ] && echo kmsg",
    );
    spec.security.privileged = true;
    assert_eq!(run(&sandbox, &spec).await.code, 0);
    assert_eq!(logged(&spec), ["mounted", "kmsg"]);
    harness.end().await;
}

#[tokio::test]
async fn the_root_can_be_read_only() {
    let harness = Harness::new("readonly");
    let sandbox = harness.sandbox("p1").await;
    let script = "touch /x 2>/dev/null || echo refused; touch /scratch/x && echo scratch";
    let mut spec = harness.shell("a", script);
    spec.rootfs.read_only = true;
    spec.mounts = vec![Mount {
        destination: "/scratch".into(),
        source: MountSource::Tmpfs {
            size_bytes: Some(1 << 20),
            mode: 0o777,
        },
        read_only: false,
    }];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["refused", "scratch"]);
    harness.end().await;
}

#[tokio::test]
async fn volumes_are_mounted_as_asked() {
    let harness = Harness::new("volumes");
    let volume = harness.dir.join("volume");
    fs::create_dir_all(volume.join("deep")).unwrap();
    fs::write(volume.join("file"), "from the node\n").unwrap();
    let bind = |to: &str, sub_path: Option<&str>, read_only| Mount {
        destination: to.into(),
        source: MountSource::Bind {
            path: volume.clone(),
            sub_path: sub_path.map(Into::into),
            recursive_read_only: read_only,
            propagation: Default::default(),
        },
        read_only,
    };
    let sandbox = harness.sandbox("p1").await;
    let script = "echo written > /data/new; cat /etc/one-file; \
         touch /ro/x 2>/dev/null || echo refused; touch /sub/here; pwd";
    let mut spec = harness.shell("a", script);
    spec.cwd = "/srv/dir".into();
    spec.mounts = vec![
        bind("/data", None, false),
        bind("/ro", None, true),
        bind("/etc/one-file", Some("file"), true),
        bind("/sub", Some("deep/er"), false),
    ];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["from the node", "refused", "/srv/dir"]);
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "written\n");
    assert!(volume.join("deep/er/here").exists());
    sandbox.remove("a").await.unwrap();
    assert!(
        volume.join("file").exists(),
        "removal must not reach into volumes"
    );
    let mut missing = harness.container("b", &["true"]);
    missing.mounts = vec![Mount {
        destination: "/x".into(),
        source: MountSource::Bind {
            path: "/no/such/path".into(),
            sub_path: None,
            recursive_read_only: false,
            propagation: Default::default(),
        },
        read_only: false,
    }];
    let error = sandbox.create_container(missing).await.unwrap_err();
    let RuntimeError::Start(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind, StartErrorKind::Mount);
    assert!(sandbox.state().await.unwrap().containers.len() == 1 - 1);
    harness.end().await;
}

#[tokio::test]
async fn a_container_runs_as_the_user_asked_for() {
    let harness = Harness::new("users");
    let sandbox = harness.sandbox("p1").await;
    let mut named = harness.shell(
        "named",
        "id -u; id -g; id -G; env | grep HOME; echo x > /dev/stdout",
    );
    named.user = UserSpec {
        name: "app".into(),
        supplementary_groups: vec![2000],
        ..UserSpec::default()
    };
    run(&sandbox, &named).await;
    assert_eq!(
        logged(&named),
        ["1000", "1001", "1001 4 2000", "HOME=/home/app", "x"]
    );
    let user = sandbox.state().await.unwrap().containers["named"]
        .user
        .clone();
    assert_eq!((user.uid, user.gid), (1000, 1001));
    let mut number = harness.shell(
        "number",
        "id -u; id -g; touch /x 2>/dev/null || echo refused",
    );
    number.user.uid = Some(4321);
    run(&sandbox, &number).await;
    assert_eq!(logged(&number), ["4321", "0", "refused"]);
    let mut unknown = harness.container("unknown", &["true"]);
    unknown.user.name = "nobody-here".into();
    let error = sandbox.create_container(unknown).await.unwrap_err();
    let RuntimeError::Start(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind, StartErrorKind::UserNotFound);
    harness.end().await;
}

#[tokio::test]
async fn the_environment_is_as_given() {
    let harness = Harness::new("env");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.container("a", &["env"]);
    let var = |name: &str, value: &str| EnvVar {
        name: name.into(),
        value: value.into(),
    };
    spec.env
        .extend([var("A", "1"), var("B", "two words"), var("A", "3")]);
    run(&sandbox, &spec).await;
    assert_eq!(
        logged(&spec),
        ["PATH=/usr/bin:/bin", "A=3", "B=two words", "HOME=/root"]
    );
    harness.end().await;
}

/// As kubelet's group of all pods: the weight of a process for each processor, and not that of one process.
#[tokio::test]
async fn the_weight_of_all_pods_is_that_of_all_processors() {
    let harness = Harness::new("weight");
    let sandbox = harness.runtime.create_sandbox(sandbox_spec("p1")).await;
    let sandbox = sandbox.unwrap();
    let (parent, _) = sandbox.cgroup().rsplit_once('/').unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    let weight = cgroup_file(parent, &["cpu.shares", "cpu.weight"]);
    let weight: usize = weight.parse().unwrap();
    let is_version_1 = weight == processors * 1024;
    let is_version_2 = weight > 100 && weight < 200 * processors;
    assert!(is_version_1 || is_version_2, "{weight} for {processors}");
    sandbox.destroy().await.unwrap();
    harness.end().await;
}

#[tokio::test]
async fn limits_are_set_and_can_be_changed() {
    let harness = Harness::new("limits");
    let mut pod = sandbox_spec("p1");
    pod.resources = Resources {
        memory_bytes: Some(256 << 20),
        ..Resources::default()
    };
    let sandbox = harness.runtime.create_sandbox(pod).await.unwrap();
    let mut spec = harness.container("a", &["sleep", "1000"]);
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: None,
        memory_bytes: Some(64 << 20),
        pids: Some(50),
        ..Resources::default()
    };
    spec.oom_score_adj = Some(-997);
    spec.rlimits
        .insert("RLIMIT_NOFILE".into(), (1 << 30, 1 << 30));
    start(&sandbox, &spec).await;
    let group = format!("{}/a", sandbox.cgroup());
    let read = |names: &[&str]| cgroup_file(&group, names);
    assert_eq!(
        read(&["memory.limit_in_bytes", "memory.max"]),
        (64 << 20).to_string()
    );
    assert_eq!(read(&["pids.max"]), "50");
    assert!(["512", "59"].contains(&read(&["cpu.shares", "cpu.weight"]).as_str()));
    assert!(["50000", "50000 100000"].contains(&read(&["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    let of_pod = cgroup_file(sandbox.cgroup(), &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(of_pod, (256 << 20).to_string());
    let more = Resources {
        cpu_shares: Some(1024),
        memory_bytes: Some(128 << 20),
        ..Resources::default()
    };
    sandbox.update("a", more).await.unwrap();
    assert_eq!(
        read(&["memory.limit_in_bytes", "memory.max"]),
        (128 << 20).to_string()
    );
    assert!(["1024", "100"].contains(&read(&["cpu.shares", "cpu.weight"]).as_str()));
    let usage = sandbox.usage(Some("a")).unwrap();
    assert!(
        usage.pids == 1 && usage.working_set_bytes < 64 << 20,
        "{usage:?}"
    );
    harness.end().await;
}

#[tokio::test]
async fn what_runs_in_a_container_may_divide_its_control_group() {
    let harness = Harness::new("divided");
    let sandbox = harness.sandbox("p1").await;
    // As a container engine or a service manager inside a container does. In version 1, there are no
    // controllers to delegate.
    let script = "cd /sys/fs/cgroup; mkdir own; echo 0 > own/cgroup.procs; \
         echo +memory > cgroup.subtree_control; echo \"has $(cat cgroup.subtree_control)\"; \
         exec sleep 1000";
    let mut spec = harness.shell("a", &format!("({script}) 2>/dev/null"));
    spec.security.privileged = true;
    start(&sandbox, &spec).await;
    crate::harness::until("it is done", || !logged(&spec).is_empty()).await;
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        assert_eq!(logged(&spec), ["has memory"]);
    }
    let (out, err, code) = exec(&sandbox, command("a", &["echo", "in"]), b"").await;
    assert_eq!((out.as_str(), code), ("in\n", Some(0)), "{err}");
    harness.end().await;
}

/// Needs a kernel that counts huge pages. On other kernels, a container with a limit of huge pages starts,
/// too.
#[tokio::test]
async fn huge_pages_are_limited() {
    let harness = Harness::new("hugepages");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.container("a", &["sleep", "1000"]);
    spec.resources.huge_pages = [("2MB".to_owned(), 4 << 20)].into();
    start(&sandbox, &spec).await;
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let unified = controllers.is_ok_and(|all| all.contains("hugetlb"));
    let counted = unified || std::path::Path::new("/sys/fs/cgroup/hugetlb").exists();
    let group = format!("{}/a", sandbox.cgroup());
    let limit =
        counted.then(|| cgroup_file(&group, &["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"]));
    assert_eq!(limit, counted.then(|| (4 << 20).to_string()));
    harness.end().await;
}

#[tokio::test]
async fn out_of_memory_is_told_apart_from_a_kill() {
    let harness = Harness::new("oom");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell(
        "a",
        "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c",
    );
    spec.args = vec![
        "tail".into(),
        "-c".into(),
        "90000000".into(),
        "/dev/zero".into(),
    ];
    spec.resources.memory_bytes = Some(16 << 20);
    let exit = run(&sandbox, &spec).await;
    assert_eq!(
        (exit.code, exit.signal, exit.oom_killed),
        (137, Some(9), true)
    );
    harness.end().await;
}

#[tokio::test]
async fn containers_of_a_pod_share_what_a_pod_shares() {
    let harness = Harness::new("shared");
    let spec = SandboxSpec {
        share_process_namespace: true,
        sysctls: [("net.core.somaxconn".to_owned(), "321".to_owned())].into(),
        ..sandbox_spec("p1")
    };
    let sandbox = harness.runtime.create_sandbox(spec).await.unwrap();
    let a = harness.shell("a", "echo there > /dev/shm/x; echo up; exec sleep 1000");
    start(&sandbox, &a).await;
    crate::harness::until("the file is there", || logged(&a) == ["up"]).await;
    let script = "cat /dev/shm/x /proc/sys/net/core/somaxconn; ps | grep -c '[s]leep 100'; \
         readlink /proc/1/exe | wc -l; hostname; ip -o link | wc -l";
    let b = harness.shell("b", script);
    run(&sandbox, &b).await;
    assert_eq!(logged(&b), ["there", "321", "1", "0", "web-0", "1"]);
    // The removal of one container does not affect the other, but kills the processes that the removed
    // container has started.
    let (out, _, _) = exec(&sandbox, command("a", &["echo", "alive"]), b"").await;
    assert_eq!(out, "alive\n");
    let other_pod = harness.sandbox("p2").await;
    let c = harness.shell("c", "ls /dev/shm | wc -l; cat /proc/sys/net/core/somaxconn");
    run(&other_pod, &c).await;
    assert_ne!(logged(&c)[1], "321");
    assert_eq!(logged(&c)[0], "0");
    harness.end().await;
}

#[tokio::test]
async fn who_holds_the_pods_processes_is_nobody() {
    let harness = Harness::new("nobody");
    for (id, own_users) in [("p1", false), ("p2", true)] {
        let spec = SandboxSpec {
            share_process_namespace: true,
            own_users,
            ..sandbox_spec(id)
        };
        let sandbox = harness.runtime.create_sandbox(spec).await.unwrap();
        // Even a container that can inspect all processes finds no files and no rights of the node in the
        // pause process.
        let script = "cat /proc/1/comm; ls -A /proc/1/root/ 2>/dev/null | wc -l; \
             grep -E 'Uid|Cap(Prm|Bnd)|NoNewPrivs' /proc/1/status";
        let mut spec = harness.shell("a", script);
        spec.security.capabilities_add = vec!["SYS_PTRACE".into()];
        run(&sandbox, &spec).await;
        assert_eq!(
            logged(&spec),
            [
                "pause",
                "0",
                "Uid:\t65535\t65535\t65535\t65535",
                "CapPrm:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "NoNewPrivs:\t1",
            ]
        );
    }
    harness.end().await;
}

#[tokio::test]
async fn the_network_namespace_is_the_pods_own_unless_asked() {
    let harness = Harness::new("netns");
    let sandbox = harness.sandbox("p1").await;
    let path = sandbox.netns_path().unwrap().unwrap();
    let node = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(fs::read_link(&path).unwrap(), node);
    let spec = harness.shell(
        "a",
        "readlink /proc/self/ns/net; ip -o addr show lo | wc -l",
    );
    run(&sandbox, &spec).await;
    assert_eq!(
        logged(&spec)[0],
        fs::read_link(&path).unwrap().to_str().unwrap()
    );
    assert_ne!(logged(&spec)[1], "0");
    let host = SandboxSpec {
        host_network: true,
        host_pid: true,
        ..sandbox_spec("p2")
    };
    let host = harness.runtime.create_sandbox(host).await.unwrap();
    assert_eq!(host.netns_path().unwrap(), None);
    let spec = harness.shell(
        "a",
        "readlink /proc/self/ns/net; (sleep 300 &) ; exec sleep 300",
    );
    start(&host, &spec).await;
    crate::harness::until("it is written", || !logged(&spec).is_empty()).await;
    assert_eq!(logged(&spec)[0], node.to_str().unwrap());
    // Processes that the container has left on the node are killed with it.
    host.signal("a", 9).await.unwrap();
    crate::harness::exit_of(&host, "a").await;
    let bad = SandboxSpec {
        sysctls: [("vm.swappiness".to_owned(), "1".to_owned())].into(),
        ..sandbox_spec("p3")
    };
    let error = harness.runtime.create_sandbox(bad).await.unwrap_err();
    assert!(error.to_string().contains("vm.swappiness"), "{error}");
    assert!(harness.runtime.sandbox("p3").await.unwrap().is_none());
    harness.end().await;
}

#[tokio::test]
async fn devices_are_given_as_asked() {
    let harness = Harness::new("devices");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.shell("a", "echo hello > /dev/mine && echo written");
    spec.devices = vec![Device {
        host_path: "/dev/kmsg".into(),
        container_path: "/dev/mine".into(),
        access: "r".into(),
        ..Device::default()
    }];
    let exit = run(&sandbox, &spec).await;
    assert_eq!(exit.code, 1, "{:?}", logged(&spec));
    let mut spec = harness.shell("b", "[ -c /dev/mine ] && echo there");
    spec.devices = vec![Device {
        host_path: "/dev/null".into(),
        container_path: "/dev/mine".into(),
        access: "rw".into(),
        ..Device::default()
    }];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["there"]);
    harness.end().await;
}

#[tokio::test]
async fn a_container_can_join_the_processes_of_another() {
    // kubectl.md 5.8
    let harness = Harness::new("target");
    let sandbox = harness.sandbox("p1").await;
    let app = harness.shell("app", "echo up; exec sleep 1000");
    start(&sandbox, &app).await;
    let script = "tr '\\0' ' ' < /proc/1/cmdline; echo; ls /proc/1/root >/dev/null && echo root";
    let alone = harness.shell("alone", script);
    assert_eq!(run(&sandbox, &alone).await.code, 0);
    assert!(
        logged(&alone)[0].starts_with("sh -c"),
        "{:?}",
        logged(&alone)
    );
    let mut debugger = harness.shell("debugger", script);
    debugger.process_target = Some("app".into());
    debugger.security.capabilities_add = vec!["SYS_PTRACE".into()];
    assert_eq!(run(&sandbox, &debugger).await.code, 0);
    assert_eq!(logged(&debugger), ["sleep 1000 ", "root"]);
    // The container stops with its target container. If the target does not run, the start fails.
    let mut waiting = harness.shell("waiting", "exec sleep 1000");
    waiting.process_target = Some("app".into());
    start(&sandbox, &waiting).await;
    sandbox.signal("app", 9).await.unwrap();
    assert_eq!(exit_of(&sandbox, "waiting").await.signal, Some(9));
    let mut late = harness.shell("late", "true");
    late.process_target = Some("app".into());
    sandbox.create_container(late).await.unwrap();
    let refused = sandbox.start("late").await.unwrap_err();
    assert!(refused.to_string().contains("app"), "{refused}");
    harness.end().await;
}
