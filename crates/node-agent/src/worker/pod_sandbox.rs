//! The sandbox of a pod: its namespaces, its network, and the files that all containers share.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use container_runtime::spec::{NodeLease, SandboxEvent, SandboxSpec};
use container_runtime::{Events, Sandbox};
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, ListParams};
use pod_lifecycle::environment::hostname::{self, Names};
use pod_lifecycle::environment::hosts_file;
use pod_lifecycle::environment::resolv_conf::{ClusterDns, pod_resolver};
use pod_lifecycle::record;
use pod_lifecycle::spec;
use tokio::sync::mpsc;

use super::{Worker, WorkerContext, tell};
use crate::api::events::PodEvents;
use crate::containers::runtime_spec::sandbox_spec;
use crate::containers::security_context::{check_runtime, unmet_wishes};
use crate::limits::REQUEST_TIMEOUT;
use crate::paths::{PodDir, deadline_page};
use crate::pods::message::Message;

impl Worker {
    pub(super) fn create_sandbox(&mut self) {
        self.record.sandbox = record::Sandbox::Creating;
        self.record.resize.sandbox_begins();
        let (context, pod, dir) = (self.context.clone(), self.allocated_pod(), self.dir.clone());
        let (sender, events) = (self.sender.clone(), self.events.clone());
        let number = self.record.sandboxes_made + 1;
        self.tasks.hold(async move {
            match create(&context, &pod, &dir, &events).await {
                Ok((sandbox, ips, stream)) => {
                    tell(&sender, Message::SandboxMade(Ok((sandbox, ips)))).await;
                    forward(stream, number, sender).await;
                }
                Err(message) => tell(&sender, Message::SandboxMade(Err(message))).await,
            }
        });
    }

    /// Starts to forward the events of an adopted sandbox.
    pub(super) fn follow_sandbox(&mut self, stream: Events) {
        self.tasks.spawn(forward(
            stream,
            self.record.sandboxes_made,
            self.sender.clone(),
        ));
    }
}

/// Forwards the events of the pod's sandbox with the number `sandbox`.
async fn forward(mut stream: Events, sandbox: u32, worker: mpsc::Sender<Message>) {
    while let Some(event) = stream.next().await {
        tell(&worker, Message::Runtime { sandbox, event }).await;
    }
    // The end of the stream means that the shim has exited, too.
    tell(
        &worker,
        Message::Runtime {
            sandbox,
            event: SandboxEvent::Gone,
        },
    )
    .await;
}

/// The pod's host names. On the host network, the host name is the node's, even if the pod's specification
/// has another name.
pub(super) fn names(context: &WorkerContext, pod: &Pod) -> Result<Names, String> {
    let zone = &context.node.config.cluster_domain;
    if pod.spec.as_ref().is_some_and(spec::uses_host_network) {
        let node = fs::read_to_string("/proc/sys/kernel/hostname");
        let node = node.map_err(|error| format!("read the node's host name: {error}"))?;
        return Ok(hostname::on_node(pod, zone, node.trim_end()));
    }
    hostname::names(pod, zone).map_err(|error| error.to_string())
}

async fn create(
    context: &WorkerContext,
    pod: &Pod,
    dir: &PodDir,
    events: &PodEvents,
) -> Result<(Sandbox, Vec<String>, Events), String> {
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.runtime_class_name.as_deref());
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        check_runtime(&context.api_objects.runtime_handler(class).await?)?;
    }
    let names = names(context, pod)?;
    let warning = context.node.config.lease_length.warning();
    let lease = NodeLease {
        page: deadline_page(&context.node.config.data_dir, &context.node.machine.boot_id),
        warning_ms: warning.as_millis().try_into().unwrap_or_default(),
    };
    let wanted = sandbox_spec(pod, &names, context.node.config.pod_pids_max, lease);
    let uid = wanted.id.clone();
    let sandbox = make(context, pod, wanted).await?;
    let connected = connect(context, &sandbox, pod, &uid).await;
    let done = match connected {
        Ok((ips, stream)) => {
            block_in_place(|| write_files(context, pod, dir, &names, &ips, events))
                .map(|()| (ips, stream))
                .map_err(|error| format!("write the pod's files: {error}"))
        }
        Err(message) => Err(message),
    };
    match done {
        Ok((ips, stream)) => Ok((sandbox, ips, stream)),
        Err(message) => {
            if let Err(more) = destroy(context, &uid, Some(sandbox)).await {
                tracing::warn!(uid, error = more, "half-made sandbox not removed");
            }
            Err(message)
        }
    }
}

