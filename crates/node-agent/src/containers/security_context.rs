//! The security context of a container: its user, its privileges, and the fields that this node
//! cannot apply. Pure.

use std::path::{Component, Path};

use container_runtime::spec::{ID_MAX, Seccomp, Security, UserSpec};
use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use pod_lifecycle::spec;
use thiserror::Error;

use super::runtime_spec::ContainerInputs;
use super::spec_error::{RootRisk, SpecError};

/// The RuntimeClass handlers of the built-in runtime.
const BUILT_IN_RUNTIMES: [&str; 3] = ["", "mainstay", "runc"];

/// The node has no such handler of a RuntimeClass.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("failed to get sandbox runtime: no runtime for {0:?} is configured")]
pub struct UnknownHandler(String);

/// Whether the node has the handler of a RuntimeClass.
pub fn check_runtime(handler: &str) -> Result<(), UnknownHandler> {
    if BUILT_IN_RUNTIMES.contains(&handler) {
        return Ok(());
    }
    Err(UnknownHandler(handler.to_owned()))
}

/// Settings of the pod that this node does not support but that are harmless, for a warning.
pub fn unsupported_settings(pod: &Pod) -> Vec<String> {
    let Some(pod_spec) = &pod.spec else {
        return Vec::new();
    };
    let mut unsupported = Vec::new();
    for (_, container) in spec::containers(pod_spec) {
        let ports = container.ports.iter().flatten();
        let host_ports = ports.filter(|port| port.host_port.is_some_and(|number| number > 0));
        let unsupported_ports = host_ports.filter_map(|port| {
            service_routing::host_address(port.host_ip.as_deref())
                .err()
                .map(|address| (port.host_port.unwrap_or_default(), address))
        });
        if !spec::uses_host_network(pod_spec) {
            unsupported.extend(unsupported_ports.map(|(port, address)| {
                format!(
                    "container {}: hostPort {port} is not served on {address}: this node's pods \
                     have IPv4 only",
                    container.name
                )
            }));
        }
    }
    unsupported
}

/// The user of the process.
///
/// # Errors
/// The pod names an id out of range. The API server rejects such ids.
pub fn user_spec(
    pod: Option<&PodSecurityContext>,
    container: Option<&SecurityContext>,
    image_user: &str,
) -> Result<UserSpec, SpecError> {
    let uid = container
        .and_then(|c| c.run_as_user)
        .or_else(|| pod.and_then(|c| c.run_as_user));
    let gid = container
        .and_then(|c| c.run_as_group)
        .or_else(|| pod.and_then(|c| c.run_as_group));
    let supplemental = pod
        .and_then(|c| c.supplemental_groups.as_ref())
        .into_iter()
        .flatten();
    let fs_group = pod.and_then(|c| c.fs_group);
    let groups = fs_group.into_iter().chain(supplemental.copied()).map(id);
    let policy = pod.and_then(|c| c.supplemental_groups_policy.as_deref());
    Ok(UserSpec {
        name: image_user.to_owned(),
        uid: uid.map(id).transpose()?,
        gid: gid.map(id).transpose()?,
        supplementary_groups: groups.collect::<Result<_, _>>()?,
        strict_groups: policy == Some("Strict"),
    })
}

/// A user or group id. An id out of range is an error and never treated as absent: an absent id would
/// select the image's user.
fn id(number: i64) -> Result<u32, SpecError> {
    let id = u32::try_from(number).ok().filter(|id| *id <= ID_MAX);
    id.ok_or(SpecError::IdOutOfRange(number))
}

/// Checks `runAsNonRoot` of the pod against the image's user.
pub fn check_non_root(
    inputs: &ContainerInputs<'_>,
    pod: Option<&PodSecurityContext>,
    container: Option<&SecurityContext>,
    user: &UserSpec,
) -> Result<(), SpecError> {
    let run_as_non_root = container
        .and_then(|c| c.run_as_non_root)
        .or_else(|| pod.and_then(|c| c.run_as_non_root));
    if run_as_non_root != Some(true) {
        return Ok(());
    }
    check_not_root(user).map_err(|risk| SpecError::MayBeRoot {
        risk,
        pod: spec::display_name(inputs.pod),
        container: inputs.container.name.clone(),
    })
}

