//! Prometheus metrics besides `/metrics/resource` and `/metrics/cadvisor`: `/metrics` and
//! `/metrics/probes`. Also the settings (`/configz`). Names and labels are kubelet's, for existing
//! dashboards.

use std::collections::BTreeMap;

use host_kernel::blocking_value;
use http::{Response, StatusCode, header};
use json_tree::json;
use object_model::Status;
use pod_lifecycle::record::Instance;
use process_telemetry::prometheus::{Label, Metric, Page};
use process_telemetry::refusals;

use super::response::{BoxBody, error_status, metrics, text};
use super::{KubeletContext, volume_stats};
use crate::limits::{NODE_CHECK_PERIOD, NODE_STATUS_PERIOD};
use crate::node_context::NodeContext;
use crate::probes::counts::ProbeCounts;

const PROBES: Metric = Metric::counter(
    "prober_probe_total",
    "Cumulative number of a liveness, readiness or startup probe for a container by result",
);
const NODE_NAME: Metric = Metric::gauge(
    "kubelet_node_name",
    "The node's name. The count is always 1",
);
const PODS: Metric = Metric::gauge(
    "kubelet_running_pods",
    "Number of pods that have a running pod sandbox",
);
const CONTAINERS: Metric = Metric::gauge(
    "kubelet_running_containers",
    "Number of containers by their state",
);

/// `/metrics/probes`: counts of probe results by container.
pub fn probes(counts: &ProbeCounts) -> Response<BoxBody> {
    metrics(probe_page(counts))
}

/// `/metrics`: kubelet's metrics of the node, its volumes and its pods.
pub async fn kubelet(context: &KubeletContext) -> Result<Response<BoxBody>, Box<Status>> {
    let views = context.pods.list();
    let (pod_views, now) = (views.clone(), context.node.clock.now().wall.to_string());
    let usages = context.node.config.volume_usages.borrow().clone();
    let csi = context.csi.clone();
    let volumes = blocking_value(move || {
        let statistics = pod_views
            .iter()
            .flat_map(|view| volume_stats::volumes(view, &usages, &csi, &now));
        statistics.collect::<Vec<_>>()
    });
    let volumes = volumes
        .await
        .map_err(|error| error_status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let with_sandbox = views.iter().filter(|view| view.sandbox.is_some()).count();
    let mut states = BTreeMap::from([("created", 0), ("exited", 0), ("running", 0)]);
    for record in views
        .iter()
        .flat_map(|view| view.record.containers.values())
    {
        let state = match &record.instance {
            Instance::Running(_) => "running",
            Instance::Exited(_) => "exited",
            Instance::Starting { .. } => "created",
            Instance::Absent | Instance::Refused(_) => continue,
        };
        *states.entry(state).or_default() += 1;
    }
    let mut page = Page::default();
    page.add(NODE_NAME, &[("node", &*context.node.config.node_name)], 1);
    page.add(PODS, &[], with_sandbox);
    for (state, count) in states {
        page.add(CONTAINERS, &[("container_state", state)], count);
    }
    volume_stats::write(&mut page, &volumes);
    refusals::write(&mut page);
    Ok(metrics(page))
}

/// `/configz`: the settings that exist in kubelet's configuration.
pub fn settings(node: &NodeContext) -> Response<BoxBody> {
    let config = &node.config;
    let duration = |seconds: u64| format!("{}m{}s", seconds / 60, seconds % 60);
    let settings = json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "podCIDR": config.pod_cidr,
        "maxPods": config.pods_max,
        "podPidsLimit": config.pod_pids_max,
        "nodeStatusUpdateFrequency": duration(NODE_CHECK_PERIOD.as_secs()),
        "nodeStatusReportFrequency": duration(NODE_STATUS_PERIOD.as_secs()),
        "nodeLeaseDurationSeconds": config.lease_length.seconds(),
        "containerLogMaxSize": config.logs.file_bytes_max.to_string(),
        "containerLogMaxFiles": config.logs.files_max,
        "imageGCHighThresholdPercent": config.image_gc.high_percent,
        "evictionPressureTransitionPeriod":
            duration(config.eviction.transition_period.as_secs().unsigned_abs()),
    }});
    let mut response = text(settings.to_string());
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn probe_page(counts: &ProbeCounts) -> Page {
    let mut page = Page::default();
    for (labels, count) in counts.all() {
        let labels: Vec<Label<'_>> = labels
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        page.add(PROBES, &labels, count);
    }
    page
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use pod_lifecycle::PodIdentity;
    use pod_lifecycle::record::probes::ProbeOutcome;
    use pod_lifecycle::spec::ProbeKind;

    use super::*;

    // findings C8
    #[test]
    fn probes_are_counted_by_result_until_the_pod_is_deleted() {
        let pod: Pod = json_tree::from_value(json!({"metadata":
            {"name": "p", "namespace": "n", "uid": "u"}}))
        .unwrap();
        let pod = PodIdentity::read(&pod).unwrap();
        let counts = ProbeCounts::default();
        for outcome in [
            ProbeOutcome::Success,
            ProbeOutcome::Warning(String::new()),
            ProbeOutcome::Failure(String::new()),
        ] {
            counts.count(&pod, "c", ProbeKind::Readiness, &outcome);
        }
        let lines = |counts: &ProbeCounts| {
            let text = probe_page(counts).text();
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(|line| format!("{line}\n")).collect::<String>()
        };
        let line = |result: &str, count: u64| {
            format!(
                "prober_probe_total{{container=\"c\",namespace=\"n\",pod=\"p\",pod_uid=\"u\",\
                 probe_type=\"Readiness\",result=\"{result}\"}} {count}\n"
            )
        };
        assert_eq!(lines(&counts), line("failed", 1) + &line("successful", 2));
        counts.forget(&pod.uid);
        assert_eq!(lines(&counts), "");
    }
}
