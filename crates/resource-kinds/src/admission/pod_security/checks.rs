//! The single rules of the Pod Security Standards (as of Kubernetes 1.36), each with Kubernetes' message.

use std::collections::BTreeSet;

use json_tree::Value;

use super::volumes::{host_path, volume_types};
use super::words::{
    Violation, bad, bad_values, container_list, containers, list, one_or_many, quoted, setters,
    text, violation,
};

type Check = fn(&Value) -> Option<Violation>;

/// The rules are in the order of their messages.
const BASELINE: &[Check] = &[
    app_armor,
    capabilities_baseline,
    host_namespaces,
    host_path,
    host_ports,
    probe_hosts,
    privileged,
    proc_mount_baseline,
    se_linux,
    seccomp_baseline,
    sysctls,
    host_process,
];

/// Some rules of the level `restricted` replace rules of the level `baseline`.
const RESTRICTED: &[Check] = &[
    app_armor,
    host_namespaces,
    host_ports,
    probe_hosts,
    privileged,
    se_linux,
    sysctls,
    host_process,
    privilege_escalation,
    capabilities_restricted,
    proc_mount,
    volume_types,
    non_root,
    root_user,
    seccomp_restricted,
];

pub(super) fn baseline(pod: &Value) -> Vec<Violation> {
    BASELINE.iter().filter_map(|check| check(pod)).collect()
}

pub(super) fn restricted(pod: &Value) -> Vec<Violation> {
    RESTRICTED.iter().filter_map(|check| check(pod)).collect()
}

fn in_user_namespace(pod: &Value) -> bool {
    pod["spec"]["hostUsers"] == false
}

fn is_windows(pod: &Value) -> bool {
    pod["spec"]["os"]["name"] == "windows"
}

fn app_armor(pod: &Value) -> Option<Violation> {
    let is_bad = |profile: &Value| !matches!(text(profile, "type"), "RuntimeDefault" | "Localhost");
    let (mut who, values) = bad_values(pod, "appArmorProfile", is_bad);
    let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
    let mut annotations = Vec::new();
    for (key, value) in pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let value = value.as_str().unwrap_or_default();
        let fine = matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine {
            annotations.push(format!("{key}={value:?}"));
        }
    }
    if !annotations.is_empty() {
        annotations.sort_unstable();
        let word = one_or_many(annotations.len(), "annotation", "annotations");
        who = if who.is_empty() {
            word.to_owned()
        } else {
            format!("{who} and {word}")
        };
        values.extend(annotations);
    }
    if who.is_empty() {
        return None;
    }
    let (one, many) = ("forbidden AppArmor profile", "forbidden AppArmor profiles");
    violation(
        one_or_many(values.len(), one, many),
        format!(
            "{who} must not set AppArmor profile type to {}",
            quoted(&values)
        ),
    )
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The message about containers that add capabilities which are not allowed; `None` if there are no such containers.
fn added_capabilities(pod: &Value, allowed: &[&str]) -> Option<String> {
    let mut all: BTreeSet<&str> = BTreeSet::new();
    let names = bad(pod, |container| {
        let added = list(&container["securityContext"]["capabilities"]["add"]);
        let added = added.iter().filter_map(Value::as_str);
        let more: Vec<&str> = added.filter(|one| !allowed.contains(one)).collect();
        all.extend(more.iter().copied());
        !more.is_empty()
    });
    (!names.is_empty()).then(|| {
        let (who, what) = (container_list(&names), quoted(&all));
        format!("{who} must not include {what} in securityContext.capabilities.add")
    })
}

fn capabilities_baseline(pod: &Value) -> Option<Violation> {
    let detail = added_capabilities(pod, DEFAULT_CAPABILITIES)?;
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Value) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    let offenders = bad(pod, |container| {
        let dropped = list(&container["securityContext"]["capabilities"]["drop"]);
        !dropped.iter().any(|one| one == "ALL")
    });
    let detail = (!offenders.is_empty()).then(|| {
        format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            container_list(&offenders)
        )
    });
    let added = added_capabilities(pod, &["NET_BIND_SERVICE"]);
    let details: Vec<String> = detail.into_iter().chain(added).collect();
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: &Value) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod["spec"][*field] == true);
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    if used.is_empty() {
        return None;
    }
    violation("host namespaces", used.join(", "))
}

