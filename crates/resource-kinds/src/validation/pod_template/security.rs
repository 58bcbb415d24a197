//! Validation of the security contexts of a pod and its containers.

use object_model::{FieldError, names};

use super::windows;
use crate::validation::field::{Field, Rules};
use crate::validation::text_set::TextSet;
use crate::validation::volume_sources;

/// Maximum user or group id, as in Kubernetes (`IsValidUserID`): for the kernel 2^32 - 1 means "unchanged", and some
/// programs read values of the upper half as negative numbers.
const ID_MAX: i64 = 0x7fff_ffff;

fn id(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.int().is_some_and(|id| !(0..=ID_MAX).contains(&id)) {
        cov_mark::hit!(findings_s1_validation);
        errors.push(at.invalid(names::outside_range(0, ID_MAX)));
    }
}

/// The types of seccomp and AppArmor profiles.
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// A seccomp or AppArmor profile: a profile of the type `Localhost` has a name, profiles of other types have no name.
fn profile(at: &Field<'_, '_>, field: &str, what: &str, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let (kind, name) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "" => {
            let detail = format!("type is required when {field} is set");
            errors.push(kind.required(&detail));
        }
        "Localhost" if name.is_empty() => {
            let detail = format!("must be set when {what} type is Localhost");
            errors.push(name.required(&detail));
        }
        "Localhost" => {}
        profile_type if PROFILES.contains(&profile_type) => {
            if name.is_set() {
                let detail = format!("can only be set when {what} type is Localhost");
                errors.push(name.invalid(detail));
            }
        }
        _ => errors.push(kind.not_supported(PROFILES)),
    }
}

/// The maximum length of a path in the kernel, without its final NUL byte.
const PATH_BYTES_MAX: usize = 4095;

fn profiles(context: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let seccomp = context.get("seccompProfile");
    profile(&seccomp, "seccompProfile", "seccomp", errors);
    if seccomp.get("type").text() == "Localhost" {
        volume_sources::below(&seccomp.get("localhostProfile"), errors);
    }
    let app_armor = context.get("appArmorProfile");
    profile(&app_armor, "appArmorProfile", "AppArmor", errors);
    let name = app_armor.get("localhostProfile");
    if app_armor.get("type").text() == "Localhost" {
        if name.text().trim() != name.text() {
            errors.push(name.invalid("must not be padded with whitespace"));
        }
        if name.text().len() > PATH_BYTES_MAX {
            errors.push(FieldError::too_long(&name.path(), PATH_BYTES_MAX));
        }
    }
    windows::options(&context.get("windowsOptions"), errors);
}

/// Validates the security context of a pod.
pub(super) fn validate_pod(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.get(field), errors);
    }
    for group in context.get("supplementalGroups").items() {
        id(&group, errors);
    }
    let shared = spec.get("shareProcessNamespace");
    if shared.is_true() && spec.get("hostPID").is_true() {
        errors.push(shared.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    sysctls(spec, errors);
    for (field, allowed) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        errors.check_one_of_if_set(&context.get(field), &allowed);
    }
    profiles(&context, errors);
}

/// Checks that each kernel parameter occurs once, and belongs to a namespace that the pod does not share with the
/// host.
fn sysctls(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let mut unique = TextSet::default();
    for sysctl in spec.get_path("securityContext.sysctls").items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
            continue;
        }
        if !is_sysctl(name.text()) {
            let detail = format!(
                "must have at most {} characters and match regex ^{SYSCTL}$",
                names::SUBDOMAIN_BYTES_MAX
            );
            errors.push(name.invalid(detail));
        } else if !unique.insert(name.text()) {
            errors.push(name.duplicate());
        }
        for (field, prefixes) in NAMESPACES {
            let dotted = name.text().replace('/', ".");
            let of_namespace = prefixes.iter().any(|prefix| dotted.starts_with(prefix));
            if of_namespace && spec.get(field).is_true() {
                let detail = format!("may not be specified when '{field}' is true");
                errors.push(name.invalid(detail));
            }
        }
    }
}

