//! The block devices of a container. Pure.

use std::path::PathBuf;

use container_runtime::spec::Device;

use super::runtime_spec::ContainerInputs;

/// The block devices of the container. On the node, root owns the devices. In the container, the owner is
/// the user and group that the pod names; without a group, `fsGroup` owns the devices.
///
/// # Errors
/// A message for users about the error in the pod's specification.
pub fn devices(of: &ContainerInputs<'_>) -> Result<Vec<Device>, String> {
    let pod = of.pod.spec.as_ref();
    let pod = pod.and_then(|spec| spec.security_context.as_ref());
    let own = of.container.security_context.as_ref();
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let user = own.and_then(|own| own.run_as_user);
    let uid = id(user.or_else(|| pod.and_then(|pod| pod.run_as_user)));
    let group = own.and_then(|own| own.run_as_group);
    let group = group.or_else(|| pod.and_then(|pod| pod.run_as_group.or(pod.fs_group)));
    let gid = id(group);
    let wanted = of.container.volume_devices.iter().flatten();
    let given = wanted.map(|device| {
        let (name, path) = (&device.name, &device.device_path);
        if !path.starts_with('/') {
            return Err(format!(
                "error DevicePath `{path}` must be an absolute path"
            ));
        }
        let volume = of.volumes.get(name).filter(|volume| volume.block.is_some());
        let volume = volume.ok_or_else(|| {
            let container = &of.container.name;
            format!("cannot find volume {name:?} to pass into container {container:?}")
        })?;
        Ok(Device {
            host_path: volume.path.clone(),
            container_path: PathBuf::from(path),
            access: if volume.read_only { "r" } else { "rwm" }.to_owned(),
            uid,
            gid,
        })
    });
    given.collect()
}
