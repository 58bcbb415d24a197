//! The content of a kubeconfig file (`v1`, kind `Config`).

use std::collections::BTreeMap;

use json_tree::Value;
use serde::{Deserialize, Deserializer};

/// The content of a kubeconfig. Fields that clients do not use are ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Kubeconfig {
    /// The named clusters (`clusters`).
    #[serde(deserialize_with = "nullable")]
    pub clusters: Vec<NamedCluster>,
    /// The named users (`users`).
    #[serde(deserialize_with = "nullable")]
    pub users: Vec<NamedUser>,
    /// The named contexts (`contexts`).
    #[serde(deserialize_with = "nullable")]
    pub contexts: Vec<NamedContext>,
    /// The name of the context that is used by default.
    pub current_context: Option<String>,
}

/// A cluster and its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NamedCluster {
    /// The name by which contexts refer to the cluster.
    pub name: String,
    /// The cluster's URL and trust.
    #[serde(default, deserialize_with = "nullable")]
    pub cluster: Cluster,
}

/// A user and its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NamedUser {
    /// The name by which contexts refer to the user.
    pub name: String,
    /// The user's credentials.
    #[serde(default, deserialize_with = "nullable")]
    pub user: User,
}

/// A context and its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NamedContext {
    /// The name for `current-context`.
    pub name: String,
    /// The cluster, user and namespace of the context.
    #[serde(default, deserialize_with = "nullable")]
    pub context: Context,
}

/// An API server, and the trust in it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Cluster {
    /// `https://host:port`, with a path if the server has one.
    pub server: Option<String>,
    /// The name in the server's certificate, if it differs from the host of the URL.
    pub tls_server_name: Option<String>,
    /// Whether server certificates are not verified.
    pub insecure_skip_tls_verify: Option<bool>,
    /// The path of the certificate authority, PEM.
    pub certificate_authority: Option<String>,
    /// The certificate authority, PEM in base64.
    pub certificate_authority_data: Option<String>,
    /// The proxy for the requests.
    pub proxy_url: Option<String>,
    /// Whether the client requests uncompressed responses.
    pub disable_compression: Option<bool>,
    /// Data of other programs.
    #[serde(deserialize_with = "nullable")]
    pub extensions: Vec<Extension>,
}

/// Named data of another program.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Extension {
    pub name: String,
    /// The data in the program's own form.
    #[serde(default)]
    pub extension: Value,
}

/// A cluster, a user and a namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Context {
    /// The name of the cluster.
    pub cluster: Option<String>,
    /// The name of the user.
    pub user: Option<String>,
    /// The default namespace of requests.
    pub namespace: Option<String>,
}

/// The credentials of a user.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct User {
    /// The path of the client certificate, PEM.
    pub client_certificate: Option<String>,
    /// The client certificate, PEM in base64.
    pub client_certificate_data: Option<String>,
    /// The path of the private key, PEM.
    pub client_key: Option<String>,
    /// The private key, PEM in base64.
    pub client_key_data: Option<String>,
    /// A bearer token, sent with each request.
    pub token: Option<String>,
    /// The path of a file with a bearer token.
    #[serde(rename = "tokenFile")]
    pub token_file: Option<String>,
    /// The user name for HTTP basic authentication.
    pub username: Option<String>,
    /// The password for HTTP basic authentication.
    pub password: Option<String>,
    /// The program that returns credentials.
    pub exec: Option<Exec>,
    /// A removed authentication method, which `exec` replaces.
    pub auth_provider: Option<Value>,
    /// The name of the impersonated user.
    #[serde(rename = "as")]
    pub as_name: Option<String>,
    /// The UID of the impersonated user.
    pub as_uid: Option<String>,
    /// The groups of the impersonated user.
    #[serde(deserialize_with = "nullable")]
    pub as_groups: Vec<String>,
    /// The extra attributes of the impersonated user.
    #[serde(deserialize_with = "nullable")]
    pub as_user_extra: BTreeMap<String, Vec<String>>,
}

