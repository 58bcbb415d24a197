//! A pod as a row of a table: the columns of `kubectl get pods`, and the reason why the pod is not ready.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::diagnosis::{self, Reason};
use resource_kinds::pod_view::{Condition, PodView};
use resource_kinds::{Cell, Printer, reasons};
use serde::Serialize;

/// Reasons that the column STATUS prints, or that are short-lived.
const PRINTED_REASONS: [Reason; 5] = [
    Reason::Terminating,
    Reason::Completed,
    Reason::NotScheduled,
    Reason::NotStarted,
    Reason::ContainerStarting,
];

/// A line about one pod in `up`, `status` and their JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// The pod's name.
    pub pod: String,
    /// Whether the condition `Ready` of the pod is true and the pod is not being deleted.
    pub ready: bool,
    /// Number of ready containers and of all containers; empty if the pod does not exist yet.
    pub containers: String,
    /// Its status, in a word.
    pub state: String,
    /// The number of restarts of all containers, in the form of `kubectl get pods`.
    pub restarts: String,
    /// The time since the creation of the pod, in the form of `kubectl get pods`.
    pub age: String,
    /// The pod's IP address; empty until it has one.
    pub address: String,
    /// The node of the pod; only if rows name the nodes, and the pod has a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The reason why the pod is not ready, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PodRow {
    /// A pod that its set has yet to make.
    pub fn missing(pod: String, set: Option<&StatefulSet>) -> Self {
        let status = set.and_then(|set| set.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        let refused = conditions.find(|condition| {
            condition.reason.as_deref() == Some(reasons::stateful_set::FAILED_CREATE)
        });
        let state = match refused {
            Some(_) => "cannot be made",
            None => "waiting for its turn",
        };
        Self {
            pod,
            state: state.to_owned(),
            reason: refused.and_then(|refused| refused.message.clone()),
            ..Self::default()
        }
    }
}

/// A name, with its namespace if that is not the default namespace.
pub fn in_namespace(namespace: &str, name: &str) -> String {
    match namespace {
        "default" | "" => name.to_owned(),
        other => format!("{other}/{name}"),
    }
}

/// Converts pods to rows, by the printer columns of pods.
pub struct PodRows<'a> {
    printer: &'a dyn Printer,
    columns: [usize; 5],
    with_nodes: bool,
}

impl<'a> PodRows<'a> {
    /// Rows with the columns of this table of the Pod kind; `None` if the table lacks a column.
    pub fn new(printer: &'a dyn Printer) -> Option<Self> {
        let column = |name: &str| {
            let columns = printer.columns();
            let mut columns = columns.iter();
            columns.position(|column| column.name.eq_ignore_ascii_case(name))
        };
        Some(Self {
            printer,
            columns: [
                column("Ready")?,
                column("Status")?,
                column("Restarts")?,
                column("Age")?,
                column("IP")?,
            ],
            with_nodes: false,
        })
    }

    /// Shows or hides the names of the nodes.
    pub fn with_nodes(self, with_nodes: bool) -> Self {
        Self { with_nodes, ..self }
    }

    /// The row of an existing pod.
    pub fn of(&self, pod: &Pod, now: Timestamp) -> PodRow {
        let object = json_tree::to_value(pod).unwrap_or_default();
        let cells = self.printer.row(&object, now);
        let [containers, state, restarts, age, address] =
            self.columns.map(|index| cells.get(index).map(text));
        let view = PodView::try_from(pod).ok();
        let view = view.as_ref();
        let ready = view.and_then(PodView::ready).is_some_and(Condition::holds)
            && !view.is_some_and(PodView::is_deleting);
        let spec = pod.spec.as_ref().filter(|_| self.with_nodes);
        let diagnosis = view.and_then(diagnosis::pod);
        let diagnosis = diagnosis.filter(|diagnosis| !PRINTED_REASONS.contains(&diagnosis.reason));
        PodRow {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            ready,
            containers: containers.unwrap_or_default(),
            state: state.unwrap_or_default(),
            restarts: restarts.unwrap_or_default(),
            age: age.unwrap_or_default(),
            address: address.filter(|text| text != "<none>").unwrap_or_default(),
            node: spec.and_then(|spec| spec.node_name.clone()),
            reason: diagnosis.map(|diagnosis| diagnosis.message),
        }
    }
}

