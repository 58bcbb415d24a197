//! Tests with a new node and a complete server: store, API over TLS, controllers.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certificates::{Authority, ClientSubject, KeyHash, SubjectAltNames, TokenSigner};
use http::Uri;
use jiff::SignedDuration;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo as User};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube_api_client::{
    Api, Client, DeleteParams, Event, Patch, PatchParams, PostParams, WatchConfig,
};
use kube_api_server::{ApiServer, Config, TlsMaterial, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use node_identity::{
    CertificateSubject, Credentials, Error, JoinToken, Renewal, Servers, Validity, account_client,
    client, find_authority, join, renewed_client, request,
};
use process_telemetry::Health;
use resource_kinds::NodeAccount;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Time limit of a step. A machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(240);

struct Cluster {
    server: Arc<ApiServer>,
    admin: Client,
    uri: Uri,
    hash: KeyHash,
    _dir: tempfile::TempDir,
    _end: DropGuard,
}

impl Cluster {
    async fn start() -> Self {
        Self::with_certificate_of(SystemTime::now()).await
    }

    /// A cluster whose server certificate was created at this time.
    async fn with_certificate_of(time: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open_or_create(dir.path()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let names = SubjectAltNames::api_server("localhost", []);
        let identity = authority.server_at(&names, time).unwrap();
        let server = ApiServer::new(Config {
            tls: Some(TlsMaterial {
                certificate_pem: format!("{}{}", identity.certificate_pem(), authority.ca_pem()),
                key_pem: identity.key_pem().to_owned(),
                client_ca_pem: authority.ca_pem().to_owned(),
            }),
            tokens: Some(Arc::new(TokenSigner::ephemeral().unwrap())),
            ..Config::in_process(EmbeddedStore::in_memory())
        });
        let server = server.await.unwrap();
        let end = CancellationToken::new();
        let (serving, stop) = (server.clone(), end.clone());
        tokio::spawn(async move { serving.serve(listener, stop).await });
        let user = UserInfo::new("system:kube-controller-manager", ["system:authenticated"]);
        let config = controllers::Config {
            root_ca_pem: authority.ca_pem().to_owned(),
            authority: Some(authority.clone()),
            ..controllers::Config::default()
        };
        let component = Health::default().component("controllers", end.clone());
        let controllers = Client::new(server.local(user), "default");
        tokio::spawn(async move { controllers::run_all(controllers, config, component).await });
        let admin = server.local(UserInfo::new("admin", ["system:masters"]));
        Self {
            server,
            admin: Client::new(admin, "default"),
            uri: format!("https://{address}").parse().unwrap(),
            hash: KeyHash::of_pem(authority.ca_pem()).unwrap(),
            _dir: dir,
            _end: end.drop_guard(),
        }
    }

    /// A token that expires at this time.
    async fn token(&self, expiration: &str) -> JoinToken {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), "kube-system");
        let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token", "stringData": {
                "token-id": "abcdef", "token-secret": "0123456789abcdef",
                "expiration": expiration, "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}});
        let secret = serde_json::from_value(secret).unwrap();
        secrets
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
        self.token_with(self.hash)
    }

    /// The server at a second address, until the token is cancelled.
    async fn also_at(&self) -> (Uri, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap());
        let end = CancellationToken::new();
        let (serving, stop) = (self.server.clone(), end.clone());
        tokio::spawn(async move { serving.serve(listener, stop).await });
        (uri.parse().unwrap(), end)
    }

    fn servers(&self) -> Servers {
        Servers::one(self.uri.clone())
    }

    fn token_with(&self, hash: KeyHash) -> JoinToken {
        JoinToken::read(&format!("abcdef.0123456789abcdef.{hash}")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_a_token_and_then_needs_none() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let joined = join(&cluster.uri, &token, "n1").await.unwrap();
    let certificate = joined.identity.certificate_pem.as_bytes();
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let subject = ClientSubject::of(&certificate).unwrap();
    assert_eq!(subject.common_name, "system:node:n1");
    let credentials = Credentials::Identity(&joined.identity);
    let node = client(&cluster.uri, &joined.ca_pem, &credentials)
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(node.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    nodes.create(&PostParams::default(), &object).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = Patch::Strategic(status);
    let params = PatchParams::default();
    nodes.patch_status("n1", &params, &patch).await.unwrap();
    let serving = CertificateSubject::serving("n1", [[10, 0, 0, 1].into()]);
    request(&node, &serving).await.unwrap();
    // The node renews its certificate with its certificate, which is not possible with a token now.
    request(&node, &CertificateSubject::client("n1"))
        .await
        .unwrap();
    match join(&cluster.uri, &token, "n1").await {
        Err(Error::NameTaken(message)) => assert!(message.contains("n1 is alive"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_expires() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let joined = join(&cluster.uri, &token, "n1").await.unwrap();
    let first = joined.identity;
    let ends = Validity::of_pem(&first.certificate_pem).unwrap().ends;
    let (current, mut renewed) = watch::channel(first.clone());
    let renewal = |server: &Uri, current: watch::Sender<_>| Renewal {
        servers: Servers::one(server.clone()),
        ca_pem: joined.ca_pem.clone(),
        subject: CertificateSubject::client("n1"),
        client: current.subscribe(),
        current,
    };
    // The clock is after the renewal time, and before or after the expiration.
    let (late, over) = [-3600, 1]
        .map(|more| ends + SignedDuration::from_secs(more))
        .into();
    let stop = CancellationToken::new();
    let nobody: Uri = "https://127.0.0.1:1".parse().unwrap();
    let expired = renewal(&nobody, watch::Sender::new(first.clone()));
    let expired = expired.run(|| over, stop.clone()).await.unwrap_err();
    assert!(matches!(expired, Error::Expired(_)), "{expired:?}");
    let renewing = tokio::spawn(renewal(&cluster.uri, current).run(move || late, stop.clone()));
    let changed = tokio::time::timeout(PATIENCE, renewed.changed()).await;
    changed.unwrap().unwrap();
    let next = renewed.borrow_and_update().clone();
    assert_ne!(next, first);
    let credentials = Credentials::Identity(&next);
    let node = client(&cluster.uri, &joined.ca_pem, &credentials)
        .await
        .unwrap();
    request(&node, &CertificateSubject::client("n1"))
        .await
        .unwrap();
    stop.cancel();
    renewing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_the_newest_certificate() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let ours = join(&cluster.uri, &token, "n1").await.unwrap();
    let other = Cluster::start().await;
    let token = other.token("2120-01-01T00:00:00Z").await;
    let theirs = join(&other.uri, &token, "n1").await.unwrap();
    let identity = watch::Sender::new(theirs.identity);
    let node = renewed_client(&cluster.servers(), &ours.ca_pem, identity.subscribe());
    let subject = CertificateSubject::client("n1");
    let refused = request(&node, &subject).await.unwrap_err();
    let code = match &refused {
        Error::Api(error) => error.code(),
        _ => None,
    };
    assert_eq!(code, Some(401), "{refused:?}");
    identity.send_replace(ours.identity);
    let next = request(&node, &subject).await.unwrap();
    identity.send_replace(next);
    request(&node, &subject).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_not_to_join_has_its_message() {
    let cluster = Cluster::start().await;
    let unknown = cluster.token_with(cluster.hash);
    let refused = join(&cluster.uri, &unknown, "n1").await.unwrap_err();
    assert!(matches!(refused, Error::TokenRefused), "{refused:?}");
    let expired = cluster.token("2020-01-01T00:00:00Z").await;
    let refused = join(&cluster.uri, &expired, "n1").await.unwrap_err();
    assert!(refused.to_string().contains("has expired"), "{refused}");
    let other = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(other.path()).unwrap();
    let other = KeyHash::of_pem(other.ca_pem()).unwrap();
    let wrong = join(&cluster.uri, &cluster.token_with(other), "n1")
        .await
        .unwrap_err();
    assert!(matches!(wrong, Error::OtherAuthority { .. }), "{wrong:?}");
    let nobody: Uri = "https://127.0.0.1:1".parse().unwrap();
    let nobody = find_authority(&nobody, cluster.hash).await.unwrap_err();
    assert!(matches!(nobody, Error::Unreachable { .. }), "{nobody:?}");
    for text in ["", "abcdef.0123456789abcdef", "abcdef.0123456789abcdef.00"] {
        assert!(matches!(JoinToken::read(text), Err(Error::Malformed)));
    }
}

/// Clocks that differ by hours: for a node whose clock is behind, the certificate is not valid yet; for a
/// node whose clock is ahead, it has expired.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_off_by_hours_is_told() {
    let (now, hours) = (SystemTime::now(), Duration::from_secs(3 * 3600));
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let names = SubjectAltNames::api_server("localhost", []);
    let ends = authority.server(&names).unwrap().ends().unwrap();
    let life = ends.duration_since(now).unwrap();
    for created in [now + hours, now - life - hours] {
        let cluster = Cluster::with_certificate_of(created).await;
        let token = cluster.token_with(cluster.hash);
        let refused = join(&cluster.uri, &token, "n1").await.unwrap_err();
        assert!(matches!(refused, Error::Clock { .. }), "{refused:?}");
    }
}

async fn whoami(client: &Client) -> Result<User, kube_api_client::Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = SelfSubjectReview::default();
    let review = reviews.create(&PostParams::default(), &review).await?;
    Ok(review.status.unwrap().user_info.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_node_are_accounts_bound_to_its_object() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let joined = join(&cluster.uri, &token, "n1").await.unwrap();
    let credentials = Credentials::Identity(&joined.identity);
    let node = client(&cluster.uri, &joined.ca_pem, &credentials)
        .await
        .unwrap();
    let nodes: Api<Node> = Api::all(node.clone());
    let identity = watch::Sender::new(joined.identity);
    for account in NodeAccount::ALL {
        let receiver = identity.subscribe();
        let component = account_client(&cluster.servers(), &joined.ca_pem, receiver, "n1", account);
        let unregistered = whoami(&component).await.unwrap_err();
        let cause = format!("{:?}", unregistered);
        assert!(cause.contains("nodes \\\"n1\\\" not found"), "{cause}");
        let object = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let registered = nodes.create(&PostParams::default(), &object).await.unwrap();
        let user = whoami(&component).await.unwrap();
        assert_eq!(user.username.as_deref(), Some(account.user()));
        let extra = user.extra.unwrap();
        let of = |key: &str| &extra[&format!("authentication.kubernetes.io/{key}")];
        assert_eq!(of("node-name"), &["n1"]);
        assert_eq!(of("node-uid"), &[registered.metadata.uid.unwrap()]);
        assert_eq!(whoami(&component).await.unwrap().extra.unwrap(), extra);
        // The token becomes invalid with the Node object. The next token is bound to the next object.
        let all: Api<Node> = Api::all(cluster.admin.clone());
        all.delete("n1", &DeleteParams::default()).await.unwrap();
        let registered = nodes.create(&PostParams::default(), &object).await.unwrap();
        assert_eq!(whoami(&component).await.unwrap_err().code(), Some(401));
        let extra = whoami(&component).await.unwrap().extra.unwrap();
        let uid = &extra["authentication.kubernetes.io/node-uid"];
        assert_eq!(uid, &[registered.metadata.uid.unwrap()]);
        all.delete("n1", &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_to_another_server_and_its_watches_too() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let joined = join(&cluster.uri, &token, "n1").await.unwrap();
    let identity = watch::Sender::new(joined.identity);
    let (first, end) = cluster.also_at().await;
    let servers = Servers::new([first.clone(), cluster.uri.clone()]).unwrap();
    let node = renewed_client(&servers, &joined.ca_pem, identity.subscribe());
    let account = NodeAccount::Proxy;
    let proxy = account_client(
        &servers,
        &joined.ca_pem,
        identity.subscribe(),
        "n1",
        account,
    );
    let nodes: Api<Node> = Api::all(node.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    nodes.create(&PostParams::default(), &object).await.unwrap();
    whoami(&proxy).await.unwrap();
    assert_eq!(servers.current(), first);
    let config = WatchConfig::default().fields("metadata.name=n1");
    let mut events = nodes.watcher(config);
    while !matches!(events.next().await.unwrap(), Event::InitDone) {}
    end.cancel();
    // No request fails, whatever state the first server is in.
    let object = json!({"metadata": {"labels": {"a": "b"}}});
    let moved = async {
        while servers.current() == first {
            let patch = Patch::Merge(object.clone());
            let _ = nodes.patch("n1", &PatchParams::default(), &patch).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        whoami(&proxy).await.unwrap();
        nodes.get("n1").await.unwrap();
        loop {
            // The watch is interrupted, and then returns the change.
            if let Ok(Event::Apply(changed)) = events.next().await {
                break serde_json::from_slice::<Node>(&changed).unwrap();
            }
        }
    };
    let changed = tokio::time::timeout(PATIENCE, moved).await.unwrap();
    assert_eq!(changed.metadata.labels.unwrap()["a"], "b");
    assert_eq!(servers.current(), cluster.uri);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_is_left() {
    let cluster = Cluster::start().await;
    let token = cluster.token("2120-01-01T00:00:00Z").await;
    let joined = join(&cluster.uri, &token, "n1").await.unwrap();
    // The kernel accepts connections, but no program responds.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", frozen.local_addr().unwrap());
    let servers = Servers::new([address.parse().unwrap(), cluster.uri.clone()]).unwrap();
    let node = renewed_client(
        &servers,
        &joined.ca_pem,
        watch::Sender::new(joined.identity).subscribe(),
    );
    let health = servers.follow_health(&joined.ca_pem);
    tokio::select! {
        ended = health => panic!("{ended:?}"),
        user = tokio::time::timeout(PATIENCE, whoami(&node)) => drop(user),
        () = left(&servers, &cluster.uri) => {}
    }
    whoami(&node).await.unwrap();
}

async fn left(servers: &Servers, next: &Uri) {
    while servers.current() != *next {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
