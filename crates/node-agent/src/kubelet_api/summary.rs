//! `GET /stats/summary` and `GET /metrics/resource`: resource usage of the node and its pods (kubectl.md
//! 6.1).
//!
//! In addition to kubelet's fields, each `cpu` of the summary has `usageWindowNanoSeconds`: the time over
//! which `usageNanoCores` was measured. `localVolumes` lists the volumes of the node's built-in storage
//! classes, even unused volumes: `path`, `usedBytes`, `limitBytes` if the size is enforced, and `availableBytes`, the free
//! bytes of the disk that contains the volume.

use std::sync::Arc;

use bytes::Bytes;
use host_kernel::blocking_value;
use host_kernel::disk_usage::{DiskSpace, VolumeUsages};
use http::{Response, StatusCode, header};
use json_tree::{Value, json};
use object_model::{IncompleteMetadata, Status};
use pod_lifecycle::record::{Instance, Running};
use process_telemetry::prometheus::{Label, Metric, Page};
use resource_kinds::MetadataIdentity;

use super::response::{BoxBody, error_status, full};
use super::volume_stats::{file_system, local_volumes, volumes};
use super::{KubeletContext, network};
use crate::machine::machine_info;
use crate::machine::stats::{UsageFigures, UsageSubject, seconds};
use crate::pods::pod_manager::PodView;

