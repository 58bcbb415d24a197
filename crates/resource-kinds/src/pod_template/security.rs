//! What is wrong with the rights of a pod and its containers.

use object_model::{FieldError, names};

use crate::at::{At, Rules};

/// Largest user or group id.
const ID_MAX: i64 = 0xffff_ffff;
const SECCOMP: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.int().is_some_and(|id| !(0..=ID_MAX).contains(&id)) {
        errors.push(at.invalid(names::outside_range(0, ID_MAX)));
    }
}

fn seccomp(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let (kind, file) = (at.get("type"), at.get("localhostProfile"));
    errors.check_one_of(&kind, SECCOMP);
    if kind.text() == "Localhost" && file.is_empty() {
        errors.push(file.required("must be set when seccomp type is Localhost"));
    } else if kind.text() != "Localhost" && !file.is_empty() {
        errors.push(file.invalid("can only be set when seccomp type is Localhost"));
    }
}

/// Checks what holds for all containers of a pod.
pub(super) fn validate_pod(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let context = spec.get("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context.get(field), errors);
    }
    for group in context.get("supplementalGroups").items() {
        id(&group, errors);
    }
    for sysctl in context.get("sysctls").items() {
        if sysctl.get("name").is_empty() {
            errors.push(sysctl.get("name").required(""));
        }
    }
    errors.extend(crate::metadata::duplicates(&context.get("sysctls"), "name"));
    seccomp(&context.get("seccompProfile"), errors);
    let policies = ["Always", "OnRootMismatch"];
    errors.check_one_of_if_set(&context.get("fsGroupChangePolicy"), &policies);
    let shared = spec.get("shareProcessNamespace");
    if shared.is_true() && spec.get("hostPID").is_true() {
        errors.push(shared.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    users(spec, errors);
}

/// What goes with users of the pod's own only, and what does not go with them (KEP-127).
fn users(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let containers = super::CONTAINER_LISTS.map(|list| spec.get(list));
    let containers = containers.iter().flat_map(At::items);
    if spec.get("hostUsers").value == false {
        let detail = "when `hostUsers` is false";
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).is_true() {
                errors.push(spec.get(field).forbidden(detail));
            }
        }
        let devices = containers.map(|container| container.get("volumeDevices"));
        errors.extend(
            devices
                .filter(|devices| !devices.is_empty())
                .map(|devices| devices.forbidden(detail)),
        );
    } else {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        let mounts = containers.map(|c| c.get("securityContext.procMount"));
        let unmasked = mounts.filter(|mount| mount.text() == "Unmasked");
        errors.extend(unmasked.map(|mount| mount.invalid(detail)));
    }
}

/// Checks the rights of one container.
pub(super) fn validate_container(context: &At<'_>, errors: &mut Vec<FieldError>) {
    if !context.is_set() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    errors.check_one_of_if_set(&context.get("procMount"), &["Default", "Unmasked"]);
    seccomp(&context.get("seccompProfile"), errors);
    if context.get("allowPrivilegeEscalation").value == false {
        if context.get("privileged").is_true() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(context.invalid(detail));
        }
        let mut added = context.get("capabilities.add").items();
        if added.any(|capability| capability.text() == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and \
                          `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(context.invalid(detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rights_do_not_contradict_each_other() {
        let context = json!({"privileged": true, "allowPrivilegeEscalation": false,
            "runAsUser": -1});
        let mut errors = Vec::new();
        validate_container(&At::root(&context), &mut errors);
        assert_eq!(errors.len(), 2);
        let wanted = "runAsUser: Invalid value: -1: must be between 0 and 4294967295, inclusive";
        assert_eq!(errors[0].to_string(), wanted);
        let spec = json!({"shareProcessNamespace": true, "hostPID": true});
        let mut errors = Vec::new();
        validate_pod(&At::root(&spec), &mut errors);
        assert_eq!(errors.len(), 1);
    }

    fn pod_errors(spec: serde_json::Value) -> Vec<String> {
        let mut errors = Vec::new();
        validate_pod(&At::root(&spec), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn users_of_its_own_need_namespaces_of_its_own() {
        // statefulset.md 12.16
        let pod = json!({"hostUsers": false, "hostNetwork": true, "hostPID": true,
            "hostIPC": true, "containers": [{"volumeDevices": [{"name": "d"}],
                "securityContext": {"procMount": "Unmasked"}}]});
        let detail = "Forbidden: when `hostUsers` is false";
        let fields = [
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "containers[0].volumeDevices",
        ];
        assert_eq!(pod_errors(pod), fields.map(|at| format!("{at}: {detail}")));
        let alone = json!({"hostUsers": false, "containers": [{}]});
        assert_eq!(pod_errors(alone), [""; 0]);
    }

    #[test]
    fn all_of_proc_is_for_users_of_its_own() {
        // statefulset.md 12.16
        let with = |host_users: serde_json::Value| {
            let container = json!({"securityContext": {"procMount": "Unmasked"}});
            pod_errors(json!({"hostUsers": host_users, "initContainers": [container]}))
        };
        let refused = "initContainers[0].securityContext.procMount: Invalid value: \"Unmasked\": \
                       `hostUsers` must be false to use `Unmasked`";
        assert_eq!(with(json!(null)), [refused]);
        assert_eq!(with(json!(true)), [refused]);
        assert_eq!(with(json!(false)), [""; 0]);
    }
}
