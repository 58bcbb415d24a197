//! Limits of control groups, computed from the resources of a pod and its containers. Pure.

use std::collections::BTreeMap;

use container_runtime::spec::Resources;
use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use object_model::quantity::Quantity;
use pod_lifecycle::spec;

const CPU_PERIOD_US: i64 = 100_000;
const CPU_SHARES_MIN: u64 = 2;
/// The largest value that the kernel accepts.
const CPU_SHARES_MAX: u64 = 262_144;
/// The largest number of microseconds that the kernel accepts: it stores the bandwidth in 44 bits.
const CPU_QUOTA_MAX_US: i64 = (1 << 44) - 1;
/// The prefix of huge page resources.
pub const HUGE_PAGES: &str = "hugepages-";

pub(crate) type Limits<'a> =
    Option<&'a BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;

pub(crate) fn amount(list: Limits<'_>, name: &str) -> Option<Quantity> {
    list?
        .get(name)?
        .0
        .parse::<Quantity>()
        .ok()
        .filter(|quantity| !quantity.is_zero())
}

/// The limits of one container.
pub fn container_resources(requirements: Option<&ResourceRequirements>) -> Resources {
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let requests = requirements.and_then(|r| r.requests.as_ref());
    let cpu_limit = amount(limits, "cpu").map(|cpu| cpu.milli_value());
    let cpu_request = amount(requests, "cpu")
        .map(|cpu| cpu.milli_value())
        .or(cpu_limit);
    Resources {
        cpu_shares: Some(shares(cpu_request.unwrap_or(0))),
        cpu_quota_us: cpu_limit.map(quota),
        cpu_period_us: cpu_limit.map(|_| CPU_PERIOD_US.unsigned_abs()),
        memory_bytes: amount(limits, "memory").map(|bytes| bytes.value()),
        pids: None,
        huge_pages: huge_pages(limits),
    }
}

/// Limits of huge pages, by the name of the page size in control groups.
fn huge_pages(limits: Limits<'_>) -> BTreeMap<String, i64> {
    let sized = |name: &String| {
        let size: Quantity = name.strip_prefix(HUGE_PAGES)?.parse().ok()?;
        Some((page_size(size.value())?, amount(limits, name)?.value()))
    };
    limits
        .into_iter()
        .flat_map(|list| list.keys())
        .filter_map(sized)
        .collect()
}

/// The name of a page size, for instance `2MB` for 2097152. The unit is the largest unit that divides the
/// size.
fn page_size(bytes: i64) -> Option<String> {
    let units = [("GB", 30), ("MB", 20), ("KB", 10)];
    let (unit, shift) = units.into_iter().find(|(_, shift)| bytes >= 1 << shift)?;
    Some(format!("{}{unit}", bytes >> shift))
}

fn shares(milli: i64) -> u64 {
    let shares = milli.max(0).unsigned_abs().saturating_mul(1024) / 1000;
    shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(CPU_PERIOD_US) / 1000).clamp(1000, CPU_QUOTA_MAX_US)
}

/// The limits of the pod as a whole, plus its overhead: the pod-level limits or, without them, the sum of
/// the containers' limits if every container has a limit.
pub fn pod_resources(spec: &PodSpec) -> Resources {
    let resources = match &spec.resources {
        Some(pod_level) => container_resources(Some(pod_level)),
        None => sum_of_containers(spec),
    };
    with_overhead(resources, spec.overhead.as_ref())
}

/// Adds the overhead of the runtime to requests, and to limits if there are limits.
fn with_overhead(mut resources: Resources, overhead: Limits<'_>) -> Resources {
    if let Some(cpu) = amount(overhead, "cpu").map(|cpu| cpu.milli_value()) {
        let shares = |without: u64| (without + shares(cpu)).min(CPU_SHARES_MAX);
        resources.cpu_shares = resources.cpu_shares.map(shares);
        let quota = |without: i64| (without + quota(cpu)).min(CPU_QUOTA_MAX_US);
        resources.cpu_quota_us = resources.cpu_quota_us.map(quota);
    }
    if let Some(memory) = amount(overhead, "memory").map(|bytes| bytes.value()) {
        resources.memory_bytes = resources
            .memory_bytes
            .map(|bytes| bytes.saturating_add(memory));
    }
    resources
}

fn sum_of_containers(spec: &PodSpec) -> Resources {
    let containers: Vec<Resources> = spec::containers(spec)
        .map(|(_, c)| container_resources(c.resources.as_ref()))
        .collect();
    let sum = |field: fn(&Resources) -> Option<i64>| {
        let mut amounts = containers.iter().map(field);
        let total = amounts.try_fold(0_i64, |sum, amount| Some(sum.saturating_add(amount?)));
        total.filter(|sum| *sum > 0)
    };
    let quota = sum(|r| r.cpu_quota_us).map(|quota| quota.min(CPU_QUOTA_MAX_US));
    Resources {
        cpu_shares: Some(
            containers
                .iter()
                .filter_map(|r| r.cpu_shares)
                .sum::<u64>()
                .clamp(CPU_SHARES_MIN, CPU_SHARES_MAX),
        ),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| CPU_PERIOD_US.unsigned_abs()),
        memory_bytes: sum(|r| r.memory_bytes),
        pids: None,
        huge_pages: containers
            .iter()
            .fold(BTreeMap::new(), |mut sum, resources| {
                for (size, bytes) in &resources.huge_pages {
                    let total: &mut i64 = sum.entry(size.clone()).or_default();
                    *total = total.saturating_add(*bytes);
                }
                sum
            }),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings S32: limits stay within the kernel's range.
    #[test]
    fn amounts_at_the_ends_of_their_range_are_limits_all_the_same() {
        for amount in [
            "9223372036854775807",
            "8Ei",
            "9E",
            "1n",
            "-1",
            "-9223372036854775807",
        ] {
            let resources = json!({"limits": {"cpu": amount, "memory": amount, "hugepages-2Mi": amount},
                "requests": {"cpu": amount}});
            let container = |name: &str| json!({"name": name, "resources": resources});
            for pod_level in [json!(null), resources.clone()] {
                let spec = json!({"containers": [container("a"), container("b")],
                    "resources": pod_level, "overhead": {"cpu": amount, "memory": amount}});
                let all = pod_resources(&json_tree::from_value(spec).unwrap());
                let shares = all.cpu_shares.unwrap();
                assert!((2..=262_144).contains(&shares), "{amount}: {shares}");
                let quota = all.cpu_quota_us.unwrap_or(1000);
                assert!((1000..1 << 44).contains(&quota), "{amount}: {quota}");
            }
        }
    }

    #[test]
    fn overhead_comes_on_top_of_what_containers_have() {
        let of = |limits: json_tree::Value| {
            let spec = json!({"containers": [{"name": "c", "resources": {"limits": limits}}],
                "overhead": {"cpu": "250m", "memory": "1Mi"}});
            pod_resources(&json_tree::from_value(spec).unwrap())
        };
        let limited = of(json!({"cpu": "1", "memory": "3Mi"}));
        assert_eq!(limited.cpu_shares, Some(1024 + 256));
        assert_eq!(limited.cpu_quota_us, Some(125_000));
        assert_eq!(limited.memory_bytes, Some(4 << 20));
        let unlimited = of(json!({}));
        assert_eq!(
            unlimited.memory_bytes, None,
            "nothing is limited by an overhead alone"
        );
        assert_eq!(unlimited.cpu_quota_us, None);
    }
}
