//! Validation of fields for one operating system. Pods run on Linux; pods for Windows are stored for nodes outside of
//! this cluster.

use object_model::{FieldError, names};

use super::container_lists;
use crate::validation::field::{Field, Rules};

const SYSTEMS: &[&str] = &["linux", "windows"];
/// Fields of a pod that only Linux supports.
const LINUX_PODS: &[&str] = &[
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];
/// Security context fields of a container that only Linux supports.
const LINUX_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
const CREDENTIAL_KIB_MAX: usize = 64;
const DOMAIN_CHARS_MAX: usize = 256;
const USER_CHARS_MAX: usize = 104;

/// Checks that a pod has no fields of another operating system.
pub(super) fn system(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let name = spec.get_path("os.name");
    if !spec.get("os").is_set() {
        return;
    }
    match name.text() {
        "linux" => {
            let lists = container_lists(spec);
            let containers = lists.iter().flat_map(Field::items);
            for holder in std::iter::once(*spec).chain(containers) {
                let options = holder.get_path("securityContext.windowsOptions");
                if options.is_set() {
                    let detail = "windows options cannot be set for a linux pod";
                    errors.push(options.forbidden(detail));
                }
            }
        }
        "windows" => {
            let detail = "cannot be set for a windows pod";
            let of_pod = LINUX_PODS
                .iter()
                .map(|field| (*field, spec.get_path(field)));
            errors.extend(
                of_pod
                    .filter(|(name, field)| is_given(name, field))
                    .map(|(_, field)| field.forbidden(detail)),
            );
            for container in container_lists(spec).iter().flat_map(Field::items) {
                let rights = container.get("securityContext");
                let of_container = LINUX_CONTAINERS.iter().map(|field| rights.get(field));
                errors.extend(
                    of_container
                        .filter(Field::is_set)
                        .map(|at| at.forbidden(detail)),
                );
            }
        }
        "" => errors.push(name.required("cannot be empty")),
        other => {
            let os = spec.get("os");
            errors.push(FieldError::not_supported(&os.path(), other, SYSTEMS));
        }
    }
}

/// A value that equals its default counts as absent.
fn is_given(name: &str, field: &Field<'_, '_>) -> bool {
    match name {
        "hostPID" | "hostIPC" => field.is_true(),
        "securityContext.sysctls" => !field.is_empty(),
        _ => field.is_set(),
    }
}

/// Checks that all containers of a pod are Windows host processes, or no container is.
pub(super) fn host_processes(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let field = "securityContext.windowsOptions.hostProcess";
    let of_pod = spec.get_path(field).value.as_bool();
    let mut of_host = 0;
    let lists = container_lists(spec);
    for container in lists.iter().flat_map(Field::items) {
        let value = container.get_path(field);
        if let (Some(pods), Some(own_value)) = (of_pod, value.value.as_bool())
            && pods != own_value
        {
            let detail = format!(
                "pod hostProcess value must be identical if both are specified, was {pods}"
            );
            errors.push(value.invalid(detail));
        }
        of_host += usize::from(value.value.as_bool().or(of_pod) == Some(true));
    }
    if of_host == 0 {
        return;
    }
    if of_host != lists.iter().map(Field::len).sum::<usize>() {
        let detail = "If pod contains any hostProcess containers then all containers must be \
                      HostProcess containers";
        errors.push(FieldError::invalid(&spec.path(), "", detail));
    }
    if !spec.get("hostNetwork").is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(
            &spec.get("hostNetwork").path(),
            false,
            detail,
        ));
    }
}

