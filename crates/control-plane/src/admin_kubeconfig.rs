//! The administrator's kubeconfig, which a server writes at every start.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Name of the cluster, user and context.
pub const NAME: &str = "mainstay";

/// The credentials of an administrator.
pub struct Credentials<'a> {
    /// `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// Certificate authority, PEM.
    pub ca: &'a str,
    /// Client certificate, PEM.
    pub certificate: &'a str,
    /// Its key, PEM.
    pub key: &'a str,
}

/// The kubeconfig as YAML text.
pub fn render(credentials: &Credentials<'_>) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {NAME}\n  cluster:\n    \
         server: {}\n    certificate-authority-data: {}\nusers:\n- name: {NAME}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: {NAME}\n  \
         context:\n    cluster: {NAME}\n    user: {NAME}\n    namespace: default\n\
         current-context: {NAME}\n",
        credentials.server,
        encode(credentials.ca),
        encode(credentials.certificate),
        encode(credentials.key),
    )
}
