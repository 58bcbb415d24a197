//! core/v1 Node.

mod pod_range;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, Status, names};

use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster, proxy};
use crate::kind::{
    Allocating, Allocation, AllocationLookup, Kind, KindInfo, PodRanges, Selectable, Words,
};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::well_known::labels;

#[derive(Debug)]
pub struct Node {
    ranges: Option<PodRanges>,
}

impl Node {
    /// With `ranges`, each new Node gets a pod range. Without `ranges`, the creator of a Node sets its range.
    pub fn new(ranges: Option<PodRanges>) -> Self {
        Self { ranges }
    }
}

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[proxy("NodeProxyOptions"), STATUS],
    ..cluster(Names {
        group: "",
        kind: "Node",
        list_kind: "NodeList",
        plural: "nodes",
        singular: "node",
        short: &["no"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Status", "Whether the node takes and runs pods."),
    table::column("Roles", "Roles, from labels."),
    table::AGE,
    table::column("Version", "Version of the node's agent."),
    table::wide("Internal-IP", "Address inside the cluster."),
    table::wide("External-IP", "Address outside the cluster."),
    table::wide("OS-Image", "Operating system."),
    table::wide("Kernel-Version", "Kernel."),
    table::wide("Container-Runtime", "Container runtime and its version."),
];

impl Kind for Node {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let capacity = object["status"]["capacity"].clone();
        if let Some(status) = object.get_mut("status")
            && capacity.is_object()
        {
            parts::fill(status, "allocatable", capacity);
        }
        pod_range::same_ranges(object);
    }

    /// The agent of the node creates the Node with its status, so the status is not removed.
    fn prepare_create(&self, _object: &mut Value) {}

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_content(object);
        let (new, old) = (Field::of(object, "spec"), Field::of(old, "spec"));
        for field in ["podCIDRs", "providerID"] {
            let (new, old) = (new.get_path(field), old.get_path(field));
            if !old.is_empty() && new.value != old.value {
                let detail =
                    format!("node updates may not change {field} except from \"\" to valid");
                errors.push(new.forbidden(detail));
            }
        }
        errors
    }

    fn allocating(&self) -> &dyn Allocating {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Allocating for Node {
    fn allocate(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        allocated: &dyn AllocationLookup,
    ) -> Result<(), Status> {
        match self.ranges {
            Some(ranges) => pod_range::allocate(ranges, object, old, allocated),
            None => Ok(()),
        }
    }

    fn has_allocations(&self) -> bool {
        self.ranges.is_some()
    }

    fn may_lack_allocations(&self) -> bool {
        self.ranges.is_some()
    }

    fn allocations(&self, object: &Value) -> Vec<Allocation> {
        let owned = |ranges| pod_range::allocations(ranges, object);
        self.ranges.map(owned).unwrap_or_default()
    }
}

impl Printer for Node {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let info = &object["status"]["nodeInfo"];
        vec![
            table::name(object),
            json!(state(object)),
            json!(roles(object)),
            table::age(object, now),
            table::text_or(&info["kubeletVersion"], ""),
            json!(address(object, "InternalIP")),
            json!(address(object, "ExternalIP")),
            table::text_or(&info["osImage"], "<unknown>"),
            table::text_or(&info["kernelVersion"], "<unknown>"),
            table::text_or(&info["containerRuntimeVersion"], "<unknown>"),
        ]
    }
}

impl Selectable for Node {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let unschedulable = object["spec"]["unschedulable"]
            .as_bool()
            .unwrap_or_default();
        (field == "spec.unschedulable").then(|| unschedulable.to_string())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["spec.unschedulable"])
    }
}

fn state(object: &Value) -> String {
    let conditions = Field::of(object, "status.conditions");
    let ready = conditions
        .items()
        .find(|condition| condition.get("type").text() == "Ready");
    let mut state = match ready.map(|condition| condition.get("status").text()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(object: &Value) -> String {
    let map = Field::of(object, "metadata.labels");
    let mut roles: Vec<&str> = map
        .entries()
        .filter_map(
            |(key, value)| match key.strip_prefix(labels::NODE_ROLE_PREFIX) {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" && !value.text().is_empty() => Some(value.text()),
                _ => None,
            },
        )
        .collect();
    roles.sort_unstable();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn address(object: &Value, kind: &str) -> String {
    let addresses = Field::of(object, "status.addresses");
    let matching = addresses
        .items()
        .find(|address| address.get("type").text() == kind);
    matching.map_or_else(
        || "<none>".to_owned(),
        |matching| matching.get("address").text().to_owned(),
    )
}

fn validate(object: &Value) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = pod_range::validate(&spec);
    let mut types = std::collections::BTreeSet::new();
    for taint in spec.get("taints").items() {
        errors.check_text(&taint.get("key"), names::qualified_name);
        errors.check_text(&taint.get("value"), names::label_value);
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        errors.check_one_of(&taint.get("effect"), &effects);
        if !types.insert((taint.get("key").text(), taint.get("effect").text())) {
            let mut error = taint.duplicate();
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kubectl.md` 1.8
    #[test]
    fn a_row_shows_state_and_roles() {
        let mut node = json!({"metadata": {"name": "n",
            "labels": {"node-role.kubernetes.io/b": "", "node-role.kubernetes.io/a": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let row = Node::new(None).row(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "NotReady,SchedulingDisabled");
        assert_eq!(row[2], "a,b");
        assert_eq!((&row[5], &row[6]), (&json!("10.0.0.1"), &json!("<none>")));
        node["status"] = json!({});
        assert_eq!(
            Node::new(None).row(&node, Timestamp::UNIX_EPOCH)[1],
            "Unknown,SchedulingDisabled"
        );
    }

    #[test]
    fn pod_ranges_are_set_once() {
        let old = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}});
        let mut new = old.clone();
        new["spec"]["podCIDRs"] = json!(["10.1.0.0/24"]);
        assert_eq!(Node::new(None).validate_update(&new, &old).len(), 1);
        assert_eq!(
            Node::new(None).validate_update(&old, &json!({"metadata": {"name": "n"}})),
            []
        );
    }
}
