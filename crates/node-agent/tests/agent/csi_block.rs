//! Block volumes of a CSI driver.

use json_tree::json;

use crate::block::{Disk, WRITE, image, with_device};
use crate::csi::{Disks, key, started};

pub async fn a_device_of_a_driver_is_one_of_the_pods() {
    let world = started("csi-block").await;
    let mut disks = Disks::with_volumes_max(&world, 7);
    key(&world).await;
    let spec = json!({"attachRequired": false});
    disks.driver_object(&world, spec).await;
    let image = image(&world, "image");
    let disk = Disk::over(&image);
    std::fs::create_dir_all(&disks.volumes).unwrap();
    std::os::unix::fs::symlink(disk.path(), disks.volumes.join("v")).unwrap();
    disks
        .claim_of(&world, "v", ("Block", "ReadWriteOncePod"))
        .await;
    disks.start();
    world.pod("writer", with_device("v", false, WRITE)).await;
    world.ready("writer").await;
    let log = world.logged("writer", "c", "2000").await;
    assert_eq!(log, "mark\n1000 2000\n");
    assert_eq!(disks.calls("v"), ["Stage", "Publish"]);
    // The access mode is one node that writes: the driver does not distinguish pods.
    assert!(disks.node.calls().iter().all(|call| call.mode == 1));
    assert_eq!(disks.node.mounts_of("v"), 1);
    world.delete("writer").await;
    world.wait_deleted("writer").await;
    disks.free("v").await;
    assert_eq!(disks.calls("v")[2..], ["Unpublish", "Unstage"]);
    assert_eq!(std::fs::read(&image).unwrap()[..4], *b"mark");

    // The next pod reads the data of the first pod.
    let script = "head -c 4 /dev/raw; echo";
    world.pod("reader", with_device("v", false, script)).await;
    world.logged("reader", "c", "mark\n").await;
    world.delete("reader").await;
    world.wait_deleted("reader").await;
    disks.free("v").await;
    drop(disk);
    disks.end(world).await;
}
