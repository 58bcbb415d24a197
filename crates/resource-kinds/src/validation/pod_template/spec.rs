//! Validation of a pod's spec, topic by topic and in upstream's order.

use object_model::{FieldError, names};

use super::{
    amounts, claims, containers, env, ports, resources, scheduling, security, tolerations, volumes,
    windows,
};
use crate::validation::addresses::check_ip;
use crate::validation::field::{Field, Rules};
use crate::validation::metadata;

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const PREEMPTION_POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];
/// The maximum number of name servers that the C library uses.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
/// The maximum length of a host name in the kernel.
const HOSTNAME_BYTES_MAX: usize = 64;

/// The validation errors of the spec of a pod or of a template. `claims` are names of volumes that the claim
/// templates of a StatefulSet will add.
fn validate_spec(spec: &Field<'_, '_>, claims: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = volumes::validate(spec, claims, &mut errors);
    claims::of_pod(spec, &mut errors);
    containers::validate(spec, &volumes, &mut errors);
    errors.extend(resources::of_pod(spec));
    ports::of_host(spec, &mut errors);
    errors.check_among(&spec.get("restartPolicy"), RESTART_POLICIES);
    errors.check_among(&spec.get("dnsPolicy"), DNS_POLICIES);
    errors.extend(metadata::labels(&spec.get("nodeSelector")));
    security::validate_pod(spec, &mut errors);
    scheduling::affinity(&spec.get("affinity"), &mut errors);
    dns(spec, &mut errors);
    scheduling::gates(spec, &mut errors);
    super::spread::validate(spec, &mut errors);
    windows::host_processes(spec, &mut errors);
    security::users(spec, &mut errors);
    other_hostname(spec, &mut errors);
    names_of_others(spec, &mut errors);
    errors.extend(amounts(&spec.get("overhead")));
    windows::system(spec, &mut errors);
    env::file_volumes(spec, &mut errors);
    errors
}

/// The validation errors of a pod, without those of its general metadata.
pub(crate) fn validate_pod(pod: &Field<'_, '_>) -> Vec<FieldError> {
    let spec = pod.get("spec");
    let mut errors = super::annotations::validate(pod);
    errors.extend(validate_spec(&spec, &[]));
    volumes::of_pod(pod, &mut errors);
    containers::images(&spec, &mut errors);
    errors
}

/// The validation errors of a template: its labels, its annotations, its spec.
pub(crate) fn validate_template(template: &Field<'_, '_>, claims: &[&str]) -> Vec<FieldError> {
    let mut errors = metadata::labels(&template.get_path("metadata.labels"));
    errors.extend(metadata::annotations(
        &template.get_path("metadata.annotations"),
    ));
    errors.extend(validate_spec(&template.get("spec"), claims));
    if !template.get_path("spec.ephemeralContainers").is_empty() {
        let at = template.get_path("spec.ephemeralContainers");
        errors.push(at.forbidden("ephemeral containers not allowed in pod template"));
    }
    errors
}

fn names_of_others(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for field in ["serviceAccountName", "nodeName"] {
        errors.check_text_if_set(&spec.get(field), names::dns_subdomain);
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if let Some(seconds) = deadline.int()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.push(deadline.invalid(names::outside_range(1, i64::from(i32::MAX))));
    }
    for field in ["hostname", "subdomain"] {
        errors.check_text_if_set(&spec.get(field), names::dns_label);
    }
    errors.extend(tolerations(&spec.get("tolerations")));
    for alias in spec.get("hostAliases").items() {
        check_ip(errors, &alias.get("ip"));
        for name in alias.get("hostnames").items() {
            errors.check_text(&name, names::dns_subdomain);
        }
    }
    for field in ["priorityClassName", "runtimeClassName"] {
        errors.check_text_if_set(&spec.get(field), names::dns_subdomain);
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        errors.check_among(&preemption, PREEMPTION_POLICIES);
    }
}

/// Checks `hostnameOverride`: the kernel's host name without a DNS record (KEP-4762).
fn other_hostname(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.get(field).is_true() {
            let detail = format!("may not be specified when {field} is true");
            errors.push(name.forbidden(detail));
        }
    }
    if name.text().len() > HOSTNAME_BYTES_MAX {
        errors.push(FieldError::too_long(&name.path(), HOSTNAME_BYTES_MAX));
    }
    errors.check_text(&name, names::dns_subdomain);
}

