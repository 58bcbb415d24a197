//! `/metrics/cadvisor`: the machine, the pods and their containers, under the names and labels of cAdvisor
//! (docs/storage/prometheus.md there), for existing dashboards.
//!
//! Counters of control groups are read during the request. CPU time and memory are from the last sample,
//! and the disk usage of containers is from the last measurement of their files.

mod families;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use container_runtime::accounting::Accounting;
use host_kernel::blocking_value;
use http::{Response, StatusCode};
use nix::sys::stat::{major, minor};
use object_model::Status;
use pod_lifecycle::record::Instance;
use process_telemetry::prometheus::{Label, Page};
use resource_kinds::MetadataIdentity;

use self::families::{
    BLOCK, COUNTS, CPU, FAULTS, FILE_SYSTEM, FileSystemUse, MACHINE, MEMORY, MetricOf, NETWORK,
    SEEN, STARTED, TIMES, VERSION,
};
use super::network;
use super::response::{BoxBody, error_status, metrics};
use crate::machine::disk_figures::DiskFigures;
use crate::machine::machine_info::{Disk, MachineInfo, disk};
use crate::machine::stats::{UsageFigures, UsageHistory, UsageSubject, seconds};
use crate::node_context::NodeContext;
use crate::paths::runtime_id;
use crate::pods::pod_manager::{PodManager, PodView};

/// The parts of the agent that the page is computed from.
pub struct Sources {
    pub node: Arc<NodeContext>,
    pub pods: Arc<PodManager>,
    pub usage: Arc<UsageHistory>,
    pub disk: Arc<DiskFigures>,
}

/// The values of a page that all pods share.
struct Scrape {
    devices: Devices,
    /// The file system of the data directory, to which containers write, with its device.
    file_system: Option<(String, Disk)>,
    /// The time of the page, in Unix seconds.
    unix_seconds: i64,
}

/// The subject of samples: the machine, a pod or a container.
#[derive(Clone, Copy, Debug, Default)]
struct Subject<'s> {
    container: &'s str,
    /// The control group.
    id: &'s str,
    image: &'s str,
    /// The runtime's id of the container.
    name: &'s str,
    namespace: &'s str,
    pod: &'s str,
}

