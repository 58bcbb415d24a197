//! Plug-ins of `client.authentication.k8s.io`: the input of the program, and the parser of its output.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use json_tree::{Value, json};
use serde::Deserialize;

use crate::file::{Cluster, EnvironmentVariable, Exec, InteractiveMode};
use crate::settings::{Pem, Settings};

/// The versions of inputs and outputs. Their fields are equal.
const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

/// The cluster extension that contains the configuration of plug-ins.
const EXTENSION: &str = "client.authentication.k8s.io/exec";

/// The reason why a plug-in cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    #[error("exec names no command")]
    NoCommand,
    #[error("exec: the apiVersion {version:?} is not one of {}", VERSIONS.join(", "))]
    Version { version: String },
    #[error("exec: interactiveMode is missing")]
    NoInteractiveMode,
    #[error("exec: an environment variable has no name")]
    UnnamedVariable,
}

/// The reason why the output of a plug-in contains no credentials.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("its output is not an ExecCredential: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "its output is of kind {kind:?}, version {version:?}, and not an ExecCredential of {expected}"
    )]
    Kind {
        kind: String,
        version: String,
        expected: &'static str,
    },
    #[error("its output has no status")]
    NoStatus,
    #[error("its output has one of client certificate and key")]
    HalfIdentity,
    #[error("its output has neither a token nor a client certificate")]
    NoCredentials,
}

/// A program that returns credentials.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub command: String,
    pub args: Vec<String>,
    pub env: Vec<EnvironmentVariable>,
    pub install_hint: Option<String>,
    pub interactive_mode: InteractiveMode,
    pub cluster: Option<ClusterInfo>,
    version: &'static str,
}

/// The cluster in the input of a program.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    pub authority: Option<Pem>,
    fields: Value,
}

impl ClusterInfo {
    pub fn new(cluster: &Cluster, settings: &Settings) -> Self {
        let mut extensions = cluster.extensions.iter();
        let config = extensions.find(|one| one.name == EXTENSION);
        let fields = json!({
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "proxy-url": cluster.proxy_url,
            "disable-compression": cluster.disable_compression,
            "config": config.map(|one| &one.extension),
        });
        Self {
            authority: settings.authority.clone(),
            fields: without_nulls(fields),
        }
    }
}

/// A JSON object without its null fields.
fn without_nulls(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

/// The credentials that a program returned.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PluginCredentials {
    pub token: Option<String>,
    /// A client certificate and its key, PEM.
    pub identity: Option<(String, String)>,
    pub expires: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    kind: Option<String>,
    api_version: Option<String>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<Timestamp>,
}

impl Plugin {
    pub fn new(exec: &Exec, cluster: Option<ClusterInfo>) -> Result<Self, PluginError> {
        let command = exec.command.clone().unwrap_or_default();
        if command.is_empty() {
            return Err(PluginError::NoCommand);
        }
        let api_version = exec.api_version.as_deref().unwrap_or_default();
        let mut versions = VERSIONS.into_iter();
        let version = versions.find(|version| *version == api_version);
        let version = version.ok_or_else(|| PluginError::Version {
            version: api_version.to_owned(),
        })?;
        let interactive_mode = match (exec.interactive_mode, version == VERSIONS[0]) {
            (Some(mode), _) => mode,
            (None, true) => return Err(PluginError::NoInteractiveMode),
            (None, false) => InteractiveMode::IfAvailable,
        };
        if exec.env.iter().any(|variable| variable.name.is_empty()) {
            return Err(PluginError::UnnamedVariable);
        }
        Ok(Self {
            command,
            args: exec.args.clone(),
            env: exec.env.clone(),
            install_hint: exec.install_hint.clone().filter(|hint| !hint.is_empty()),
            interactive_mode,
            cluster,
            version,
        })
    }

    /// The input of the program: the text of the environment variable `KUBERNETES_EXEC_INFO`.
    pub fn input(&self, authority: Option<&[u8]>, is_interactive: bool) -> String {
        let cluster = self.cluster.as_ref().map(|cluster| {
            let mut fields = cluster.fields.clone();
            if let Some(pem) = authority {
                fields["certificate-authority-data"] = json!(STANDARD.encode(pem));
            }
            fields
        });
        let spec = json!({"cluster": cluster, "interactive": is_interactive});
        json!({
            "apiVersion": self.version,
            "kind": "ExecCredential",
            "spec": without_nulls(spec),
        })
        .to_string()
    }

