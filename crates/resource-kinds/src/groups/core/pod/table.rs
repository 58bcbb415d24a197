//! The row of a pod (`kubectl.md` 1.8 and 1.9).

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::duration;

use crate::printing::table;
use crate::printing::{Cell, Column};
use crate::validation::conditions::is_true;
use crate::validation::field::Field;
use crate::validation::pod_template::is_sidecar;

/// Columns of the table of pods.
pub(super) const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Ready", "Containers that are ready, of all."),
    table::column("Status", "What the pod does, in one word."),
    table::column(
        "Restarts",
        "How often containers were started again, and when last.",
    ),
    table::AGE,
    table::wide("IP", "Address of the pod."),
    table::wide("Node", "Node that the pod is on."),
    table::wide(
        "Nominated Node",
        "Node that others are being evicted from for this pod.",
    ),
    table::wide("Readiness Gates", "Extra conditions that hold, of all."),
];

/// The summary of the containers.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, status: &Field<'_, '_>) {
        self.restarts += status.get("restartCount").int().unwrap_or_default();
        let finished = status.get_path("lastState.terminated.finishedAt");
        self.last_restart = self.last_restart.max(finished.text().parse().ok());
    }
}

/// The cells of a pod's row.
pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let summary = summary(object);
    let inits = Field::of(spec, "initContainers");
    let sidecars = inits.items().filter(|c| is_sidecar(c.value));
    let total = Field::of(spec, "containers").len() + sidecars.count();
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            let age = duration::human(now.as_second() - last.as_second());
            format!("{} ({age} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        table::name(object),
        json!(format!("{}/{total}", summary.ready)),
        json!(summary.reason),
        json!(restarts),
        table::age(object, now),
        json!(address(status)),
        table::text_or(&spec["nodeName"], "<none>"),
        table::text_or(&status["nominatedNodeName"], "<none>"),
        json!(readiness_gates(object)),
    ]
}

/// Finished pods are marked, so that clients can filter them.
pub(super) fn conditions(object: &Value) -> Vec<(&'static str, &'static str, String, String)> {
    let condition = |reason: &str, message: &str| {
        vec![("Completed", "True", reason.to_owned(), message.to_owned())]
    };
    match object["status"]["phase"].as_str() {
        Some("Succeeded") => condition("Succeeded", "The pod has completed successfully."),
        Some("Failed") => condition("Failed", "The pod failed."),
        _ => Vec::new(),
    }
}

fn address(status: &Value) -> String {
    let first = status["podIPs"][0]["ip"].as_str();
    let address = first
        .or_else(|| status["podIP"].as_str())
        .unwrap_or_default();
    if address.is_empty() {
        "<none>".to_owned()
    } else {
        address.to_owned()
    }
}