impl<'s> Subject<'s> {
    /// The labels of the subject, with an additional label for a device or an interface.
    fn labels(&self, additional: Option<Label<'s>>) -> Vec<Label<'s>> {
        let mut labels = vec![
            ("container", self.container),
            ("id", self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        labels.extend(additional);
        labels.sort_unstable();
        labels
    }
}

pub async fn respond(sources: Sources) -> Result<Response<BoxBody>, Box<Status>> {
    let page = blocking_value(move || page(&sources)).await;
    let page =
        page.map_err(|error| error_status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    Ok(metrics(page))
}

/// Blocks: it reads the files of control groups.
fn page(sources: &Sources) -> Page {
    let mut page = Page::default();
    let config = &sources.node.config;
    machine(&mut page, &sources.node.machine);
    let root = Subject {
        id: "/",
        ..Subject::default()
    };
    if let Some(figures) = sources.usage.figures(&UsageSubject::Node) {
        usage(&mut page, &root, &figures);
    }
    let unix_seconds = sources.node.clock.now().wall.as_second();
    page.add(SEEN, &root.labels(None), unix_seconds);
    let mut devices = Devices::default();
    let file_system = disk(&config.data_dir).map(|disk| {
        let device = fs::metadata(&config.data_dir).map_or(0, |meta| meta.dev());
        let device = devices.name((number(major(device)), number(minor(device))));
        (device, disk)
    });
    if let Some(disk) = &file_system {
        files(
            &mut page,
            &root,
            disk,
            disk.1.total.saturating_sub(disk.1.free),
        );
    }
    let mut scrape = Scrape {
        devices,
        file_system,
        unix_seconds,
    };
    for view in sources.pods.list() {
        pod(&mut page, sources, &view, &mut scrape);
    }
    page
}

fn number(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn machine(page: &mut Page, machine: &MachineInfo) {
    let labels = [
        ("boot_id", &*machine.boot_id),
        ("machine_id", &*machine.machine_id),
        ("system_uuid", &*machine.system_uuid),
    ];
    write(page, &MACHINE, &labels, machine);
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", &*machine.kernel),
        ("osVersion", &*machine.os_image),
    ];
    page.add(VERSION, &labels, 1);
}

/// Adds a pod and its running containers to the page. A container that exits meanwhile is skipped.
fn pod(page: &mut Page, sources: &Sources, view: &PodView, scrape: &mut Scrape) {
    let Some(sandbox) = &view.sandbox else {
        return;
    };
    let meta = &view.pod.metadata;
    let (Ok(key), Ok(uid)) = (meta.object_key(), meta.object_uid()) else {
        return;
    };
    let pod_subject = Subject {
        id: sandbox.cgroup(),
        namespace: &key.namespace,
        pod: &key.name,
        ..Subject::default()
    };
    let uid = uid.to_string();
    let measured = sources.disk.of_pod(&uid);
    let history = &sources.usage;
    if let Some(figures) = history.figures(&UsageSubject::Pod(uid)) {
        usage(page, &pod_subject, &figures);
    }
    if let Ok(counters) = sandbox.accounting(None) {
        accounting(page, &pod_subject, &counters, &mut scrape.devices);
        page.add(SEEN, &pod_subject.labels(None), scrape.unix_seconds);
    }
    for link in network::of_pod(view) {
        let labels = pod_subject.labels(Some(("interface", &link.name)));
        write(page, &NETWORK, &labels, &link);
    }
    for (name, record) in &view.record.containers {
        let Instance::Running(running) = &record.instance else {
            continue;
        };
        let runtime_id = runtime_id(name, record.restart_count);
        let Ok(group) = sandbox.group_of(Some(&runtime_id)) else {
            continue;
        };
        let subject = Subject {
            container: name,
            id: &group,
            image: &running.image,
            name: &running.id,
            ..pod_subject
        };
        let figures = UsageSubject::Container(running.id.clone());
        if let Some(figures) = history.figures(&figures) {
            usage(page, &subject, &figures);
        }
        let measured = measured.as_ref();
        let usage_bytes = measured.and_then(|measured| measured.files.of_container(name));
        if let (Some(disk), Some([layer, logs])) = (&scrape.file_system, usage_bytes) {
            files(page, &subject, disk, layer.plus(logs).bytes);
        }
        if let Ok(counters) = sandbox.accounting(Some(&runtime_id)) {
            accounting(page, &subject, &counters, &mut scrape.devices);
            let labels = subject.labels(None);
            page.add(STARTED, &labels, running.started_at.wall.as_second());
            page.add(SEEN, &labels, scrape.unix_seconds);
        }
    }
}

fn files(page: &mut Page, subject: &Subject<'_>, (device, disk): &(String, Disk), used_bytes: u64) {
    let labels = subject.labels(Some(("device", device)));
    let disk = *disk;
    write(
        page,
        &FILE_SYSTEM,
        &labels,
        &FileSystemUse { disk, used_bytes },
    );
}

fn write<T>(page: &mut Page, metrics: &[MetricOf<T>], labels: &[Label<'_>], subject: &T) {
    for (metric, value) in metrics {
        if let Some(value) = value(subject) {
            page.add(*metric, labels, value);
        }
    }
}

fn usage(page: &mut Page, subject: &Subject<'_>, figures: &UsageFigures) {
    let labels = subject.labels(None);
    page.add(CPU, &labels, seconds(figures.sample.cpu_ns));
    write(page, &MEMORY, &labels, figures);
}

fn accounting(
    page: &mut Page,
    subject: &Subject<'_>,
    counters: &Accounting,
    devices: &mut Devices,
) {
    let labels = subject.labels(None);
    for (metric, value) in &TIMES {
        if let Some(nanoseconds) = value(counters) {
            page.add(*metric, &labels, seconds(nanoseconds));
        }
    }
    write(page, &COUNTS, &labels, counters);
    for (kind, count) in [
        ("pgfault", counters.page_faults),
        ("pgmajfault", counters.major_page_faults),
    ] {
        if let Some(count) = count {
            let mut labels = subject.labels(Some(("failure_type", kind)));
            labels.push(("scope", "hierarchy"));
            page.add(FAULTS, &labels, count);
        }
    }
    for (device, traffic) in &counters.block {
        let name = devices.name(*device);
        let labels = subject.labels(Some(("device", &name)));
        write(page, &BLOCK, &labels, traffic);
    }
}

/// The names of block devices. Each name is looked up once per page.
#[derive(Default)]
struct Devices(BTreeMap<(u32, u32), String>);

impl Devices {
    /// A path such as `/dev/sda`; empty for a device without a name.
    fn name(&mut self, (major, minor): (u32, u32)) -> String {
        let name = self.0.entry((major, minor)).or_insert_with(|| {
            let file = format!("/sys/dev/block/{major}:{minor}/uevent");
            let text = fs::read_to_string(file).unwrap_or_default();
            let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
            name.map_or_else(String::new, |name| format!("/dev/{name}"))
        });
        name.clone()
    }
}

#[cfg(test)]
mod tests {
    use container_runtime::accounting::BlockTraffic;

    use super::*;

    // Metric names and labels of cAdvisor, docs/storage/prometheus.md.
    #[test]
    fn a_container_has_the_names_and_labels_of_cadvisor() {
        let subject = Subject {
            container: "db",
            id: "/pods/u/db-0",
            image: "redis:8",
            name: "abc",
            namespace: "default",
            pod: "redis-0",
        };
        let traffic = BlockTraffic {
            read_bytes: 4096,
            reads: 1,
            ..BlockTraffic::default()
        };
        let mut counters = Accounting {
            throttled_periods: Some(3),
            throttled_ns: Some(1_500_000_000),
            cache_bytes: Some(7),
            oom_kills: Some(1),
            forks_refused: Some(5),
            page_faults: Some(9),
            block: BTreeMap::from([((8, 0), traffic)]),
            ..Accounting::default()
        };
        let lines_of = |counters: &Accounting| {
            let mut page = Page::default();
            let mut devices = Devices(BTreeMap::from([((8, 0), "/dev/sda".to_owned())]));
            accounting(&mut page, &subject, counters, &mut devices);
            let text = page.text();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let last_labels = "image=\"redis:8\",name=\"abc\",namespace=\"default\",pod=\"redis-0\"";
        let line = |name: &str, device_label: &str, value: &str| {
            format!(
                "{name}{{container=\"db\",{device_label}id=\"/pods/u/db-0\",{last_labels}}} {value}"
            )
        };
        let has_all = |lines: &[String], expected: &[String]| {
            for line in expected {
                assert!(lines.contains(line), "{line} in {lines:#?}");
            }
        };
        let lines = lines_of(&counters);
        let expected = [
            line("container_memory_cache", "", "7"),
            line("container_oom_events_total", "", "1"),
            line("mainstay_refused_processes_total", "", "5"),
            // No limit.
            line("container_spec_memory_limit_bytes", "", "0"),
            line(
                "container_fs_reads_bytes_total",
                "device=\"/dev/sda\",",
                "4096",
            ),
            line("container_fs_writes_total", "device=\"/dev/sda\",", "0"),
        ];
        has_all(&lines, &expected);
        let faults = "container_memory_failures_total{container=\"db\",failure_type=\"pgfault\",";
        assert!(
            lines.iter().any(|line| line.starts_with(faults)),
            "{lines:#?}"
        );
        // Only a container with a quota can be throttled.
        let throttled = "container_cpu_cfs_throttled";
        assert!(
            !lines.iter().any(|line| line.contains(throttled)),
            "{lines:#?}"
        );
        counters.cpu_quota_us = Some(50_000);
        let expected = [
            line("container_cpu_cfs_throttled_periods_total", "", "3"),
            line(
                "container_cpu_cfs_throttled_seconds_total",
                "",
                "1.500000000",
            ),
            line("container_spec_cpu_quota", "", "50000"),
        ];
        has_all(&lines_of(&counters), &expected);
    }
}