    /// The credentials in the output of the program.
    pub fn parse_output(&self, output: &[u8]) -> Result<PluginCredentials, OutputError> {
        let read: ExecCredential = serde_json::from_slice(output)?;
        let kind = read.kind.unwrap_or_default();
        let version = read.api_version.unwrap_or_default();
        if kind != "ExecCredential" || version != self.version {
            return Err(OutputError::Kind {
                kind,
                version,
                expected: self.version,
            });
        }
        let status = read.status.ok_or(OutputError::NoStatus)?;
        let set = |field: Option<String>| field.filter(|value| !value.is_empty());
        let certificate = set(status.client_certificate_data);
        let identity = match (certificate, set(status.client_key_data)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(OutputError::HalfIdentity),
        };
        let token = set(status.token);
        if token.is_none() && identity.is_none() {
            return Err(OutputError::NoCredentials);
        }
        Ok(PluginCredentials {
            token,
            identity,
            expires: status.expiration_timestamp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(text: &str) -> Exec {
        serde_saphyr::from_str(text).unwrap()
    }

    fn plugin(version: &str) -> Plugin {
        let text = format!(
            "{{apiVersion: client.authentication.k8s.io/{version}, command: c, interactiveMode: Never}}"
        );
        Plugin::new(&exec(&text), None).unwrap()
    }

    #[test]
    fn a_plug_in_is_complete() {
        for (text, missing) in [
            ("{apiVersion: client.authentication.k8s.io/v1}", "command"),
            ("{command: c}", "apiVersion"),
            (
                "{command: c, apiVersion: client.authentication.k8s.io/v1alpha1}",
                "v1alpha1",
            ),
            (
                "{command: c, apiVersion: client.authentication.k8s.io/v1}",
                "interactiveMode",
            ),
            (
                "{command: c, apiVersion: client.authentication.k8s.io/v1beta1, env: [{name: ''}]}",
                "environment",
            ),
        ] {
            let error = Plugin::new(&exec(text), None).unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
        }
        let old = "{command: c, apiVersion: client.authentication.k8s.io/v1beta1}";
        let old = Plugin::new(&exec(old), None).unwrap();
        assert_eq!(old.interactive_mode, InteractiveMode::IfAvailable);
    }

    #[test]
    fn the_question_says_what_the_plug_in_may_know() {
        let mut plugin = plugin("v1");
        let input: Value = serde_json::from_str(&plugin.input(None, true)).unwrap();
        let expected = json!({"apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential", "spec": {"interactive": true}});
        assert_eq!(input, expected);
        plugin.cluster = Some(ClusterInfo {
            authority: None,
            fields: json!({"server": "https://h", "config": {"a": 1}}),
        });
        let input: Value = serde_json::from_str(&plugin.input(Some(b"ca"), false)).unwrap();
        let cluster = json!({"server": "https://h", "config": {"a": 1},
            "certificate-authority-data": "Y2E="});
        let spec = json!({"cluster": cluster, "interactive": false});
        assert_eq!(input["spec"], spec);
    }

    #[test]
    fn answers_have_a_token_or_a_certificate() {
        let response = |status: Value| {
            let text = json!({"kind": "ExecCredential", "status": status,
                "apiVersion": "client.authentication.k8s.io/v1beta1"});
            plugin("v1beta1").parse_output(text.to_string().as_bytes())
        };
        let token = response(json!({"token": "t", "expirationTimestamp": "2026-01-01T00:00:00Z"}));
        let token = token.ok().unwrap();
        assert_eq!(token.token.as_deref(), Some("t"));
        assert_eq!(token.expires, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        let both =
            response(json!({"clientCertificateData": "c", "clientKeyData": "k", "token": null}));
        assert_eq!(both.ok().unwrap().identity, Some(("c".into(), "k".into())));
        let error = |status| response(status).err().unwrap().to_string();
        assert!(error(json!({"clientKeyData": "k"})).contains("one of"));
        assert!(error(json!({"token": ""})).contains("neither"));
        assert!(error(Value::Null).contains("no status"));
        let of_v1 =
            br#"{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1"}"#;
        let error = plugin("v1beta1").parse_output(of_v1).err().unwrap();
        assert!(error.to_string().contains("version"), "{error}");
        assert!(plugin("v1").parse_output(b"hello").is_err());
    }
}
