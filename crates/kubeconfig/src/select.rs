//! The settings of a context.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::uri::InvalidUri;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use outbound_http::Proxies;

use crate::file::{Cluster, Kubeconfig, User};
use crate::plugin::{ClusterInfo, Plugin, PluginError};
use crate::settings::{Credentials, Pem, Settings, bearer, proxies_to, secret};

/// The reason why a kubeconfig cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("the kubeconfig has no current context")]
    NoCurrentContext,
    /// A context, cluster or user does not exist.
    #[error("the kubeconfig has no {kind} {name:?}")]
    Missing {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that is missing in the file.
        name: String,
    },
    /// A context, cluster or user cannot be used.
    #[error("{kind} {name:?} of the kubeconfig: {reason}")]
    Invalid {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name of the context, cluster or user.
        name: String,
        reason: SettingsError,
    },
}

/// The reason why a context, cluster or user cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("it names no cluster")]
    NoCluster,
    #[error("it names no server")]
    NoServer,
    #[error("{field}-data is not base64: {error}")]
    Base64 {
        field: &'static str,
        error: base64::DecodeError,
    },
    #[error("insecure-skip-tls-verify and a certificate authority exclude each other")]
    InsecureAuthority,
    #[error("the server {url:?} is not a URL: {reason}")]
    ServerSyntax { url: String, reason: String },
    #[error("the server {0:?} is not an http or https URL")]
    ServerScheme(String),
    #[error("proxy-url {url:?} is not a URL: {reason}")]
    ProxySyntax { url: String, reason: String },
    #[error("proxy-url {0:?} is not an http, https or socks5 URL")]
    ProxyScheme(String),
    #[error("auth-provider is not supported: Kubernetes has removed it; use exec")]
    AuthProvider,
    #[error("the client certificate has no key")]
    CertificateWithoutKey,
    #[error("the client key has no certificate")]
    KeyWithoutCertificate,
    #[error("the token cannot be sent in a header")]
    Token,
    #[error("a token and a username exclude each other")]
    TokenAndUsername,
    /// The username and password cannot be sent in a header.
    #[error("{0}")]
    Password(String),
    #[error("as-uid, as-groups and as-user-extra need as")]
    ImpersonationWithoutUser,
    #[error("{value:?} cannot be sent in the header {header}")]
    ImpersonationHeader { header: String, value: String },
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Kubeconfig {
    /// The settings of the context with this name; without a name, of the current context.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub fn select(&self, context: Option<&str>) -> Result<Settings, SelectError> {
        let name = context.or(self.current_context.as_deref());
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or(SelectError::NoCurrentContext)?;
        let missing = |kind, name: &str| SelectError::Missing {
            kind,
            name: name.to_owned(),
        };
        let named = self.contexts.iter().find(|one| one.name == name);
        let context = &named.ok_or_else(|| missing("context", name))?.context;
        let invalid = |kind, name: &str, reason| SelectError::Invalid {
            kind,
            name: name.to_owned(),
            reason,
        };
        let cluster_name = set(&context.cluster)
            .ok_or_else(|| invalid("context", name, SettingsError::NoCluster))?;
        let mut clusters = self.clusters.iter();
        let cluster = clusters.find(|one| one.name == cluster_name);
        let cluster = &cluster
            .ok_or_else(|| missing("cluster", cluster_name))?
            .cluster;
        // A context without a user is for servers without authentication.
        let user_name = set(&context.user).unwrap_or_default();
        let nobody = User::default();
        let user = match user_name {
            "" => &nobody,
            name => {
                let named = self.users.iter().find(|one| one.name == name);
                &named.ok_or_else(|| missing("user", name))?.user
            }
        };
        let mut settings =
            of_cluster(cluster, user).map_err(|reason| invalid("cluster", cluster_name, reason))?;
        add_user(&mut settings, cluster, user)
            .map_err(|reason| invalid("user", user_name, reason))?;
        settings.namespace = set(&context.namespace).map(str::to_owned);
        Ok(settings)
    }
}

/// The value of a field; `None` if it is absent or empty.
fn set(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|value| !value.is_empty())
}

