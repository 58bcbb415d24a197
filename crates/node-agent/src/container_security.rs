//! Whom a container runs as, what it may do, and what this node cannot give it. Pure.

use std::path::{Component, Path};

use container_runtime::spec::{Seccomp, Security, UserSpec};
use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use pod_lifecycle::spec;

use crate::container_spec::Ingredients;

/// What runs pods here, by the names that RuntimeClasses have for it.
const BUILT_IN_RUNTIMES: [&str; 3] = ["", "mainstay", "runc"];

/// Whether the node has what a RuntimeClass names as its handler.
///
/// # Errors
/// It has not; as the user reads it.
pub fn check_runtime(handler: &str) -> Result<(), String> {
    if BUILT_IN_RUNTIMES.contains(&handler) {
        return Ok(());
    }
    Err(format!(
        "failed to get sandbox runtime: no runtime for {handler:?} is configured"
    ))
}

/// Wishes that are not met but harm nothing: users are told.
pub fn unmet_wishes(pod: &Pod) -> Vec<String> {
    let Some(pod_spec) = &pod.spec else {
        return Vec::new();
    };
    let mut unmet = Vec::new();
    for (_, container) in spec::containers(pod_spec) {
        let wanted = container.ports.iter().flatten();
        let wanted = wanted.filter(|port| port.host_port.is_some_and(|number| number > 0));
        let refused = wanted.filter_map(|port| {
            service_routing::host_address(port.host_ip.as_deref())
                .err()
                .map(|address| (port.host_port.unwrap_or_default(), address))
        });
        if !spec::uses_host_network(pod_spec) {
            unmet.extend(refused.map(|(port, address)| {
                format!(
                    "container {}: hostPort {port} is not served on {address}: this node's pods \
                     have IPv4 only",
                    container.name
                )
            }));
        }
    }
    unmet
}

/// Whom the process runs as.
pub fn user_spec(
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    image_user: &str,
) -> UserSpec {
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let uid = own
        .and_then(|c| c.run_as_user)
        .or_else(|| pod.and_then(|c| c.run_as_user));
    let gid = own
        .and_then(|c| c.run_as_group)
        .or_else(|| pod.and_then(|c| c.run_as_group));
    let more = pod
        .and_then(|c| c.supplemental_groups.as_ref())
        .into_iter()
        .flatten();
    let fs_group = pod.and_then(|c| c.fs_group);
    let policy = pod.and_then(|c| c.supplemental_groups_policy.as_deref());
    UserSpec {
        name: image_user.to_owned(),
        uid: id(uid),
        gid: id(gid),
        supplementary_groups: fs_group
            .into_iter()
            .chain(more.copied())
            .filter_map(|gid| id(Some(gid)))
            .collect(),
        strict_groups: policy == Some("Strict"),
    }
}

/// Holds `runAsNonRoot` against the pod and the image.
pub fn check_non_root(
    of: &Ingredients<'_>,
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    user: &UserSpec,
) -> Result<(), String> {
    let wanted = own
        .and_then(|c| c.run_as_non_root)
        .or_else(|| pod.and_then(|c| c.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let place = format!(
        "(pod: \"{}\", container: {})",
        spec::display_name(of.pod),
        of.container.name
    );
    if let Some(uid) = user.uid {
        return if uid == 0 {
            Err(format!(
                "container's runAsUser breaks non-root policy {place}"
            ))
        } else {
            Ok(())
        };
    }
    let name = user.name.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify \
             user is non-root {place}"
        )),
    }
}

/// What the process may do. Profiles of the node are below `profiles`.
///
/// # Errors
/// The pod names a profile that is elsewhere.
pub fn security(
    pod: Option<&PodSecurityContext>,
    own: Option<&SecurityContext>,
    profiles: &Path,
) -> Result<Security, String> {
    let capabilities = own.and_then(|c| c.capabilities.as_ref());
    let profile = own
        .and_then(|c| c.seccomp_profile.as_ref())
        .or_else(|| pod.and_then(|c| c.seccomp_profile.as_ref()));
    let privileged = own.and_then(|c| c.privileged) == Some(true);
    Ok(Security {
        privileged,
        capabilities_add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        capabilities_drop: capabilities
            .and_then(|c| c.drop.clone())
            .unwrap_or_default(),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(profile.filter(|_| !privileged), profiles)?,
        unmasked_proc: own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
        keeps_projects: false,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else {
        return Ok(Seccomp::Unconfined);
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = Path::new(profile.localhost_profile.as_deref().unwrap_or_default());
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if name.components().all(inside) {
                Ok(Seccomp::Localhost(profiles.join(name)))
            } else {
                let name = name.display();
                Err(format!(
                    "localhostProfile {name} is not below the node's profiles"
                ))
            }
        }
        _ => Ok(Seccomp::Unconfined),
    }
}
