//! The specification of a container for the runtime. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use container_runtime::spec::{
    ContainerSpec, EnvVar, LogSpec, Mount, MountSource, NodeLease, Propagation, Resources,
    RootfsSpec, SandboxSpec, Security,
};
use image_store::ImageConfig;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};
use pod_lifecycle::environment::expansion::expand;
use pod_lifecycle::environment::hostname::Names;
use pod_lifecycle::environment::{arguments, last_of_each};
use pod_lifecycle::resources::qos::qos_class;
use pod_lifecycle::{PodIdentity, node, spec};

use super::devices::devices;
use super::security_context::{check_non_root, security, user_spec};
use super::spec_error::SpecError;
use crate::config::LogLimits;
use crate::paths::{PodDir, runtime_id};
use crate::resource_limits::{amount, container_resources, pod_resources};
use crate::volumes::PreparedVolumes;

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub struct ContainerInputs<'a> {
    /// The pod with all defaults filled in.
    pub pod: &'a Pod,
    pub container: &'a Container,
    /// The number of the instance: 0 for the first, as `restartCount`.
    pub restart_count: u32,
    pub image: &'a ImageConfig,
    /// The image's layers, the top layer last.
    pub layers: &'a [PathBuf],
    /// The environment variables of the container from the pod's specification.
    pub env: &'a [(String, String)],
    pub volumes: &'a PreparedVolumes,
    /// The pod's directory on the node.
    pub dir: &'a PodDir,
    pub names: &'a Names,
    pub logs: LogLimits,
    /// The directory of the seccomp profiles of type `Localhost`.
    pub seccomp_profiles: &'a Path,
    /// The node's memory, from which the OOM score is computed.
    pub node_memory_bytes: u64,
    /// The running instance whose process namespace the container shares, if any.
    pub process_target: Option<&'a str>,
}

/// Sysctls of every pod with its own network namespace: any user may listen on any port and send ICMP echo
/// requests, as with other runtimes. The settings are safe, because they apply only to the pod's network
/// namespace.
fn network_sysctls(own_users: bool) -> [(&'static str, &'static str); 2] {
    // In a user namespace, the range may only contain groups that are mapped.
    let groups = if own_users { "0 65535" } else { "0 2147483647" };
    [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", groups),
    ]
}

/// The sandbox of a pod that may have `pids_max` processes and threads. `lease` is the node's Lease, for
/// pods that stop when the Lease expires.
pub fn sandbox_spec(
    identity: &PodIdentity,
    pod: &Pod,
    names: &Names,
    pids_max: i64,
    lease: NodeLease,
) -> SandboxSpec {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let context = spec.security_context.as_ref();
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let own_users = spec.host_users == Some(false);
    let mut sysctls: BTreeMap<String, String> = BTreeMap::new();
    if !spec::uses_host_network(spec) {
        sysctls.extend(network_sysctls(own_users).map(owned));
    }
    let specified = context.and_then(|context| context.sysctls.as_ref());
    for sysctl in specified.into_iter().flatten() {
        sysctls.insert(sysctl.name.clone(), sysctl.value.clone());
    }
    SandboxSpec {
        id: identity.uid.to_string(),
        hostname: names.kernel.clone(),
        host_network: spec::uses_host_network(spec),
        host_ipc: spec.host_ipc == Some(true),
        host_pid: spec.host_pid == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        own_users,
        sysctls,
        resources: Resources {
            pids: Some(pids_max),
            ..pod_resources(spec)
        },
        lease: node::lease::ends_with_it(pod).then_some(lease),
        annotations: [
            ("io.kubernetes.pod.name", identity.name()),
            ("io.kubernetes.pod.namespace", identity.namespace()),
            ("io.kubernetes.pod.uid", identity.uid.as_str()),
        ]
        .map(owned)
        .into(),
    }
}

