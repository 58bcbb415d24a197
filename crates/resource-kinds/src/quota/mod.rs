//! The quota usage of objects (core/v1 ResourceQuota), and the remaining amount.

use std::collections::{BTreeMap, BTreeSet};

use json_tree::{Value, json};
use object_model::Quantity;
use object_model::quantity::Format;

use crate::validation::pod_template;

mod error;
pub mod limited;
pub(crate) mod pod;
pub(crate) mod scopes;

pub use error::QuotaError;

/// Group and plural of ResourceQuotas.
pub const QUOTAS: (&str, &str) = ("", "resourcequotas");

/// Amounts by their resource names in quotas.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds whose resource name in quotas is the plain plural.
const SHORT: &[(&str, &str)] = &[
    ("configmaps", "configmaps"),
    ("persistentvolumeclaims", "persistentvolumeclaims"),
    ("pods", "pods"),
    ("replicationcontrollers", "replicationcontrollers"),
    ("resourcequotas", "resourcequotas"),
    ("secrets", "secrets"),
    ("services", "services"),
    ("services.loadbalancers", "services"),
    ("services.nodeports", "services"),
    ("requests.storage", "persistentvolumeclaims"),
];

/// The amounts that every container must set if a quota limits them.
const COMPUTE: &[&str] = &[
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];

/// The kinds that a quota counts: group and plural.
pub fn kinds(quota: &Value) -> BTreeSet<(String, String)> {
    let hard = quota["spec"]["hard"].as_object().into_iter().flatten();
    hard.map(|(name, _)| kind_of(name)).collect()
}

fn kind_of(name: &str) -> (String, String) {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return (group.to_owned(), plural.to_owned());
    }
    let short = SHORT.iter().find(|(short, _)| *short == name);
    let plural = match short {
        Some((_, plural)) => plural,
        None if name.contains(".storageclass.storage.k8s.io/") => "persistentvolumeclaims",
        None => "pods",
    };
    (String::new(), plural.to_owned())
}

pub fn of(group: &str, plural: &str, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let counted = match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    };
    add(&mut used, &counted, &one());
    if !group.is_empty() {
        return used;
    }
    match plural {
        "pods" if is_over(object) => {}
        "pods" => pod::add(object, &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        "services" => service(object, &mut used),
        _ if SHORT.iter().any(|(short, _)| *short == plural) => add(&mut used, plural, &one()),
        _ => {}
    }
    used
}

fn one() -> Quantity {
    Quantity::new(1, Format::Decimal)
}

fn add(to: &mut Amounts, name: &str, amount: &Quantity) {
    let before = to.get(name).copied().unwrap_or_default();
    to.insert(name.to_owned(), before.plus(amount));
}

