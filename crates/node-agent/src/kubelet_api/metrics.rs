//! Prometheus metrics besides `/metrics/resource`: `/metrics`, `/metrics/cadvisor`,
//! `/metrics/probes`; and the settings (`/configz`).
//!
//! Names and labels are kubelet's and cAdvisor's, for existing dashboards. Of cAdvisor's some
//! hundred metrics only those that the node measures anyway are served.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use http::{Response, header};
use pod_lifecycle::record::Instance;
use serde_json::json;

use super::network;
use super::response::{BoxBody, text};
use crate::limits::{LEASE_SECONDS, NODE_CHECK_PERIOD, NODE_STATUS_PERIOD};
use crate::machine::stats::{UsageFigures, UsageSubject};
use crate::probes::counts::ProbeCounts;
use crate::shared::Shared;

/// A metric: its name, type and meaning.
type Metric = (&'static str, &'static str, &'static str);

const PROBES: Metric = (
    "prober_probe_total",
    "counter",
    "Cumulative number of a liveness, readiness or startup probe for a container by result",
);
const CPU: Metric = (
    "container_cpu_usage_seconds_total",
    "counter",
    "Cumulative cpu time consumed in seconds",
);
const MEMORY: Metric = (
    "container_memory_usage_bytes",
    "gauge",
    "Current memory usage in bytes, including all memory regardless of when it was accessed",
);
const WORKING_SET: Metric = (
    "container_memory_working_set_bytes",
    "gauge",
    "Current working set in bytes",
);
const RSS: Metric = ("container_memory_rss", "gauge", "Size of RSS in bytes");
const RECEIVED: Metric = (
    "container_network_receive_bytes_total",
    "counter",
    "Cumulative count of bytes received",
);
const SENT: Metric = (
    "container_network_transmit_bytes_total",
    "counter",
    "Cumulative count of bytes transmitted",
);

/// Samples by metric, because the samples of a metric must be consecutive.
#[derive(Default)]
struct Page {
    metrics: BTreeMap<&'static str, (Metric, String)>,
}

impl Page {
    fn add(&mut self, metric: Metric, labels: &[(&'static str, String)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let labels = match labels.join(",") {
            none if none.is_empty() => none,
            some => format!("{{{some}}}"),
        };
        let (_, lines) = self
            .metrics
            .entry(metric.0)
            .or_insert((metric, String::new()));
        // Writing to a string does not fail.
        let _written = writeln!(lines, "{}{labels} {value}", metric.0);
    }

    fn usage(&mut self, labels: &[(&'static str, String)], figures: &UsageFigures) {
        let sample = &figures.sample;
        let (seconds, rest) = (sample.cpu_ns / 1_000_000_000, sample.cpu_ns % 1_000_000_000);
        self.add(CPU, labels, format_args!("{seconds}.{rest:09}"));
        self.add(MEMORY, labels, sample.usage_bytes);
        self.add(WORKING_SET, labels, sample.working_set_bytes);
        self.add(RSS, labels, sample.rss_bytes);
    }

    fn answer(self) -> Response<BoxBody> {
        let mut page = String::new();
        for ((name, kind, help), lines) in self.metrics.into_values() {
            let _written = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        let mut response = text(page);
        let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// `/metrics/probes`.
pub fn probes(shared: &Shared) -> Response<BoxBody> {
    probe_page(&shared.probes).answer()
}

/// `/metrics/cadvisor`: the machine as `id="/"`, pods without a container, containers.
pub fn cadvisor(shared: &Shared) -> Response<BoxBody> {
    let mut page = Page::default();
    if let Some(figures) = shared.usage.figures(&UsageSubject::Node) {
        page.usage(&[("id", "/".to_owned())], &figures);
    }
    for view in shared.pods.list() {
        let meta = &view.pod.metadata;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let labels = |container: &str, image: &str| {
            vec![
                ("container", container.to_owned()),
                ("image", image.to_owned()),
                ("namespace", own(&meta.namespace)),
                ("pod", own(&meta.name)),
            ]
        };
        if let Some(figures) = shared.usage.figures(&UsageSubject::Pod(own(&meta.uid))) {
            page.usage(&labels("", ""), &figures);
        }
        for (name, record) in &view.record.containers {
            if let Instance::Running(running) = &record.instance
                && let Some(figures) = shared
                    .usage
                    .figures(&UsageSubject::Container(running.id.clone()))
            {
                page.usage(&labels(name, &running.image), &figures);
            }
        }
        for interface in network::of_pod(&view) {
            let mut labels = labels("", "");
            labels.insert(1, ("interface", interface.name.clone()));
            page.add(RECEIVED, &labels, interface.received_bytes);
            page.add(SENT, &labels, interface.sent_bytes);
        }
    }
    page.answer()
}

/// `/metrics`: kubelet's own.
pub fn kubelet(shared: &Shared) -> Response<BoxBody> {
    let views = shared.pods.list();
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
    let node = shared.config.node_name.clone();
    page.add(
        (
            "kubelet_node_name",
            "gauge",
            "The node's name. The count is always 1",
        ),
        &[("node", node)],
        1,
    );
    page.add(
        (
            "kubelet_running_pods",
            "gauge",
            "Number of pods that have a running pod sandbox",
        ),
        &[],
        with_sandbox,
    );
    for (state, count) in states {
        page.add(
            (
                "kubelet_running_containers",
                "gauge",
                "Number of containers by their state",
            ),
            &[("container_state", state.to_owned())],
            count,
        );
    }
    page.answer()
}

/// `/configz`: the settings that have a name in kubelet's configuration.
pub fn settings(shared: &Shared) -> Response<BoxBody> {
    let config = &shared.config;
    let seconds = |seconds: u64| format!("{}m{}s", seconds / 60, seconds % 60);
    let settings = json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "podCIDR": config.pod_cidr,
        "maxPods": config.pods_max,
        "podPidsLimit": config.pod_pids_max,
        "nodeStatusUpdateFrequency": seconds(NODE_CHECK_PERIOD.as_secs()),
        "nodeStatusReportFrequency": seconds(NODE_STATUS_PERIOD.as_secs()),
        "nodeLeaseDurationSeconds": LEASE_SECONDS,
        "containerLogMaxSize": config.logs.file_bytes_max.to_string(),
        "containerLogMaxFiles": config.logs.files_max,
        "imageGCHighThresholdPercent": config.image_gc.high_percent,
        "evictionPressureTransitionPeriod":
            seconds(config.eviction.transition_period.as_secs().unsigned_abs()),
    }});
    let mut response = text(settings.to_string());
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn probe_page(counts: &ProbeCounts) -> Page {
    let mut page = Page::default();
    for (labels, count) in counts.all() {
        page.add(PROBES, &labels, count);
    }
    page
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use pod_lifecycle::record::probes::ProbeOutcome;
    use pod_lifecycle::spec::ProbeKind;

    use super::*;

    // findings C8
    #[test]
    fn probes_are_counted_by_result_until_the_pod_is_gone() {
        let pod: Pod = serde_json::from_value(json!({"metadata":
            {"name": "p", "namespace": "n", "uid": "u"}}))
        .unwrap();
        let counts = ProbeCounts::default();
        for outcome in [
            ProbeOutcome::Success,
            ProbeOutcome::Warning(String::new()),
            ProbeOutcome::Failure(String::new()),
        ] {
            counts.count(&pod, "c", ProbeKind::Readiness, &outcome);
        }
        let lines = |counts: &ProbeCounts| {
            let metrics = probe_page(counts).metrics;
            metrics
                .into_values()
                .map(|(_, lines)| lines)
                .collect::<String>()
        };
        let line = |result: &str, count: u64| {
            format!(
                "prober_probe_total{{container=\"c\",namespace=\"n\",pod=\"p\",pod_uid=\"u\",\
                 probe_type=\"Readiness\",result=\"{result}\"}} {count}\n"
            )
        };
        assert_eq!(lines(&counts), line("failed", 1) + &line("successful", 2));
        counts.forget(&pod);
        assert_eq!(lines(&counts), "");
    }
}