/// Checks the Windows options of a pod or a container.
pub(super) fn options(options: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let spec_name = options.get("gmsaCredentialSpecName");
    if spec_name.is_set() {
        errors.check_text(&spec_name, names::dns_subdomain);
    }
    let credentials = options.get("gmsaCredentialSpec");
    if credentials.is_set() && credentials.is_empty() {
        errors.push(credentials.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if credentials.text().len() > CREDENTIAL_KIB_MAX * 1024 {
        let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_KIB_MAX} KiB");
        errors.push(credentials.invalid(detail));
    }
    let user = options.get("runAsUserName");
    if user.is_set() {
        let clauses = user_name(user.text()).into_iter();
        errors.extend(clauses.map(|clause| user.invalid(format!("runAsUserName{clause}"))));
    }
}

/// The errors of a user name, optionally with a domain before a backslash.
fn user_name(text: &str) -> Vec<String> {
    let one = |clause: &str| vec![clause.to_owned()];
    if text.is_empty() {
        return one(" cannot be an empty string");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return one(" cannot contain control characters");
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return one(" cannot contain more than one backslash"),
    };
    let mut wrong = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_CHARS_MAX) {
        wrong.push(format!(
            "'s Domain length must be under {DOMAIN_CHARS_MAX} characters"
        ));
    }
    if domain.is_some_and(|domain| !is_short_domain(domain) && !is_domain(domain)) {
        wrong.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        wrong.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_CHARS_MAX {
        wrong.push(format!(
            "'s User length must not be longer than {USER_CHARS_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        wrong.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        let clause = "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        wrong.push(clause.to_owned());
    }
    wrong
}

/// Whether a text is a NetBIOS domain name.
fn is_short_domain(text: &str) -> bool {
    (1..=15).contains(&text.chars().count())
        && !text.starts_with('.')
        && !text.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_domain(text: &str) -> bool {
    text.split('.')
        .all(|label| names::dns_label(&label.to_ascii_lowercase()).is_empty())
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        let object = json!({"spec": spec});
        let spec = Field::of(&object, "spec");
        let mut errors = Vec::new();
        host_processes(&spec, &mut errors);
        system(&spec, &mut errors);
        options(
            &spec.get_path("securityContext.windowsOptions"),
            &mut errors,
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_is_for_one_system() {
        assert_eq!(
            check(json!({"os": {}})),
            ["spec.os.name: Required value: cannot be empty"]
        );
        assert_eq!(
            check(json!({"os": {"name": "hurd"}})),
            ["spec.os: Unsupported value: \"hurd\": supported values: \"linux\", \"windows\""]
        );
        let context = json!({"windowsOptions": {}});
        assert_eq!(
            check(json!({"os": {"name": "linux"}, "securityContext": context,
                "containers": [{"securityContext": context}]})),
            [
                "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for \
                 a linux pod",
                "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options \
                 cannot be set for a linux pod",
            ]
        );
        let detail = "Forbidden: cannot be set for a windows pod";
        assert_eq!(
            check(
                json!({"os": {"name": "windows"}, "hostUsers": false, "hostPID": false,
                "securityContext": {"fsGroup": 1, "sysctls": []},
                "containers": [{"securityContext": {"privileged": false}}]})
            ),
            [
                format!("spec.hostUsers: {detail}"),
                format!("spec.securityContext.fsGroup: {detail}"),
                format!("spec.containers[0].securityContext.privileged: {detail}"),
            ]
        );
    }

    #[test]
    fn processes_of_the_host_are_among_themselves() {
        let of_host = |value: bool| {
            json!({"securityContext": {"windowsOptions":
            {"hostProcess": value}}})
        };
        let spec = json!({"containers": [of_host(true), of_host(true)], "hostNetwork": true});
        assert_eq!(check(spec), [""; 0]);
        assert_eq!(
            check(json!({"containers": [of_host(true), {}]})),
            [
                "spec: Invalid value: \"\": If pod contains any hostProcess containers then all \
                 containers must be HostProcess containers",
                "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains \
                 any hostProcess containers",
            ]
        );
        let mut spec = of_host(false);
        spec["containers"] = json!([of_host(false), {}]);
        assert_eq!(check(spec), [""; 0]);
    }

    #[test]
    fn users_have_names() {
        for fine in [
            "ContainerUser",
            "NT AUTHORITY\\SYSTEM",
            "corp.example.com\\me",
        ] {
            assert_eq!(user_name(fine), [""; 0], "{fine}");
        }
        for wrong in ["", "a\tb", "a\\b\\c", "a\\", ".a\\b", "..", "a@b"] {
            assert_eq!(user_name(wrong).len(), 1, "{wrong}");
        }
    }
}