fn is_over(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn claim(object: &Value, used: &mut Amounts) {
    let spec = &object["spec"];
    let storage = |amounts: &Value| Quantity::from_json(&amounts["storage"]).unwrap_or_default();
    // A larger size that the driver already provides counts, even if the claim no longer requests it.
    let requested = storage(&spec["resources"]["requests"]);
    let requested = requested.max(storage(&object["status"]["allocatedResources"]));
    add(used, "persistentvolumeclaims", &one());
    add(used, "requests.storage", &requested);
    if let Some(class) = spec["storageClassName"]
        .as_str()
        .filter(|class| !class.is_empty())
    {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        add(used, &format!("{prefix}/persistentvolumeclaims"), &one());
        add(used, &format!("{prefix}/requests.storage"), &requested);
    }
}

fn service(object: &Value, used: &mut Amounts) {
    let spec = &object["spec"];
    let ports = i64::try_from(list(&spec["ports"]).len()).unwrap_or(i64::MAX);
    add(used, "services", &one());
    let balanced = spec["type"] == "LoadBalancer";
    if balanced {
        add(used, "services.loadbalancers", &one());
    }
    let without = balanced && spec["allocateLoadBalancerNodePorts"] == false;
    if (balanced && !without) || spec["type"] == "NodePort" {
        add(
            used,
            "services.nodeports",
            &Quantity::new(ports, Format::Decimal),
        );
    }
}

/// The scope of claims that request or have a VolumeAttributesClass.
const ATTRIBUTES: &str = "VolumeAttributesClass";

/// Whether a quota applies to an object. A quota with scopes applies to some pods or claims only.
fn concerns(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let scopes = list(&spec["scopes"]);
    let terms = list(&spec["scopeSelector"]["matchExpressions"]);
    if scopes.is_empty() && terms.is_empty() {
        return true;
    }
    let named = |scope: &Value| scope.as_str().unwrap_or_default().to_owned();
    let scopes: Vec<String> = scopes.iter().map(named).collect();
    match (group, plural) {
        ("", "pods") => {
            scopes.iter().all(|scope| in_scope(scope, object))
                && terms.iter().all(|term| fits(term, object))
        }
        ("", "persistentvolumeclaims") => {
            let classes = attributes_classes(object);
            scopes
                .iter()
                .all(|scope| scope == ATTRIBUTES && !classes.is_empty())
                && terms.iter().all(|term| fits_claim(term, &classes))
        }
        _ => false,
    }
}

/// The VolumeAttributesClasses that a claim requests, changes to, or has.
fn attributes_classes(claim: &Value) -> BTreeSet<&str> {
    let status = &claim["status"];
    let named = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
    ];
    let named = named.into_iter().filter_map(Value::as_str);
    named.filter(|name| !name.is_empty()).collect()
}

/// Whether a term of a scope selector matches the VolumeAttributesClasses of a claim. `NotIn` and
/// `DoesNotExist` match a claim without a class.
fn fits_claim(term: &Value, classes: &BTreeSet<&str>) -> bool {
    if term["scopeName"] != ATTRIBUTES {
        return false;
    }
    let values = list(&term["values"]);
    let is_named = |class: &&str| values.iter().any(|value| value == class);
    match term["operator"].as_str() {
        Some("In") => classes.iter().any(is_named),
        Some("NotIn") => classes.is_empty() || !classes.iter().all(is_named),
        Some("DoesNotExist") => classes.is_empty(),
        _ => !classes.is_empty(),
    }
}