fn host_ports(pod: &Value) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = bad(pod, |container| {
        let used = list(&container["ports"]).iter();
        let used: Vec<i64> = used
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect();
        ports.extend(used.iter().map(ToString::to_string));
        !used.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let uses = one_or_many(names.len(), "uses", "use");
    let word = one_or_many(ports.len(), "hostPort", "hostPorts");
    let ports: Vec<String> = ports.into_iter().collect();
    violation(
        "hostPort",
        format!(
            "{} {uses} {word} {}",
            container_list(&names),
            ports.join(", ")
        ),
    )
}

fn probe_hosts(pod: &Value) -> Option<Violation> {
    let mut hosts: BTreeSet<&str> = BTreeSet::new();
    let mut names = bad(pod, |container| {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let used = handlers.into_iter().flat_map(|handler| {
            [
                text(&handler["httpGet"], "host"),
                text(&handler["tcpSocket"], "host"),
            ]
        });
        let used: Vec<&str> = used.filter(|host| !host.is_empty()).collect();
        hosts.extend(used.iter().copied());
        !used.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    let uses = one_or_many(names.len(), "uses", "use");
    let word = one_or_many(
        hosts.len(),
        "probe or lifecycle host",
        "probe or lifecycle hosts",
    );
    violation(
        "probe or lifecycle host",
        format!("{} {uses} {word} {}", container_list(&names), quoted(hosts)),
    )
}

fn privileged(pod: &Value) -> Option<Violation> {
    let names = bad(pod, |container| {
        container["securityContext"]["privileged"] == true
    });
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        container_list(&names)
    );
    violation("privileged", detail)
}

fn proc_mount_baseline(pod: &Value) -> Option<Violation> {
    if in_user_namespace(pod) {
        None
    } else {
        proc_mount(pod)
    }
}

fn proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = bad(pod, |container| {
        let kind = container["securityContext"]["procMount"].as_str();
        let other = kind.filter(|kind| *kind != "Default");
        kinds.extend(other);
        other.is_some()
    });
    if names.is_empty() {
        return None;
    }
    let (who, what) = (container_list(&names), quoted(kinds));
    violation(
        "procMount",
        format!("{who} must not set securityContext.procMount to {what}"),
    )
}

fn se_linux(pod: &Value) -> Option<Violation> {
    let fine_type = |options: &Value| {
        let allowed = [
            "",
            "container_t",
            "container_init_t",
            "container_kvm_t",
            "container_engine_t",
        ];
        allowed.contains(&text(options, "type"))
    };
    let sets = |options: &Value, field: &str| !text(options, field).is_empty();
    let is_bad = |o: &Value| !fine_type(o) || sets(o, "user") || sets(o, "role");
    let (who, _) = bad_values(pod, "seLinuxOptions", is_bad);
    if who.is_empty() {
        return None;
    }
    let all: Vec<&Value> = std::iter::once(&pod["spec"])
        .chain(containers(pod))
        .map(|holder| &holder["securityContext"]["seLinuxOptions"])
        .filter(|options| options.is_object())
        .collect();
    let types: BTreeSet<&str> = all
        .iter()
        .filter(|options| !fine_type(options))
        .map(|options| text(options, "type"))
        .collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        let word = one_or_many(types.len(), "type", "types");
        data.push(format!("{word} {}", quoted(&types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|options| sets(options, field)) {
            data.push(format!("{field} may not be set"));
        }
    }
    let data = data.join("; ");
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {data}"),
    )
}

fn bad_seccomp(profile: &Value) -> bool {
    !matches!(text(profile, "type"), "RuntimeDefault" | "Localhost")
}

fn seccomp_baseline(pod: &Value) -> Option<Violation> {
    let (who, values) = bad_values(pod, "seccompProfile", bad_seccomp);
    if who.is_empty() {
        return None;
    }
    let values = quoted(values);
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {values}"),
    )
}

fn seccomp_restricted(pod: &Value) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    if let Some(violation) = seccomp_baseline(pod) {
        return Some(violation);
    }
    if !pod["spec"]["securityContext"]["seccompProfile"].is_null() {
        return None;
    }
    let names = bad(pod, |c| c["securityContext"]["seccompProfile"].is_null());
    if names.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\"",
            container_list(&names)
        ),
    )
}

