//! Cleans up after a killed server: its pods, and its objects in the kernel. The cleanup needs no server: it
//! uses records on disk and names in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use command_output::failed_step::{FailedStep, StepContext};
use command_output::output::{print_line, warn};
use container_runtime::{Runtime, RuntimeOptions};
use data_directory::left_pods::{self, LeftPod};
use data_directory::{Marker, NAMESPACES, further_nodes, kernel_name};
use host_kernel::loop_device::LoopDevice;
use host_kernel::mount_table::{self, MountPoint};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use node_agent::LeftPods;
use pod_network::NodeSwitch;
use service_proxy::Kernel;
use service_proxy::firewalls::{self, PodLinks};
use tokio::task::JoinSet;
use volume_storage::Storage;

use crate::error::Result;

/// Subdirectories of the data directory in which all mounts belong to the instance.
const MOUNTED_IN: [&str; 4] = ["sandboxes", "pods", "pool", "kubelet"];

/// Stops the pods with their hooks, signals and grace periods, then removes all other objects of the instance
/// from the kernel.
///
/// # Errors
/// A pod does not end, or the kernel refuses.
pub async fn end(data: &Path, marker: Option<&Marker>, pods: &[LeftPod]) -> Result<()> {
    let instance_id = match marker {
        Some(marker) => marker.kernel_name.clone(),
        None => kernel_name(data, &BTreeSet::new()),
    };
    end_pods(data, &instance_id, pods).await?;
    end_network(data, &instance_id).await?;
    end_volumes(data).await?;
    let namespaces = data.join(NAMESPACES);
    for node in further_nodes(data) {
        end_node(&node).await?;
    }
    let removed = NodeSwitch::remove(&instance_id, &namespaces).await;
    Ok(removed.context("remove the switch of the nodes")?)
}

/// Stops the pods of a further node. Its network disappears with its network namespace.
async fn end_node(data: &Path) -> Result<()> {
    let Some(marker) = Marker::read(data).ok().flatten() else {
        return Ok(());
    };
    end_pods(data, &marker.kernel_name, &left_pods::pods(data)).await?;
    end_volumes(data).await
}

/// Unmounts everything below the data directory, and detaches the loop devices of its volumes.
async fn end_volumes(data: &Path) -> Result<()> {
    if data.join("pool/pool.btrfs").exists() {
        let storage = Storage::open(data).await.context("open the volumes")?;
        storage.close().await.context("unmount the pool")?;
    }
    for part in MOUNTED_IN {
        unmount_below(&data.join(part))?;
    }
    detach_devices(&data.join("volumes"))
}

async fn end_pods(data: &Path, instance_id: &str, pods: &[LeftPod]) -> Result<()> {
    if !data.join("sandboxes").exists() {
        return Ok(());
    }
    let runtime = Runtime::open(RuntimeOptions {
        state_dir: data.to_owned(),
        instance_id: instance_id.to_owned(),
        shim_command: vec!["/proc/self/exe".to_owned(), "shim".to_owned()],
        cgroup_parent: String::new(),
    })
    .context("open the sandboxes")?;
    let sandboxes = runtime.sandboxes().await.context("find the sandboxes")?;
    let left_pods = LeftPods::read(data).context("read what is on disk of the pods")?;
    let left_pods = Arc::new(left_pods);
    let mut ends = JoinSet::new();
    for sandbox in sandboxes {
        let pod = pods.iter().find(|pod| pod.uid == sandbox.id());
        let name = pod.map_or_else(|| sandbox.id().to_owned(), |pod| pod.name.clone());
        let left_pods = left_pods.clone();
        ends.spawn(async move {
            let ended = left_pods.end(&sandbox).await;
            (name, ended)
        });
    }
    let mut failure = None;
    while let Some(ended) = ends.join_next().await {
        match ended.context("end a pod")? {
            (name, Ok(notes)) => {
                for note in notes {
                    warn(&format!("pod {name}: {note}"));
                }
                print_line(&format!("  {name} ended"));
            }
            (name, Err(error)) => {
                failure = Some(FailedStep::new(format!("end pod {name}"), error));
            }
        }
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let closed = runtime.close().await;
    Ok(closed.context("remove the control groups")?)
}

/// Removes links, addresses, routes and rules.
async fn end_network(data: &Path, instance_id: &str) -> Result<()> {
    let state_dir = data.join("network");
    let Some(ranges) = pod_network::ranges::read(&state_dir.join("ranges.json"))? else {
        return Ok(());
    };
    let local_addresses = [
        ranges.node_address().ok(),
        pod_network::dns_address(ranges.service),
    ];
    let links = PodLinks {
        prefixes: vec![
            pod_network::link_prefix(instance_id),
            pod_network::switch_link(instance_id),
        ],
        local_addresses: local_addresses.into_iter().flatten().collect(),
    };
    let mut kernel = Kernel::open(instance_id).context("open the packet filter")?;
    kernel.remove().context("remove the rules of Services")?;
    firewalls::close(&mut kernel, &links).context("remove the rules in firewalls")?;
    let removed = pod_network::remove(instance_id, &state_dir).await;
    Ok(removed.context("remove the pods' network")?)
}

/// Unmounts everything below a directory, innermost first. A mount that shares events with a peer, such as a
/// bound volume, is made private first, so that the peer stays mounted.
fn unmount_below(directory: &Path) -> Result<()> {
    let table = mount_table::read().context("list the mounts")?;
    let mounted = below(&table, directory);
    for path in mounted.iter().rev() {
        let none = None::<&str>;
        mount(none, path, none, MsFlags::MS_PRIVATE, none).ok();
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .with_context(|| format!("unmount {}", path.display()))?;
    }
    Ok(())
}

/// The mounts below a directory, outer before inner.
pub fn below(table: &[MountPoint], directory: &Path) -> Vec<PathBuf> {
    let mut mounts = mount_table::at_or_below(table, directory);
    mounts.retain(|path| path != directory);
    mounts
}

/// Detaches the loop devices of the images of block volumes.
fn detach_devices(volumes: &Path) -> Result<()> {
    for entry in fs::read_dir(volumes).into_iter().flatten().flatten() {
        let image = entry.path().join("device.img");
        if !image.exists() {
            continue;
        }
        let doing = || format!("detach the device over {}", image.display());
        if let Some(device) = LoopDevice::find(&image).with_context(doing)? {
            device.detach().with_context(doing)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found() {
        let table = b"\
36 35 98:0 / /data rw,noatime master:1 - ext4 /dev/a rw
37 36 98:0 / /data/pods/a\\040b/volumes/x rw - tmpfs tmpfs rw
38 36 98:0 / /data/pods rw - ext4 /dev/b rw
39 36 98:0 / /data/podsy/z rw - tmpfs tmpfs rw
";
        let mounts = below(&mount_table::parse(table), Path::new("/data/pods"));
        assert_eq!(mounts, [Path::new("/data/pods/a b/volumes/x")]);
    }
}