/// The specification of one instance of a container.
pub fn container_spec(inputs: &ContainerInputs<'_>) -> Result<ContainerSpec, SpecError> {
    let container = inputs.container;
    let id = runtime_id(&container.name, inputs.restart_count);
    let empty = PodSpec::default();
    let pod_spec = inputs.pod.spec.as_ref().unwrap_or(&empty);
    let pod_context = pod_spec.security_context.as_ref();
    let context = container.security_context.as_ref();
    let user = user_spec(pod_context, context, &inputs.image.user)?;
    check_non_root(inputs, pod_context, context, &user)?;
    let root = inputs.dir.rootfs(&id);
    let args = arguments(
        container,
        &inputs.image.entrypoint,
        &inputs.image.cmd,
        inputs.env,
    );
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    Ok(ContainerSpec {
        name: container.name.clone(),
        rootfs: RootfsSpec {
            lowerdirs: inputs.layers.to_vec(),
            upper_dir: root.join("upper"),
            work_dir: root.join("work"),
            read_only: context.and_then(|c| c.read_only_root_filesystem) == Some(true),
        },
        args,
        env: environment(inputs),
        cwd: container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| inputs.image.working_dir.clone()),
        user,
        mounts: mounts(inputs)?,
        devices: devices(inputs)?,
        resources: container_resources(container.resources.as_ref()),
        security: Security {
            // True if any volume of the pod is in a project, because processes of one container may reach
            // the files of another container.
            keeps_projects: inputs.volumes.values().any(|volume| volume.in_project),
            ..security(pod_context, context, inputs.seccomp_profiles)?
        },
        process_target: inputs.process_target.map(str::to_owned),
        oom_score_adj: Some(oom_score_adj(pod_spec, container, inputs.node_memory_bytes)),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log: LogSpec {
            path: Some(inputs.dir.log(&container.name, inputs.restart_count)),
            file_bytes_max: inputs.logs.file_bytes_max,
            files_max: inputs.logs.files_max,
        },
        annotations: [
            (
                "io.kubernetes.container.name".to_owned(),
                container.name.clone(),
            ),
            (
                "io.kubernetes.container.restartCount".to_owned(),
                inputs.restart_count.to_string(),
            ),
        ]
        .into(),
        id,
        ..ContainerSpec::default()
    })
}

/// The image's variables, the host name and the pod's variables. The last value of a name is used.
fn environment(inputs: &ContainerInputs<'_>) -> Vec<EnvVar> {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let defaults = [
        ("PATH", ROOT_PATH),
        ("HOSTNAME", inputs.names.kernel.as_str()),
    ];
    let of_image = inputs
        .image
        .env
        .iter()
        .map(|line| line.split_once('=').unwrap_or((line, "")));
    let variables = defaults.into_iter().chain(of_image).map(pair);
    let mut variables = last_of_each(variables.chain(inputs.env.iter().cloned()).collect());
    if inputs.container.tty == Some(true) && !variables.iter().any(|(name, _)| name == "TERM") {
        variables.push(pair(("TERM", "xterm")));
    }
    variables
        .into_iter()
        .map(|(name, value)| EnvVar { name, value })
        .collect()
}

/// As kubelet: guaranteed pods are killed last, best-effort pods first, and other pods by their memory
/// request relative to the node's memory.
fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref());
            let requested = amount(requests, "memory").map_or(0, |m| m.value());
            let node = i64::try_from(node_memory).unwrap_or(i64::MAX).max(1);
            let score = 1000 - requested.saturating_mul(1000) / node;
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