fn sysctls(pod: &Value) -> Option<Violation> {
    let set = list(&pod["spec"]["securityContext"]["sysctls"]).iter();
    let names = set.map(|sysctl| text(sysctl, "name"));
    let names: Vec<&str> = names
        .filter(|name| !crate::well_known::sysctls::SAFE.contains(name))
        .collect();
    if names.is_empty() {
        return None;
    }
    violation("forbidden sysctls", names.join(", "))
}

fn host_process(pod: &Value) -> Option<Violation> {
    let sets = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(sets(&pod["spec"]), &bad(pod, sets));
    if who.is_empty() {
        return None;
    }
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}

fn privilege_escalation(pod: &Value) -> Option<Violation> {
    let names = bad(pod, |c| {
        c["securityContext"]["allowPrivilegeEscalation"] != false
    });
    if names.is_empty() || is_windows(pod) {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            container_list(&names)
        ),
    )
}

fn non_root(pod: &Value) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if in_user_namespace(pod) {
        return None;
    }
    let set = |holder: &Value| holder["securityContext"]["runAsNonRoot"].as_bool();
    let by_pod = set(&pod["spec"]);
    let who = setters(by_pod == Some(false), &bad(pod, |c| set(c) == Some(false)));
    if !who.is_empty() {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return violation(REASON, detail);
    }
    let silent = bad(pod, |container| set(container).is_none());
    if by_pod == Some(true) || silent.is_empty() {
        return None;
    }
    let who = container_list(&silent);
    violation(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

fn root_user(pod: &Value) -> Option<Violation> {
    if in_user_namespace(pod) {
        return None;
    }
    let is_root = |holder: &Value| holder["securityContext"]["runAsUser"] == 0;
    let who = setters(is_root(&pod["spec"]), &bad(pod, is_root));
    if who.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn violations(check: fn(&Value) -> Vec<Violation>, spec: Value) -> Vec<String> {
        let violation = check(&json!({"metadata": {}, "spec": spec}));
        violation.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_baseline_forbids_the_known_ways_out() {
        let one = |extra: Value| json!({"containers": [{"name": "c", "securityContext": extra}]});
        let cases = [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                one(json!({"privileged": true})),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                one(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
                "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in \
                 securityContext.capabilities.add)",
            ),
            (
                json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"a\")",
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 53}]}]}),
                "hostPort (container \"c\" uses hostPorts 53, 80)",
            ),
            (
                one(json!({"procMount": "Unmasked"})),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                one(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \
                 \"spc_t\"; user may not be set)",
            ),
            (
                json!({
                    "securityContext": {"seccompProfile": {"type": "Unconfined"}},
                    "initContainers": [
                        {"name": "i", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}
                    ],
                }),
                "seccompProfile (pod and container \"i\" must not set \
                 securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                one(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \
                 \"Unconfined\")",
            ),
            (
                json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]}),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(violations(baseline, spec), [expected]);
        }
        let plain = json!({"containers": [{"name": "c", "image": "i"}]});
        assert!(violations(baseline, plain).is_empty());
    }

    #[test]
    fn the_restricted_level_wants_everything_given_up() {
        let plain = json!({"containers": [{"name": "a"}, {"name": "b"}],
            "volumes": [{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}]});
        assert_eq!(
            violations(restricted, plain),
            [
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
                 securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (containers \"a\", \"b\" must set \
                 securityContext.capabilities.drop=[\"ALL\"])",
                "restricted volume types (volumes \"h\", \"n\" use restricted volume types \
                 \"hostPath\", \"nfs\")",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
                 securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or containers \"a\", \"b\" must set \
                 securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let good = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}],
        });
        assert!(violations(restricted, good.clone()).is_empty());
        let mut root = good;
        root["securityContext"]["runAsUser"] = json!(0);
        root["containers"][0]["securityContext"]["runAsNonRoot"] = json!(false);
        assert_eq!(
            violations(restricted, root),
            [
                "runAsNonRoot != true (container \"c\" must not set \
                 securityContext.runAsNonRoot=false)",
                "runAsUser=0 (pod must not set runAsUser=0)",
            ]
        );
    }
}
