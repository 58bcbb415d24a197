//! The kubelet API: logs, exec, attach, port-forward, pods, resource usage, system logs, health.
//!
//! Requests are authorised before they come here.

mod container_logs;
pub mod decoders;
mod log_messages;
pub mod metrics;
mod network;
mod port_channels;
mod port_forward;
mod query;
mod response;
mod session;
mod spdy_streams;
mod streams;
mod summary;
mod system_logs;
mod terminal;
mod upgrade;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use object_model::Status;
use tower::util::BoxCloneSyncService;

use crate::shared::Shared;
pub use response::{BoxBody, BoxError};
use response::{Target, refusal, refused, text};

/// The kubelet's API as a service.
pub type NodeService = BoxCloneSyncService<Request<BoxBody>, Response<BoxBody>, BoxError>;

/// The service of the agent's node.
pub fn service(shared: Arc<Shared>) -> NodeService {
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, BoxError>(answer(shared, request).await) }
    }))
}

async fn answer(shared: Arc<Shared>, request: Request<BoxBody>) -> Response<BoxBody> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let done = match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => Ok(text("ok".to_owned())),
        (&Method::GET, ["pods"]) => pods(&shared),
        (&Method::GET, ["stats", "summary"]) => summary::answer(&shared).await,
        (&Method::GET, ["metrics"]) => Ok(metrics::kubelet(&shared)),
        (&Method::GET, ["metrics", "cadvisor"]) => Ok(metrics::cadvisor(&shared)),
        (&Method::GET, ["metrics", "probes"]) => Ok(metrics::probes(&shared)),
        (&Method::GET, ["configz"]) => Ok(metrics::settings(&shared)),
        (&Method::GET, ["metrics", "resource"]) => Ok(summary::resource_metrics(&shared)),
        (&Method::GET, ["logs", ..]) => {
            system_logs::answer(path.strip_prefix("/logs").unwrap_or_default()).await
        }
        (&Method::GET, ["containerLogs", ns, pod, container]) => {
            container_logs::answer(&shared, &Target { ns, pod, container }, request)
        }
        (&Method::GET | &Method::POST, ["exec", ns, pod, container]) => {
            terminal::exec(&shared, &Target { ns, pod, container }, request)
        }
        (&Method::GET | &Method::POST, ["attach", ns, pod, container]) => {
            terminal::attach(&shared, &Target { ns, pod, container }, request)
        }
        (&Method::GET | &Method::POST, ["portForward", ns, pod]) => {
            let container = "";
            port_forward::answer(&shared, &Target { ns, pod, container }, request)
        }
        _ => Err(refused(
            StatusCode::NOT_FOUND,
            "the node serves no such path",
        )),
    };
    done.unwrap_or_else(|status| refusal(&status))
}

fn pods(shared: &Shared) -> Result<Response<BoxBody>, Box<Status>> {
    let items: Vec<_> = shared
        .pods
        .list()
        .iter()
        .map(|view| {
            let mut pod = k8s_openapi::api::core::v1::Pod::clone(&view.pod);
            pod.status = Some(view.status.clone());
            pod
        })
        .collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": items});
    let mut response = text(list.to_string());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
