//! `/proc`, `/sys`, control groups and devices: the kernel's files in a container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use container_runtime::spec::{Mount, MountSource, Propagation};

use super::{Rights, attack, perl, refusal, refused};
use crate::harness::{Harness, logged, run};

/// Masked paths: the default list of runc (the reference implementation of the runtime specification) and
/// the list of containerd.
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

/// Read-only paths, each tested with a file: the default lists of runc and containerd, then all of `/sys`.
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

/// Protected by `MASKED` of the root plan: these paths are covered after all other mounts, by an empty file
/// system or by the null device of the container's `/dev`.
#[tokio::test]
async fn what_is_masked_shows_nothing() {
    let harness = Harness::new("masked");
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
        let output = attack(&harness, rights, &script).await;
        assert!(output.len() >= 3, "{output:?}");
        // A restricted user has no write permission in a directory anyway. The null device as a mask
        // returns the original error.
        for line in output {
            let is_printed =
                line.contains(" has ") || line.contains(" says ") || line.ends_with("done");
            assert!(!is_printed, "{rights:?}: {line}");
        }
    }
    harness.end().await;
}

/// Protected by the read-only mounts over parts of `/proc`, and by the read-only mounts of `/sys` and the
/// control groups: a root user of the node passes all permission checks.
#[tokio::test]
async fn no_switch_of_the_kernel_can_be_turned() {
    let harness = Harness::new("switches");
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
        let output = attack(&harness, rights, &script).await;
        assert!(output.len() >= 6, "{output:?}");
        let errors: &[&str] = match rights {
            Rights::Default => &["Read-only file system"],
            _ => &[
                "Read-only file system",
                "Permission denied",
                "Operation not permitted",
            ],
        };
        refused(&output, output.len(), errors);
    }
    harness.end().await;
}

/// Protected by the missing `CAP_SYS_ADMIN`. In an attacker's namespaces, protected by the kernel: a
/// process with a masked `/proc` cannot mount a complete one, and inherited mounts stay locked together.
#[tokio::test]
async fn masks_cannot_be_taken_off() {
    let harness = Harness::new("masks");
    let sandbox = harness.sandbox("p1").await;
    // The attempt only opens the file for writing, so it changes nothing if it succeeds.
    let script = "(umount /proc/kcore; umount /proc/sys; mount -o remount,rw /proc/sys; \
         mount -t proc none /tmp; mount -t sysfs none /tmp; mount -t cgroup -o memory none /tmp; \
         mount -o bind,rw /proc/sys /tmp; mount -o remount,bind,rw /tmp) >/dev/null 2>&1; \
         [ -s /proc/kcore ] && echo core; \
         (: >> /proc/sys/kernel/core_pattern) 2>/dev/null && echo pattern; \
         [ -e /tmp/kcore ] && echo proc; [ -e /tmp/kernel/uevent_seqnum ] && echo sys; \
         [ -e /tmp/release_agent ] && echo agent; \
         (: >> /tmp/kernel/core_pattern) 2>/dev/null && echo bound; echo over";
    let plain = harness.shell("plain", script);
    run(&sandbox, &plain).await;
    assert_eq!(logged(&plain), ["over"]);
    // If the node allows unprivileged user namespaces, root in such a namespace has no more rights.
    let inside = harness.container("inside", &["unshare", "-Urmpf", "sh", "-c", script]);
    run(&sandbox, &inside).await;
    let output = logged(&inside);
    assert!(
        output == ["over"] || output[0].contains("unshare"),
        "{output:?}"
    );
    harness.end().await;
}

/// Protected by the device rules of the control group; in a pod with a user namespace, by the kernel.
#[tokio::test]
async fn devices_of_the_node_are_out_of_reach() {
    let harness = Harness::new("nodes-devices");
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
        let output = attack(&harness, rights, &tries).await;
        refused(&output, devices.len(), &["Operation not permitted"]);
    }
    harness.end().await;
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

/// Protected by `proc_guard`: by the path before anything is mounted, and by the mount table if links of a
/// volume or of the image lead to `/proc`; findings S31.
#[tokio::test]
async fn no_volume_covers_proc() {
    let harness = Harness::new("over-proc");
    let content = harness.dir.join("volume");
    fs::create_dir_all(content.join("attr")).unwrap();
    symlink("/proc", content.join("proc")).unwrap();
    symlink("/proc/self", content.join("self")).unwrap();
    symlink("../proc/sys/kernel", content.join("kernel")).unwrap();
    for rights in Rights::ALL {
        let sandbox = rights.sandbox(&harness).await;
        for to in [
            "/proc",
            "/proc/sys",
            "/proc/self/attr",
            "/etc/../proc/scsi",
            "/data/proc",
            "/data/kernel",
            "/data/proc/sys/vm",
        ] {
            let mut spec = rights.give(harness.container("a", &["true"]));
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
    harness.end().await;
}

/// An image can contain links at the paths where the runtime mounts the kernel's file systems, and files
/// where the runtime creates devices (the class of CVE-2025-31133 and CVE-2025-52565). A path that the
/// runtime opens there must be the file that the runtime has created.
///
/// Protected by `SymlinkPolicy::Refused`: no link is followed when the runtime mounts the kernel's file
/// systems. Also protected by the separate file system at `/dev`, which is mounted before anything in it is
/// used.
#[tokio::test]
async fn links_of_an_image_lead_no_mount_astray() {
    let harness = Harness::new("astray");
    let layer = harness.dir.join("layer");
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
        let sandbox = rights.sandbox(&harness).await;
        for name in ["proc", "sys", "dev"] {
            let mut spec = rights.give(harness.container("a", &["true"]));
            spec.rootfs.lowerdirs.push(layer.join(name));
            let error = refusal(&sandbox, spec).await.to_string();
            assert!(!error.is_empty());
        }
        let mut spec = rights.give(perl(&harness, "b", masks));
        spec.rootfs.lowerdirs.push(layer.join("null"));
        spec.tty = true;
        run(&sandbox, &spec).await;
        let output = logged(&spec);
        assert!(
            !output.iter().any(|line| line.contains("sysrq")),
            "{output:#?}"
        );
        for expected in ["kcore: ", "null: done", "console: done"] {
            assert!(
                output.iter().any(|line| line.starts_with(expected)),
                "{output:#?}"
            );
        }
        assert!(
            !output.iter().any(|line| line == "kcore: done"),
            "{output:#?}"
        );
        sandbox.destroy().await.unwrap();
    }
    harness.end().await;
}
