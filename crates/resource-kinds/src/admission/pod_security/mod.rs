//! Pod Security admission: the levels in a namespace's labels, by the Pod Security Standards.

mod checks;
mod volumes;
mod words;

use json_tree::{Map, Value, json};
use object_model::{FieldError, FieldPath, Status};

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden};
use crate::admission::ObjectReader;
use words::Violation;

/// The labels of a mode: its level, and the version of the level.
#[derive(Clone, Copy)]
struct Mode {
    level: &'static str,
    version: &'static str,
}

const ENFORCE: Mode = Mode {
    level: "pod-security.kubernetes.io/enforce",
    version: "pod-security.kubernetes.io/enforce-version",
};
const AUDIT: Mode = Mode {
    level: "pod-security.kubernetes.io/audit",
    version: "pod-security.kubernetes.io/audit-version",
};
const WARN: Mode = Mode {
    level: "pod-security.kubernetes.io/warn",
    version: "pod-security.kubernetes.io/warn-version",
};

const LATEST: &str = "latest";
/// Maximum number of existing pods that are checked when the level of a namespace becomes stricter.
const PODS_MAX: usize = 3000;

/// A level of the Pod Security Standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level, with its version in the label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    /// `None` means the latest version.
    version: Option<String>,
}

/// The levels in the labels of a namespace.
#[derive(Debug)]
struct Policy {
    enforce: Standard,
    warn: Standard,
    errors: Vec<FieldError>,
}

impl Standard {
    fn read(labels: &Map<String, Value>, mode: Mode, errors: &mut Vec<FieldError>) -> Self {
        let mut label = |key: &str, why: &str, is_fine: &dyn Fn(&str) -> bool| {
            let value = labels.get(key)?.as_str().unwrap_or_default();
            if !is_fine(value) {
                let field = FieldPath::root("metadata").child("labels").key(key);
                errors.push(FieldError::invalid(&field, value, why));
            }
            Some(value)
        };
        let is_level = |text: &str| matches!(text, "privileged" | "baseline" | "restricted");
        let why = "must be one of privileged, baseline, restricted";
        let level = label(mode.level, why, &is_level);
        let why = "must be \"latest\" or \"v1.x\"";
        let version = label(mode.version, why, &is_version);
        let level = match level {
            None | Some("privileged") => Level::Privileged,
            Some("baseline") => Level::Baseline,
            Some("restricted") => Level::Restricted,
            // An invalid value enforces the strictest level, and causes no warnings.
            Some(_) if mode.level == ENFORCE.level => Level::Restricted,
            Some(_) => Level::Privileged,
        };
        let version = version.filter(|text| is_version(text));
        Self {
            level,
            version: version.filter(|text| *text != LATEST).map(str::to_owned),
        }
    }

    fn violations(&self, pod: &Value) -> Vec<Violation> {
        match self.level {
            Level::Privileged => Vec::new(),
            Level::Baseline => checks::baseline(pod),
            Level::Restricted => checks::restricted(pod),
        }
    }

    /// The text about the violations of a pod that follows `violates` or `would violate` in messages.
    fn complaint(&self, pod: &Value) -> Option<String> {
        let all: Vec<String> = self
            .violations(pod)
            .iter()
            .map(ToString::to_string)
            .collect();
        (!all.is_empty()).then(|| format!("PodSecurity \"{self}\": {}", all.join(", ")))
    }
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        write!(f, "{level}:{}", self.version.as_deref().unwrap_or(LATEST))
    }
}

fn is_version(text: &str) -> bool {
    let minor = text
        .strip_prefix("v1.")
        .filter(|minor| !minor.starts_with('0') || *minor == "0");
    text == LATEST
        || minor.is_some_and(|minor| {
            !minor.is_empty() && minor.len() <= 4 && minor.bytes().all(|b| b.is_ascii_digit())
        })
}

impl Policy {
    fn from_namespace(namespace: &Value) -> Self {
        let none = Map::new();
        let labels = namespace["metadata"]["labels"].as_object().unwrap_or(&none);
        let mut errors = Vec::new();
        let enforce = Standard::read(labels, ENFORCE, &mut errors);
        let fine = errors.is_empty();
        Standard::read(labels, AUDIT, &mut errors);
        let mut warn = Standard::read(labels, WARN, &mut errors);
        // An enforcing namespace also warns about a pod template whose pods it would refuse.
        let silent = !labels.contains_key(WARN.level);
        if silent && fine && enforce.level > warn.level {
            warn.level = enforce.level;
            if !labels.contains_key(WARN.version) {
                warn.version.clone_from(&enforce.version);
            }
        }
        Self {
            enforce,
            warn,
            errors,
        }
    }
}

