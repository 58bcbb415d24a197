//! The quota usage of a pod: the requests of its containers, or their allocated resources during a
//! resize.

use json_tree::Value;
use object_model::Quantity;

use super::{Amounts, add as sum_up, list, one};
use crate::well_known::reasons::pod_condition;

/// Adds the usage of a pod, under the resource names of quotas.
pub(super) fn add(pod: &Value, used: &mut Amounts) {
    sum_up(used, "pods", &one());
    for (name, amount) in with_overhead(pod, RequestsOrLimits::Requests) {
        let compute = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if compute || name.starts_with("hugepages-") {
            sum_up(used, &name, &amount);
        }
        sum_up(used, &format!("requests.{name}"), &amount);
    }
    for (name, amount) in with_overhead(pod, RequestsOrLimits::Limits) {
        sum_up(used, &format!("limits.{name}"), &amount);
    }
}

/// Whether requests or limits are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestsOrLimits {
    Requests,
    Limits,
}

impl RequestsOrLimits {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

fn with_overhead(pod: &Value, side: RequestsOrLimits) -> Amounts {
    let mut total = together(&pod["spec"], &pod["status"], side);
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        // The overhead is added to limits only if the pod has limits.
        if side == RequestsOrLimits::Requests
            || total.get(&name).is_some_and(|limit| !limit.is_zero())
        {
            sum_up(&mut total, &name, &amount);
        }
    }
    total
}

/// The maximum amounts that a pod's containers use at once. If the status is null, only the specification counts.
pub(crate) fn together(spec: &Value, status: &Value, side: RequestsOrLimits) -> Amounts {
    let resizing = Resizing::from_status(status);
    let requested = |holder: &Value| amounts(&holder["resources"][side.field()]);
    let allocated = |container: &Value| {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let mut all = lists.into_iter().flat_map(|field| list(&status[field]));
        let of_it = all.find(|one| one["name"] == container["name"]);
        resizing.larger(requested(container), of_it.unwrap_or(&Value::Null), side)
    };
    let sum = |mut left: Amounts, right: &Amounts| {
        for (name, amount) in right {
            sum_up(&mut left, name, amount);
        }
        left
    };
    let mut concurrent = Amounts::new();
    let mut peak = Amounts::new();
    for container in list(&spec["initContainers"]) {
        if container["restartPolicy"] == "Always" {
            concurrent = sum(concurrent, &allocated(container));
        } else {
            raise(&mut peak, sum(concurrent.clone(), &requested(container)));
        }
    }
    let containers = list(&spec["containers"]).iter();
    let running = containers.fold(concurrent, |all, container| sum(all, &allocated(container)));
    raise(&mut peak, running);
    // Pod-level resources replace the sum over the containers.
    let of_pod = requested(spec);
    let names: Vec<String> = of_pod.keys().cloned().collect();
    let mut of_pod = resizing.larger(of_pod, status, side);
    for name in names {
        peak.insert(name.clone(), of_pod.remove(&name).unwrap_or_default());
    }
    peak
}

/// The progress of a resize in place.
#[derive(Clone, Copy)]
enum Resizing {
    /// The resize may be possible, or is complete: the larger value counts.
    Possible,
    /// The resize is infeasible: the requested amount does not count.
    Infeasible,
}

impl Resizing {
    fn from_status(status: &Value) -> Self {
        let mut conditions = list(&status["conditions"]).iter();
        let pending =
            conditions.find(|condition| condition["type"] == pod_condition::RESIZE_PENDING);
        match pending {
            Some(pending) if pending["reason"] == "Infeasible" => Self::Infeasible,
            _ => Self::Possible,
        }
    }

    /// The larger of the requested and the applied amounts; a status without applied amounts is ignored.
    fn larger(self, requested: Amounts, status: &Value, side: RequestsOrLimits) -> Amounts {
        if !status["resources"].is_object() {
            return requested;
        }
        let mut larger = match self {
            Self::Possible => requested,
            Self::Infeasible => Amounts::new(),
        };
        raise(&mut larger, amounts(&status["resources"][side.field()]));
        if side == RequestsOrLimits::Requests {
            raise(&mut larger, amounts(&status["allocatedResources"]));
        }
        larger
    }
}

/// The amounts of a list, by resource; amounts that cannot be parsed are skipped.
pub(crate) fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

fn raise(peak: &mut Amounts, to: Amounts) {
    for (name, amount) in to {
        let before = peak.get(&name).copied().unwrap_or_default();
        peak.insert(name, before.max(amount));
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn used(pod: &Value, name: &str) -> String {
        let mut used = Amounts::new();
        add(pod, &mut used);
        used.get(name).map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn init_containers_run_beside_the_sidecars_before_them() {
        let busy = json!({"spec": {
            "initContainers": [
                {"resources": {"requests": {"cpu": "1"}}, "restartPolicy": "Always"},
                {"resources": {"requests": {"cpu": "3"}}},
            ],
            "containers": [{"resources": {"requests": {"cpu": "2"}}}],
        }});
        assert_eq!(used(&busy, "requests.cpu"), "4");
    }

    #[test]
    fn overhead_is_added_to_requests_and_to_what_limits_there_are() {
        let pod = json!({"spec": {
            "overhead": {"cpu": "1", "memory": "1Mi"},
            "containers": [{"resources": {"limits": {"cpu": "2"}}}],
        }});
        assert_eq!(used(&pod, "requests.cpu"), "1");
        assert_eq!(used(&pod, "limits.cpu"), "3");
        assert_eq!(used(&pod, "limits.memory"), "");
    }

    /// kubectl.md 6.7
    #[test]
    fn while_resources_change_the_larger_count() {
        let resized = |requested: &str, allocated: &str, actual: &str, why: &str| {
            json!({
                "spec": {"containers": [{"name": "c", "resources":
                    {"requests": {"cpu": requested}, "limits": {"cpu": requested}}}]},
                "status": {
                    "containerStatuses": [{"name": "c",
                        "allocatedResources": {"cpu": allocated},
                        "resources": {"requests": {"cpu": actual}, "limits": {"cpu": actual}}}],
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": why}],
                },
            })
        };
        let cases = [
            // Decrease: the applied amount counts.
            (("1", "1", "3", ""), ("3", "3")),
            (("1", "3", "2", ""), ("3", "2")),
            // Increase: the requested amount counts at once, also while the resize is deferred.
            (("4", "1", "1", "Deferred"), ("4", "4")),
            // An infeasible request does not count.
            (("4", "2", "1", "Infeasible"), ("2", "1")),
        ];
        for ((requested, allocated, actual, why), (requests, limits)) in cases {
            let pod = resized(requested, allocated, actual, why);
            assert_eq!(used(&pod, "requests.cpu"), requests, "{pod}");
            assert_eq!(used(&pod, "limits.cpu"), limits, "{pod}");
        }
        // The status contains no applied amounts.
        let mut pod = resized("1", "3", "3", "");
        pod["status"]["containerStatuses"][0]["resources"] = Value::Null;
        assert_eq!(used(&pod, "requests.cpu"), "1");
    }

    #[test]
    fn what_is_said_of_the_pod_counts_in_the_same_way() {
        let mut pod = json!({
            "spec": {"resources": {"requests": {"cpu": "1"}},
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
            "status": {"resources": {"requests": {"cpu": "2", "memory": "1Gi"}}},
        });
        assert_eq!(used(&pod, "cpu"), "2");
        assert_eq!(used(&pod, "memory"), "");
        pod["status"] = Value::Null;
        assert_eq!(used(&pod, "cpu"), "1");
    }
}
