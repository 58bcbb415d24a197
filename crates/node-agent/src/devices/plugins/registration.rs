//! The service at which device plugins register: the socket `kubelet.sock` in the directory of device plugins.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use host_kernel::blocking;
use prost::Message as _;
use rpc_channel::server::{CallRefusal, ServerOptions, serve};
use rpc_channel::{Code, unix};
use service_protocols::deviceplugin_v1beta1::{Empty, RegisterRequest, registration};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::DevicePlugins;
use super::selection::is_extended;

/// The name of the service's socket.
const SOCKET: &str = "kubelet.sock";
/// The version of the API.
const VERSION: &str = "v1beta1";
/// Maximum number of connections to the service; further connections are closed.
const CONNECTIONS_MAX: usize = 32;
const OPTIONS: ServerOptions = ServerOptions {
    message_bytes_max: 64 * 1024,
    calls_max: 4,
    // A plugin registers by one call, for which the agent waits at most 20 seconds for the plugin.
    lifetime: Duration::from_secs(60),
};
/// Delay after a failure to serve.
const RETRY: Duration = Duration::from_secs(10);

/// The reason why a plugin is not registered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistration {
    #[error(
        "requested API version {0:?} is not supported by kubelet. Supported version is {VERSION:?}"
    )]
    Version(String),
    #[error("the ResourceName {0:?} is invalid")]
    ResourceName(String),
    #[error("the endpoint {0:?} is no name of a socket in the directory of device plugins")]
    Endpoint(String),
}

/// Checks a registration, and returns the name of the plugin's socket.
fn checked(request: &RegisterRequest) -> Result<&str, InvalidRegistration> {
    if request.version != VERSION {
        return Err(InvalidRegistration::Version(request.version.clone()));
    }
    if !is_extended(&request.resource_name) {
        let name = request.resource_name.clone();
        return Err(InvalidRegistration::ResourceName(name));
    }
    let endpoint = request.endpoint.as_str();
    let mut parts = Path::new(endpoint).components();
    let is_name = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    match is_name && endpoint != SOCKET && !endpoint.contains(['/', '\0']) {
        true => Ok(endpoint),
        false => Err(InvalidRegistration::Endpoint(endpoint.to_owned())),
    }
}

/// Creates the directory, and removes the sockets of former plugins: plugins notice the removal and register again.
fn clear(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl DevicePlugins {
    /// Serves the registration until the plugins are closed.
    pub async fn serve(self: Arc<Self>) {
        let _serving = self.serving.lock().await;
        loop {
            let listener = match self.listen().await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(%error, "device plugins cannot register");
                    tokio::select! {
                        () = self.closing.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => continue,
                    }
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                error = self.accept_all(&listener) => {
                    tracing::warn!(%error, "the registration of device plugins failed");
                }
            }
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn listen(&self) -> io::Result<UnixListener> {
        let directory = self.directory.device_plugins();
        let socket = directory.join(SOCKET);
        blocking(move || clear(&directory)).await?;
        unix::listen(&socket).await
    }

    /// Serves connections until the listener fails.
    async fn accept_all(self: &Arc<Self>, listener: &UnixListener) -> io::Error {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => return error,
            };
            while connections.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::warn!("a connection of a device plugin is closed: there are too many");
                continue;
            };
            let plugins = self.clone();
            connections.spawn(async move {
                let _permit = permit;
                let respond = move |path, message| plugins.clone().respond(path, message);
                if let Err(error) = serve(stream, OPTIONS, respond).await {
                    tracing::debug!(%error, "a connection of a device plugin ended");
                }
            });
        }
    }

    async fn respond(
        self: Arc<Self>,
        path: String,
        message: bytes::Bytes,
    ) -> Result<Vec<u8>, CallRefusal> {
        let refusal = |code, message| CallRefusal { code, message };
        if path != registration::REGISTER.path() {
            let message = format!("unknown method {path}");
            return Err(refusal(Code::UNIMPLEMENTED, message));
        }
        let request = RegisterRequest::decode(message);
        let request =
            request.map_err(|error| refusal(Code::INVALID_ARGUMENT, error.to_string()))?;
        let result = self.register(&request).await;
        result
            .inspect_err(|error| {
                let resource = request.resource_name.as_str();
                tracing::warn!(resource, error, "a device plugin is not registered");
            })
            .map_err(|error| refusal(Code::UNKNOWN, error))?;
        Ok(Empty {}.encode_to_vec())
    }

    async fn register(self: &Arc<Self>, request: &RegisterRequest) -> Result<(), String> {
        let endpoint = checked(request).map_err(|error| error.to_string())?;
        let socket = self.directory.device_plugins().join(endpoint);
        let connected = self.connect(&request.resource_name, &socket).await;
        connected.map_err(|error| error.to_string())
    }

    /// Registers a plugin by the registration directory of all plugins: `name` is its resource, and `endpoint` the path
    /// of its socket on this machine.
    ///
    /// # Errors
    /// The reason for the plugin.
    pub async fn register_by_directory(
        self: &Arc<Self>,
        name: &str,
        endpoint: &Path,
        versions: &[String],
    ) -> Result<(), String> {
        if !versions.iter().any(|version| version == VERSION) {
            let versions = versions.join(", ");
            return Err(InvalidRegistration::Version(versions).to_string());
        }
        if !is_extended(name) {
            return Err(InvalidRegistration::ResourceName(name.to_owned()).to_string());
        }
        let connected = self.connect(name, endpoint).await;
        connected.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: &str, endpoint: &str, resource_name: &str) -> RegisterRequest {
        RegisterRequest {
            version: version.to_owned(),
            endpoint: endpoint.to_owned(),
            resource_name: resource_name.to_owned(),
            options: None,
        }
    }

    #[test]
    fn a_registration_has_a_version_a_resource_and_a_socket_of_the_directory() {
        let valid = request(VERSION, "gpu.sock", "v.com/gpu");
        assert_eq!(checked(&valid), Ok("gpu.sock"));
        let wrong = |version, endpoint, name| {
            let request = request(version, endpoint, name);
            checked(&request).unwrap_err().to_string()
        };
        let error = wrong("v1alpha", "gpu.sock", "v.com/gpu");
        assert!(error.contains("\"v1alpha\" is not supported"), "{error}");
        let error = wrong(VERSION, "gpu.sock", "cpu");
        assert!(error.contains("\"cpu\" is invalid"), "{error}");
        for endpoint in ["", ".", "..", "../x", "a/b", "/x", "a/", SOCKET] {
            let error = wrong(VERSION, endpoint, "v.com/gpu");
            assert!(error.contains("no name of a socket"), "{endpoint}: {error}");
        }
    }

    #[test]
    fn sockets_of_former_plugins_are_removed_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("device-plugins");
        clear(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        let _plugin = std::os::unix::net::UnixListener::bind(path("gpu.sock")).unwrap();
        fs::write(path("file.sock"), "").unwrap();
        clear(&directory).unwrap();
        assert!(!path("gpu.sock").exists() && path("file.sock").exists());
    }
}