pub(super) struct PodSecurity;

impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if is_namespace(request) {
            return check_labels(request, object);
        }
        if !is_pod(request, object) {
            return Ok(());
        }
        let policy = policy_of(request, cluster);
        match policy.enforce.complaint(object) {
            Some(complaint) => Err(forbidden(request, object, &format!("violates {complaint}"))),
            None => Ok(()),
        }
    }

    fn warnings(
        &self,
        request: &AdmissionRequest<'_>,
        object: &Value,
        cluster: &dyn ObjectReader,
    ) -> Vec<String> {
        if is_namespace(request) {
            return existing(request, object, cluster);
        }
        let template = template(request, object);
        let Some(pod) = template.or_else(|| is_pod(request, object).then_some(object)) else {
            return Vec::new();
        };
        let complaint = policy_of(request, cluster).warn.complaint(pod);
        complaint
            .map(|complaint| format!("would violate {complaint}"))
            .into_iter()
            .collect()
    }
}

fn is_namespace(request: &AdmissionRequest<'_>) -> bool {
    (request.group, request.plural, request.subresource) == ("", "namespaces", "")
        && request.operation != Operation::Delete
}

fn policy_of(request: &AdmissionRequest<'_>, cluster: &dyn ObjectReader) -> Policy {
    let namespace = cluster.get("", "namespaces", "", request.namespace);
    Policy::from_namespace(namespace.as_deref().unwrap_or(&Value::Null))
}

/// Whether the request creates a pod, or changes its containers.
fn is_pod(request: &AdmissionRequest<'_>, object: &Value) -> bool {
    let pods = request.group.is_empty() && request.plural == "pods";
    if !pods || !matches!(request.subresource, "" | "ephemeralcontainers" | "resize") {
        return false;
    }
    match (request.operation, request.old) {
        (Operation::Create, _) => true,
        (Operation::Update, Some(old)) => images(object) != images(old),
        _ => false,
    }
}

fn images(pod: &Value) -> Vec<(&Value, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|field| pod["spec"][field].as_array())
        .flatten()
        .map(|container| (&container["name"], &container["image"]))
        .collect()
}

/// The pod template of a workload.
fn template<'o>(request: &AdmissionRequest<'_>, object: &'o Value) -> Option<&'o Value> {
    if !request.subresource.is_empty() || request.operation == Operation::Delete {
        return None;
    }
    let pod = match (request.group, request.plural) {
        ("apps", "deployments" | "statefulsets" | "daemonsets" | "replicasets")
        | ("", "replicationcontrollers")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        ("", "podtemplates") => &object["template"],
        _ => return None,
    };
    pod.is_object().then_some(pod)
}

/// Refuses labels that cannot be parsed, unless the stored namespace has them already.
fn check_labels(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let errors = Policy::from_namespace(object).errors;
    let before = request.old.map(|old| Policy::from_namespace(old).errors);
    if errors.is_empty() || before.as_ref() == Some(&errors) {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid("", "Namespace", name, &errors))
}

