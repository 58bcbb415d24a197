//! The kubelet API: logs, exec, attach, port-forward, pods, resource usage, system logs, health.
//!
//! Requests are authorised before they reach this module: by the API server that forwards them, or by
//! [`https`].

mod cadvisor;
mod container_logs;
pub mod decoders;
mod https;
mod log_messages;
pub mod metrics;
mod network;
mod pod_sessions;
mod port_channels;
mod port_forward;
mod query;
mod recent_reads;
mod response;
mod session;
mod spdy_streams;
mod streams;
mod summary;
mod system_logs;
mod terminal;
mod upgrade;
mod volume_moves;
mod volume_stats;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use object_model::Status;
use tower::util::BoxCloneSyncService;

use crate::csi_volumes::CsiVolumes;
use crate::machine::disk_figures::DiskFigures;
use crate::machine::stats::UsageHistory;
use crate::node_context::NodeContext;
use crate::pods::pod_manager::PodManager;
use crate::probes::counts::ProbeCounts;
use crate::response_cache::CachedResponse;
pub(crate) use https::{HttpsServer, KubeletAuthorizer};
pub use pod_sessions::PodSessions;
pub use recent_reads::RecentReads;
pub use response::{BoxBody, BoxError};
use response::{RequestTarget, error_response, error_status, text};

/// The kubelet's API as a service.
pub type NodeService = BoxCloneSyncService<Request<BoxBody>, Response<BoxBody>, BoxError>;

/// The parts of the agent that request handlers read.
pub struct KubeletContext {
    pub node: Arc<NodeContext>,
    pub pods: Arc<PodManager>,
    /// The resource usage of the node, its pods and containers.
    pub usage: Arc<UsageHistory>,
    /// The disk usage of pods.
    pub disk: Arc<DiskFigures>,
    /// Counts of probe results by container.
    pub probes: Arc<ProbeCounts>,
    pub csi: Arc<CsiVolumes>,
    /// The sessions in the containers of pods.
    pub sessions: PodSessions,
    /// The last response to `/stats/summary`.
    pub summary: CachedResponse<Bytes>,
    /// The logs that were read recently.
    pub reads: RecentReads,
}

/// The kubelet API of the agent's node.
pub fn service(context: Arc<KubeletContext>) -> NodeService {
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, BoxError>(respond(context, request).await) }
    }))
}

async fn respond(context: Arc<KubeletContext>, mut request: Request<BoxBody>) -> Response<BoxBody> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let ["exec" | "attach" | "portForward", ns, pod, ..] = parts.as_slice() {
        // The session stays open as long as the connection: `accept` holds it.
        match context.sessions.open(ns, pod) {
            Ok(session) => request.extensions_mut().insert(Arc::new(session)),
            Err(status) => return error_response(&status),
        };
    }
    let result = match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => Ok(text("ok".to_owned())),
        (&Method::GET, ["pods"]) => pods(&context.pods),
        (&Method::GET, ["stats", "summary"]) => summary::respond(&context).await,
        (&Method::GET, ["metrics"]) => metrics::kubelet(&context).await,
        (&Method::GET, ["metrics", "cadvisor"]) => {
            let sources = cadvisor::Sources {
                node: context.node.clone(),
                pods: context.pods.clone(),
                usage: context.usage.clone(),
                disk: context.disk.clone(),
            };
            cadvisor::respond(sources).await
        }
        (&Method::GET, ["metrics", "probes"]) => Ok(metrics::probes(&context.probes)),
        (&Method::GET, ["configz"]) => Ok(metrics::settings(&context.node)),
        (&Method::GET, ["metrics", "resource"]) => Ok(summary::resource_metrics(&context)),
        (&Method::GET, ["logs", ..]) => {
            system_logs::respond(path.strip_prefix("/logs").unwrap_or_default()).await
        }
        (&Method::GET, ["containerLogs", ns, pod, container]) => container_logs::respond(
            &context.pods,
            &context.reads,
            &RequestTarget { ns, pod, container },
            request,
        ),
        (&Method::GET | &Method::POST, ["exec", ns, pod, container]) => terminal::exec(
            &context.pods,
            &RequestTarget { ns, pod, container },
            request,
        ),
        (&Method::GET | &Method::POST, ["attach", ns, pod, container]) => terminal::attach(
            &context.pods,
            &context.reads,
            &RequestTarget { ns, pod, container },
            request,
        ),
        (&Method::GET | &Method::POST, ["portForward", ns, pod]) => {
            let container = "";
            port_forward::respond(
                &context.pods,
                &RequestTarget { ns, pod, container },
                request,
            )
        }
        (&Method::POST, ["volumeMoves", volume, id, step]) => {
            let moves = context.node.config.volume_moves.clone();
            volume_moves::respond(moves.as_deref(), [volume, id, step], request).await
        }
        _ => Err(error_status(
            StatusCode::NOT_FOUND,
            "the node serves no such path",
        )),
    };
    result.unwrap_or_else(|status| error_response(&status))
}

fn pods(pods: &PodManager) -> Result<Response<BoxBody>, Box<Status>> {
    let items: Vec<_> = pods
        .list()
        .iter()
        .map(|view| {
            let mut pod = k8s_openapi::api::core::v1::Pod::clone(&view.pod);
            pod.status = Some(view.status.clone());
            pod
        })
        .collect();
    let list = json_tree::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": items});
    let mut response = text(list.to_string());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
