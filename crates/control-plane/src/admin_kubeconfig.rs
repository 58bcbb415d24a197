//! The administrator's kubeconfig, which a server writes at every start.

use std::fmt::Write as _;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Name of the cluster, user and context.
pub const NAME: &str = "mainstay";

/// The credentials of an administrator.
pub struct Credentials<'a> {
    /// URL of the API server, for instance `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// Other servers of the cluster. Each has a context `mainstay-ADDRESS:PORT`: a cluster entry of a
    /// kubeconfig has one server, and clients try no other entry.
    pub others: &'a [SocketAddr],
    /// Certificate of the authority, in PEM.
    pub ca: &'a str,
    /// Client certificate, in PEM.
    pub certificate: &'a str,
    /// Private key of the client certificate, in PEM.
    pub key: &'a str,
}

/// The kubeconfig as YAML text.
pub fn render(credentials: &Credentials<'_>) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    let ca = encode(credentials.ca);
    let (mut clusters, mut contexts) = (String::new(), String::new());
    let mut add = |name: &str, server: &str| {
        // Writing to a String does not fail.
        let _ = write!(
            clusters,
            "- name: {name}\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\n"
        );
        let _ = write!(
            contexts,
            "- name: {name}\n  context:\n    cluster: {name}\n    user: {NAME}\n    \
             namespace: default\n"
        );
    };
    add(NAME, credentials.server);
    for other in credentials.others {
        add(&format!("{NAME}-{other}"), &format!("https://{other}"));
    }
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n{clusters}users:\n- name: {NAME}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n{contexts}\
         current-context: {NAME}\n",
        encode(credentials.certificate),
        encode(credentials.key),
    )
}
