//! Registration of a driver with the node (`pluginregistration` of `k8s.io/kubelet`): the driver's
//! registrar has a socket in a directory of the node and answers there.

use std::path::PathBuf;
use std::time::Duration;

use service_protocols::pluginregistration::{InfoRequest, RegistrationStatus, registration};

use crate::CsiError;
use crate::connection::call;

const LIMIT: Duration = Duration::from_secs(10);
/// The kind of plugins that drivers of volumes are.
const CSI_PLUGIN: &str = "CSIPlugin";

/// A socket in the registration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The path of its socket, on which it answers `GetInfo`.
    pub socket: PathBuf,
}

/// A driver that wants to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationInfo {
    /// The driver's name, for instance `hostpath.csi.k8s.io`.
    pub name: String,
    /// Its socket, as the node's pods name it.
    pub endpoint: PathBuf,
}

impl Plugin {
    /// The driver behind the socket.
    ///
    /// # Errors
    /// Nobody answers; another kind of plugin; no version of CSI that is supported.
    pub async fn info(&self) -> Result<RegistrationInfo, CsiError> {
        let method = registration::GET_INFO;
        let found = call(&self.socket, method, &InfoRequest {}, LIMIT).await?;
        let method = method.path();
        let invalid = |reason| Err(CsiError::Invalid { method, reason });
        if found.r#type != CSI_PLUGIN {
            return invalid(format!("\"{}\" is no plugin for volumes", found.r#type));
        }
        if !is_driver_name(&found.name) {
            return invalid(format!("\"{}\" is no name of a driver", found.name));
        }
        let versions = found.supported_versions;
        if !versions.iter().any(|version| is_supported(version)) {
            let versions = match versions.is_empty() {
                true => "no version".to_owned(),
                false => format!("versions {}", versions.join(", ")),
            };
            return invalid(format!("{versions} of CSI, but only 1.x is supported"));
        }
        Ok(RegistrationInfo {
            name: found.name,
            endpoint: found.endpoint.into(),
        })
    }

    /// Tells the driver the result of its registration.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn notify(&self, result: Result<(), &str>) -> Result<(), CsiError> {
        let status = RegistrationStatus {
            plugin_registered: result.is_ok(),
            error: result.err().unwrap_or_default().to_owned(),
        };
        let method = registration::NOTIFY_REGISTRATION_STATUS;
        match call(&self.socket, method, &status, LIMIT).await {
            // The driver has been told, whatever it answers.
            Ok(_) | Err(CsiError::Malformed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether the node speaks this version: CSI 1.
fn is_supported(version: &str) -> bool {
    let plain = version.strip_prefix('v').unwrap_or(version);
    plain == "1" || plain.starts_with("1.")
}

/// Whether a text is a name by the specification: letters, digits, dashes and dots, at most 63. The
/// name becomes part of paths.
pub(crate) fn is_driver_name(name: &str) -> bool {
    let (first, last) = (name.bytes().next(), name.bytes().next_back());
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    name.len() <= 63 && is_end(first) && is_end(last) && name.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_of_drivers() {
        assert!(is_driver_name("hostpath.csi.k8s.io") && is_driver_name("a"));
        for bad in ["", "..", ".a", "a/b", "a_b", "-a", &"a".repeat(64)] {
            assert!(!is_driver_name(bad), "{bad}");
        }
        assert!(is_supported("1.0.0") && is_supported("v1.11.0"));
        assert!(!is_supported("0.3.0") && !is_supported("2.0.0") && !is_supported("10.0"));
    }
}
