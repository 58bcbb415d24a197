//! `log`, `exec`, `attach` and `portforward`: forwarded to the node of the pod (kubectl.md 5).

use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use json_tree::{Value, json};
use object_model::{Status, StatusReason};
use tower::ServiceExt;

use super::stored;
use crate::access::authorize::authorize;
use crate::admission::dynamic_admission;
use crate::catalog::registry::Resource;
use crate::handlers::nodes::{NodeConnector, empty_body};
use crate::handlers::writer::Writer;
use crate::http::body::{BoxBody, BoxError, read_up_to};
use crate::http::call::{ApiResponse, Call};
use crate::http::limits::NODE_ERROR_BYTES_MAX;
use crate::http::query::{Query, encode};
use crate::http::refusals::not_allowed;
use crate::http::reply::Reply;
use crate::objects::storage;

/// Responds with the node's response.
pub(super) async fn respond(
    writer: Writer<'_>,
    nodes: &dyn NodeConnector,
    resource: &Resource,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    let log = call.info.subresource == "log";
    match call.parts.method {
        Method::GET => {}
        Method::POST if !log => {}
        _ => return Err(not_allowed()),
    }
    if !log && call.info.verb != "create" {
        // A WebSocket request is a GET. Running a command needs the verb `create`, not only `get`.
        authorize(
            &writer.access.authorizer,
            &call.user,
            &call.info.with_verb("create"),
        )?;
    }
    let mut options = options(&call.query)?;
    if !log {
        dynamic_admission::connect(writer.admission, resource, &call, &mut options).await?;
    }
    let stored = stored(writer, resource, &call).await?;
    let pod = storage::decode(resource, &stored)?;
    let container = match call.info.subresource.as_str() {
        // A port-forward concerns the pod as a whole, not a container.
        "portforward" => None,
        _ => Some(container(&pod, options["container"].as_str())?),
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        if log {
            // No container runs yet, so the log is empty (as upstream).
            return Ok(Reply::bytes("text/plain", "").into());
        }
        let name = &call.info.name;
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let service = nodes.connect(node).ok_or_else(|| {
        let text = format!(
            "node {node:?} of pod {:?} cannot be reached",
            call.info.name
        );
        Status::new(StatusReason::ServiceUnavailable, text)
    })?;
    let query = match log {
        true => parameters(&call.query),
        false => parameters_of(&options),
    };
    let uri = uri(&call, container.as_deref(), &query)?;
    let mut request = Request::from_parts(call.parts, if log { empty_body() } else { body });
    *request.uri_mut() = uri;
    request.headers_mut().remove(http::header::AUTHORIZATION);
    let sent: BoxFuture<'static, Result<Response<BoxBody>, BoxError>> =
        Box::pin(service.oneshot(request));
    let response = sent.await.map_err(|e| {
        Status::new(
            StatusReason::ServiceUnavailable,
            format!("node {node:?}: {e}"),
        )
    })?;
    if response.status().is_client_error() || response.status().is_server_error() {
        return Err(refusal(resource, &call.info.name, response).await);
    }
    let mut response = response;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        // Headers that concern the connection to the node are not copied.
        for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
            response.headers_mut().remove(name);
        }
    }
    Ok(ApiResponse::Raw(response))
}

/// The options of a connection (`PodExecOptions` and similar kinds) or of a log, from the query.
///
/// *Errors.* 400 for an invalid port.
fn options(query: &Query) -> Result<Value, Status> {
    let mut options = json!({});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(name) {
            options[name] = json!(true);
        }
    }
    if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
        options["container"] = json!(container);
    }
    let command = query.all("command");
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports = query.all("ports");
    let ports = ports.iter().flat_map(|list| list.split(','));
    let ports = ports.map(|port| {
        let wrong = |error| Status::bad_request(format!("invalid port {port:?}: {error}"));
        port.parse::<i32>().map_err(wrong)
    });
    let ports: Vec<i32> = ports.collect::<Result<_, _>>()?;
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    Ok(options)
}

