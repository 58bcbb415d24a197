//! The status as lines: clipped to the width of a terminal, or unclipped.

use command_output::terminal::clip;

use super::model::{
    ClaimStatus, ClusterStatus, Disk, NodeStatus, ServerStatus, SetStatus, Waiting, Workload,
};
use crate::amount::{bytes, size};
use crate::pod_row::{PodRow, in_namespace};

/// Maximum width of a column in a terminal.
const COLUMN_MAX: usize = 40;

/// The command lines for further questions.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name with which the program was called.
    pub program: String,
    /// The options that select the server, each with a space before it.
    pub options: String,
}

/// All lines; as wide as they may be. Commands are never clipped.
pub fn lines(status: &ClusterStatus, call: &Call, width: Option<usize>) -> Vec<String> {
    let mut lines = vec![server(&status.server)];
    if let Some(data) = &status.server.data_directory {
        lines.push(format!("data {data}"));
    }
    lines.extend(status.nodes.iter().map(node));
    if let Some(namespace) = &status.namespace {
        lines.push(format!("namespace {namespace}"));
    }
    let with_nodes = status.nodes.len() > 1;
    for set in &status.sets {
        lines.push(String::new());
        set_lines(set, with_nodes, &mut lines);
    }
    if !status.workloads.is_empty() {
        lines.push(String::new());
        lines.extend(status.workloads.iter().map(workload));
    }
    if !status.claims.is_empty() {
        lines.push(String::new());
        lines.extend(claims("OTHER CLAIMS", &status.claims, true));
    }
    if !status.waiting.is_empty() {
        lines.push(String::new());
        lines.push("Waiting:".to_owned());
        lines.extend(status.waiting.iter().map(waiting));
    }
    if let Some(width) = width {
        lines = lines.iter().map(|line| clip(line, width)).collect();
    }
    lines.push(String::new());
    lines.push(closing(status, call));
    lines.extend(status.notes.iter().map(|note| format!("Note: {note}")));
    lines
}

fn server(server: &ServerStatus) -> String {
    let ServerStatus { url, version, .. } = server;
    match version.split_once("+mainstay.") {
        Some((kubernetes, program)) => {
            format!("mainstay {program} (Kubernetes {kubernetes}) at {url}")
        }
        None => format!("Kubernetes {version} at {url}"),
    }
}

fn node(node: &NodeStatus) -> String {
    let NodeStatus {
        name,
        address,
        state,
        disk,
    } = node;
    let disk = disk.as_ref().map(disk_text).unwrap_or_default();
    format!("node {name} {address}: {state}{disk}")
}

fn disk_text(disk: &Disk) -> String {
    let percent = match disk.capacity_bytes {
        0 => 0,
        all => disk.used_bytes.saturating_mul(100) / all,
    };
    let free = bytes(disk.available_bytes);
    format!("; disk {percent}% used, {free} free")
}

fn set_lines(set: &SetStatus, with_nodes: bool, lines: &mut Vec<String>) {
    let title = in_namespace(&set.namespace, &set.name);
    lines.push(format!(
        "statefulset {title}: {}/{} ready",
        set.ready, set.replicas
    ));
    let head = ["POD", "READY", "STATE", "RESTARTS", "AGE", "IP", "NODE"];
    let columns = if with_nodes {
        head.len()
    } else {
        head.len() - 1
    };
    let rows = set.pods.iter().map(pod);
    let rows = rows.map(|(mut cells, reason)| {
        cells.truncate(columns);
        (cells, reason)
    });
    lines.extend(table(&head[..columns], rows));
    lines.extend(claims("CLAIM", &set.claims, false));
}

fn pod(pod: &PodRow) -> (Vec<String>, String) {
    let cells = [
        pod.pod.clone(),
        pod.containers.clone(),
        pod.state.clone(),
        pod.restarts.clone(),
        pod.age.clone(),
        pod.address.clone(),
        pod.node.clone().unwrap_or_default(),
    ];
    (cells.into(), pod.reason.clone().unwrap_or_default())
}

fn claims(title: &str, claims: &[ClaimStatus], with_namespace: bool) -> Vec<String> {
    if claims.is_empty() {
        return Vec::new();
    }
    let head = [title, "STATE", "SIZE", "USED", "CLASS"];
    let row = |claim: &ClaimStatus| {
        let name = match with_namespace {
            true => in_namespace(&claim.namespace, &claim.name),
            false => claim.name.clone(),
        };
        let cells = vec![
            name,
            claim.state.clone(),
            size(&claim.size),
            claim.used_bytes.map(bytes).unwrap_or_default(),
            claim.class.clone(),
        ];
        (cells, String::new())
    };
    table(&head, claims.iter().map(row))
}

/// Rows below a head, in columns; after each row's cells its last text.
fn table(head: &[&str], rows: impl Iterator<Item = (Vec<String>, String)>) -> Vec<String> {
    let head = head.iter().map(|&text| text.to_owned()).collect();
    let mut all: Vec<(Vec<String>, String)> = vec![(head, String::new())];
    all.extend(rows);
    let count = all.iter().map(|(cells, _)| cells.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = all.iter().filter_map(|(cells, _)| cells.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).min(COLUMN_MAX)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    all.iter()
        .map(|(cells, last)| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                line.push_str(&format!("  {cell:width$}"));
            }
            format!("{line}  {last}").trim_end().to_owned()
        })
        .collect()
}

fn workload(workload: &Workload) -> String {
    let title = in_namespace(&workload.namespace, &workload.name);
    let Workload { kind, state, .. } = workload;
    let reason = workload.reason.as_deref();
    let reason = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    format!("{kind} {title}: {state}{reason}")
}

fn waiting(waiting: &Waiting) -> String {
    let namespace = waiting.namespace.as_deref().unwrap_or_default();
    let Waiting { object, cause, .. } = waiting;
    format!("  {object}{}: {cause}", in_option(namespace))
}

/// The next step.
fn closing(status: &ClusterStatus, call: &Call) -> String {
    let Call { program, options } = call;
    match status.waiting.as_slice() {
        [] if status.sets.is_empty() && status.workloads.is_empty() => {
            "No workload exists yet: kubectl apply -f FILE".to_owned()
        }
        [] => "Nothing is waiting.".to_owned(),
        [one] => {
            let namespace = in_option(one.namespace.as_deref().unwrap_or_default());
            let object = &one.object;
            format!("Why, and what to do: {program} why {object}{namespace}{options}")
        }
        _ => {
            let namespace = in_option(status.namespace.as_deref().unwrap_or_default());
            format!("Why, and what to do: {program} why{namespace}{options}")
        }
    }
}

fn in_option(namespace: &str) -> String {
    match namespace {
        "default" | "" => String::new(),
        other => format!(" -n {other}"),
    }
}
