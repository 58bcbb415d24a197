//! The plugins for devices that register by the registration directory of the node: drivers of dynamic resource
//! allocation, and device plugins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_client::{PluginType, RegistrationInfo};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::claims::DeviceClaims;
use super::plugins::DevicePlugins;
use crate::csi_volumes::{DevicePluginRegistry, KubeletDir};

/// The plugins for devices of a node.
pub struct PluginRegistry {
    pub directory: KubeletDir,
    pub plugins: Arc<DevicePlugins>,
    pub claims: Arc<DeviceClaims>,
}

impl PluginRegistry {
    /// The path of a plugin's socket on this machine.
    fn socket(&self, registration_socket: &Path, endpoint: &Path) -> Result<PathBuf, String> {
        if endpoint.as_os_str().is_empty() {
            return Ok(registration_socket.to_owned());
        }
        let socket = self.directory.node_path(endpoint);
        socket.ok_or_else(|| {
            let endpoint = endpoint.display();
            format!("the socket {endpoint} of the plugin is not below /var/lib/kubelet")
        })
    }
}

impl DevicePluginRegistry for PluginRegistry {
    fn register<'a>(
        &'a self,
        registration_socket: &'a Path,
        info: RegistrationInfo,
    ) -> BoxFuture<'a, Result<(), String>> {
        let register = async move {
            let socket = self.socket(registration_socket, &info.endpoint)?;
            match info.plugin_type {
                PluginType::Device => {
                    let plugins = &self.plugins;
                    let registered =
                        plugins.register_by_directory(&info.name, &socket, &info.versions);
                    registered.await
                }
                PluginType::Dra => {
                    let claims = &self.claims;
                    claims.register(&info.name, socket, &info.versions, registration_socket)
                }
                PluginType::Csi => Err("a CSI driver is no plugin for devices".to_owned()),
            }
        };
        register.boxed()
    }

    fn remove(&self, registration_socket: &Path) {
        self.claims.remove_driver(registration_socket);
    }
}