fn readiness_gates(object: &Value) -> String {
    let gates = Field::of(object, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds = |gate: &Field<'_, '_>| is_true(object, gate.get("conditionType").text());
    format!("{}/{}", gates.items().filter(holds).count(), gates.len())
}

fn summary(object: &Value) -> Summary {
    let root = Field::root(object);
    let phase = root.get_path("status.phase").text();
    let reason = root.get_path("status.reason").text();
    let mut summary = Summary {
        reason: if reason.is_empty() {
            phase.to_owned()
        } else {
            reason.to_owned()
        },
        ready: 0,
        restarts: 0,
        last_restart: None,
    };
    let gated = root.get_path("status.conditions").items().any(|condition| {
        condition.get("type").text() == "PodScheduled"
            && condition.get("reason").text() == "SchedulingGated"
    });
    if gated {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    let mut later = Summary {
        reason: String::new(),
        ready: 0,
        restarts: 0,
        last_restart: None,
    };
    let initializing = count_init_containers(object, &mut summary, &mut later);
    if !initializing || is_true(object, "Initialized") {
        summary.restarts = later.restarts;
        summary.last_restart = later.last_restart;
        count_containers(object, &mut summary);
    }
    if root.get_path("metadata.deletionTimestamp").is_set() {
        if reason == "NodeLost" {
            "Unknown".clone_into(&mut summary.reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    summary
}

/// Counts the init containers up to the first that is neither complete nor a started sidecar; returns whether such a
/// container exists. `sidecars` counts the restarts of sidecars, which are used later.
fn count_init_containers(object: &Value, summary: &mut Summary, sidecars: &mut Summary) -> bool {
    let root = Field::root(object);
    let specs = root.get_path("spec.initContainers");
    for (index, status) in root
        .get_path("status.initContainerStatuses")
        .items()
        .enumerate()
    {
        summary.count_restarts(&status);
        let name = status.get("name").text();
        let spec = specs.items().find(|spec| spec.get("name").text() == name);
        let sidecar = spec.is_some_and(|spec| is_sidecar(spec.value));
        if sidecar {
            sidecars.count_restarts(&status);
        }
        let terminated = status.get_path("state.terminated");
        if terminated.is_set() && terminated.get("exitCode").int().unwrap_or_default() == 0 {
            continue;
        }
        if sidecar && status.get("started").is_true() {
            summary.ready += usize::from(status.get("ready").is_true());
            continue;
        }
        let waiting = status.get_path("state.waiting.reason").text();
        summary.reason = if terminated.is_set() {
            format!("Init:{}", ended(&terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        return true;
    }
    false
}

fn count_containers(object: &Value, summary: &mut Summary) {
    let statuses = Field::of(object, "status.containerStatuses");
    let statuses: Vec<_> = statuses.items().collect();
    let mut running = false;
    for status in statuses.iter().rev() {
        summary.count_restarts(status);
        let waiting = status.get_path("state.waiting.reason").text();
        let terminated = status.get_path("state.terminated");
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if terminated.is_set() {
            summary.reason = ended(&terminated);
        } else if status.get("ready").is_true() && status.get_path("state.running").is_set() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = is_true(object, "Ready");
        let reason = if ready { "Running" } else { "NotReady" };
        reason.clone_into(&mut summary.reason);
    }
}

fn ended(terminated: &Field<'_, '_>) -> String {
    let reason = terminated.get("reason").text();
    let signal = terminated.get("signal").int().unwrap_or_default();
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!(
            "ExitCode:{}",
            terminated.get("exitCode").int().unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(spec: Value, status: Value, deleting: bool) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        let now = "2024-01-01T00:05:00Z".parse().unwrap();
        row(&object, now)[1..4]
            .iter()
            .map(|cell| cell.as_str().unwrap().to_owned())
            .collect()
    }

    fn one() -> Value {
        json!({"containers": [{"name": "a"}]})
    }

    /// `kubectl.md` 1.9
    #[test]
    fn the_status_says_what_the_containers_do() {
        let waiting = |reason: &str| {
            json!({"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": reason}}, "restartCount": 0}]})
        };
        assert_eq!(
            cells(one(), json!({"phase": "Pending"}), false),
            ["0/1", "Pending", "0"]
        );
        let status = waiting("ContainerCreating");
        assert_eq!(
            cells(one(), status, false),
            ["0/1", "ContainerCreating", "0"]
        );
        assert_eq!(
            cells(one(), waiting("ErrImagePull"), true),
            ["0/1", "Terminating", "0"]
        );
        let crashed = json!({"phase": "Running", "containerStatuses": [{"restartCount": 2,
            "state": {"running": {}}, "ready": true,
            "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:00Z"}}}]});
        assert_eq!(
            cells(one(), crashed, false),
            ["1/1", "Running", "2 (5m ago)"]
        );
        let killed = json!({"phase": "Failed", "containerStatuses": [{"restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "signal": 9}}}]});
        assert_eq!(
            cells(one(), killed.clone(), false),
            ["0/1", "Signal:9", "0"]
        );
        assert_eq!(cells(one(), killed, true), ["0/1", "Signal:9", "0"]);
        let evicted = json!({"phase": "Failed", "reason": "Evicted"});
        assert_eq!(cells(one(), evicted, false), ["0/1", "Evicted", "0"]);
    }

    /// `kubectl.md` 1.9
    #[test]
    fn the_first_container_that_has_something_to_say_wins() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"state": {"terminated": {"reason": "Completed"}}},
                {"state": {"running": {}}, "ready": true}]});
        assert_eq!(cells(spec.clone(), status.clone(), false)[1], "Running");
        let mut not_ready = status;
        not_ready["conditions"] = json!([]);
        assert_eq!(cells(spec, not_ready, false)[1], "NotReady");
    }

    /// `kubectl.md` 1.9
    #[test]
    fn init_containers_are_counted_up() {
        let spec = json!({"initContainers": [{"name": "i"},
            {"name": "s", "restartPolicy": "Always"},
            {"name": "j"}], "containers": [{"name": "a"}]});
        let with = |third: Value| {
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "s", "started": true, "ready": true, "state": {"running": {}}},
                {"name": "j", "state": third}]})
        };
        assert_eq!(
            cells(spec.clone(), with(json!({"running": {}})), false),
            ["1/2", "Init:2/3", "0"]
        );
        let failed = with(json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
        assert_eq!(cells(spec.clone(), failed, false)[1], "Init:Error");
        let waiting = with(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        assert_eq!(cells(spec, waiting, false)[1], "Init:CrashLoopBackOff");
    }
}