/// Creates the sandbox. A pod that stops with the node's Lease must still be bound to the node: after the
/// agent last read the pod, the node may have been fenced, and the pod replaced on another node.
async fn make(context: &WorkerContext, pod: &Pod, wanted: SandboxSpec) -> Result<Sandbox, String> {
    let _open = match wanted.lease {
        Some(_) => {
            let open = context.lease_gate.read().await;
            check_bound(context, pod).await?;
            Some(open)
        }
        None => None,
    };
    let made = context.runtime.create_sandbox(wanted).await;
    made.map_err(|error| {
        block_in_place(|| context.monitor.check_groups());
        error.to_string()
    })
}

async fn check_bound(context: &WorkerContext, pod: &Pod) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let node = &context.node.config.node_name;
    let this = ListParams::default().fields(&format!("spec.nodeName={node},metadata.name={name}"));
    let found = tokio::time::timeout(REQUEST_TIMEOUT, pods.list(&this)).await;
    let found = found.map_err(|_| "the API server does not answer".to_owned())?;
    let found = found.map_err(|error| format!("read the pod again: {error}"))?;
    let uid = &pod.metadata.uid;
    match found.items.iter().any(|found| found.metadata.uid == *uid) {
        true => Ok(()),
        false => Err("the pod is no longer bound to this node".to_owned()),
    }
}

async fn connect(
    context: &WorkerContext,
    sandbox: &Sandbox,
    pod: &Pod,
    uid: &str,
) -> Result<(Vec<String>, Events), String> {
    let stream = sandbox.events().await.map_err(|error| error.to_string())?;
    let netns = block_in_place(|| sandbox.netns_path());
    let Some(netns) = netns.map_err(|error| error.to_string())? else {
        return Ok((vec![context.node.config.node_ip().to_string()], stream));
    };
    let failed = |error| format!("set up the pod's network: {error}");
    let network = &context.node.config.network;
    let ports = pod.spec.as_ref().map(service_routing::host_ports);
    let ports = ports.unwrap_or_default();
    let node = match context.node.config.node_ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let in_use = network.port_in_use(&ports, node).await.map_err(failed)?;
    if let Some(port) = in_use {
        return Err(format!(
            "set up the pod's network: host port {} ({}) is in use by a program of the node",
            port.port, port.protocol
        ));
    }
    let address = network.attach(uid, &netns).await.map_err(failed)?;
    network.publish(uid, ports).await.map_err(failed)?;
    // The network policies apply before the first packet of the first container.
    network.wait_guarded(uid).await.map_err(failed)?;
    Ok((vec![address.ip.to_string()], stream))
}

/// Removes a sandbox and its network, in any state of both.
pub(super) async fn destroy(
    context: &WorkerContext,
    uid: &str,
    sandbox: Option<Sandbox>,
) -> Result<(), String> {
    let sandbox = match sandbox {
        Some(sandbox) => Some(sandbox),
        None => context
            .runtime
            .sandbox(uid)
            .await
            .map_err(|error| error.to_string())?,
    };
    if let Some(sandbox) = sandbox {
        sandbox.destroy().await.map_err(|error| error.to_string())?;
    }
    context
        .node
        .config
        .network
        .detach(uid)
        .await
        .map_err(|error| error.to_string())
}

fn write_files(
    context: &WorkerContext,
    pod: &Pod,
    dir: &PodDir,
    names: &Names,
    ips: &[String],
    events: &PodEvents,
) -> std::io::Result<()> {
    fs::create_dir_all(dir.state())?;
    let pod_spec = pod.spec.as_ref();
    let aliases = pod_spec
        .and_then(|spec| spec.host_aliases.as_deref())
        .unwrap_or_default();
    let hosts = if pod_spec.is_some_and(spec::uses_host_network) {
        hosts_file::node_hosts(
            &fs::read_to_string("/etc/hosts").unwrap_or_default(),
            aliases,
        )
    } else {
        hosts_file::pod_hosts(names, ips, aliases)
    };
    let cluster = ClusterDns {
        servers: context.node.config.cluster_dns.clone(),
        zone: context.node.config.cluster_domain.clone(),
    };
    let found = pod_resolver(pod, &cluster, &context.node.resolver);
    for (reason, message) in found.warnings {
        events.warning(reason, message);
    }
    for message in unmet_wishes(pod) {
        events.warning("Unsupported", message);
    }
    write_in_place(&dir.hosts(), &hosts)?;
    write_in_place(&dir.hostname(), &format!("{}\n", names.kernel))?;
    write_in_place(&dir.resolv_conf(), &found.resolver.render())
}

/// Writes a file that containers may have mounted. The inode must stay, so the file is not replaced by a
/// rename.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}