/// PEM text from base64, or from a file. The base64 text has precedence.
fn pem(
    data: &Option<String>,
    file: &Option<String>,
    field: &'static str,
) -> Result<Option<Pem>, SettingsError> {
    let Some(data) = set(data) else {
        return Ok(set(file).map(|path| Pem::File(PathBuf::from(path))));
    };
    let data: String = data.split_whitespace().collect();
    let text = STANDARD.decode(data);
    let text = text.map_err(|error| SettingsError::Base64 { field, error })?;
    Ok(Some(Pem::Text(text)))
}

fn of_cluster(cluster: &Cluster, user: &User) -> Result<Settings, SettingsError> {
    let authority = pem(
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
        "certificate-authority",
    )?;
    let is_insecure = cluster.insecure_skip_tls_verify.unwrap_or(false);
    if is_insecure && authority.is_some() {
        return Err(SettingsError::InsecureAuthority);
    }
    let has_certificate =
        set(&user.client_certificate).is_some() || set(&user.client_certificate_data).is_some();
    let has_tls = is_insecure || authority.is_some() || has_certificate;
    let server = server(
        set(&cluster.server).ok_or(SettingsError::NoServer)?,
        has_tls,
    )?;
    let proxies = match set(&cluster.proxy_url) {
        Some(url) => Proxies::Through(proxy(url)?),
        None => proxies_to(&server),
    };
    Ok(Settings {
        server,
        namespace: None,
        identity: None,
        authority,
        is_insecure,
        server_name: set(&cluster.tls_server_name).map(str::to_owned),
        proxies,
        credentials: Credentials::None,
        headers: HeaderMap::new(),
    })
}

/// The URL of a server. A URL without a scheme is https if there are TLS settings.
fn server(text: &str, has_tls: bool) -> Result<Uri, SettingsError> {
    let text = match (text.contains("://"), has_tls) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let text = text.trim_end_matches('/');
    let malformed = |error: InvalidUri| SettingsError::ServerSyntax {
        url: text.to_owned(),
        reason: error.to_string(),
    };
    let uri: Uri = text.parse().map_err(malformed)?;
    match (uri.scheme_str(), uri.query()) {
        (Some("http" | "https"), None) => Ok(uri),
        _ => Err(SettingsError::ServerScheme(text.to_owned())),
    }
}

fn proxy(text: &str) -> Result<Uri, SettingsError> {
    let malformed = |error: InvalidUri| SettingsError::ProxySyntax {
        url: text.to_owned(),
        reason: error.to_string(),
    };
    let uri: Uri = text.parse().map_err(malformed)?;
    match uri.scheme_str() {
        Some("http" | "https" | "socks5" | "socks5h") => Ok(uri),
        _ => Err(SettingsError::ProxyScheme(text.to_owned())),
    }
}

fn add_user(settings: &mut Settings, cluster: &Cluster, user: &User) -> Result<(), SettingsError> {
    if user.auth_provider.is_some() {
        return Err(SettingsError::AuthProvider);
    }
    let certificate = pem(
        &user.client_certificate_data,
        &user.client_certificate,
        "client-certificate",
    )?;
    let key = pem(&user.client_key_data, &user.client_key, "client-key")?;
    settings.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(SettingsError::CertificateWithoutKey),
        (None, Some(_)) => return Err(SettingsError::KeyWithoutCertificate),
    };
    settings.headers = impersonation(user)?;
    settings.credentials = credentials(settings, cluster, user)?;
    Ok(())
}

fn credentials(
    settings: &Settings,
    cluster: &Cluster,
    user: &User,
) -> Result<Credentials, SettingsError> {
    let token = match set(&user.token) {
        Some(token) => Some(bearer(token).ok_or(SettingsError::Token)?),
        None => None,
    };
    let file = set(&user.token_file);
    let name = set(&user.username);
    let password = set(&user.password);
    if (token.is_some() || file.is_some()) && (name.is_some() || password.is_some()) {
        return Err(SettingsError::TokenAndUsername);
    }
    if let Some(file) = file {
        return Ok(Credentials::TokenFile {
            path: PathBuf::from(file),
            otherwise: token,
        });
    }
    if let Some(token) = token {
        return Ok(Credentials::Header(token));
    }
    if name.is_some() || password.is_some() {
        let (name, password) = (name.unwrap_or_default(), password.unwrap_or_default());
        let encoded = STANDARD.encode(format!("{name}:{password}"));
        let header = HeaderValue::from_str(&format!("Basic {encoded}"));
        let header = header.map_err(|error| SettingsError::Password(error.to_string()))?;
        return Ok(Credentials::Header(secret(header)));
    }
    let Some(exec) = &user.exec else {
        return Ok(Credentials::None);
    };
    let info = exec
        .provide_cluster_info
        .then(|| ClusterInfo::new(cluster, settings));
    Ok(Credentials::Plugin(Box::new(Plugin::new(exec, info)?)))
}

