//! `/proc`, `/sys`, control groups and devices: the kernel's files that a container has too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use container_runtime::spec::{Mount, MountSource, Propagation};

use super::{Rights, attack, perl, refusal, refused};
use crate::world::{World, logged, run};

/// Masked paths: the default lists of runc, the reference of the runtime specification, and of
/// containerd, together.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Read-only paths, by files in them: the default list of both; then all of `/sys`.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/irq/default_smp_affinity",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/power/state",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/notify_on_release",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/devices/devices.allow",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/memory.max",
];

fn quoted(paths: &[&str]) -> String {
    paths.iter().map(|path| format!("'{path}',")).collect()
}

/// Protected by `MASKED` of the plan of the root, which is covered after all other mounts, with an empty
/// file system or the null device of the container's own `/dev`.
#[tokio::test]
async fn what_is_masked_shows_nothing() {
    let world = World::new("masked");
    let script = format!(
        r#"
        for my $path ({}) {{
            next unless -e $path;
            if (-d $path) {{
                opendir(my $dir, $path);
                print "$path has $_\n" for grep {{ !/^\.\.?$/ }} readdir $dir;
                try $path, open(my $new, ">", "$path/new");
            }} else {{
                open(my $in, "<", $path);
                read $in, my $bytes, 100;
                print "$path says $bytes\n" if length $bytes;
                try $path, !(-c $path && (stat _)[6] == 259);
            }}
        }}
        "#,
        quoted(MASKED)
    );
    for rights in Rights::ALL {
        let said = attack(&world, rights, &script).await;
        assert!(said.len() >= 3, "{said:?}");
        // A restricted user may not write to a directory in the first place; a mask that is the null
        // device leaves the error of before.
        for line in said {
            let shown = line.contains(" has ") || line.contains(" says ") || line.ends_with("done");
            assert!(!shown, "{rights:?}: {line}");
        }
    }
    world.end().await;
}

/// Protected by the read-only mounts over parts of `/proc`, and by `/sys` and the control groups being
/// mounted read-only: a root of the node's users passes all checks of modes.
#[tokio::test]
async fn no_switch_of_the_kernel_can_be_turned() {
    let world = World::new("switches");
    let script = format!(
        r#"
        for my $path (grep {{ -e }} {}) {{
            try $path, -d $path ? chmod(0777, $path) : open(my $file, "+<", $path);
        }}
        try "link", unlink("/proc/sys/kernel/core_pattern");
        try "mode", chmod(0777, "/sys/kernel/uevent_seqnum");
        "#,
        quoted(READ_ONLY)
    );
    for rights in Rights::ALL {
        let said = attack(&world, rights, &script).await;
        assert!(said.len() >= 6, "{said:?}");
        let errors: &[&str] = match rights {
            Rights::Default => &["Read-only file system"],
            _ => &[
                "Read-only file system",
                "Permission denied",
                "Operation not permitted",
            ],
        };
        refused(&said, said.len(), errors);
    }
    world.end().await;
}

/// Protected by the missing `CAP_SYS_ADMIN`; in namespaces of an attacker's own, by the kernel, which
/// shows no `/proc` whole to those who see a masked one, and keeps mounts together that came together.
#[tokio::test]
async fn masks_cannot_be_taken_off() {
    let world = World::new("masks");
    let sandbox = world.sandbox("p1").await;
    // To open for writing is enough: nothing is changed where that succeeds.
    let script = "(umount /proc/kcore; umount /proc/sys; mount -o remount,rw /proc/sys; \
         mount -t proc none /tmp; mount -t sysfs none /tmp; mount -t cgroup -o memory none /tmp; \
         mount -o bind,rw /proc/sys /tmp; mount -o remount,bind,rw /tmp) >/dev/null 2>&1; \
         [ -s /proc/kcore ] && echo core; \
         (: >> /proc/sys/kernel/core_pattern) 2>/dev/null && echo pattern; \
         [ -e /tmp/kcore ] && echo proc; [ -e /tmp/kernel/uevent_seqnum ] && echo sys; \
         [ -e /tmp/release_agent ] && echo agent; \
         (: >> /tmp/kernel/core_pattern) 2>/dev/null && echo bound; echo over";
    let plain = world.shell("plain", script);
    run(&sandbox, &plain).await;
    assert_eq!(logged(&plain), ["over"]);
    // Where the node lets anybody have namespaces of their own, being root there is no more.
    let inside = world.container("inside", &["unshare", "-Urmpf", "sh", "-c", script]);
    run(&sandbox, &inside).await;
    let said = logged(&inside);
    assert!(said == ["over"] || said[0].contains("unshare"), "{said:?}");
    world.end().await;
}