/// The output must not contain the credentials.
impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("User").finish_non_exhaustive()
    }
}

/// A program that returns credentials: a plug-in of `client.authentication.k8s.io`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Exec {
    /// `client.authentication.k8s.io/v1` or `…/v1beta1`.
    pub api_version: Option<String>,
    /// The path or the name of the program.
    pub command: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<String>,
    /// Environment variables in addition to those of this process.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<EnvironmentVariable>,
    /// The message for a user who has not installed the program.
    pub install_hint: Option<String>,
    /// Whether the program gets the cluster as input (`provideClusterInfo`).
    #[serde(deserialize_with = "nullable")]
    pub provide_cluster_info: bool,
    /// Whether the program reads the standard input.
    pub interactive_mode: Option<InteractiveMode>,
}

/// An environment variable of a program.
#[derive(Clone, Default, PartialEq, Deserialize)]
pub struct EnvironmentVariable {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}

/// The output must not contain the value, which may be a secret.
impl std::fmt::Debug for EnvironmentVariable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Whether a program reads the standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum InteractiveMode {
    /// The program does not read standard input.
    Never,
    /// The program reads the standard input if it is a terminal.
    IfAvailable,
    /// The program requires the standard input.
    Always,
}

/// Decodes a value, or the default for `null`. Kubernetes' own programs write `null` for empty lists.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read() {
        let text = r#"
apiVersion: v1
kind: Config
preferences: {}
clusters:
- name: prod
  cluster:
    server: https://prod.example:6443
    tls-server-name: kubernetes
    certificate-authority: ca.crt
    proxy-url: http://proxy.example:3128
    extensions:
    - name: client.authentication.k8s.io/exec
      extension: {audience: x}
- name: empty
  cluster: null
users:
- name: admin
  user:
    client-certificate: admin.crt
    client-key: admin.key
    token: 12345
    tokenFile: token
    username: me
    password: "secret"
    as: someone
    as-uid: 7
    as-groups: [a, b]
    as-user-extra:
      example.org/scope: [x]
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: login
      args: null
      env:
      - name: A
        value: b
      installHint: get it
      provideClusterInfo: true
      interactiveMode: IfAvailable
contexts:
- name: c
  context: {cluster: prod, user: admin, namespace: shop}
current-context: c
"#;
        let read: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("c"));
        assert_eq!(read.clusters[1].cluster, Cluster::default());
        let cluster = &read.clusters[0].cluster;
        assert_eq!(cluster.tls_server_name.as_deref(), Some("kubernetes"));
        assert_eq!(cluster.extensions[0].extension["audience"], "x");
        let user = &read.users[0].user;
        assert_eq!(user.token.as_deref(), Some("12345"));
        assert_eq!(user.token_file.as_deref(), Some("token"));
        assert_eq!(user.as_name.as_deref(), Some("someone"));
        assert_eq!(user.as_uid.as_deref(), Some("7"));
        assert_eq!(user.as_groups, ["a", "b"]);
        assert_eq!(user.as_user_extra["example.org/scope"], ["x"]);
        let exec = user.exec.as_ref().unwrap();
        assert_eq!(exec.interactive_mode, Some(InteractiveMode::IfAvailable));
        assert!(exec.provide_cluster_info && exec.args.is_empty());
        assert_eq!(exec.env[0].value, "b");
        assert_eq!(read.contexts[0].context.namespace.as_deref(), Some("shop"));
        let printed = format!("{user:?} {exec:?}");
        assert!(
            !printed.contains("secret") && !printed.contains("\"b\""),
            "{printed}"
        );
    }

    /// The output of `kubectl config view` without a file.
    #[test]
    fn lists_may_be_null() {
        let text =
            "apiVersion: v1\nclusters: null\ncontexts: null\ncurrent-context: \"\"\nusers: null\n";
        let read: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        assert!(read.clusters.is_empty() && read.users.is_empty() && read.contexts.is_empty());
    }
}