/// The headers that request impersonation.
fn impersonation(user: &User) -> Result<HeaderMap, SettingsError> {
    let mut headers = HeaderMap::new();
    let Some(name) = set(&user.as_name) else {
        let is_empty = set(&user.as_uid).is_none()
            && user.as_groups.is_empty()
            && user.as_user_extra.is_empty();
        return match is_empty {
            true => Ok(headers),
            false => Err(SettingsError::ImpersonationWithoutUser),
        };
    };
    let extra = user.as_user_extra.iter().flat_map(|(key, values)| {
        let name = format!("impersonate-extra-{}", escaped(key));
        values.iter().map(move |value| (name.clone(), &**value))
    });
    let user_name = [("impersonate-user".to_owned(), name)];
    let uid = set(&user.as_uid).map(|uid| ("impersonate-uid".to_owned(), uid));
    let groups = user.as_groups.iter();
    let groups = groups.map(|group| ("impersonate-group".to_owned(), &**group));
    for (name, value) in user_name.into_iter().chain(uid).chain(groups).chain(extra) {
        let refused = || SettingsError::ImpersonationHeader {
            header: name.clone(),
            value: value.to_owned(),
        };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        let value = HeaderValue::from_str(value).map_err(|_| refused())?;
        headers.append(header, value);
    }
    Ok(headers)
}

