//! A probe of a container's gRPC server. The server is this program with the argument [`SERVE`].

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use image_store::ImageConfig;
use json_tree::json;

use crate::harness::{Harness, is_ready, libraries};
use crate::images::{self, layer_with};
use crate::trace::Trace;

/// The first argument that makes this program a server.
pub const SERVE: &str = "serve-health";

const PORT: u16 = 50051;

/// Serves `grpc.health.v1.Health` in a container, only for the service `db`. The service is healthy while
/// the file `well` of the trace exists.
pub fn serve() -> ExitCode {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    executor.unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = listener.await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let http = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(check)));
        }
    });
    ExitCode::FAILURE
}

type Frames = futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;

async fn check(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, hyper::Error> {
    let is_supported = request.uri().path() == "/grpc.health.v1.Health/Check";
    let message = request.into_body().collect().await?.to_bytes();
    // An uncompressed message of four bytes, whose field 1 is `db`.
    let is_supported = is_supported && message.as_ref() == b"\0\0\0\0\x04\x0a\x02db";
    let status: &[u8] = match Path::new("/trace/well").exists() {
        true => b"\0\0\0\0\x02\x08\x01",
        false => b"\0\0\0\0\x02\x08\x02",
    };
    let mut trailers = HeaderMap::new();
    let code = if is_supported { "0" } else { "5" };
    trailers.insert("grpc-status", http::HeaderValue::from_static(code));
    let frames = [
        Ok(Frame::data(Bytes::from_static(status))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    let kind = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

pub async fn a_server_in_a_container_is_asked() {
    // statefulset.md 12.5
    let harness = Harness::started("grpc").await;
    let trace = Trace::new(&harness);
    let program = std::env::current_exe().unwrap();
    let libraries: Vec<(String, Vec<u8>)> = libraries(&program)
        .into_iter()
        .map(|path| {
            (
                path.to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect();
    let files: Vec<(&str, Vec<u8>)> = libraries
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.clone()))
        .collect();
    let image = "test/health:1";
    images::put(&harness, image, &layer_with(&files), ImageConfig::default());
    let of = |service: &str| {
        json!({"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "command": ["/server", SERVE],
                "readinessProbe": {"grpc": {"port": PORT, "service": service},
                    "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1},
                "volumeMounts": [Trace::mount(), {"name": "program", "mountPath": "/server"}]}],
            "volumes": [trace.volume(),
                {"name": "program", "hostPath": {"path": program, "type": "File"}}]})
    };
    harness.pod("db", of("db")).await;
    harness.pod("other", of("other")).await;
    let unwell = "Warning Unhealthy Readiness probe failed: service unhealthy (responded with \
        \"NOT_SERVING\")";
    harness.event("db", unwell).await;
    harness
        .event("other", "Warning Unhealthy Readiness probe failed: ")
        .await;
    trace.make("well");
    harness.ready("db").await;
    let other = harness.api::<k8s_openapi::api::core::v1::Pod>();
    assert!(!is_ready(&other.get("other").await.unwrap()));
    std::fs::remove_file(trace.0.join("well")).unwrap();
    harness.until("db", "unwell", |pod| !is_ready(pod)).await;
    harness.end().await;
}