fn text(cell: &Cell) -> String {
    cell.as_str()
        .map_or_else(|| cell.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use resource_kinds::ClusterConfig;

    use super::*;

    fn row(status: json_tree::Value) -> PodRow {
        let kinds = resource_kinds::all(&ClusterConfig::default());
        let kind = kinds.iter().find(|kind| kind.info().kind == "Pod").unwrap();
        let rows = PodRows::new(kind.as_ref()).unwrap();
        let pod = json_tree::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "default", "uid": "u", "resourceVersion": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "here", "containers": [{"name": "main", "image": "i"}]},
            "status": status,
        }));
        rows.of(&pod.unwrap(), "2026-01-01T00:01:00Z".parse().unwrap())
    }

    /// Findings U4: no reason in addition to ErrImagePull.
    #[test]
    fn a_pod_that_cannot_have_its_image_says_why() {
        let row = row(
            json!({"phase": "Pending", "podIP": "10.0.0.7", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]}),
        );
        assert_eq!(row.containers, "0/1");
        assert_eq!(row.state, "ErrImagePull");
        assert_eq!(row.address, "10.0.0.7");
        assert_eq!(row.age, "60s");
        assert!(!row.ready && row.restarts.starts_with('2'), "{row:?}");
        let reason = row.reason.unwrap();
        assert!(reason.contains("no such image"), "{reason}");
    }

    #[test]
    fn a_pod_that_is_ready_has_no_reason() {
        let row = row(json!({"phase": "Running", "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {}}}]}));
        assert!(row.ready);
        assert_eq!(
            (row.containers.as_str(), row.state.as_str()),
            ("1/1", "Running")
        );
        assert_eq!(row.reason, None);
    }

    #[test]
    fn a_row_names_the_node_if_it_is_asked_to() {
        let kinds = resource_kinds::all(&ClusterConfig::default());
        let kind = kinds.iter().find(|kind| kind.info().kind == "Pod").unwrap();
        let pod: Pod = json_tree::from_value(
            json!({"metadata": {"name": "web-0", "uid": "u", "resourceVersion": "1"},
            "spec": {"nodeName": "b", "containers": []}}),
        )
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for (is_requested, named) in [(false, None), (true, Some("b"))] {
            let rows = PodRows::new(kind.as_ref())
                .unwrap()
                .with_nodes(is_requested);
            assert_eq!(rows.of(&pod, now).node.as_deref(), named);
        }
    }

    /// Findings U4: a set whose pods are refused has the reason.
    #[test]
    fn a_pod_that_is_refused_says_why() {
        let set = |conditions: json_tree::Value| {
            let set = json!({"metadata": {"name": "web"},
                "spec": {"selector": {}, "template": {}, "serviceName": "web"},
                "status": {"replicas": 0, "conditions": conditions}});
            json_tree::from_value::<StatefulSet>(set).unwrap()
        };
        let waits = PodRow::missing("web-1".to_owned(), Some(&set(json!([]))));
        assert_eq!(waits.state, "waiting for its turn");
        assert_eq!(waits.reason, None);
        let refused = set(json!([{"type": "Progressing", "status": "True",
            "reason": "FailedCreate", "message": "exceeded quota: small"}]));
        let refused = PodRow::missing("web-1".to_owned(), Some(&refused));
        assert_eq!(refused.state, "cannot be made");
        assert_eq!(refused.reason.as_deref(), Some("exceeded quota: small"));
    }

    #[test]
    fn only_other_namespaces_are_named() {
        assert_eq!(in_namespace("default", "web"), "web");
        assert_eq!(in_namespace("shop", "web"), "shop/web");
    }
}