/// `/stats/summary`. The response may be a few seconds old.
pub async fn respond(context: &Arc<KubeletContext>) -> Result<Response<BoxBody>, Box<Status>> {
    let build = async {
        let context = context.clone();
        blocking_value(move || Bytes::from(summary(&context).to_string())).await
    };
    let body = context
        .summary
        .get(|| context.node.clock.instant(), build)
        .await;
    let bytes =
        body.map_err(|error| error_status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let mut response = Response::new(full(bytes));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Blocks, because it reads the sizes of file systems. The sizes of the pods' files are from the last
/// measurement; the files of a pod without a measurement are measured now.
fn summary(context: &KubeletContext) -> Value {
    let mut node = json!({"nodeName": context.node.config.node_name});
    if let Some(figures) = context.usage.figures(&UsageSubject::Node) {
        add_usage(&mut node, &figures);
        let available_bytes = machine_info::meminfo("MemAvailable").unwrap_or(0);
        node["memory"]["availableBytes"] = json!(available_bytes);
    }
    let now = context.node.clock.now().wall.to_string();
    node["network"] = network::summary(&network::of_node(), &now);
    node["fs"] = file_system(&context.node.config.data_dir);
    node["runtime"] = json!({"imageFs": file_system(context.node.config.images.directory())});
    let views = context.pods.list();
    let usages = context.node.config.volume_usages.borrow().clone();
    let pods: Vec<Value> = views
        .iter()
        .filter_map(|view| pod(context, view, &usages).ok())
        .collect();
    json!({"node": node, "pods": pods, "localVolumes": local_volumes(&usages)})
}

fn pod(
    context: &KubeletContext,
    view: &PodView,
    usages: &VolumeUsages,
) -> Result<Value, IncompleteMetadata> {
    let meta = &view.pod.metadata;
    let uid = meta.object_uid()?.to_string();
    let mut pod = json!({
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "startTime": view.record.started_at.map(|time| time.wall.to_string()),
        "containers": [],
    });
    let now = context.node.clock.now().wall.to_string();
    let disk = machine_info::disk(&context.node.config.data_dir);
    let measured = context.disk.of_pod(&uid);
    let measured =
        measured.unwrap_or_else(|| view.measure_files(&context.disk, context.node.clock));
    let measured_at = measured.at.wall.to_string();
    let usage_of = |space: DiskSpace| disk_usage(&measured_at, disk.as_ref(), space);
    let containers = running(view).map(|(name, running)| {
        let started_at = running.started_at.wall.to_string();
        let mut container = json!({"name": name, "startTime": started_at});
        if let Some(figures) = figures_of(context, running) {
            add_usage(&mut container, &figures);
        }
        if let Some([layer, logs]) = measured.files.of_container(name) {
            container["rootfs"] = usage_of(layer);
            container["logs"] = usage_of(logs);
        }
        container
    });
    pod["containers"] = containers.collect();
    if let Some(figures) = context.usage.figures(&UsageSubject::Pod(uid)) {
        add_usage(&mut pod, &figures);
    }
    pod["network"] = network::summary(&network::of_pod(view), &now);
    pod["ephemeral-storage"] = usage_of(measured.files.total());
    let local_volumes = measured.files.volumes().iter().map(|(name, space)| {
        let mut volume = usage_of(*space);
        volume["name"] = json!(name);
        volume
    });
    let claim_volumes = volumes(view, usages, &context.csi, &now);
    pod["volume"] = local_volumes.chain(claim_volumes).collect();
    Ok(pod)
}

/// The usage of a part of the node's disk, in kubelet's fields. As in kubelet, the capacity is the capacity
/// of the disk.
fn disk_usage(now: &str, disk: Option<&machine_info::Disk>, space: DiskSpace) -> Value {
    let mut usage = json!({"time": now, "usedBytes": space.bytes, "inodesUsed": space.files});
    if let Some(disk) = disk {
        usage["availableBytes"] = json!(disk.free);
        usage["capacityBytes"] = json!(disk.total);
        usage["inodes"] = json!(disk.files);
        usage["inodesFree"] = json!(disk.files_free);
    }
    usage
}

/// The containers that run, by name.
fn running(view: &PodView) -> impl Iterator<Item = (&str, &Running)> {
    let containers = view.record.containers.iter();
    containers.filter_map(|(name, record)| match &record.instance {
        Instance::Running(running) => Some((name.as_str(), running)),
        _ => None,
    })
}

fn figures_of(context: &KubeletContext, running: &Running) -> Option<UsageFigures> {
    let subject = UsageSubject::Container(running.id.clone());
    context.usage.figures(&subject)
}

fn add_usage(target: &mut Value, figures: &UsageFigures) {
    let time = figures.sample.at.wall.to_string();
    target["cpu"] = json!({"time": time, "usageCoreNanoSeconds": figures.sample.cpu_ns});
    if let Some((nano_cores, window)) = figures.rate {
        target["cpu"]["usageNanoCores"] = json!(nano_cores);
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        target["cpu"]["usageWindowNanoSeconds"] = json!(window);
    }
    target["memory"] = json!({
        "time": time,
        "usageBytes": figures.sample.usage_bytes,
        "workingSetBytes": figures.sample.working_set_bytes,
        "rssBytes": figures.sample.rss_bytes,
    });
}

/// `/metrics/resource`: CPU and memory usage for Prometheus.
pub fn resource_metrics(context: &KubeletContext) -> Response<BoxBody> {
    let mut page = Page::default();
    if let Some(figures) = context.usage.figures(&UsageSubject::Node) {
        write_usage(&mut page, NODE, &[], &figures);
    }
    for view in context.pods.list() {
        write_pod(&mut page, context, &view);
    }
    super::response::metrics(page)
}

/// The metrics of CPU time and memory.
type UsageMetrics = [Metric; 2];

const NODE: UsageMetrics = usage_metrics(
    "node_cpu_usage_seconds_total",
    "node_memory_working_set_bytes",
);
const POD: UsageMetrics = usage_metrics(
    "pod_cpu_usage_seconds_total",
    "pod_memory_working_set_bytes",
);
const CONTAINER: UsageMetrics = usage_metrics(
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
);

const fn usage_metrics(processor: &'static str, memory: &'static str) -> UsageMetrics {
    [
        Metric::counter(
            processor,
            "CPU time used so far, in seconds of one processor",
        ),
        Metric::gauge(
            memory,
            "Memory in use that cannot be given back at once, in bytes",
        ),
    ]
}

fn write_pod(page: &mut Page, context: &KubeletContext, view: &PodView) {
    let meta = &view.pod.metadata;
    let (Ok(key), Ok(uid)) = (meta.object_key(), meta.object_uid()) else {
        return;
    };
    let (namespace, pod) = (("namespace", &*key.namespace), ("pod", &*key.name));
    for (container, running) in running(view) {
        if let Some(figures) = figures_of(context, running) {
            let labels = [("container", container), namespace, pod];
            write_usage(page, CONTAINER, &labels, &figures);
        }
    }
    if let Some(figures) = context.usage.figures(&UsageSubject::Pod(uid.to_string())) {
        write_usage(page, POD, &[namespace, pod], &figures);
    }
}

fn write_usage(
    page: &mut Page,
    [processor, memory]: UsageMetrics,
    labels: &[Label<'_>],
    figures: &UsageFigures,
) {
    let sample = &figures.sample;
    let time_ms = sample.at.wall.as_millisecond();
    page.add_at(processor, labels, seconds(sample.cpu_ns), time_ms);
    page.add_at(memory, labels, sample.working_set_bytes, time_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::stats::UsageSample;
    use jiff::{SignedDuration, Timestamp};

    fn figures(rate: Option<u64>) -> UsageFigures {
        UsageFigures {
            sample: UsageSample {
                at: pod_lifecycle::Moment::aligned(Timestamp::from_second(1_000_000_000).unwrap()),
                cpu_ns: 1_500_000_000,
                working_set_bytes: 4096,
                usage_bytes: 8192,
                rss_bytes: 1024,
            },
            rate: rate.map(|rate| (rate, SignedDuration::from_millis(10_002))),
        }
    }

    #[test]
    fn the_summary_has_rates_after_the_second_sample() {
        // kubectl.md 6.1
        let mut summary = json!({});
        add_usage(&mut summary, &figures(None));
        assert_eq!(
            summary,
            json!({
                "cpu": {"time": "2001-09-09T01:46:40Z", "usageCoreNanoSeconds": 1_500_000_000},
                "memory": {"time": "2001-09-09T01:46:40Z", "usageBytes": 8192,
                    "workingSetBytes": 4096, "rssBytes": 1024},
            })
        );
        add_usage(&mut summary, &figures(Some(5)));
        assert_eq!(summary["cpu"]["usageNanoCores"], 5);
        assert_eq!(summary["cpu"]["usageWindowNanoSeconds"], 10_002_000_000_i64);
    }

    #[test]
    fn metrics_are_grouped_by_name() {
        let mut page = Page::default();
        write_usage(&mut page, NODE, &[], &figures(None));
        for pod in ["a", "b"] {
            let labels = [("namespace", "n"), ("pod", pod)];
            write_usage(&mut page, POD, &labels, &figures(None));
        }
        let text = page.text();
        let node = "# TYPE node_cpu_usage_seconds_total counter\n\
                    node_cpu_usage_seconds_total 1.500000000 1000000000000\n";
        assert!(text.contains(node), "{text}");
        let pods = "pod_memory_working_set_bytes{namespace=\"n\",pod=\"a\"} 4096 1000000000000\n\
                    pod_memory_working_set_bytes{namespace=\"n\",pod=\"b\"} 4096 1000000000000\n";
        assert!(text.contains(pods), "{text}");
    }
}
