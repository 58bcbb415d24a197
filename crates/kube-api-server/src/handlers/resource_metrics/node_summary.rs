//! Objects of `metrics.k8s.io`, built from a node's summary. Pure.

use jiff::{SignedDuration, Timestamp};
use json_tree::{Map, Value, json};
use object_model::{Quantity, duration};
use resource_kinds::Column;
use serde::Deserialize;

use crate::handlers::output::Columns;

/// The fields of the kubelet's summary that are needed here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Summary {
    node: Measured,
    pods: Vec<PodStats>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodReference,
    containers: Vec<Measured>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodReference {
    uid: String,
}

/// The usage of the node, or of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Measured {
    name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_nano_cores: Option<u64>,
    /// Absent in the summary of the upstream kubelet.
    usage_window_nano_seconds: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// The time over which the kubelet measures a rate.
const KUBELET_WINDOW: SignedDuration = SignedDuration::from_secs(10);

/// The usage of a node or a container, and its time.
struct Usage {
    at: Timestamp,
    window: SignedDuration,
    list: Value,
}

impl Measured {
    /// `None` if the value of either resource is absent.
    fn usage(&self) -> Option<Usage> {
        let cpu = self.cpu.as_ref()?;
        let bytes = self.memory.as_ref()?.working_set_bytes?;
        let window = cpu.usage_window_nano_seconds;
        let window = window.and_then(|nanos| i64::try_from(nanos).ok());
        Some(Usage {
            at: cpu.time,
            window: window.map_or(KUBELET_WINDOW, SignedDuration::from_nanos),
            list: json!({
                "cpu": format!("{}n", cpu.usage_nano_cores?).parse::<Quantity>().ok()?,
                "memory": Quantity::from_bytes(i64::try_from(bytes).ok()?),
            }),
        })
    }
}

impl Summary {
    /// The metrics of a node; `None` if the node has none yet.
    pub(super) fn of_node(&self, node: &Value, now: Timestamp) -> Option<Value> {
        let usage = self.node.usage()?;
        let mut metrics = head("NodeMetrics", node, now, &usage);
        metrics["usage"] = usage.list;
        Some(metrics)
    }

    /// The metrics of a pod; `None` until each running container has metrics.
    pub(super) fn of_pod(&self, pod: &Value, now: Timestamp) -> Option<Value> {
        let uid = pod["metadata"]["uid"].as_str()?;
        let stats = self.pods.iter().find(|stats| stats.pod_ref.uid == uid)?;
        let used: Option<Vec<(&str, Usage)>> = stats
            .containers
            .iter()
            .map(|container| Some((container.name.as_str(), container.usage()?)))
            .collect();
        let used = used?;
        let (_, earliest) = used.iter().min_by_key(|(_, usage)| usage.at)?;
        let mut metrics = head("PodMetrics", pod, now, earliest);
        metrics["containers"] = used
            .into_iter()
            .map(|(name, usage)| json!({"name": name, "usage": usage.list}))
            .collect();
        Some(metrics)
    }
}

fn head(kind: &str, of: &Value, now: Timestamp, usage: &Usage) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = of["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".to_owned(), json!(seconds(now)));
    json!({
        "kind": kind,
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": metadata,
        "timestamp": seconds(usage.at),
        "window": duration::go(whole_millis(usage.window)),
    })
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn whole_millis(window: SignedDuration) -> SignedDuration {
    SignedDuration::new(window.as_secs(), window.subsec_millis() * 1_000_000)
}

const fn text(name: &'static str, format: &'static str) -> Column<'static> {
    Column {
        name,
        kind: "string",
        format,
        description: "",
        priority: 0,
    }
}

/// The columns: the name, the usage of each resource, the window; for pods the sum of their containers.
pub(super) const COLUMNS: Columns = Columns {
    headings: &[
        text("Name", "name"),
        text("cpu", ""),
        text("memory", ""),
        text("Window", ""),
    ],
    cells,
};

fn cells(metrics: &Value) -> Vec<Value> {
    let of_containers = metrics["containers"].as_array();
    let lists: Vec<&Value> = match of_containers {
        Some(containers) => containers.iter().map(|one| &one["usage"]).collect(),
        None => vec![&metrics["usage"]],
    };
    let sum = |resource: &str| {
        let amounts = lists
            .iter()
            .filter_map(|list| Quantity::from_json(&list[resource]).ok());
        let sum = amounts.reduce(|sum, amount| sum.plus(&amount));
        json!(sum.unwrap_or_default())
    };
    vec![
        metrics["metadata"]["name"].clone(),
        sum("cpu"),
        sum("memory"),
        metrics["window"].clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn summary(containers: Value) -> Summary {
        json_tree::from_value(json!({
            "node": {
                "nodeName": "n1",
                "cpu": {"time": "2026-01-01T00:00:09.5Z", "usageNanoCores": 1_500_000_000,
                    "usageCoreNanoSeconds": 7, "usageWindowNanoSeconds": 10_060_000_000_i64},
                "memory": {"time": "2026-01-01T00:00:09Z", "workingSetBytes": 1_048_576},
            },
            "pods": [{"podRef": {"name": "p", "namespace": "n", "uid": "u"},
                "containers": containers}],
        }))
        .unwrap()
    }

    fn container(name: &str, second: u32, cpu: u64) -> Value {
        json!({"name": name,
            "cpu": {"time": format!("2026-01-01T00:00:{second:02}Z"), "usageNanoCores": cpu},
            "memory": {"workingSetBytes": 4096}})
    }

    #[test]
    fn a_node_uses_what_it_says() {
        // kubectl.md 6.1
        let node = json!({"metadata": {"name": "n1", "uid": "x", "labels": {"a": "b"}}});
        let metrics = summary(json!([])).of_node(&node, now()).unwrap();
        assert_eq!(
            metrics,
            json!({
                "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "n1", "labels": {"a": "b"},
                    "creationTimestamp": "2027-01-15T08:00:00Z"},
                "timestamp": "2026-01-01T00:00:09Z", "window": "10.06s",
                "usage": {"cpu": "1500m", "memory": "1Mi"},
            })
        );
        assert_eq!(Summary::default().of_node(&node, now()), None);
    }

    #[test]
    fn a_pod_has_metrics_when_all_its_containers_have() {
        // kubectl.md 6.1
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}});
        let both = summary(json!([
            container("a", 9, 1001),
            container("b", 8, 2_000_000)
        ]));
        let metrics = both.of_pod(&pod, now()).unwrap();
        assert_eq!(metrics["timestamp"], "2026-01-01T00:00:08Z");
        assert_eq!(metrics["window"], "10s");
        assert_eq!(metrics["containers"][0]["usage"]["cpu"], "1001n");
        let headings = COLUMNS.headings.iter().map(|column| column.name);
        let row: Vec<(&str, Value)> = headings.zip(cells(&metrics)).collect();
        assert_eq!(
            row,
            [
                ("Name", json!("p")),
                ("cpu", json!("2001001n")),
                ("memory", json!("8Ki")),
                ("Window", json!("10s")),
            ]
        );
        let fresh = json!({"name": "b", "memory": {"workingSetBytes": 1}});
        let one = summary(json!([container("a", 9, 1), fresh]));
        assert_eq!(one.of_pod(&pod, now()), None);
        assert_eq!(summary(json!([])).of_pod(&pod, now()), None);
        let namesake = json!({"metadata": {"name": "p", "namespace": "n", "uid": "other"}});
        assert_eq!(both.of_pod(&namesake, now()), None);
    }
}
