//! Block devices in containers.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use container_runtime::spec::{Device, UserSpec};
use host_kernel::loop_device::LoopDevice;

use crate::harness::{Harness, command, exec, logged, run, start};

/// A loop device over a file, which is detached when the value is dropped.
struct Disk(Option<LoopDevice>);

impl Disk {
    fn new(harness: &Harness) -> Self {
        let image = harness.dir.join("image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        Self(Some(LoopDevice::persistent_over(&image).unwrap()))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }

    fn at(&self, path: &str, access: &str) -> Device {
        Device {
            host_path: self.path().to_owned(),
            container_path: path.into(),
            access: access.to_owned(),
            mode: None,
            uid: Some(1000),
            gid: Some(1001),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = self.0.take().map(LoopDevice::detach);
        assert!(detached.is_none_or(|result| result.is_ok()));
    }
}

#[tokio::test]
async fn a_block_device_is_where_it_is_asked_for_and_whose_it_is_for() {
    let harness = Harness::new("block");
    let disk = Disk::new(&harness);
    let sandbox = harness.sandbox("p1").await;
    let mut writer = harness.shell(
        "writer",
        "printf mark | dd of=/data/raw bs=4 conv=fsync 2>/dev/null && head -c 4 /dev/raw && echo \
         && stat -c '%u %g %F' /data/raw /dev/raw",
    );
    writer.user = UserSpec {
        uid: Some(1000),
        gid: Some(2000),
        ..UserSpec::default()
    };
    writer.devices = vec![disk.at("/data/raw", "rwm"), disk.at("/dev/raw", "rwm")];
    let exit = run(&sandbox, &writer).await;
    let node = "1000 1001 block special file";
    assert_eq!(logged(&writer), ["mark", node, node], "{exit:?}");
    // The reader has only the device's group, and only the access that the control group allows.
    let mut reader = harness.shell(
        "reader",
        "head -c 4 /dev/raw && echo; printf lost | dd of=/dev/raw bs=4 2>/dev/null || echo refused",
    );
    reader.user = UserSpec {
        uid: Some(3000),
        gid: Some(1001),
        ..UserSpec::default()
    };
    reader.devices = vec![disk.at("/dev/raw", "r")];
    run(&sandbox, &reader).await;
    assert_eq!(logged(&reader), ["mark", "refused"]);
    let mut other = harness.shell("other", "head -c 4 /dev/raw || echo refused");
    other.user = UserSpec {
        uid: Some(3000),
        gid: Some(3000),
        ..UserSpec::default()
    };
    other.devices = vec![disk.at("/dev/raw", "rwm")];
    run(&sandbox, &other).await;
    assert!(logged(&other).contains(&"refused".to_owned()));
    harness.end().await;
}

#[tokio::test]
async fn a_device_that_was_not_given_is_no_use() {
    let harness = Harness::new("foreign");
    let disk = Disk::new(&harness);
    let sandbox = harness.sandbox("p1").await;
    let number = fs::metadata(disk.path()).unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let script = format!(
        "mknod /tmp/disk b {major} {minor}; \
         for use in 'if=/tmp/disk of=/dev/null' 'if=/dev/zero of=/tmp/disk'; do \
             dd $use bs=4 count=1 2>&1 | grep -o 'not permitted' || echo used; done"
    );
    let spec = harness.shell("own", &script);
    run(&sandbox, &spec).await;
    assert_eq!(logged(&spec), ["not permitted", "not permitted"]);
    start(&sandbox, &harness.container("long", &["sleep", "1000"])).await;
    let (out, _, _) = exec(&sandbox, command("long", &["sh", "-c", &script]), b"").await;
    assert_eq!(out, "not permitted\nnot permitted\n");
    let mut all = harness.shell("all", &script);
    all.security.privileged = true;
    run(&sandbox, &all).await;
    assert_eq!(logged(&all), ["used", "used"]);
    harness.end().await;
}