const SYSCTL: &str = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
/// The parameters of namespaces that a pod may share with the host.
const NAMESPACES: &[(&str, &[&str])] = &[
    ("hostNetwork", &["net."]),
    (
        "hostIPC",
        &["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."],
    ),
];

fn is_sysctl(name: &str) -> bool {
    let is_end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= names::SUBDOMAIN_BYTES_MAX
        && name.split(['.', '/']).map(str::as_bytes).all(|part| {
            let inner = part
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
            inner && is_end(part.first()) && is_end(part.last())
        })
}

/// The rules for pods with and without a user namespace (KEP-127).
pub(super) fn users(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let containers = super::CONTAINER_LISTS.map(|list| spec.get(list));
    let containers = containers.iter().flat_map(Field::items);
    if spec.get("hostUsers").value == false {
        let detail = "when `hostUsers` is false";
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).is_true() {
                errors.push(spec.get(field).forbidden(detail));
            }
        }
        for container in containers {
            let devices = container.get("volumeDevices");
            if !devices.is_empty() {
                errors.push(devices.forbidden(detail));
            }
        }
    } else {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        for container in containers {
            let mount = container.get_path("securityContext.procMount");
            if mount.text() == "Unmasked" {
                errors.push(mount.invalid(detail));
            }
        }
    }
}

