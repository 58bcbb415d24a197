//! The sandbox of a pod: its namespaces, its network, and the files that all containers share.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use container_runtime::spec::{NodeLease, SandboxEvent, SandboxSpec};
use container_runtime::{Events, Sandbox};
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, ListParams};
use object_model::Uid;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::environment::hostname::{self, Names};
use pod_lifecycle::environment::hosts_file;
use pod_lifecycle::environment::resolv_conf::{ClusterDns, pod_resolver};
use pod_lifecycle::record;
use pod_lifecycle::spec;
use tokio::sync::mpsc;

use super::{Worker, WorkerContext, send};
use crate::api::events::PodEvents;
use crate::containers::runtime_spec::sandbox_spec;
use crate::containers::sandbox_error::{NamesError, SandboxError};
use crate::containers::security_context::{check_runtime, unsupported_settings};
use crate::limits::REQUEST_TIMEOUT;
use crate::paths::{PodDir, deadline_page};
use crate::pods::message::{CreatedSandbox, Message};

impl Worker {
    pub(super) fn create_sandbox(&mut self) {
        self.record.sandbox = record::Sandbox::Creating;
        self.record.resize.sandbox_begins();
        let (context, identity) = (self.context.clone(), self.identity.clone());
        let (pod, dir) = (self.allocated_pod(), self.dir.clone());
        let (sender, events) = (self.sender.clone(), self.events.clone());
        let number = self.record.sandboxes_made + 1;
        self.tasks.delay(async move {
            match create(&context, &identity, &pod, &dir, &events).await {
                Ok((created, stream)) => {
                    send(&sender, Message::SandboxCreated(Ok(created))).await;
                    forward(stream, number, sender).await;
                }
                Err(error) => send(&sender, Message::SandboxCreated(Err(error))).await,
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
        send(&worker, Message::Runtime { sandbox, event }).await;
    }
    // The end of the stream means that the shim has exited, too.
    send(
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
pub(super) fn names(context: &WorkerContext, pod: &Pod) -> Result<Names, NamesError> {
    let zone = &context.node.config.cluster_domain;
    if pod.spec.as_ref().is_some_and(spec::uses_host_network) {
        let node = fs::read_to_string("/proc/sys/kernel/hostname").map_err(NamesError::Node)?;
        return Ok(hostname::on_node(pod, zone, node.trim_end()));
    }
    Ok(hostname::names(pod, zone)?)
}

async fn create(
    context: &WorkerContext,
    identity: &PodIdentity,
    pod: &Pod,
    dir: &PodDir,
    events: &PodEvents,
) -> Result<(CreatedSandbox, Events), SandboxError> {
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.runtime_class_name.as_deref());
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        let handler = context.api_objects.runtime_handler(class).await;
        check_runtime(&handler.map_err(SandboxError::RuntimeClass)?)?;
    }
    let names = names(context, pod)?;
    let warning = context.node.config.lease_length.warning();
    let lease = NodeLease {
        page: deadline_page(&context.node.config.data_dir, &context.node.machine.boot_id),
        warning_ms: warning.as_millis().try_into().unwrap_or_default(),
    };
    let pids_max = context.node.config.pod_pids_max;
    let spec = sandbox_spec(identity, pod, &names, pids_max, lease);
    let sandbox = create_bound(context, identity, spec).await?;
    let set_up = async {
        let (pod_ips, stream) = connect(context, &sandbox, pod, &identity.uid).await?;
        block_in_place(|| write_files(context, pod, dir, &names, &pod_ips, events))
            .map_err(SandboxError::Files)?;
        Ok::<_, SandboxError>((pod_ips, stream))
    };
    match set_up.await {
        Ok((pod_ips, stream)) => Ok((CreatedSandbox { sandbox, pod_ips }, stream)),
        Err(error) => {
            let uid = &identity.uid;
            if let Err(error) = destroy(context, uid, Some(sandbox)).await {
                tracing::warn!(%uid, %error, "half-made sandbox not removed");
            }
            Err(error)
        }
    }
}

/// Creates the sandbox. A pod that stops with the node's Lease must still be bound to the node: after the
/// agent last read the pod, the node may have been fenced, and the pod replaced on another node.
async fn create_bound(
    context: &WorkerContext,
    identity: &PodIdentity,
    spec: SandboxSpec,
) -> Result<Sandbox, SandboxError> {
    let _gate = match spec.lease {
        Some(_) => {
            let gate = context.lease_gate.read().await;
            check_bound(context, identity).await?;
            Some(gate)
        }
        None => None,
    };
    let sandbox = context.runtime.create_sandbox(spec).await;
    sandbox.map_err(|error| {
        block_in_place(|| context.monitor.check_groups());
        error.into()
    })
}

async fn check_bound(context: &WorkerContext, identity: &PodIdentity) -> Result<(), SandboxError> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), identity.namespace());
    let (node, name) = (&context.node.config.node_name, identity.name());
    let only = ListParams::default().fields(&format!("spec.nodeName={node},metadata.name={name}"));
    let pods = tokio::time::timeout(REQUEST_TIMEOUT, pods.list(&only)).await;
    let pods = pods.map_err(|_| SandboxError::NoResponse)?;
    let pods = pods.map_err(|error| SandboxError::PodNotRead(Box::new(error)))?;
    let is_this = |pod: &Pod| pod.metadata.uid.as_deref() == Some(identity.uid.as_str());
    match pods.items.iter().any(is_this) {
        true => Ok(()),
        false => Err(SandboxError::NotBound),
    }
}