/// The warnings about existing pods that a stricter namespace would refuse.
fn existing(
    request: &AdmissionRequest<'_>,
    object: &Value,
    cluster: &dyn ObjectReader,
) -> Vec<String> {
    let Some(old) = request.old else {
        return Vec::new();
    };
    let (old, new) = (
        Policy::from_namespace(old).enforce,
        Policy::from_namespace(object).enforce,
    );
    if new == old || new.level <= old.level {
        return Vec::new();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let pods = cluster.list("", "pods", name);
    let mut violations: Vec<(String, String, usize)> = Vec::new();
    for pod in pods.iter().take(PODS_MAX) {
        let reasons: Vec<&str> = new.violations(pod).iter().map(|one| one.reason).collect();
        if reasons.is_empty() {
            continue;
        }
        let reasons = reasons.join(", ");
        match violations.iter_mut().find(|(_, same, _)| *same == reasons) {
            Some((_, _, count)) => *count += 1,
            None => {
                let first = pod["metadata"]["name"].as_str().unwrap_or_default();
                violations.push((first.to_owned(), reasons, 1));
            }
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > PODS_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} \
             existing pods",
            pods.len()
        ));
    }
    if !violations.is_empty() {
        let level = json!(new.to_string());
        warnings.push(format!(
            "existing pods in namespace \"{name}\" violate the new PodSecurity enforce level {level}"
        ));
    }
    let mut pods: Vec<String> = violations
        .into_iter()
        .map(|(first, reasons, count)| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            more => format!("{first} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    pods.sort_unstable();
    warnings.extend(pods);
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, request};
    use super::*;

    fn namespace(labels: Value) -> Value {
        json!({"metadata": {"name": "d", "labels": labels}})
    }

    fn root_pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "d"},
            "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}})
    }

    #[test]
    fn a_namespace_takes_what_its_level_allows() {
        let make = |labels: Value| {
            let objects = Objects::default().with("namespaces", namespace(labels));
            let create = request(Operation::Create, "pods");
            let mut pod = root_pod();
            let warned = PodSecurity.warnings(&create, &pod, &objects);
            let outcome = PodSecurity.admit(&create, &mut pod, &objects);
            (outcome.map_err(|status| status.message), warned)
        };
        assert_eq!(make(json!({})), (Ok(()), Vec::new()));
        let (outcome, _) = make(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        assert_eq!(
            outcome.unwrap_err(),
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
             (hostPID=true)"
        );
        let (outcome, warned) = make(json!({
            "pod-security.kubernetes.io/warn": "baseline",
            "pod-security.kubernetes.io/warn-version": "v1.30",
        }));
        assert!(outcome.is_ok());
        assert_eq!(
            warned,
            ["would violate PodSecurity \"baseline:v1.30\": host namespaces (hostPID=true)"]
        );
    }

    #[test]
    fn what_makes_pods_is_warned_of_and_not_refused() {
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
        let objects = Objects::default().with("namespaces", namespace(labels));
        let mut set = json!({"metadata": {"name": "w"}, "spec": {"template": root_pod()}});
        let create = AdmissionRequest {
            group: "apps",
            ..request(Operation::Create, "statefulsets")
        };
        assert!(PodSecurity.admit(&create, &mut set, &objects).is_ok());
        let warned = PodSecurity.warnings(&create, &set, &objects);
        assert_eq!(
            warned,
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
        );
    }

    #[test]
    fn a_change_counts_when_other_images_run() {
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
        let objects = Objects::default().with("namespaces", namespace(labels));
        let old = root_pod();
        let update = AdmissionRequest {
            old: Some(&old),
            ..request(Operation::Update, "pods")
        };
        let mut new = root_pod();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(PodSecurity.admit(&update, &mut new, &objects).is_ok());
        new["spec"]["containers"][0]["image"] = json!("other");
        assert!(PodSecurity.admit(&update, &mut new, &objects).is_err());
    }

    #[test]
    fn labels_are_checked_and_stricter_ones_tell_of_pods() {
        let objects = Objects::default().with("pods", root_pod());
        let mut wrong = namespace(json!({"pod-security.kubernetes.io/enforce": "strict"}));
        let create = AdmissionRequest {
            namespace: "",
            ..request(Operation::Create, "namespaces")
        };
        let refused = PodSecurity
            .admit(&create, &mut wrong, &objects)
            .unwrap_err();
        assert_eq!(
            refused.message,
            "Namespace \"d\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: \
             Invalid value: \"strict\": must be one of privileged, baseline, restricted"
        );
        let old = namespace(json!({}));
        let new = namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        let update = AdmissionRequest {
            operation: Operation::Update,
            old: Some(&old),
            ..create
        };
        assert_eq!(
            PodSecurity.warnings(&update, &new, &objects),
            [
                "existing pods in namespace \"d\" violate the new PodSecurity enforce level \
                 \"baseline:latest\"",
                "p: host namespaces"
            ]
        );
        for (text, fine) in [
            ("latest", true),
            ("v1.30", true),
            ("v1.", false),
            ("1.30", false),
        ] {
            assert_eq!(is_version(text), fine, "{text}");
        }
    }
}
