//! What is wrong with the spec of a pod, topic by topic.

use object_model::{FieldError, names};

use super::{amounts, containers, scheduling, security, volumes};
use crate::addresses::check_ip;
use crate::at::{At, Rules};
use crate::metadata;

const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
/// As many name servers as the C library takes.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// All that is wrong with the spec of a pod. `claims` are names of volumes that will be added
/// from the claim templates of a StatefulSet.
pub(crate) fn validate_spec(spec: &At<'_>, claims: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let names = volumes::validate(spec, claims, &mut errors);
    containers::validate(spec, &names, &mut errors);
    errors.check_one_of(&spec.get("restartPolicy"), RESTART_POLICIES);
    dns(spec, &mut errors);
    names_of_others(spec, &mut errors);
    let deadline = spec.get("activeDeadlineSeconds");
    if let Some(seconds) = deadline.int()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.push(deadline.invalid(names::outside_range(1, i64::from(i32::MAX))));
    }
    errors.check_not_negative(&spec.get("terminationGracePeriodSeconds"));
    errors.extend(amounts(&spec.get("overhead")));
    scheduling::validate(spec, &mut errors);
    security::validate_pod(spec, &mut errors);
    errors
}

/// All that is wrong with a template: its labels, its annotations, its spec.
pub(crate) fn validate_template(template: &At<'_>, claims: &[&str]) -> Vec<FieldError> {
    let mut errors = metadata::labels(&template.get("metadata.labels"));
    errors.extend(metadata::annotations(&template.get("metadata.annotations")));
    errors.extend(validate_spec(&template.get("spec"), claims));
    if !template.get("spec.ephemeralContainers").is_empty() {
        let at = template.get("spec.ephemeralContainers");
        errors.push(at.forbidden("ephemeral containers not allowed in pod template"));
    }
    errors
}

fn names_of_others(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    for field in [
        "serviceAccountName",
        "nodeName",
        "runtimeClassName",
        "priorityClassName",
    ] {
        errors.check_text_if_set(&spec.get(field), names::dns_subdomain);
    }
    for field in ["hostname", "subdomain"] {
        errors.check_text_if_set(&spec.get(field), names::dns_label);
    }
    for secret in spec.get("imagePullSecrets").items() {
        if secret.get("name").is_empty() {
            errors.push(secret.get("name").required(""));
        }
    }
    for gate in spec.get("readinessGates").items() {
        errors.check_text(&gate.get("conditionType"), names::qualified_name);
    }
    for alias in spec.get("hostAliases").items() {
        check_ip(errors, &alias.get("ip"));
        for name in alias.get("hostnames").items() {
            errors.check_text(&name, names::dns_subdomain);
        }
    }
    errors.check_one_of_if_set(&spec.get("os.name"), &["linux", "windows"]);
}

fn dns(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    errors.check_one_of(&spec.get("dnsPolicy"), DNS_POLICIES);
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" && servers.is_empty() {
        let at = if config.is_set() { &servers } else { &config };
        let none = format!(
            "must provide at least one DNS nameserver when `dnsPolicy` is {}",
            spec.get("dnsPolicy").text()
        );
        errors.push(at.required(&none));
    }
    let count = |at: &At<'_>| at.value.as_array().map_or(0, Vec::len);
    if count(&servers) > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(servers.invalid(detail));
    }
    for server in servers.items() {
        check_ip(errors, &server);
    }
    let searches = config.get("searches");
    if count(&searches) > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(searches.invalid(detail));
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let text = search
            .text()
            .strip_suffix('.')
            .unwrap_or(search.text())
            .replace('_', "-");
        for clause in names::dns_subdomain(&text) {
            errors.push(search.invalid(clause));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(mut spec: Value) -> Vec<String> {
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "a", "image": "b"}]);
        }
        super::super::default_spec(&mut spec);
        let object = json!({"spec": spec});
        let errors = validate_spec(&At::root(&object).get("spec"), &["claimed"]);
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
              \"Never\", \"OnFailure\""
            ]
        );
        assert_eq!(
            check(json!({"dnsPolicy": "None"})),
            [
                "spec.dnsConfig: Required value: must provide at least one DNS nameserver when \
              `dnsPolicy` is None"
            ]
        );
        assert_eq!(check(json!({"hostname": "a.b"})).len(), 1);
    }
}
