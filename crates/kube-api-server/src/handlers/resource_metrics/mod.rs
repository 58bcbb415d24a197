//! `metrics.k8s.io`: the resource usage of nodes and pods (kubectl.md 6.1), read from the nodes at each request. The
//! objects are not stored.
//!
//! A node responds to `/stats/summary` with its newest values, rates included. As with metrics-server, lists skip
//! pods without metrics and pods on a node that does not respond, and a get of such a pod is 404.

mod node_summary;

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use json_tree::Value;
use object_model::{FieldSelector, Status};
use resource_kinds::{KindInfo, Verb};
use tower::ServiceExt;

use self::node_summary::Summary;
use crate::catalog::registry::Resource;
use crate::catalog::virtual_resources::{METRICS, POD_METRICS};
use crate::handlers::nodes::{NodeConnector, empty_body};
use crate::handlers::output;
use crate::handlers::selection::Selection;
use crate::handlers::verbs::list::{self, Page, ReadForm};
use crate::http::body::{BoxBody, BoxError, read_up_to};
use crate::http::call::Call;
use crate::http::limits::{NODE_SUMMARIES_AT_ONCE, NODE_SUMMARY_BYTES_MAX, NODE_SUMMARY_TIMEOUT};
use crate::http::refusals::unknown_path;
use crate::http::reply::Reply;
use crate::objects::storage;
use crate::objects::storage::Objects;

/// Responds to a get or a list.
///
/// *Errors.* 404 for an object that does not exist or has no metrics.
pub(crate) async fn respond(
    objects: &Objects,
    nodes: &dyn NodeConnector,
    info: &KindInfo<'_>,
    verb: Verb,
    call: Call,
) -> Result<Reply, Status> {
    let is_list = verb == Verb::List;
    let resource = objects
        .catalog
        .snapshot()
        .registry
        .find("", "v1", info.plural);
    let resource = resource.ok_or_else(unknown_path)?;
    let requested = if is_list {
        selected(objects, &resource, &call).await?
    } else {
        vec![named(objects, &resource, &call).await?]
    };
    let metrics = measured(nodes, info, &requested).await;
    if is_list {
        return output::virtual_list(&call, info, metrics, &node_summary::COLUMNS).await;
    }
    match metrics.first() {
        Some(one) => output::virtual_object(&call, info, one, &node_summary::COLUMNS),
        None => Err(Status::not_found(
            METRICS,
            &info.kind.to_lowercase(),
            &full_name(&call),
        )),
    }
}

/// The name in error messages: pods with their namespace, as metrics-server.
fn full_name(call: &Call) -> String {
    match call.info.namespace.as_str() {
        "" => call.info.name.clone(),
        namespace => format!("{namespace}/{}", call.info.name),
    }
}

async fn named(objects: &Objects, resource: &Resource, call: &Call) -> Result<Value, Status> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    match objects.read(resource, namespace, name).await? {
        Some(stored) => storage::decode(resource, &stored),
        None => Err(resource.not_found(&full_name(call))),
    }
}

/// The nodes or pods that match the selectors. Field selectors support fields of the metadata only.
async fn selected(
    objects: &Objects,
    resource: &Resource,
    call: &Call,
) -> Result<Vec<Value>, Status> {
    let fields = call.query.get("fieldSelector").unwrap_or_default();
    let fields = FieldSelector::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
    for term in fields.terms() {
        let field = term.field.as_str();
        if !matches!(field, "metadata.name" | "metadata.namespace") {
            return Err(Status::bad_request(format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
            )));
        }
    }
    let selection = Selection::of(call, resource)?;
    let namespace = &call.info.namespace;
    let page = Page::default();
    let (items, _) = list::read(
        objects,
        resource,
        namespace,
        &selection,
        &page,
        ReadForm::Stored,
    )
    .await?;
    items
        .iter()
        .map(|item| storage::decode(resource, item))
        .collect()
}

/// The metrics of the objects; objects without metrics are skipped.
async fn measured(
    connector: &dyn NodeConnector,
    info: &KindInfo<'_>,
    objects: &[Value],
) -> Vec<Value> {
    let of_pods = info.kind == POD_METRICS.kind;
    let node_of = |object: &Value| {
        let node = match of_pods {
            true => &object["spec"]["nodeName"],
            false => &object["metadata"]["name"],
        };
        node.as_str().unwrap_or_default().to_owned()
    };
    let mut nodes: BTreeSet<String> = objects.iter().map(node_of).collect();
    nodes.remove("");
    let requests = nodes.into_iter().map(|node| async move {
        let summary = summary(connector, &node).await;
        (node, summary)
    });
    let responses = futures::stream::iter(requests).buffer_unordered(NODE_SUMMARIES_AT_ONCE);
    let summaries: BTreeMap<String, Summary> = responses
        .filter_map(|(node, response)| async {
            match response {
                Ok(summary) => Some((node, summary)),
                Err(error) => {
                    tracing::debug!(node, error, "no metrics of the node");
                    None
                }
            }
        })
        .collect()
        .await;
    let now = Timestamp::now();
    let metrics = objects.iter().filter_map(|object| {
        let summary = summaries.get(&node_of(object))?;
        match of_pods {
            true => summary.of_pod(object, now),
            false => summary.of_node(object, now),
        }
    });
    metrics.collect()
}

async fn summary(connector: &dyn NodeConnector, node: &str) -> Result<Summary, String> {
    let service = connector.connect(node).ok_or("it cannot be reached")?;
    let mut request = Request::new(empty_body());
    *request.uri_mut() = http::Uri::from_static("/stats/summary");
    let pending: BoxFuture<'static, Result<Response<BoxBody>, BoxError>> =
        Box::pin(service.oneshot(request));
    let read = async {
        let response = pending.await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let bytes = read_up_to(response.into_body(), NODE_SUMMARY_BYTES_MAX).await;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    };
    match tokio::time::timeout(NODE_SUMMARY_TIMEOUT, read).await {
        Ok(done) => done,
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}
