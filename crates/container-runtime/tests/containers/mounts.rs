//! Mounts in containers, and their propagation.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use container_runtime::spec::{Mount, MountSource, Propagation};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::harness::{Harness, command, exec, logged, run, start};

fn bind(path: &Path, to: &str) -> Mount {
    Mount {
        destination: to.into(),
        source: MountSource::Bind {
            path: path.to_owned(),
            sub_path: None,
            recursive_read_only: false,
            propagation: Propagation::Private,
        },
        read_only: false,
    }
}

/// A mount of the node, which is unmounted when the value is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn memory(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount(
            Some("tmpfs"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        Mounted(at)
    }

    /// Mounts a directory over itself.
    pub fn itself(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let flags = MsFlags::MS_BIND;
        mount(Some(&at), &at, None::<&str>, flags, None::<&str>).unwrap();
        Mounted(at)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn shared(self) -> Self {
        let flags = MsFlags::MS_SHARED;
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).unwrap();
        self
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[tokio::test]
async fn later_mounts_travel_as_far_as_is_asked() {
    let harness = Harness::new("propagation");
    let sandbox = harness.sandbox("p1").await;
    let volume = Mounted::memory(harness.dir.join("volume")).shared();
    for sub in ["node", "container"] {
        fs::create_dir_all(volume.0.join(sub)).unwrap();
    }
    let with = |propagation| {
        let mut mount = bind(&volume.0, "/v");
        if let MountSource::Bind { propagation: p, .. } = &mut mount.source {
            *p = propagation;
        }
        mount
    };
    let mut containers = Vec::new();
    for (id, propagation) in [
        ("none", Propagation::Private),
        ("in", Propagation::HostToContainer),
        ("both", Propagation::Bidirectional),
    ] {
        let mut spec = harness.container(id, &["sleep", "1000"]);
        spec.security.privileged = true;
        spec.mounts = vec![with(propagation), bind(&volume.0, "/own")];
        start(&sandbox, &spec).await;
        containers.push(id);
    }
    let later = Mounted::memory(volume.0.join("node"));
    fs::write(later.0.join("later"), "").unwrap();
    for (id, directory, expected) in [
        ("none", "/v", "0\n"),
        ("in", "/v", "1\n"),
        ("both", "/v", "1\n"),
        // The propagation of one mount does not affect the other mounts.
        ("both", "/own", "0\n"),
    ] {
        let script = format!("ls {directory}/node | wc -l");
        let output = exec(&sandbox, command(id, &["sh", "-c", &script]), b"").await;
        assert_eq!(output.0, expected, "{id} {directory}: {output:?}");
    }
    let mount_script = "mount -t tmpfs none /v/container && touch /v/container/made";
    for id in ["none", "in"] {
        exec(&sandbox, command(id, &["sh", "-c", mount_script]), b"").await;
        assert!(!volume.0.join("container/made").exists(), "{id}");
    }
    exec(&sandbox, command("both", &["sh", "-c", mount_script]), b"").await;
    assert!(volume.0.join("container/made").exists());
    for id in containers {
        sandbox.remove(id).await.unwrap();
    }
    umount2(&volume.0.join("container"), MntFlags::MNT_DETACH).unwrap();
    drop(later);
    drop(volume);
    harness.end().await;
}

/// A privileged pod may mount the node's `/dev`. The container's devices and links are covered by it then,
/// and masked paths stay masked.
#[tokio::test]
async fn a_volume_may_be_mounted_over_dev() {
    let harness = Harness::new("over-dev");
    let sandbox = harness.sandbox("p1").await;
    let volume = harness.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("stdin"), "a file\n").unwrap();
    let mut spec = harness.shell(
        "a",
        "ls /dev; cat /dev/stdin; [ -s /proc/kcore ] || echo masked",
    );
    spec.mounts = vec![bind(&volume, "/dev")];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["stdin", "a file", "masked"]);
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    harness.end().await;
}

#[tokio::test]
async fn read_only_goes_as_deep_as_is_asked() {
    let harness = Harness::new("recursive");
    let sandbox = harness.sandbox("p1").await;
    let outer = Mounted::memory(harness.dir.join("outer"));
    let inner = Mounted::memory(outer.0.join("inner"));
    let with = |to: &str, recursive| {
        let mut mount = bind(&outer.0, to);
        mount.read_only = true;
        if let MountSource::Bind {
            recursive_read_only,
            ..
        } = &mut mount.source
        {
            *recursive_read_only = recursive;
        }
        mount
    };
    let script = "for d in /flat /flat/inner /deep /deep/inner; do \
         touch $d/x 2>/dev/null && echo $d written; done; true";
    let mut spec = harness.shell("a", script);
    spec.mounts = vec![with("/flat", false), with("/deep", true)];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["/flat/inner written"]);
    sandbox.remove("a").await.unwrap();
    drop(inner);
    drop(outer);
    harness.end().await;
}

#[tokio::test]
async fn a_directory_made_for_a_sub_path_belongs_to_those_of_the_volume() {
    let harness = Harness::new("subdir");
    let sandbox = harness.sandbox("p1").await;
    let volume = harness.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    std::os::unix::fs::chown(&volume, None, Some(3000)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
    let mut spec = harness.shell("a", "touch /data/file && echo written");
    spec.user.uid = Some(1000);
    spec.user.supplementary_groups = vec![3000];
    let mut mount = bind(&volume, "/data");
    if let MountSource::Bind { sub_path, .. } = &mut mount.source {
        *sub_path = Some("pg/main".into());
    }
    spec.mounts = vec![mount];
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["written"]);
    let file = fs::metadata(volume.join("pg/main/file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 3000));
    harness.end().await;
}

#[tokio::test]
async fn the_files_of_an_image_are_there_to_read() {
    let harness = Harness::new("layers");
    let sandbox = harness.sandbox("p1").await;
    let layers = ["base", "top"].map(|name| harness.dir.join(name));
    for (layer, files) in layers.iter().zip([["a", "b"], ["b", "c"]]) {
        fs::create_dir_all(layer.join("sub")).unwrap();
        for file in files {
            let text = format!("#!/bin/sh\necho {}\n", layer.display());
            fs::write(layer.join("sub").join(file), text).unwrap();
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(layer.join("sub").join(file), mode).unwrap();
        }
    }
    let mount = |lowerdirs: &[PathBuf], to: &str, sub_path: Option<&str>| Mount {
        destination: to.into(),
        source: MountSource::Layers {
            lowerdirs: lowerdirs.to_vec(),
            sub_path: sub_path.map(Into::into),
        },
        read_only: true,
    };
    let script = "ls /whole/sub; ls /one/sub; tail -n 1 /part/b | grep -c top; \
         touch /whole/x 2>/dev/null || echo read-only; /part/a 2>/dev/null || echo not executed";
    let mut spec = harness.shell("a", script);
    spec.mounts = vec![
        mount(&layers, "/whole", None),
        mount(&layers[..1], "/one", None),
        mount(&layers, "/part", Some("sub")),
    ];
    run(&sandbox, &spec).await;
    let expected = ["a", "b", "c", "a", "b", "1", "read-only", "not executed"];
    assert_eq!(logged(&spec), expected);
    let mut missing = harness.container("b", &["true"]);
    missing.mounts = vec![mount(&layers, "/part", Some("none"))];
    assert!(sandbox.create_container(missing).await.is_err());
    sandbox.remove("a").await.unwrap();
    harness.end().await;
}