/// Checks that a user is certainly not root.
fn check_not_root(user: &UserSpec) -> Result<(), RootRisk> {
    match user.uid {
        Some(0) => return Err(RootRisk::RunAsUser),
        Some(_) => return Ok(()),
        None => {}
    }
    let name = user.name.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(uid) if uid > ID_MAX => Err(RootRisk::ImageUserOutOfRange(uid)),
        Ok(1..) => Ok(()),
        Err(_) if !name.is_empty() => Err(RootRisk::ImageUserNotNumeric(name.to_owned())),
        Ok(0) | Err(_) => Err(RootRisk::ImageUser),
    }
}

/// The permissions of the process. Seccomp profiles of the node are below `profiles`.
///
/// # Errors
/// Fails if the pod names a profile outside of `profiles`.
pub fn security(
    pod: Option<&PodSecurityContext>,
    container: Option<&SecurityContext>,
    profiles: &Path,
) -> Result<Security, SpecError> {
    let capabilities = container.and_then(|c| c.capabilities.as_ref());
    let profile = container
        .and_then(|c| c.seccomp_profile.as_ref())
        .or_else(|| pod.and_then(|c| c.seccomp_profile.as_ref()));
    let privileged = container.and_then(|c| c.privileged) == Some(true);
    Ok(Security {
        privileged,
        capabilities_add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        capabilities_drop: capabilities
            .and_then(|c| c.drop.clone())
            .unwrap_or_default(),
        no_new_privileges: container.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(profile.filter(|_| !privileged), profiles)?,
        unmasked_proc: container.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked"),
        keeps_projects: false,
    })
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> Result<Seccomp, SpecError> {
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
                Err(SpecError::ProfileOutside(name.display().to_string()))
            }
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S1: an id out of range was ignored, so that the image's user was used.
    #[test]
    fn an_id_out_of_range_is_rejected_in_every_field() {
        for invalid_id in [-1, 2_147_483_648, 4_294_967_295, 4_294_967_296] {
            let container = |uid, gid| SecurityContext {
                run_as_user: uid,
                run_as_group: gid,
                ..SecurityContext::default()
            };
            let pod = |fs_group, groups| PodSecurityContext {
                fs_group,
                supplemental_groups: groups,
                ..PodSecurityContext::default()
            };
            for (pod, container) in [
                (None, Some(container(Some(invalid_id), None))),
                (None, Some(container(None, Some(invalid_id)))),
                (Some(pod(Some(invalid_id), None)), None),
                (Some(pod(None, Some(vec![1, invalid_id]))), None),
            ] {
                let error = user_spec(pod.as_ref(), container.as_ref(), "1000").unwrap_err();
                let error = error.to_string();
                assert!(error.contains("between 0 and 2147483647"), "{error}");
            }
        }
    }

    #[test]
    fn only_users_that_are_certainly_not_root_are_accepted() {
        let check = |uid, name: &str| {
            check_not_root(&UserSpec {
                uid,
                name: name.to_owned(),
                ..UserSpec::default()
            })
        };
        for (uid, name) in [
            (Some(1), ""),
            (Some(1), "root"),
            (None, "1000"),
            (None, "1000:0"),
        ] {
            assert_eq!(check(uid, name), Ok(()), "{uid:?} {name}");
        }
        let table = [
            (Some(0), "1000", "breaks non-root policy"),
            (None, "", "will run as root"),
            (None, "0", "will run as root"),
            (None, "+0:5", "will run as root"),
            (None, "nginx", "non-numeric user (nginx)"),
            (None, "-1", "non-numeric user (-1)"),
            // findings S1
            (None, "4294967295", "which is none"),
            (None, "2147483648:1", "which is none"),
        ];
        for (uid, name, reason) in table {
            let error = check(uid, name).unwrap_err().to_string();
            assert!(error.contains(reason), "{uid:?} {name}: {error}");
        }
    }
}