/// The requested container; without a request, the only container of the pod.
///
/// *Errors.* 400 with upstream's texts.
fn container(pod: &Value, requested: Option<&str>) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array();
        list.into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .collect()
    };
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (main, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    if let Some(requested) = requested {
        return if [&main, &init, &ephemeral]
            .iter()
            .any(|list| list.contains(&requested))
        {
            Ok(requested.to_owned())
        } else {
            let text = format!("container {requested} is not valid for pod {pod_name}");
            Err(Status::bad_request(text))
        };
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut text = format!("a container name must be specified for pod {pod_name}");
    if !main.is_empty() {
        text.push_str(&format!(", choose one of: [{}]", main.join(" ")));
    }
    if !init.is_empty() {
        text.push_str(&format!(
            " or one of the init containers: [{}]",
            init.join(" ")
        ));
    }
    if !ephemeral.is_empty() {
        text.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(Status::bad_request(text))
}

/// The kubelet's path for the request.
fn uri(call: &Call, container: Option<&str>, query: &str) -> Result<Uri, Status> {
    let action = match call.info.subresource.as_str() {
        "log" => "containerLogs",
        "portforward" => "portForward",
        other => other,
    };
    let names = [call.info.namespace.as_str(), call.info.name.as_str()];
    let path: Vec<String> = names.into_iter().chain(container).map(encode).collect();
    let path = path.join("/");
    let text = if query.is_empty() {
        format!("/{action}/{path}")
    } else {
        format!("/{action}/{path}?{query}")
    };
    text.parse()
        .map_err(|e| Status::bad_request(format!("path for the node: {e}")))
}

/// The query parameters of a log that nodes support; the container name is in the path.
fn parameters(query: &Query) -> String {
    const KNOWN: [&str; 8] = [
        "follow",
        "previous",
        "timestamps",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let mut pairs = Vec::new();
    for name in KNOWN {
        for value in query.all(name) {
            pairs.push(format!("{name}={}", encode(value)));
        }
    }
    pairs.join("&")
}

/// The query parameters of a connection, from its options, which admission may have changed.
fn parameters_of(options: &Value) -> String {
    const KNOWN: [&str; 6] = ["command", "stdin", "stdout", "stderr", "tty", "ports"];
    let mut pairs = Vec::new();
    for name in KNOWN {
        let values = match &options[name] {
            Value::Array(list) => list.as_slice(),
            Value::Null | Value::Bool(false) => &[],
            one => std::slice::from_ref(one),
        };
        pairs.extend(values.iter().map(|value| match value {
            Value::String(text) => format!("{name}={}", encode(text)),
            other => format!("{name}={other}"),
        }));
    }
    pairs.join("&")
}

/// The error for a response in which the node refuses; contains the node's message.
async fn refusal(resource: &Resource, name: &str, response: Response<BoxBody>) -> Status {
    let code = response.status();
    let bytes = read_up_to(response.into_body(), NODE_ERROR_BYTES_MAX).await;
    let json: Option<Value> = serde_json::from_slice(&bytes).ok();
    let text = match json.as_ref().and_then(|status| status["message"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
    };
    match code.as_u16() {
        400 => Status::bad_request(text),
        404 if text.is_empty() => resource.not_found(name),
        404 => Status::new(StatusReason::NotFound, text),
        500 => Status::internal(text),
        other => {
            let mut status = Status::new(StatusReason::ServiceUnavailable, text);
            status.code = other;
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    #[test]
    fn a_container_is_chosen_or_asked_for() {
        // kubectl.md 5.7
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, None).unwrap(), "a");
        assert_eq!(container(&two, Some("i")).unwrap(), "i");
        assert_eq!(
            container(&two, None).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the \
             init containers: [i]"
        );
        assert_eq!(
            container(&one, Some("x")).unwrap_err().message,
            "container x is not valid for pod p"
        );
    }

    #[test]
    fn the_node_gets_its_own_parameters_only() {
        let query = Query::parse("command=sh&command=-c&command=a%20%26b&container=c&tty=1&x=y");
        assert_eq!(
            parameters_of(&options(&query).unwrap()),
            "command=sh&command=-c&command=a%20%26b&tty=true"
        );
        assert_eq!(
            parameters(&Query::parse("x=y&tailLines=5&stdin=1")),
            "tailLines=5"
        );
    }

    #[test]
    fn options_are_what_the_query_says() {
        let read = |query: &str| options(&Query::parse(query));
        assert_eq!(
            read("stdin=true&stdout=false&stderr=0&container=&ports=1,2&ports=3").unwrap(),
            json!({"stdin": true, "ports": [1, 2, 3]})
        );
        assert_eq!(read("ports=x").unwrap_err().code, 400);
    }
}
