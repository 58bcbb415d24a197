//! Block volumes of a CSI driver.

use json_tree::json;

use crate::block::{Disk, WRITE, image, with_device};
use crate::csi::{Disks, key, started};

pub async fn a_device_of_a_driver_is_one_of_the_pods() {
    let harness = started("csi-block").await;
    let mut disks = Disks::with_volumes_max(&harness, 7);
    key(&harness).await;
    let spec = json!({"attachRequired": false});
    disks.driver_object(&harness, spec).await;
    let image = image(&harness, "image");
    let disk = Disk::over(&image);
    std::fs::create_dir_all(&disks.volumes).unwrap();
    std::os::unix::fs::symlink(disk.path(), disks.volumes.join("v")).unwrap();
    disks
        .claim_of(&harness, "v", ("Block", "ReadWriteOncePod"))
        .await;
    disks.start();
    harness.pod("writer", with_device("v", false, WRITE)).await;
    harness.ready("writer").await;
    let log = harness.logged("writer", "c", "2000").await;
    assert_eq!(log, "mark\n1000 2000\n");
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    // The access mode is one node that writes: the driver does not distinguish pods.
    assert!(disks.node.calls().iter().all(|call| call.mode == 1));
    assert_eq!(disks.node.mounts_of("v"), 1);
    harness.delete("writer").await;
    harness.wait_deleted("writer").await;
    disks.free("v").await;
    assert_eq!(disks.calls("v")[2..], ["Unpublish", "Unstage"]);
    assert_eq!(std::fs::read(&image).unwrap()[..4], *b"mark");

    // The next pod reads the data of the first pod.
    let script = "head -c 4 /dev/raw; echo";
    harness.pod("reader", with_device("v", false, script)).await;
    harness.logged("reader", "c", "mark\n").await;
    harness.delete("reader").await;
    harness.wait_deleted("reader").await;
    disks.free("v").await;
    drop(disk);
    disks.end(harness).await;
}