fn in_scope(scope: &str, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let best_effort = || pod_template::qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => spec["activeDeadlineSeconds"].is_i64(),
        "NotTerminating" => !spec["activeDeadlineSeconds"].is_i64(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => spec["priorityClassName"]
            .as_str()
            .is_some_and(|name| !name.is_empty()),
        scopes::CROSS_NAMESPACE => scopes::names_other_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn fits(term: &Value, pod: &Value) -> bool {
    let scope = term["scopeName"].as_str().unwrap_or_default();
    let class = &pod["spec"]["priorityClassName"];
    let named = || list(&term["values"]).iter().any(|value| value == class);
    match term["operator"].as_str() {
        Some("In") if scope == "PriorityClass" => named(),
        Some("NotIn") if scope == "PriorityClass" => !named(),
        Some("DoesNotExist") => !in_scope(scope, pod),
        _ => in_scope(scope, pod),
    }
}

/// The usage of an object, restricted to the amounts that the quota limits.
fn used_of(quota: &Value, group: &str, plural: &str, object: Option<&Value>) -> Amounts {
    let counts = object.filter(|object| concerns(quota, group, plural, object));
    let mut used = counts.map_or_else(Amounts::new, |object| of(group, plural, object));
    used.retain(|name, _| !quota["spec"]["hard"][name].is_null());
    used
}

/// The status of a quota in a namespace with the given objects, with their group and plural.
pub fn count<'o>(
    quota: &Value,
    objects: impl Iterator<Item = (&'o str, &'o str, &'o Value)>,
) -> Value {
    let mut used = Amounts::new();
    for (name, _) in quota["spec"]["hard"].as_object().into_iter().flatten() {
        used.insert(name.clone(), Quantity::default());
    }
    for (group, plural, object) in objects {
        for (name, amount) in used_of(quota, group, plural, Some(object)) {
            add(&mut used, &name, &amount);
        }
    }
    json!({"hard": quota["spec"]["hard"], "used": printed(&used)})
}

fn printed(amounts: &Amounts) -> Value {
    let amounts = amounts.iter();
    amounts
        .map(|(name, amount)| (name.clone(), json!(amount.to_string())))
        .collect()
}

/// The quota after the creation, change or deletion of an object; `None` if the usage does not change.
///
/// *Errors.* Upstream's message for an exceeded quota.
pub fn charge(
    quota: &Value,
    group: &str,
    plural: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Option<Value>, QuotaError> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    if let (None, Some(new)) = (old, new)
        && (group, plural) == ("", "pods")
        && concerns(quota, group, plural, new)
        && let Some(missing) = unspecified(quota, new)
    {
        return Err(QuotaError::Unspecified {
            quota: name.to_owned(),
            missing,
        });
    }
    let before = used_of(quota, group, plural, old);
    let after = used_of(quota, group, plural, new);
    // A status update reports amounts that exist already: they count, but cannot be refused.
    let is_requested = old.is_none_or(|old| new.is_some_and(|new| old["spec"] != new["spec"]));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let amount = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
    let status = |part: &str, name: &str| {
        Quantity::from_json(&quota["status"][part][name]).unwrap_or_default()
    };
    let mut changed = Amounts::new();
    let mut exceeded = Exceeded::default();
    for resource in names {
        let more = amount(&after, resource).minus(&amount(&before, resource));
        if more.is_zero() {
            continue;
        }
        let used = status("used", resource).plus(&more);
        let hard = Quantity::from_json(&quota["spec"]["hard"][resource]).unwrap_or_default();
        if is_requested && !more.is_negative() && used > hard {
            exceeded.note(resource, &more, &status("used", resource), &hard);
        }
        // The usage is never negative, whatever was counted before.
        changed.insert(resource.clone(), used.max(Quantity::default()));
    }
    if !exceeded.requested.is_empty() {
        return Err(QuotaError::Exceeded {
            quota: name.to_owned(),
            amounts: exceeded.to_string(),
        });
    }
    if changed.is_empty() {
        return Ok(None);
    }
    let mut quota = quota.clone();
    for (resource, amount) in changed {
        quota["status"]["used"][resource] = json!(amount.to_string());
    }
    Ok(Some(quota))
}

/// The exceeded amounts, as lists of `name=amount`.
#[derive(Default)]
struct Exceeded {
    requested: Vec<String>,
    used: Vec<String>,
    limited: Vec<String>,
}

impl Exceeded {
    fn note(&mut self, name: &str, requested: &Quantity, used: &Quantity, limited: &Quantity) {
        self.requested.push(format!("{name}={requested}"));
        self.used.push(format!("{name}={used}"));
        self.limited.push(format!("{name}={limited}"));
    }
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [requested, used, limited] =
            [&self.requested, &self.used, &self.limited].map(|list| list.join(","));
        write!(
            f,
            "requested: {requested}, used: {used}, limited: {limited}"
        )
    }
}

/// The amounts that the quota limits and that a pod's containers do not set: `limits.cpu for: a,b`.
fn unspecified(quota: &Value, pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let containers = || {
        list(&spec["containers"])
            .iter()
            .chain(list(&spec["initContainers"]))
    };
    let limited = COMPUTE
        .iter()
        .filter(|name| !quota["spec"]["hard"][**name].is_null());
    let missing = limited.filter_map(|name| {
        let (field, resource) = name.split_once('.').unwrap_or(("requests", name));
        if !spec["resources"][field][resource].is_null() {
            return None;
        }
        let silent = containers().filter(|c| c["resources"][field][resource].is_null());
        let mut names: Vec<&str> = silent.filter_map(|c| c["name"].as_str()).collect();
        names.sort_unstable();
        (!names.is_empty()).then(|| format!("{name} for: {}", names.join(",")))
    });
    let missing: Vec<String> = missing.collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard},
            "status": {"hard": hard, "used": used}})
    }

    fn message(result: Result<Option<Value>, QuotaError>) -> String {
        result.unwrap_err().to_string()
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}
        ]}})
    }

    #[test]
    fn what_comes_is_added_up_to_the_limit() {
        let mut now = quota(json!({"pods": "2", "requests.cpu": "1"}), json!({}));
        now = charge(&now, "", "pods", None, Some(&pod("600m")))
            .unwrap()
            .unwrap();
        assert_eq!(
            now["status"]["used"],
            json!({"pods": "1", "requests.cpu": "600m"})
        );
        assert_eq!(
            message(charge(&now, "", "pods", None, Some(&pod("500m")))),
            "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: \
             requests.cpu=1"
        );
        now = charge(&now, "", "pods", None, Some(&pod("400m")))
            .unwrap()
            .unwrap();
        assert_eq!(
            message(charge(&now, "", "pods", None, Some(&pod("1m")))),
            "exceeded quota: q, requested: pods=1,requests.cpu=1m, used: pods=2,requests.cpu=1, \
             limited: pods=2,requests.cpu=1"
        );
        now = charge(&now, "", "pods", Some(&pod("600m")), None)
            .unwrap()
            .unwrap();
        assert_eq!(
            now["status"]["used"],
            json!({"pods": "1", "requests.cpu": "400m"})
        );
        let mut over = pod("400m");
        over["status"] = json!({"phase": "Succeeded"});
        let freed = charge(&now, "", "pods", Some(&pod("400m")), Some(&over))
            .unwrap()
            .unwrap();
        assert_eq!(
            freed["status"]["used"],
            json!({"pods": "0", "requests.cpu": "0"})
        );
        let same = charge(&now, "", "pods", Some(&pod("400m")), Some(&pod("0.4")));
        assert_eq!(same, Ok(None));
        let other = charge(&now, "apps", "deployments", None, Some(&json!({})));
        assert_eq!(other, Ok(None));
    }

    #[test]
    fn pods_have_to_say_what_is_limited() {
        let limits = quota(
            json!({"limits.memory": "1Gi", "requests.cpu": "1"}),
            json!({}),
        );
        let silent = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
        assert_eq!(
            message(charge(&limits, "", "pods", None, Some(&silent))),
            "failed quota: q: must specify limits.memory for: a,b; requests.cpu for: a,b"
        );
    }

    #[test]
    fn each_kind_has_its_amounts() {
        let text = |group: &str, plural: &str, object: Value| -> Vec<String> {
            let all = of(group, plural, &object).into_iter();
            all.map(|(name, amount)| format!("{name}={amount}"))
                .collect()
        };
        assert_eq!(
            text(
                "",
                "services",
                json!({"spec": {"type": "NodePort", "ports": [{}, {}]}})
            ),
            ["count/services=1", "services=1", "services.nodeports=2"]
        );
        assert_eq!(
            text(
                "",
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "fast",
                "resources": {"requests": {"storage": "2Gi"}}}})
            ),
            [
                "count/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/requests.storage=2Gi",
                "persistentvolumeclaims=1",
                "requests.storage=2Gi",
            ]
        );
        assert_eq!(
            text("apps", "deployments", json!({})),
            ["count/deployments.apps=1"]
        );
        let shrinking = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}},
            "status": {"allocatedResources": {"storage": "3Gi"}}});
        let amounts = of("", "persistentvolumeclaims", &shrinking);
        assert_eq!(amounts["requests.storage"].to_string(), "3Gi");
    }

    #[test]
    fn scopes_choose_among_pods() {
        let mut scoped = quota(json!({"pods": "0"}), json!({}));
        scoped["spec"]["scopes"] = json!(["BestEffort"]);
        assert_eq!(charge(&scoped, "", "pods", None, Some(&pod("1"))), Ok(None));
        let idle = json!({"spec": {"containers": [{"name": "c"}]}});
        assert!(charge(&scoped, "", "pods", None, Some(&idle)).is_err());
        scoped["spec"]["scopes"] = Value::Null;
        scoped["spec"]["scopeSelector"] = json!({"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
        assert_eq!(charge(&scoped, "", "pods", None, Some(&idle)), Ok(None));
        let mut high = idle;
        high["spec"]["priorityClassName"] = json!("high");
        assert!(charge(&scoped, "", "pods", None, Some(&high)).is_err());
    }

    #[test]
    fn a_scope_chooses_among_claims_by_their_attributes() {
        let claim = |named: Value, current: Value| {
            json!({"spec": {"volumeAttributesClassName": named,
                "resources": {"requests": {"storage": "1Gi"}}},
                "status": {"currentVolumeAttributesClassName": current}})
        };
        let plain = claim(Value::Null, Value::Null);
        let gold = claim(json!("gold"), Value::Null);
        let leaving = claim(json!("silver"), json!("gold"));
        let refused = |quota: &Value, object: &Value| {
            charge(quota, "", "persistentvolumeclaims", None, Some(object)).is_err()
        };
        let mut scoped = quota(json!({"persistentvolumeclaims": "0"}), json!({}));
        scoped["spec"]["scopes"] = json!(["VolumeAttributesClass"]);
        assert!(!refused(&scoped, &plain) && refused(&scoped, &gold));
        assert_eq!(charge(&scoped, "", "pods", None, Some(&pod("1"))), Ok(None));
        scoped["spec"]["scopes"] = json!(["BestEffort"]);
        assert!(!refused(&scoped, &gold));
        scoped["spec"]["scopes"] = Value::Null;
        for (operator, values, expected) in [
            ("In", json!(["gold"]), [false, true, true]),
            ("NotIn", json!(["gold"]), [true, false, true]),
            ("Exists", Value::Null, [false, true, true]),
            ("DoesNotExist", Value::Null, [true, false, false]),
        ] {
            scoped["spec"]["scopeSelector"] = json!({"matchExpressions": [
                {"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]});
            let errors = [&plain, &gold, &leaving].map(|one| refused(&scoped, one));
            assert_eq!(errors, expected, "{operator}");
        }
    }

    #[test]
    fn what_a_status_says_counts_but_is_not_refused() {
        let with = |cpu: &str, actual: &str| {
            let mut object = pod(cpu);
            object["status"] = json!({"containerStatuses": [
                {"name": "c", "resources": {"requests": {"cpu": actual}}}]});
            object
        };
        let now = quota(json!({"cpu": "1"}), json!({"cpu": "1"}));
        let grown = charge(
            &now,
            "",
            "pods",
            Some(&with("1", "1")),
            Some(&with("1", "2")),
        );
        assert_eq!(grown.unwrap().unwrap()["status"]["used"]["cpu"], "2");
        let changed = charge(
            &now,
            "",
            "pods",
            Some(&with("1", "1")),
            Some(&with("2", "1")),
        );
        assert!(message(changed).starts_with("exceeded quota"));
    }

    #[test]
    fn a_quota_counts_what_is_there() {
        let fresh = quota(
            json!({"pods": "5", "count/deployments.apps": "1"}),
            json!({}),
        );
        let kinds: Vec<_> = kinds(&fresh).into_iter().collect();
        assert_eq!(
            kinds,
            [
                ("".into(), "pods".into()),
                ("apps".into(), "deployments".into())
            ]
        );
        let (a, b) = (pod("1"), json!({}));
        let there = [
            ("", "pods", &a),
            ("apps", "deployments", &b),
            ("", "secrets", &b),
        ];
        let status = count(&fresh, there.into_iter());
        assert_eq!(
            status["used"],
            json!({"pods": "1", "count/deployments.apps": "1"})
        );
        assert_eq!(status["hard"], fresh["spec"]["hard"]);
    }
}
