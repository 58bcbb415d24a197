//! Requests to the API server by path.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Request};
use json_tree::Value;
use kube_api_client::{Client, Error};
use kubeconfig::{Limits, Settings, Transport};

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(60),
};
/// The directory with the token of a container's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A client of the API server with the permissions of one account.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    pub(super) client: Client,
}

/// The reason why a process has no API server.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("no {0}")]
    NoVariable(String),
    #[error("{file}: {source}")]
    File {
        file: String,
        source: std::io::Error,
    },
    #[error("no address")]
    NoAddress,
    #[error("no token")]
    NoToken,
    #[error("{0}")]
    Transport(kubeconfig::TransportError),
}

type ApiResult = Result<Value, Error>;

impl Kubernetes {
    pub fn over(client: Client) -> Self {
        Self { client }
    }

    /// The API server of the cluster in which this container runs.
    ///
    /// # Errors
    /// The process is not in a container of a cluster.
    pub async fn in_container() -> Result<Self, ContainerError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| ContainerError::NoVariable(name.to_owned()))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host,
        };
        let read = |name: &str| {
            let file = format!("{ACCOUNT}/{name}");
            std::fs::read_to_string(&file).map_err(|source| ContainerError::File { file, source })
        };
        let server = format!("https://{host}:{port}").parse();
        let server = server.map_err(|_| ContainerError::NoAddress)?;
        let settings = Settings::of_server(server, &read("ca.crt")?);
        let settings = settings
            .with_token(&read("token")?)
            .ok_or(ContainerError::NoToken)?;
        let transport = Transport::new(settings, LIMITS).await;
        let transport = transport.map_err(ContainerError::Transport)?;
        Ok(Self::over(Client::new(transport, &read("namespace")?)))
    }

    /// The namespace of the account.
    pub(super) fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    async fn send(&self, method: Method, path: &str, of: &str, body: Option<&Value>) -> ApiResult {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", of).body(body.into());
        self.client.request(request.map_err(Error::Request)?).await
    }

    pub(super) async fn get(&self, path: &str) -> ApiResult {
        self.client.get(path).await
    }

    pub(super) async fn create(&self, path: &str, object: &Value) -> ApiResult {
        let of = "application/json";
        self.send(Method::POST, path, of, Some(object)).await
    }

    pub(super) async fn replace(&self, path: &str, object: &Value) -> ApiResult {
        let of = "application/json";
        self.send(Method::PUT, path, of, Some(object)).await
    }

    pub(super) async fn merge(&self, path: &str, patch: &Value) -> ApiResult {
        let of = "application/merge-patch+json";
        self.send(Method::PATCH, path, of, Some(patch)).await
    }

    pub(super) async fn strategic(&self, path: &str, patch: &Value) -> ApiResult {
        let of = "application/strategic-merge-patch+json";
        self.send(Method::PATCH, path, of, Some(patch)).await
    }

    /// Deletes an object; a deleted object is no error.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        let of = "application/json";
        allow_not_found(self.send(Method::DELETE, path, of, None).await)
    }
}

/// Ignores that the object of a write does not exist.
pub(super) fn allow_not_found(result: ApiResult) -> Result<(), Error> {
    match result {
        Err(error) if error.code() == Some(404) => Ok(()),
        result => result.map(drop),
    }
}

/// Ignores that the created object exists already.
pub(super) fn allow_exists(result: ApiResult) -> Result<(), Error> {
    match result {
        Err(error) if error.code() == Some(409) => Ok(()),
        result => result.map(drop),
    }
}

/// Decodes a value of a Secret, which is in base64.
pub(super) fn decoded(value: &str) -> String {
    let bytes = BASE64.decode(value).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
