//! The block devices of a container. Pure.

use std::path::PathBuf;

use container_runtime::spec::Device;

use super::runtime_spec::ContainerInputs;
use super::spec_error::SpecError;

/// The block devices of the container. On the node, root owns the devices. In the container, the owner is
/// the user and group that the pod names; without a group, `fsGroup` owns the devices.
pub fn devices(inputs: &ContainerInputs<'_>) -> Result<Vec<Device>, SpecError> {
    let pod = inputs.pod.spec.as_ref();
    let pod = pod.and_then(|spec| spec.security_context.as_ref());
    let container = inputs.container.security_context.as_ref();
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let user = container.and_then(|context| context.run_as_user);
    let uid = id(user.or_else(|| pod.and_then(|pod| pod.run_as_user)));
    let group = container.and_then(|context| context.run_as_group);
    let group = group.or_else(|| pod.and_then(|pod| pod.run_as_group.or(pod.fs_group)));
    let gid = id(group);
    let specified = inputs.container.volume_devices.iter().flatten();
    let devices = specified.map(|device| {
        let (name, path) = (&device.name, &device.device_path);
        if !path.starts_with('/') {
            return Err(SpecError::RelativeDevicePath(path.clone()));
        }
        let volume = inputs
            .volumes
            .get(name)
            .filter(|volume| volume.block.is_some());
        let volume = volume.ok_or_else(|| SpecError::DeviceNotFound {
            volume: name.clone(),
            container: inputs.container.name.clone(),
        })?;
        Ok(Device {
            host_path: volume.path.clone(),
            container_path: PathBuf::from(path),
            access: if volume.read_only { "r" } else { "rwm" }.to_owned(),
            mode: None,
            uid,
            gid,
        })
    });
    devices.collect()
}