/// Protected by the device rules of the control group; for users of the pod's own by the kernel.
#[tokio::test]
async fn devices_of_the_node_are_out_of_reach() {
    let world = World::new("nodes-devices");
    let mut devices = vec![
        ("c", "1:1".to_owned()),
        ("c", "1:2".to_owned()),
        ("c", "1:4".to_owned()),
        ("c", "1:11".to_owned()),
        ("c", "10:237".to_owned()),
    ];
    for disk in fs::read_dir("/sys/block").unwrap() {
        let number = fs::read_to_string(disk.unwrap().path().join("dev")).unwrap();
        devices.push(("b", number.trim().to_owned()));
    }
    devices.truncate(12);
    let tries: String = devices
        .iter()
        .map(|(kind, number)| {
            let (major, minor) = number.split_once(':').unwrap();
            let name = format!("/tmp/{kind}-{major}-{minor}");
            format!(
                "my $made = !system('mknod {name} {kind} {major} {minor} 2>/dev/null'); \
                 try '{name}', $made ? open(my $device, '+<', '{name}') : ($! = 1) && 0;\n"
            )
        })
        .collect();
    let tries = tries.replace("my $made", "$made");
    for rights in Rights::ALL {
        let said = attack(&world, rights, &tries).await;
        refused(&said, devices.len(), &["Operation not permitted"]);
    }
    world.end().await;
}

fn volume(path: PathBuf, to: &str) -> Mount {
    Mount {
        destination: to.into(),
        source: MountSource::Bind {
            path,
            sub_path: None,
            recursive_read_only: false,
            propagation: Propagation::Private,
        },
        read_only: false,
    }
}

/// Protected by `proc_guard`: by name before anything is mounted; by the mount table where links of a
/// volume or of the image led there; findings S31.
#[tokio::test]
async fn no_volume_covers_proc() {
    let world = World::new("over-proc");
    let content = world.dir.join("volume");
    fs::create_dir_all(content.join("attr")).unwrap();
    symlink("/proc", content.join("proc")).unwrap();
    symlink("/proc/self", content.join("self")).unwrap();
    symlink("../proc/sys/kernel", content.join("kernel")).unwrap();
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&world).await;
        for to in [
            "/proc",
            "/proc/sys",
            "/proc/self/attr",
            "/etc/../proc/scsi",
            "/data/proc",
            "/data/kernel",
            "/data/proc/sys/vm",
        ] {
            let mut spec = rights.give(world.container("a", &["true"]));
            spec.mounts = vec![
                volume(content.clone(), "/data"),
                volume(content.clone(), to),
            ];
            let error = refusal(&sandbox, spec).await.to_string();
            let is_named =
                error.contains("cannot be mounted because it is") || error.contains("type proc");
            assert!(is_named, "{rights:?}: {to}: {error}");
        }
        sandbox.destroy().await.unwrap();
    }
    world.end().await;
}

/// An image can have links where the runtime mounts the kernel's file systems, and files where it makes
/// its own devices (the class of CVE-2025-31133 and CVE-2025-52565): what the runtime finds there by
/// name must be what it has put there.
///
/// Protected by `SymlinkPolicy::Refused`: no link is followed to where the runtime mounts the kernel's file
/// systems; and by `/dev` being a file system of the container's own before anything in it is used.
#[tokio::test]
async fn links_of_an_image_lead_no_mount_astray() {
    let world = World::new("astray");
    let layer = world.dir.join("layer");
    for (name, to) in [("proc", "/tmp"), ("sys", "/tmp"), ("dev", "/proc")] {
        let layer = layer.join(name);
        fs::create_dir_all(&layer).unwrap();
        symlink(to, layer.join(name)).unwrap();
    }
    fs::create_dir_all(layer.join("null/dev")).unwrap();
    symlink("/proc/sysrq-trigger", layer.join("null/dev/null")).unwrap();
    symlink("/proc/sysrq-trigger", layer.join("null/dev/console")).unwrap();
    let masks = r#"
        open my $table, "<", "/proc/self/mountinfo";
        print grep m{ /(proc/kcore|dev/console|dev/null) }, <$table>;
        try "kcore", -s "/proc/kcore";
        try "null", -c "/dev/null" && (stat _)[6] == 259;
        try "console", !-e "/dev/console" || -c "/dev/console";
    "#;
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&world).await;
        for name in ["proc", "sys", "dev"] {
            let mut spec = rights.give(world.container("a", &["true"]));
            spec.rootfs.lowerdirs.push(layer.join(name));
            let error = refusal(&sandbox, spec).await.to_string();
            assert!(!error.is_empty());
        }
        let mut spec = rights.give(perl(&world, "b", masks));
        spec.rootfs.lowerdirs.push(layer.join("null"));
        spec.tty = true;
        run(&sandbox, &spec).await;
        let said = logged(&spec);
        assert!(!said.iter().any(|line| line.contains("sysrq")), "{said:#?}");
        for wanted in ["kcore: ", "null: done", "console: done"] {
            assert!(
                said.iter().any(|line| line.starts_with(wanted)),
                "{said:#?}"
            );
        }
        assert!(!said.iter().any(|line| line == "kcore: done"), "{said:#?}");
        sandbox.destroy().await.unwrap();
    }
    world.end().await;
}