fn mounts(inputs: &ContainerInputs<'_>) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = Vec::new();
    for mount in inputs.container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(inputs, mount)?);
    }
    let context = inputs.container.security_context.as_ref();
    let read_only_root = context.and_then(|c| c.read_only_root_filesystem) == Some(true);
    let state_file = |path: PathBuf, target: &str, read_only: bool, mounts: &mut Vec<Mount>| {
        // A mount of the pod's specification at that path has priority.
        if !mounts
            .iter()
            .any(|mount| mount.destination.as_os_str() == target)
        {
            mounts.push(Mount {
                destination: PathBuf::from(target),
                source: bind(path, None, Propagation::Private),
                read_only,
            });
        }
    };
    // As kubelet and containerd: some state files are read-only if the root file system is read-only, the
    // other files are always writable.
    state_file(inputs.dir.hosts(), "/etc/hosts", false, &mut mounts);
    let hostname = inputs.dir.hostname();
    state_file(hostname, "/etc/hostname", read_only_root, &mut mounts);
    let resolver = inputs.dir.resolv_conf();
    state_file(resolver, "/etc/resolv.conf", read_only_root, &mut mounts);
    let target = termination_path(inputs.container);
    let file = inputs
        .dir
        .termination_log(&inputs.container.name, inputs.restart_count);
    state_file(file, target, false, &mut mounts);
    Ok(mounts)
}

pub fn termination_path(container: &Container) -> &str {
    let path = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    path.unwrap_or("/dev/termination-log")
}

fn bind(path: PathBuf, sub_path: Option<PathBuf>, propagation: Propagation) -> MountSource {
    MountSource::Bind {
        path,
        sub_path,
        recursive_read_only: false,
        propagation,
    }
}