/// Attaches the sandbox to the pod network. Returns the pod's addresses, and the events of the sandbox.
async fn connect(
    context: &WorkerContext,
    sandbox: &Sandbox,
    pod: &Pod,
    uid: &Uid,
) -> Result<(Vec<String>, Events), SandboxError> {
    let stream = sandbox.events().await?;
    let Some(netns) = block_in_place(|| sandbox.netns_path())? else {
        return Ok((vec![context.node.config.node_ip().to_string()], stream));
    };
    let network = &context.node.config.network;
    let ports = pod.spec.as_ref().map(service_routing::host_ports);
    let ports = ports.unwrap_or_default();
    let node = match context.node.config.node_ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let in_use = network.port_in_use(&ports, node).await;
    if let Some(port) = in_use.map_err(SandboxError::Network)? {
        return Err(SandboxError::PortInUse(port));
    }
    let set_up = async {
        let address = network.attach(uid.as_str(), &netns).await?;
        network.publish(uid.as_str(), ports).await?;
        // The network policies apply before the first packet of the first container.
        network.wait_guarded(uid.as_str()).await?;
        Ok::<_, pod_network::Error>(address)
    };
    let address = set_up.await.map_err(SandboxError::Network)?;
    Ok((vec![address.ip.to_string()], stream))
}

/// Removes a sandbox and its network, in any state of both.
pub(super) async fn destroy(
    context: &WorkerContext,
    uid: &Uid,
    sandbox: Option<Sandbox>,
) -> Result<(), SandboxError> {
    let sandbox = match sandbox {
        Some(sandbox) => Some(sandbox),
        None => context.runtime.sandbox(uid.as_str()).await?,
    };
    if let Some(sandbox) = sandbox {
        sandbox.destroy().await?;
    }
    let detached = context.node.config.network.detach(uid.as_str()).await;
    detached.map_err(SandboxError::Detach)
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
    let pod_resolver = pod_resolver(pod, &cluster, &context.node.resolver);
    for (reason, message) in pod_resolver.warnings {
        events.warning(reason, message);
    }
    for message in unsupported_settings(pod) {
        events.warning("Unsupported", message);
    }
    write_in_place(&dir.hosts(), &hosts)?;
    write_in_place(&dir.hostname(), &format!("{}\n", names.kernel))?;
    write_in_place(&dir.resolv_conf(), &pod_resolver.resolver.render())
}

/// Writes a file that containers may have mounted. The inode must stay, so the file is not replaced by a
/// rename.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}
