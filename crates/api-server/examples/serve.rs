//! Serves the API over a store in memory, for trying it with kubectl.

use std::sync::Arc;

use api_server::{ApiServer, Config, Limits, NodeConnector, NodeService, TlsMaterial};
use base64::Engine;
use certificates::{Authority, SubjectAltNames};
use mvcc_store::embedded::EmbeddedStore;
use tokio_util::sync::CancellationToken;

struct NoNodes;

impl NodeConnector for NoNodes {
    fn connect(&self, _: &str) -> Option<NodeService> {
        None
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let dir = std::path::PathBuf::from(std::env::args().nth(1).ok_or("directory")?);
    let authority = Authority::open_or_create(&dir)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server_id = authority.server(&SubjectAltNames::api_server("localhost", [address.ip()]))?;
    let admin = authority.client("mainstay-admin", &["system:masters"])?;
    let cluster = resource_kinds::ClusterConfig::default();
    let started = std::time::Instant::now();
    let server = ApiServer::new(Config {
        store: EmbeddedStore::in_memory(),
        kinds: resource_kinds::all(&cluster),
        admission: resource_kinds::admission::plugins(),
        default_objects: resource_kinds::bootstrap::default_objects(),
        tls: Some(TlsMaterial {
            certificate_pem: server_id.certificate_pem().to_owned(),
            key_pem: server_id.key_pem().to_owned(),
            client_ca_pem: authority.ca_pem().to_owned(),
        }),
        tokens: Some(Arc::new(authority.token_signer()?)),
        token_audiences: Vec::new(),
        service_ip: cluster.service_range.api().into(),
        advertise: vec![(std::net::Ipv4Addr::new(10, 244, 0, 1), address.port()).into()],
        nodes: Arc::new(NoNodes),
        limits: Limits::default(),
    })
    .await?;
    eprintln!("started in {:?}", started.elapsed());
    let b64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: m\nclusters: [{{name: m, cluster: {{server: 'https://{address}', certificate-authority-data: {}}}}}]\nusers: [{{name: m, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\ncontexts: [{{name: m, context: {{cluster: m, user: m}}}}]\n",
        b64(authority.ca_pem()),
        b64(admin.certificate_pem()),
        b64(admin.key_pem())
    );
    std::fs::write(dir.join("kubeconfig"), kubeconfig)?;
    println!("ready {address}");
    let stop = CancellationToken::new();
    let ctrl = stop.clone();
    tokio::spawn(async move {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
        if let Some(term) = &mut term {
            term.recv().await;
        }
        ctrl.cancel();
    });
    server.serve(listener, stop).await?;
    Ok(())
}
