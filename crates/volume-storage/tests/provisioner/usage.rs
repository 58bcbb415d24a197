//! Events about full volumes on their claims.

use std::path::Path;

use host_kernel::disk_usage::VolumeUsages;
use json_tree::json;
use nix::errno::Errno;
use resource_kinds::reasons::volume::{NEARLY_FULL, OVERFULL};

use super::{Cluster, eventually};

const MIB: usize = 1 << 20;

fn write(path: &Path, mib: usize) -> std::io::Result<()> {
    std::fs::write(path, vec![7; mib * MIB])?;
    std::fs::File::open(path)?.sync_all()
}

/// Of the class `local`: from 90 % on, and beyond its size where the file system does not stop it.
#[tokio::test]
async fn a_claim_says_that_its_volume_is_nearly_full_and_overfull() {
    let cluster = Cluster::new().await;
    let (_provisioner, usages) = cluster.start_measuring();
    let mut usages = usages.await.unwrap();
    cluster.create_class_of("now", "mainstay.dev/local").await;
    let small = json!({"resources": {"requests": {"storage": "16Mi"}}});
    for claim in ["data", "other"] {
        cluster.create_claim(claim, "now", small.clone()).await;
        eventually("Bound".to_owned(), || cluster.phase(claim)).await;
    }
    let (_, path) = cluster.volume_of("data").await;
    let (_, second) = cluster.volume_of("other").await;
    write(&second.join("file"), 12).unwrap();
    write(&path.join("file"), 12).unwrap();
    write(&path.join("more"), 3).unwrap();
    eventually(true, || cluster.was_told("data", NEARLY_FULL)).await;
    assert!(!cluster.was_told("data", OVERFULL).await);
    let is_limited = cluster.size_is_enforced("data").await;
    let all = (15 * MIB) as u64;
    let is_measured =
        |measured: &VolumeUsages| measured.get(&path).is_some_and(|usage| usage.used >= all);
    usages.wait_for(is_measured).await.unwrap();
    assert!(usages.borrow().contains_key(&second));
    match write(&path.join("too-much"), 4) {
        Ok(()) => {
            assert!(!is_limited);
            eventually(true, || cluster.was_told("data", OVERFULL)).await;
        }
        Err(error) => {
            let code = error.raw_os_error();
            assert!(is_limited, "{error}");
            assert!(code == Some(Errno::EDQUOT as i32) || code == Some(Errno::ENOSPC as i32));
        }
    }
    assert!(!cluster.was_told("other", NEARLY_FULL).await, "75 %");
}