fn dns(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            errors.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(servers.required(detail));
            return;
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(servers.invalid(detail));
    }
    for server in servers.items() {
        check_ip(errors, &server);
    }
    let searches = config.get("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(searches.invalid(detail));
    }
    let all: Vec<&str> = searches.items().map(|search| search.text()).collect();
    if all.join(" ").len() > SEARCH_BYTES_MAX {
        let detail = format!(
            "must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the \
             search list"
        );
        errors.push(searches.invalid(detail));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let text = search.text().strip_suffix('.').unwrap_or(search.text());
        let clauses = names::search_domain(text).into_iter();
        errors.extend(clauses.map(|clause| FieldError::invalid(&search.path(), text, clause)));
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn check(mut spec: Value) -> Vec<String> {
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "a", "image": "b"}]);
        }
        super::super::default_spec(&mut spec);
        let object = json!({"spec": spec});
        let errors = validate_spec(&Field::of(&object, "spec"), &["claimed"]);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_ordinary_pod_is_fine() {
        assert!(check(json!({})).is_empty());
        assert!(
            check(json!({"containers": [{"name": "a", "image": "b",
            "volumeMounts": [{"name": "claimed", "mountPath": "/c"}]}]}))
            .is_empty()
        );
    }

    #[test]
    fn a_pod_has_containers() {
        assert_eq!(
            check(json!({"containers": []})),
            ["spec.containers: Required value"]
        );
    }

    #[test]
    fn policies_are_known() {
        assert_eq!(
            check(json!({"restartPolicy": "Sometimes"})),
            [
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \
              \"OnFailure\", \"Never\""
            ]
        );
        assert_eq!(
            check(json!({"dnsPolicy": "None"})),
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
        );
        assert_eq!(
            check(json!({"dnsPolicy": "None", "dnsConfig": {}})),
            [
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS \
                 nameserver when `dnsPolicy` is None"
            ]
        );
        assert_eq!(
            check(json!({"dnsPolicy": "No"})),
            [
                "spec.dnsPolicy: Unsupported value: \"No\": supported values: \
                 \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\""
            ]
        );
        assert_eq!(
            check(json!({"preemptionPolicy": "No"})),
            [
                "spec.preemptionPolicy: Unsupported value: \"No\": supported values: \
                 \"PreemptLowerPriority\", \"Never\""
            ]
        );
        assert_eq!(check(json!({"hostname": "a.b"})).len(), 1);
    }

    #[test]
    fn name_servers_and_domains_are_few() {
        let long = "a".repeat(60);
        let domains = vec![format!("{long}.{long}"); 17];
        let table = [
            (json!({"searches": [".", "_tcp.example.com.", "a_b"]}), vec![]),
            (json!({"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}),
                vec!["nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: \
                      must not have more than 3 nameservers".to_owned()]),
            (json!({"nameservers": ["x"]}),
                vec!["nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. \
                      10.9.8.7 or 2001:db8::ffff)".to_owned()]),
            (json!({"options": [{"value": "1"}]}),
                vec!["options[0]: Required value: must not be empty".to_owned()]),
            (json!({"searches": domains}),
                vec![format!("searches: Invalid value: {}: must not have more than 2048 characters \
                              (including spaces) in the search list", json!(domains))]),
        ];
        for (config, expected) in table {
            let expected: Vec<String> = expected
                .iter()
                .map(|error| format!("spec.dnsConfig.{error}"))
                .collect();
            assert_eq!(check(json!({"dnsConfig": config})), expected);
        }
        assert_eq!(
            check(json!({"dnsConfig": {"searches": vec!["a"; 33]}})).len(),
            1
        );
    }

    #[test]
    fn another_name_for_the_host_stands_alone() {
        let at = "spec.hostnameOverride: Forbidden: may not be specified when";
        let name = "a.b";
        assert_eq!(check(json!({"hostnameOverride": name})), [""; 0]);
        assert_eq!(
            check(json!({"hostnameOverride": name, "setHostnameAsFQDN": true})),
            [format!("{at} setHostnameAsFQDN is true")]
        );
        assert_eq!(
            check(json!({"hostnameOverride": name, "hostNetwork": true})),
            [format!("{at} hostNetwork is true")]
        );
        let long = format!("{}.{}", "a".repeat(32), "b".repeat(32));
        assert_eq!(
            check(json!({"hostnameOverride": long})),
            ["spec.hostnameOverride: Too long: may not be more than 64 bytes"]
        );
        assert!(check(json!({"hostnameOverride": "A"}))[0].contains("RFC 1123 subdomain"));
    }

    #[test]
    fn deadlines_and_addresses_are_in_range() {
        let table = [
            (
                json!({"activeDeadlineSeconds": 0}),
                "activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, \
                 inclusive",
            ),
            (
                json!({"hostAliases": [{"ip": "x"}]}),
                "hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. \
                 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                json!({"overhead": {"disk": "1"}}),
                "overhead[disk]: Invalid value: \"disk\": must be a standard resource type or fully \
                 qualified",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(check(spec)[0], format!("spec.{expected}"));
        }
        // A negative value counts as 1, with a warning.
        assert_eq!(check(json!({"terminationGracePeriodSeconds": -1})), [""; 0]);
    }
}
