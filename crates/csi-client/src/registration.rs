//! Registration of a plugin with the node (`pluginregistration` of `k8s.io/kubelet`): the registrar of the plugin
//! listens on a socket in a directory of the node.

use std::path::PathBuf;
use std::time::Duration;

use service_protocols::pluginregistration::{InfoRequest, RegistrationStatus, registration};

use crate::CsiError;
use crate::connection::call;

const LIMIT: Duration = Duration::from_secs(10);

/// A type of plugins that register with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginType {
    /// A CSI driver.
    Csi,
    /// A plugin of the device plugin API, which may register by this directory, too.
    Device,
    /// A driver of dynamic resource allocation.
    Dra,
}

impl PluginType {
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "CSIPlugin" => Some(Self::Csi),
            "DevicePlugin" => Some(Self::Device),
            "DRAPlugin" => Some(Self::Dra),
            _ => None,
        }
    }
}

/// A socket in the registration directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The path of the socket on which the registrar responds to `GetInfo`.
    pub socket: PathBuf,
}

/// A plugin that requests its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationInfo {
    pub plugin_type: PluginType,
    /// The driver's name, for instance `hostpath.csi.k8s.io`; the resource of a device plugin.
    pub name: String,
    /// The path of its socket in the file system of pods. Empty if the plugin listens at the socket of its
    /// registration; never empty for CSI drivers.
    pub endpoint: PathBuf,
    /// The supported versions, in the form of the plugin type.
    pub versions: Vec<String>,
}

impl Plugin {
    /// The plugin behind the socket.
    ///
    /// # Errors
    /// The registrar does not respond, has an unknown plugin type or an invalid name, or is a CSI driver that supports
    /// no common version.
    pub async fn info(&self) -> Result<RegistrationInfo, CsiError> {
        let method = registration::GET_INFO;
        let response = call(&self.socket, method, &InfoRequest {}, LIMIT).await?;
        let method = method.path();
        let invalid = |reason| Err(CsiError::Invalid { method, reason });
        let Some(plugin_type) = PluginType::of_name(&response.r#type) else {
            return invalid(format!(
                "\"{}\" is no plugin for volumes or devices",
                response.r#type
            ));
        };
        if plugin_type != PluginType::Device && !is_driver_name(&response.name) {
            return invalid(format!("\"{}\" is no name of a driver", response.name));
        }
        let versions = response.supported_versions;
        if plugin_type == PluginType::Csi && !versions.iter().any(|version| is_supported(version)) {
            let versions = match versions.is_empty() {
                true => "no version".to_owned(),
                false => format!("versions {}", versions.join(", ")),
            };
            return invalid(format!("{versions} of CSI, but only 1.x is supported"));
        }
        Ok(RegistrationInfo {
            plugin_type,
            name: response.name,
            endpoint: response.endpoint.into(),
            versions,
        })
    }

    /// Sends the result of the registration to the registrar.
    ///
    /// # Errors
    /// The registrar does not respond.
    pub async fn notify(&self, result: Result<(), &str>) -> Result<(), CsiError> {
        let status = RegistrationStatus {
            plugin_registered: result.is_ok(),
            error: result.err().unwrap_or_default().to_owned(),
        };
        let method = registration::NOTIFY_REGISTRATION_STATUS;
        match call(&self.socket, method, &status, LIMIT).await {
            // The registrar has received the result, even if its response is an error.
            Ok(_) | Err(CsiError::Malformed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether the node supports a version: CSI 1.
fn is_supported(version: &str) -> bool {
    let plain = version.strip_prefix('v').unwrap_or(version);
    plain == "1" || plain.starts_with("1.")
}

/// Whether a text is a valid name of a driver: at most 63 letters, digits, dashes and dots. The name becomes a part of
/// paths.
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