/// A key as a part of a header name: bytes that are not allowed in a token (RFC 9110, section 5.6.2) are escaped.
fn escaped(key: &str) -> String {
    let mut text = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(byte)),
            b if b"!#$&'*+-.^_`|~".contains(&b) => text.push(char::from(b)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of a cluster and a user in YAML flow style.
    fn select(cluster: &str, user: &str) -> Result<Settings, SelectError> {
        let text = format!(
            "{{clusters: [{{name: c, cluster: {{{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}],
              contexts: [{{name: x, context: {{cluster: c, user: u, namespace: shop}}}}],
              current-context: x}}"
        );
        let read: Kubeconfig = serde_saphyr::from_str(&text).unwrap();
        read.select(None)
    }

    const NEAR: &str = "server: 'https://127.0.0.1:6443'";

    fn refused(cluster: &str, user: &str) -> String {
        match select(cluster, user).unwrap_err() {
            SelectError::Invalid { kind, reason, .. } => format!("{kind}: {reason}"),
            other => other.to_string(),
        }
    }

    fn authorization(user: &str) -> String {
        match select(NEAR, user).unwrap().credentials {
            Credentials::Header(header) => header.to_str().unwrap().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_context_leads_to_its_cluster_and_user() {
        let settings = select(NEAR, "token: t").unwrap();
        assert_eq!(settings.server, "https://127.0.0.1:6443/");
        assert_eq!(settings.namespace.as_deref(), Some("shop"));
        let text = "{contexts: [{name: a, context: {cluster: c}}, {name: b, context: {cluster: d, user: u}},
            {name: e}, {name: f, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: h}}]}";
        let read: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        let error = |context| read.select(context).unwrap_err().to_string();
        assert_eq!(error(None), "the kubeconfig has no current context");
        assert_eq!(error(Some("z")), "the kubeconfig has no context \"z\"");
        assert_eq!(error(Some("b")), "the kubeconfig has no cluster \"d\"");
        assert_eq!(error(Some("f")), "the kubeconfig has no user \"u\"");
        let names_none = "context \"e\" of the kubeconfig: it names no cluster";
        assert_eq!(error(Some("e")), names_none);
        let anonymous = read.select(Some("a")).unwrap();
        assert!(matches!(anonymous.credentials, Credentials::None));
        assert_eq!(
            (anonymous.server.to_string(), anonymous.namespace),
            ("http://h/".into(), None)
        );
    }

    #[test]
    fn servers_are_urls() {
        let url = |cluster: &str| select(cluster, "").map(|settings| settings.server.to_string());
        assert_eq!(url("server: 'https://h/k/c/'").unwrap(), "https://h/k/c");
        assert_eq!(
            url("server: h, insecure-skip-tls-verify: true").unwrap(),
            "https://h/"
        );
        let secret = select("server: 'h:1'", "client-certificate: a, client-key: b").unwrap();
        assert_eq!(secret.server, "https://h:1/");
        assert_eq!(refused("", ""), "cluster: it names no server");
        for wrong in ["ftp://h", "https://h/?q", "https://a b"] {
            assert!(
                refused(&format!("server: '{wrong}'"), "").contains(wrong),
                "{wrong}"
            );
        }
    }

    #[test]
    fn trust_is_one_authority_or_none() {
        let both = format!("{NEAR}, certificate-authority-data: aGk=, certificate-authority: f");
        let text = Pem::Text(b"hi".to_vec());
        assert_eq!(select(&both, "").unwrap().authority, Some(text));
        let file = format!("{NEAR}, certificate-authority: f, tls-server-name: n");
        let settings = select(&file, "").unwrap();
        assert_eq!(settings.authority, Some(Pem::File("f".into())));
        assert_eq!(settings.server_name.as_deref(), Some("n"));
        refused(&format!("{file}, insecure-skip-tls-verify: true"), "");
        let broken = refused(&format!("{NEAR}, certificate-authority-data: '*'"), "");
        assert!(broken.contains("certificate-authority-data"), "{broken}");
    }

    #[test]
    fn proxies_are_given_or_those_of_the_environment_for_other_machines() {
        let of = |cluster: &str| select(cluster, "").unwrap().proxies;
        assert_eq!(of("server: 'https://h'"), Proxies::Environment);
        for near in ["localhost:1", "127.1.2.3", "[::1]:6443"] {
            assert_eq!(of(&format!("server: 'https://{near}'")), Proxies::None);
        }
        let configured = of(&format!("{NEAR}, proxy-url: 'socks5://p:1'"));
        assert_eq!(
            configured,
            Proxies::Through(Uri::from_static("socks5://p:1"))
        );
        let other = refused(&format!("{NEAR}, proxy-url: 'ftp://p'"), "");
        assert!(
            other.contains("not an http, https or socks5 URL"),
            "{other}"
        );
    }

    #[test]
    fn users_show_what_they_have() {
        assert_eq!(authorization("token: t"), "Bearer t");
        assert_eq!(authorization("username: me, password: p"), "Basic bWU6cA==");
        assert_eq!(authorization("token: t, exec: {command: c}"), "Bearer t");
        let file = select(NEAR, "token: t, tokenFile: f").unwrap().credentials;
        let Credentials::TokenFile { path, otherwise } = file else {
            panic!("{file:?}");
        };
        assert_eq!(
            (path, otherwise.unwrap()),
            ("f".into(), "Bearer t".parse().unwrap())
        );
        let identity = select(NEAR, "client-certificate-data: Yw==, client-key: k");
        let (certificate, key) = identity.unwrap().identity.unwrap();
        assert_eq!(
            (certificate.read().unwrap(), key),
            (b"c".to_vec(), Pem::File("k".into()))
        );
        for wrong in [
            "token: t, username: u",
            "client-certificate: c",
            "client-key: k",
            "as-groups: [g]",
            "token: \"a\\nb\"",
            "as: \"a\\nb\"",
            "auth-provider: {name: gcp}",
        ] {
            assert!(refused(NEAR, wrong).starts_with("user: "), "{wrong}");
        }
    }

    /// kubernetes.io, "User impersonation".
    #[test]
    fn a_user_may_act_as_another() {
        let user =
            "as: jane, as-uid: '7', as-groups: [a, b], as-user-extra: {acme.com/project: [x]}";
        let headers = select(NEAR, user).unwrap().headers;
        let values = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("Impersonate-User"), ["jane"]);
        assert_eq!(values("Impersonate-Uid"), ["7"]);
        assert_eq!(values("Impersonate-Group"), ["a", "b"]);
        assert_eq!(values("Impersonate-Extra-acme.com%2Fproject"), ["x"]);
    }
}