/// Validates the security context of one container.
pub(super) fn validate_container(context: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if !context.is_set() {
        return;
    }
    id(&context.get("runAsUser"), errors);
    id(&context.get("runAsGroup"), errors);
    errors.check_one_of_if_set(&context.get("procMount"), &["Default", "Unmasked"]);
    if context.get("allowPrivilegeEscalation").value == false {
        if context.get("privileged").is_true() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(context.invalid(detail));
        }
        let added = context.get_path("capabilities.add");
        if added
            .items()
            .any(|capability| capability.text() == "CAP_SYS_ADMIN")
        {
            let detail = "cannot set `allowPrivilegeEscalation` to false and \
                          `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(context.invalid(detail));
        }
    }
    profiles(context, errors);
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn rights_do_not_contradict_each_other() {
        let context = json!({"privileged": true, "allowPrivilegeEscalation": false,
            "runAsUser": -1});
        let mut errors = Vec::new();
        validate_container(&Field::root(&context), &mut errors);
        assert_eq!(errors.len(), 2);
        let expected = "runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive";
        assert_eq!(errors[0].to_string(), expected);
        let spec = json!({"shareProcessNamespace": true, "hostPID": true});
        let mut errors = Vec::new();
        validate_pod(&Field::root(&spec), &mut errors);
        assert_eq!(errors.len(), 1);
    }

    fn pod_errors(spec: json_tree::Value) -> Vec<String> {
        let mut errors = Vec::new();
        validate_pod(&Field::root(&spec), &mut errors);
        users(&Field::root(&spec), &mut errors);
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
        let with = |host_users: json_tree::Value| {
            let container = json!({"securityContext": {"procMount": "Unmasked"}});
            pod_errors(json!({"hostUsers": host_users, "initContainers": [container]}))
        };
        let refused = "initContainers[0].securityContext.procMount: Invalid value: \"Unmasked\": \
                       `hostUsers` must be false to use `Unmasked`";
        assert_eq!(with(json!(null)), [refused]);
        assert_eq!(with(json!(true)), [refused]);
        assert_eq!(with(json!(false)), [""; 0]);
    }

    #[test]
    fn profiles_have_a_name_where_they_are_the_nodes() {
        let kinds = "supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"";
        for (field, what) in [
            ("seccompProfile", "seccomp"),
            ("appArmorProfile", "AppArmor"),
        ] {
            let table = [
                (json!({"type": "RuntimeDefault"}), None),
                (json!({"type": "Localhost", "localhostProfile": "a"}), None),
                (
                    json!({}),
                    Some(format!(
                        "type: Required value: type is required when {field} is set"
                    )),
                ),
                (
                    json!({"type": "None"}),
                    Some(format!("type: Unsupported value: \"None\": {kinds}")),
                ),
                (
                    json!({"type": "Localhost"}),
                    Some(format!(
                        "localhostProfile: Required value: must be set when {what} type is Localhost"
                    )),
                ),
                (
                    json!({"type": "Unconfined", "localhostProfile": "a"}),
                    Some(format!(
                        "localhostProfile: Invalid value: \"a\": can only be set when {what} type is \
                     Localhost"
                    )),
                ),
            ];
            for (profile, expected) in table {
                let expected: Vec<String> = expected
                    .iter()
                    .map(|error| format!("securityContext.{field}.{error}"))
                    .collect();
                assert_eq!(
                    pod_errors(json!({"securityContext": {field: profile}})),
                    expected
                );
            }
        }
        let wrong = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../a"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}});
        assert_eq!(
            pod_errors(json!({"securityContext": wrong})),
            [
                "securityContext.seccompProfile.localhostProfile: Invalid value: \"../a\": must not \
                 contain '..'",
                "securityContext.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be \
                 padded with whitespace",
            ]
        );
    }

    #[test]
    fn kernel_parameters_are_the_pods_own() {
        let sysctls = json!([{"name": "net.core.somaxconn"}, {"name": "net.core.somaxconn"}, {},
            {"name": "kernel/shmmax"}, {"name": "A"}]);
        let context = json!({"sysctls": sysctls});
        let errors = pod_errors(json!({"securityContext": context}));
        assert_eq!(
            errors,
            [
                "securityContext.sysctls[1].name: Duplicate value: \"net.core.somaxconn\""
                    .to_owned(),
                "securityContext.sysctls[2].name: Required value".to_owned(),
                format!(
                    "securityContext.sysctls[4].name: Invalid value: \"A\": must have at most 253 \
                         characters and match regex ^{SYSCTL}$"
                ),
            ]
        );
        let one = json!({"sysctls": [{"name": "net.core.somaxconn"}]});
        assert_eq!(
            pod_errors(json!({"hostNetwork": true, "securityContext": one})),
            [
                "securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be \
                 specified when 'hostNetwork' is true"
            ]
        );
        let one = json!({"sysctls": [{"name": "kernel/shmmax"}]});
        assert_eq!(
            pod_errors(json!({"hostIPC": true, "securityContext": one})).len(),
            1
        );
    }

    #[test]
    fn ids_and_policies_are_known() {
        cov_mark::check!(findings_s1_validation);
        // findings S1: for the kernel 4294967295 means "unchanged", so the process stayed root.
        let range = "must be between 0 and 2147483647, inclusive";
        for wrong in [-1, 2_147_483_648, 4_294_967_295, 4_294_967_296_i64] {
            for field in ["fsGroup", "runAsUser", "runAsGroup"] {
                let refused = format!("securityContext.{field}: Invalid value: {wrong}: {range}");
                assert_eq!(
                    pod_errors(json!({"securityContext": {field: wrong}})),
                    [refused]
                );
            }
            let groups = json!({"supplementalGroups": [1, wrong]});
            let refused =
                format!("securityContext.supplementalGroups[1]: Invalid value: {wrong}: {range}");
            assert_eq!(pod_errors(json!({"securityContext": groups})), [refused]);
            for field in ["runAsUser", "runAsGroup"] {
                let mut errors = Vec::new();
                validate_container(&Field::root(&json!({field: wrong})), &mut errors);
                assert_eq!(errors.len(), 1, "{field}: {wrong}");
            }
        }
        let largest = json!({"runAsUser": 2_147_483_647, "fsGroup": 0});
        assert_eq!(pod_errors(json!({"securityContext": largest})), [""; 0]);
        for field in [
            "fsGroupChangePolicy",
            "supplementalGroupsPolicy",
            "seLinuxChangePolicy",
        ] {
            assert_eq!(
                pod_errors(json!({"securityContext": {field: "No"}})).len(),
                1,
                "{field}"
            );
        }
    }
}
