//! Registrars of drivers, including incorrect ones.

use std::io;
use std::path::Path;

use prost::Message as _;
use service_protocols::pluginregistration::{PluginInfo, RegistrationStatus, registration};

use crate::server::{CallOutcome, TestDriver, listen};

/// The response of a registrar to `GetInfo`.
#[derive(Clone, Debug)]
pub enum Registrant {
    Plugin {
        /// The kind of plugin; `CSIPlugin` for drivers.
        kind: String,
        name: String,
        /// The socket of the driver.
        endpoint: String,
        /// The supported versions of CSI.
        versions: Vec<String>,
    },
    /// A response that is not a message.
    Nonsense,
    /// An error with this code.
    Error(u32),
}

impl Registrant {
    /// A correct driver with this name and socket.
    pub fn driver(name: &str, endpoint: &str) -> Self {
        Self::Plugin {
            kind: "CSIPlugin".to_owned(),
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            versions: vec!["1.0.0".to_owned()],
        }
    }

    /// Replaces the versions of CSI.
    #[must_use]
    pub fn with_versions(mut self, supported: &[&str]) -> Self {
        if let Self::Plugin { versions, .. } = &mut self {
            *versions = supported
                .iter()
                .map(|version| (*version).to_owned())
                .collect();
        }
        self
    }

    /// Replaces the kind of the plugin.
    #[must_use]
    pub fn with_kind(mut self, plugin_kind: &str) -> Self {
        if let Self::Plugin { kind, .. } = &mut self {
            plugin_kind.clone_into(kind);
        }
        self
    }

    fn info(&self) -> Result<Vec<u8>, (u32, String)> {
        match self {
            Self::Plugin {
                kind,
                name,
                endpoint,
                versions,
            } => {
                let info = PluginInfo {
                    r#type: kind.clone(),
                    name: name.clone(),
                    endpoint: endpoint.clone(),
                    supported_versions: versions.clone(),
                };
                Ok(info.encode_to_vec())
            }
            Self::Nonsense => Ok(vec![0xff; 7]),
            Self::Error(code) => Err((*code, "on purpose".to_owned())),
        }
    }

    /// Serves the response on a socket. `notify` receives the registration status from the node: an empty text
    /// for a registered driver.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn serve(
        self,
        socket: &Path,
        notify: impl Fn(String) + Send + Sync + 'static,
    ) -> io::Result<TestDriver> {
        const GET_INFO: &str = registration::GET_INFO.path();
        const NOTIFY: &str = registration::NOTIFY_REGISTRATION_STATUS.path();
        listen(socket, move |path, message| match path {
            GET_INFO => CallOutcome::Done(self.info()),
            NOTIFY => match RegistrationStatus::decode(message) {
                Ok(status) => {
                    notify(status.error);
                    CallOutcome::Done(Ok(Vec::new()))
                }
                Err(_) => CallOutcome::Dies,
            },
            _ => CallOutcome::Done(Err((12, path.to_owned()))),
        })
    }
}

/// Serves the registration of a driver, as its registrar does. `notify` receives the registration status from
/// the node: an empty text for a registered driver.
///
/// # Errors
/// The socket cannot be created.
pub fn serve_registration(
    socket: &Path,
    name: &str,
    endpoint: &Path,
    notify: impl Fn(String) + Send + Sync + 'static,
) -> io::Result<TestDriver> {
    let endpoint = endpoint.to_string_lossy();
    Registrant::driver(name, &endpoint).serve(socket, notify)
}