fn volume_mount(inputs: &ContainerInputs<'_>, mount: &VolumeMount) -> Result<Mount, SpecError> {
    let name = &mount.name;
    let volume = inputs
        .volumes
        .get(name)
        .ok_or_else(|| SpecError::VolumeNotMounted(name.clone()))?;
    let value = |name: &str| {
        inputs
            .env
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => Some(path.to_owned()),
        (_, Some(template)) if !template.is_empty() => {
            let path = expand(template, value);
            if path.contains("$(") {
                return Err(SpecError::UnknownVariables(template.to_owned()));
            }
            Some(path)
        }
        _ => None,
    };
    if sub_path
        .as_deref()
        .is_some_and(|path| path.starts_with('/') || climbs(path))
    {
        return Err(SpecError::SubPathOutside(name.clone()));
    }
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    if !volume.layers.is_empty() {
        return Ok(Mount {
            destination: PathBuf::from(&mount.mount_path),
            source: MountSource::Layers {
                lowerdirs: volume.layers.clone(),
                sub_path: sub_path.map(PathBuf::from),
            },
            read_only: true,
        });
    }
    let recursive = mount.recursive_read_only.as_deref();
    Ok(Mount {
        destination: PathBuf::from(&mount.mount_path),
        source: MountSource::Bind {
            path: volume.path.clone(),
            sub_path: sub_path.map(PathBuf::from),
            recursive_read_only: matches!(recursive, Some("Enabled" | "IfPossible")),
            propagation,
        },
        read_only: volume.read_only || mount.read_only == Some(true),
    })
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use container_runtime::spec::Seccomp;
    use json_tree::json;
    use resource_kinds::annotations::ENDS_WITH_LEASE;

    use super::*;
    use crate::containers::security_context::unsupported_settings;
    use crate::volumes::{BlockVolume, Prepared};

    fn built(pod: json_tree::Value, image: ImageConfig) -> Result<ContainerSpec, String> {
        let pod: Pod = json_tree::from_value(json_tree::json!({
            "metadata": {"name": "web-0", "namespace": "n", "uid": "u"}, "spec": pod
        }))
        .unwrap();
        let prepared = |path: &str, block| Prepared {
            path: PathBuf::from(path),
            block,
            ..Prepared::default()
        };
        let volumes: PreparedVolumes = [
            ("data".to_owned(), prepared("/vol", None)),
            (
                "raw".to_owned(),
                prepared("/dev/loop7", Some(BlockVolume::Device)),
            ),
        ]
        .into();
        container_spec(&ContainerInputs {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            restart_count: 2,
            image: &image,
            layers: &[],
            env: &[("A".to_owned(), "1".to_owned())],
            volumes: &volumes,
            dir: &PodDir::at(PathBuf::from("/pods/x")),
            names: &pod_lifecycle::environment::hostname::names(&pod, "cluster.local").unwrap(),
            logs: LogLimits {
                file_bytes_max: 4096,
                files_max: 2,
            },
            seccomp_profiles: Path::new("/profiles"),
            node_memory_bytes: 1 << 30,
            process_target: None,
        })
        .map_err(|error| error.to_string())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/run".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "B=2".to_owned()],
            working_dir: "/srv".to_owned(),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn image_and_pod_make_the_process() {
        // statefulset.md 12.12
        let spec = built(
            json_tree::json!({"containers": [{"name": "c", "args": ["$(A)"]}]}),
            image(),
        )
        .unwrap();
        assert_eq!(spec.id, "c-2");
        assert_eq!(spec.args, ["/run", "1"]);
        assert_eq!(spec.cwd, "/srv");
        let env: Vec<String> = spec
            .env
            .iter()
            .map(|var| format!("{}={}", var.name, var.value))
            .collect();
        assert_eq!(env, ["HOSTNAME=web-0", "PATH=/bin", "B=2", "A=1"]);
        assert_eq!(spec.log.path.unwrap(), PathBuf::from("/pods/x/c/2.log"));
        assert_eq!((spec.log.file_bytes_max, spec.log.files_max), (4096, 2));
    }

    #[test]
    fn limits_become_shares_quota_and_bytes() {
        let spec = built(
            json_tree::json!({"containers": [{"name": "c", "resources": {
                "limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}),
            image(),
        )
        .unwrap();
        assert_eq!(spec.resources.cpu_shares, Some(256));
        assert_eq!(spec.resources.cpu_quota_us, Some(50_000));
        assert_eq!(spec.resources.memory_bytes, Some(64 << 20));
    }

    #[test]
    fn a_pods_sandbox_has_its_limits_and_parameters() {
        // statefulset.md 12.16
        let huge = |size: &str| json!({"limits": {"hugepages-2Mi": size, "hugepages-1Gi": "1Gi"}});
        let pod: Pod = json_tree::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "securityContext": {"sysctls": [
                {"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]},
            "containers": [{"name": "a", "resources": huge("4Mi")},
                {"name": "b", "resources": huge("8Mi")}]}}))
        .unwrap();
        let names = pod_lifecycle::environment::hostname::names(&pod, "cluster.local").unwrap();
        let identity = PodIdentity::read(&pod).unwrap();
        let lease = NodeLease {
            page: "/page".into(),
            warning_ms: 10_000,
        };
        let sandbox = sandbox_spec(&identity, &pod, &names, 99, lease.clone());
        assert_eq!(sandbox.lease, None);
        assert_eq!(sandbox.resources.pids, Some(99));
        let pages = [("1GB".to_owned(), 2 << 30), ("2MB".to_owned(), 12 << 20)];
        assert_eq!(sandbox.resources.huge_pages, pages.into());
        assert_eq!(sandbox.sysctls["net.ipv4.ip_unprivileged_port_start"], "80");
        assert_eq!(sandbox.sysctls["net.ipv4.ping_group_range"], "0 2147483647");
        let mut failing_over = pod;
        let mark = ENDS_WITH_LEASE.to_owned();
        failing_over.metadata.annotations = Some([(mark, "true".to_owned())].into());
        let sandbox = sandbox_spec(&identity, &failing_over, &names, 99, lease.clone());
        assert_eq!(sandbox.lease, Some(lease));
    }

    #[test]
    fn volumes_are_mounted_and_sub_paths_stay_inside() {
        // statefulset.md 12.13
        let with = |sub: &str| {
            built(
                json_tree::json!({"containers": [{"name": "c", "volumeMounts": [
                    {"name": "data", "mountPath": "/d", "subPathExpr": sub, "readOnly": true}]}]}),
                image(),
            )
        };
        let spec = with("x/$(A)").unwrap();
        let mount = &spec.mounts[0];
        assert!(mount.read_only);
        let MountSource::Bind { sub_path, .. } = &mount.source else {
            panic!("no bind")
        };
        assert_eq!(sub_path.as_deref(), Some(std::path::Path::new("x/1")));
        assert!(with("../x").is_err());
        assert!(with("$(NONE)").is_err());
        let targets: Vec<_> = spec.mounts.iter().map(|m| m.destination.clone()).collect();
        assert!(targets.contains(&PathBuf::from("/dev/termination-log")));
    }

    #[test]
    fn files_of_the_node_are_read_only_with_the_root() {
        // findings S22
        for read_only in [false, true] {
            let context = json!({"readOnlyRootFilesystem": read_only});
            let container = json!({"name": "c", "securityContext": context});
            let spec = built(json!({"containers": [container]}), image()).unwrap();
            let is_read_only = |target: &str| {
                let mut mounts = spec.mounts.iter();
                let mount = mounts.find(|m| m.destination == Path::new(target));
                mount.unwrap().read_only
            };
            assert_eq!(is_read_only("/etc/hostname"), read_only);
            assert_eq!(is_read_only("/etc/resolv.conf"), read_only);
            assert!(!is_read_only("/etc/hosts") && !is_read_only("/dev/termination-log"));
        }
    }

    #[test]
    fn devices_belong_to_the_user_and_group_of_the_pod() {
        let with = |name: &str, path: &str| {
            let device = json!({"name": name, "devicePath": path});
            let pod = json!({"securityContext": {"runAsUser": 7, "fsGroup": 8},
                "containers": [{"name": "c", "volumeDevices": [device]}]});
            built(pod, image()).map(|spec| spec.devices)
        };
        let devices = with("raw", "/dev/data").unwrap();
        assert_eq!(devices[0].host_path, Path::new("/dev/loop7"));
        assert_eq!(devices[0].container_path, Path::new("/dev/data"));
        assert_eq!((devices[0].uid, devices[0].gid), (Some(7), Some(8)));
        assert_eq!(devices[0].access, "rwm");
        assert_eq!(
            with("raw", "data").unwrap_err(),
            "error DevicePath `data` must be an absolute path"
        );
        assert_eq!(
            with("data", "/dev/data").unwrap_err(),
            "cannot find volume \"data\" to pass into container \"c\""
        );
    }

    #[test]
    fn unsupported_host_ports_are_reported() {
        let pod = json_tree::from_value(json_tree::json!({"spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080},
                {"containerPort": 81, "hostPort": 8081, "hostIP": "::1"}]}]}}))
        .unwrap();
        assert_eq!(
            unsupported_settings(&pod),
            ["container c: hostPort 8081 is not served on ::1: this node's pods have IPv4 only"]
        );
    }

    #[test]
    fn profiles_of_the_node_are_found_below_their_directory() {
        // statefulset.md 12.16
        let with = |name: &str| {
            let profile = json!({"type": "Localhost", "localhostProfile": name});
            let context = json!({"seccompProfile": profile});
            let pod = json!({"containers": [{"name": "c"}], "securityContext": context});
            built(pod, image()).map(|spec| spec.security.seccomp)
        };
        let file = PathBuf::from("/profiles/db/strict.json");
        assert_eq!(with("db/strict.json"), Ok(Seccomp::Localhost(file)));
        assert!(with("../pki/key").is_err());
        assert!(with("/etc/profile.json").is_err());
    }

    #[test]
    fn non_root_is_checked_against_image_and_pod() {
        let pod = |context: json_tree::Value| {
            let container = json_tree::json!({"name": "c", "securityContext": context});
            json_tree::json!({"containers": [container]})
        };
        let non_root = json_tree::json!({"runAsNonRoot": true});
        let message = built(pod(non_root.clone()), image()).unwrap_err();
        assert!(message.starts_with("container has runAsNonRoot and image will run as root"));
        let numeric = ImageConfig {
            user: "1000".to_owned(),
            ..image()
        };
        assert!(built(pod(non_root), numeric).is_ok());
        let uid = json_tree::json!({"runAsNonRoot": true, "runAsUser": 7});
        assert_eq!(built(pod(uid), image()).unwrap().user.uid, Some(7));
    }
}
