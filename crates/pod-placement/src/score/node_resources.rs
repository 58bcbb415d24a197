//! Free resources, and even use of CPU and memory (`NodeResourcesFit` with `LeastAllocated`,
//! `NodeResourcesBalancedAllocation`).

use super::{Feasible, POINTS, part};
use crate::resources::{CountedUse, FreeResources};

/// The average of the free shares of CPU and memory with that use, in points. Containers without requests count too.
pub(super) fn free(node: &Feasible<'_>, used: CountedUse) -> i64 {
    let has = node.free.counted();
    let both = [(used.cpu, has.cpu), (used.memory, has.memory)];
    let counted = both.into_iter().filter(|(_, has)| *has > 0);
    let points: Vec<i64> = counted.map(|(used, has)| part(has - used, has)).collect();
    let resources = i64::try_from(points.len()).unwrap_or(1).max(1);
    points.into_iter().sum::<i64>() / resources
}

/// Points for a use of CPU and memory that the pod makes more even: 75 if the pod changes nothing, otherwise 50 to 100.
/// A pod without requests gets no points, so that such pods do not collect on one node.
pub(super) fn balance(free: &FreeResources<'_>, requested: CountedUse) -> i64 {
    if requested.cpu == 0 && requested.memory == 0 {
        return 0;
    }
    let used = CountedUse::by(|name| free.used(name));
    let has = free.counted();
    let (before, after) = (evenness(used, has), evenness(used.plus(requested), has));
    POINTS / 2 + (POINTS / 2 + after - before) / 2
}

/// The maximum of points minus the standard deviation of the used shares.
fn evenness(used: CountedUse, has: CountedUse) -> i64 {
    if has.cpu <= 0 || has.memory <= 0 {
        return POINTS;
    }
    let fraction = |used: i128, has: i128| (used as f64 / has as f64).clamp(0.0, 1.0);
    let (cpu, memory) = (
        fraction(used.cpu, has.cpu),
        fraction(used.memory, has.memory),
    );
    let deviation = (cpu - memory).abs() / 2.0;
    ((1.0 - deviation) * 100.0) as i64
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use json_tree::json;
    use k8s_openapi::api::core::v1::Node;

    use super::*;
    use crate::resources::{Allocatable, Resources};

    fn amounts(cpu: &str, memory: &str) -> Resources {
        let pair = |name: &str, amount: &str| Some((name.to_owned(), amount.parse().ok()?));
        [pair("cpu", cpu), pair("memory", memory)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The used and the requested amounts, of 4 CPUs and 4 GiB; the points of a balanced allocation.
    #[test]
    fn evenness_counts_by_its_change() {
        let node: Node = json_tree::from_value(
            json!({"status": {"allocatable": {"cpu": "4", "memory": "4Gi"}}}),
        )
        .unwrap_or_default();
        let allocatable = Allocatable::of(&node);
        for (used, requested, points) in [
            (("0", "0"), ("1", "1Gi"), 75),
            (("1", "1Gi"), ("1", "1Gi"), 75),
            (("0", "0"), ("4", "0"), 50),
            (("4", "0"), ("0", "4Gi"), 100),
            (("2", "0"), ("0", "2Gi"), 87),
            (("0", "0"), ("2", "0"), 62),
            (("2", "0"), ("0", "0"), 0),
        ] {
            let free = FreeResources::with(&allocatable, Cow::Owned(amounts(used.0, used.1)), 0);
            let request = amounts(requested.0, requested.1);
            let request = CountedUse::by(|name| request.get(name).copied());
            assert_eq!(balance(&free, request), points, "{used:?} {requested:?}");
        }
    }
}
