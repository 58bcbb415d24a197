//! The certificates of the server: that of the API server, that of the administrator in the kubeconfig, and those for
//! nodes and for extension API servers.
//!
//! A certificate is renewed when a third of its year is left; that of the API server also when the addresses
//! of the host change. Clients receive a renewed certificate with their next connection; a client reads the
//! kubeconfig at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use certificates::{Authority, Identity, SubjectAltName, SubjectAltNames};
use command_output::output::warn;
use data_directory::private_file;
use host_kernel::{blocking, blocking_value};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin_kubeconfig;

/// Interval of the checks for expiry: short enough for many attempts before the end of a certificate.
const CHECK: Duration = Duration::from_secs(12 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The remaining time from which each check logs a warning: the renewal is two months late then.
const WARN_LEFT: Duration = Duration::from_secs(60 * 24 * 3600);

/// The remaining time of the CA from which each check logs a warning: only an administrator can replace the
/// CA.
const WARN_CA_LEFT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The user name of the API server for the kubelet APIs of its nodes.
const NODE_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The user name of the API server for extension API servers (as kubeadm).
const FRONT_PROXY: &str = "front-proxy-client";

type DialNodes = dyn Fn(&Identity, &str) -> Result<()> + Send + Sync;

type Show = dyn Fn(&Identity) -> Result<()> + Send + Sync;

/// Renews the certificates of one server.
pub struct Credentials {
    /// The certificate authority that signs the certificates.
    pub authority: Arc<Authority>,
    /// The certificate authority of the front proxy. It signs no other certificate, because its certificates may name
    /// any user to an extension API server.
    pub front_proxy: Arc<Authority>,
    /// The host's name, a name of the server.
    pub host_name: String,
    /// Addresses of the server in addition to the host's.
    pub server_addresses: Vec<IpAddr>,
    /// Further names and addresses of the server, such as those of a load balancer.
    pub further_names: Vec<SubjectAltName>,
    /// The addresses of the host in the server's certificate.
    pub host_addresses: Mutex<Vec<IpAddr>>,
    /// Lock that makes the renewal and the publication of the server's certificate atomic: otherwise an older
    /// certificate could replace a newer one.
    pub serving: Mutex<()>,
    /// The address of the server in the administrator's kubeconfig.
    pub address: SocketAddr,
    /// The other servers of the cluster, which are also in the administrator's kubeconfig.
    pub other_servers: Mutex<Vec<SocketAddr>>,
    /// The path of the administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Replaces the certificate for new connections of clients.
    pub show: Box<Show>,
    /// Replaces the client certificate for new connections to nodes; also receives the certificate of the
    /// authority (PEM).
    pub dial_nodes: Box<DialNodes>,
    /// Replaces the client certificate for new connections to extension API servers.
    pub show_front_proxy: Box<Show>,
}

impl Credentials {
    /// The names and addresses for the server's certificate.
    pub fn names(&self) -> SubjectAltNames {
        let addresses = self.host_addresses.lock();
        let addresses = addresses.unwrap_or_else(PoisonError::into_inner).clone();
        let all = addresses.into_iter().chain(self.server_addresses.clone());
        let mut names = SubjectAltNames::api_server(&self.host_name, all);
        for name in &self.further_names {
            names.add(name);
        }
        names
    }

    /// The server's certificate, renewed if it expires or its names have changed.
    pub fn server(&self, now: SystemTime) -> Result<Identity> {
        self.authority
            .server_at(&self.names(), now)
            .context("prepare the server's certificate")
    }

    /// Issues a certificate for these addresses of the host, and uses it for new connections.
    pub fn host_has(&self, addresses: &[IpAddr]) -> Result<()> {
        let current = self.host_addresses.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
        self.renew_server(SystemTime::now()).map(drop)
    }

    /// Uses the server's certificate for new connections, renewed if it expires or its names have changed.
    fn renew_server(&self, now: SystemTime) -> Result<Identity> {
        let _alone = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let server = self.server(now)?;
        (self.show)(&server).context("load the server's certificate")?;
        Ok(server)
    }

    /// Writes these other servers to the administrator's kubeconfig.
    pub fn set_other_servers(&self, others: Vec<SocketAddr>) -> Result<()> {
        let current = self.other_servers.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = others;
        self.write_kubeconfig(SystemTime::now()).map(drop)
    }

    /// Renews expiring certificates, and uses them. A failure does not stop the other renewals. Returns the
    /// failures; the next check tries again.
    pub fn renew(&self, now: SystemTime) -> Vec<anyhow::Error> {
        for (whose, authority) in [
            ("the certificate authority", &self.authority),
            (
                "the certificate authority of the front proxy",
                &self.front_proxy,
            ),
        ] {
            warn_of_expiry(whose, authority.ends(), WARN_CA_LEFT, now);
        }
        let mut failures = Vec::new();
        for (whose, renewed) in [
            ("the API server's certificate", self.renew_server(now)),
            (
                "the administrator's certificate",
                self.write_kubeconfig(now),
            ),
            (
                "the API server's certificate for nodes",
                self.renew_node_client(now),
            ),
            (
                "the API server's certificate for extension API servers",
                self.renew_front_proxy(now),
            ),
        ] {
            match renewed {
                Ok(identity) => {
                    let ends = identity.ends().unwrap_or(now);
                    warn_of_expiry(whose, ends, WARN_LEFT, now);
                }
                Err(error) => {
                    cov_mark::hit!(findings_2_r32);
                    failures.push(error.context(format!("{whose} is not renewed")));
                }
            }
        }
        failures
    }

    /// Uses the client certificate of the API server for new connections to nodes, renewed if it expires.
    pub fn renew_node_client(&self, now: SystemTime) -> Result<Identity> {
        let client = self
            .authority
            .client_at(NODE_CLIENT, &[], now)
            .context("prepare the certificate for nodes")?;
        (self.dial_nodes)(&client, self.authority.ca_pem())?;
        Ok(client)
    }

    /// The client certificate of the API server for extension API servers, renewed if it expires.
    pub fn front_proxy_client(&self, now: SystemTime) -> Result<Identity> {
        self.front_proxy
            .client_at(FRONT_PROXY, &[], now)
            .context("prepare the certificate for extension API servers")
    }

    /// Uses the client certificate of the API server for new connections to extension API servers.
    fn renew_front_proxy(&self, now: SystemTime) -> Result<Identity> {
        let client = self.front_proxy_client(now)?;
        (self.show_front_proxy)(&client)?;
        Ok(client)
    }

    /// Writes the administrator's kubeconfig if its content has changed.
    pub fn write_kubeconfig(&self, now: SystemTime) -> Result<Identity> {
        let admin = self
            .authority
            .client_at("mainstay-admin", &["system:masters"], now)
            .context("prepare the administrator's certificate")?;
        let server = format!("https://{}", self.address);
        // The lock is held until the file is written, so that the newest list is written last.
        let others = self.other_servers.lock();
        let others = others.unwrap_or_else(PoisonError::into_inner);
        let text = admin_kubeconfig::render(&admin_kubeconfig::Credentials {
            server: &server,
            others: &others,
            ca: self.authority.ca_pem(),
            certificate: admin.certificate_pem(),
            key: &admin.sec1_key_pem(),
        });
        let current = std::fs::read_to_string(&self.kubeconfig);
        if !current.is_ok_and(|current| current == text) {
            cov_mark::hit!(findings_r24);
            match private_file::write(&self.kubeconfig, &text) {
                // On a full disk the old file stays: it is still valid, and the user can free space with it.
                Err(error) if data_directory::is_full(&error) => {
                    warn(&format!("mainstay: {error:#}; the old one stays in use"));
                }
                other => other?,
            }
        }
        Ok(admin)
    }

    /// Writes the other running servers to the administrator's kubeconfig at each change, until `stop`.
    pub async fn follow_servers(
        self: Arc<Self>,
        mut others: watch::Receiver<Vec<SocketAddr>>,
        stop: CancellationToken,
    ) {
        while let Some(Ok(())) = stop.run_until_cancelled(others.changed()).await {
            let (credentials, others) = (self.clone(), others.borrow_and_update().clone());
            if let Err(error) = blocking(move || credentials.set_other_servers(others)).await {
                tracing::error!("the kubeconfig does not name all servers: {error:#}");
            }
        }
    }

    /// Renews expiring certificates periodically until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = interval(CHECK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let credentials = self.clone();
            let renew = move || credentials.renew(SystemTime::now());
            match blocking_value(renew).await {
                Ok(failures) => {
                    for error in failures {
                        tracing::error!("{error:#}");
                    }
                }
                Err(error) => tracing::error!(%error, "certificates are not checked"),
            }
        }
    }
}

/// Logs a warning about a certificate that expires soon.
fn warn_of_expiry(whose: &str, ends: SystemTime, limit: Duration, now: SystemTime) {
    let left = ends.duration_since(now).unwrap_or_default();
    if left < limit {
        let days = left.as_secs() / DAY.as_secs();
        tracing::error!("{whose} ends in {days} days; after that no client can connect");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Credentials whose certificates are shown by a function that fails for the given ones.
    fn credentials(
        directory: &std::path::Path,
        served: Arc<Mutex<Vec<&'static str>>>,
        fails: &'static [&'static str],
    ) -> Credentials {
        let show = move |name: &'static str| {
            served.lock().unwrap().push(name);
            anyhow::ensure!(!fails.contains(&name), "{name} cannot be shown");
            Ok(())
        };
        let dial = show.clone();
        let proxy = show.clone();
        let authority = Authority::open_or_create(&directory.join("certificates")).unwrap();
        let proxy_authority = Authority::open_or_create(&directory.join("front-proxy")).unwrap();
        Credentials {
            authority: Arc::new(authority),
            front_proxy: Arc::new(proxy_authority),
            host_name: "host".to_owned(),
            server_addresses: Vec::new(),
            further_names: Vec::new(),
            host_addresses: Mutex::default(),
            serving: Mutex::default(),
            address: ([127, 0, 0, 1], 6443).into(),
            other_servers: Mutex::default(),
            kubeconfig: directory.join("kubeconfig"),
            show: Box::new(move |_| show("server")),
            dial_nodes: Box::new(move |_, _| dial("nodes")),
            show_front_proxy: Box::new(move |_| proxy("front proxy")),
        }
    }

    // findings-2 R32
    #[test]
    fn a_renewal_that_fails_holds_back_no_other() {
        cov_mark::check!(findings_2_r32);
        for fails in [
            &["server"][..],
            &["nodes"],
            &["front proxy"],
            &["server", "nodes"],
            &[],
        ] {
            for file in [true, false] {
                let temp = tempfile::tempdir().unwrap();
                let served: Arc<Mutex<Vec<_>>> = Arc::default();
                let credentials = credentials(temp.path(), served.clone(), fails);
                if !file {
                    // A file cannot replace this directory.
                    std::fs::create_dir_all(temp.path().join("kubeconfig/x")).unwrap();
                }
                let failures = credentials.renew(SystemTime::now());
                let failures: Vec<String> = failures.iter().map(|one| format!("{one:#}")).collect();
                let expected = fails.len() + usize::from(!file);
                assert_eq!(failures.len(), expected, "{failures:?}");
                assert_eq!(*served.lock().unwrap(), ["server", "nodes", "front proxy"]);
                assert_eq!(temp.path().join("kubeconfig").is_file(), file);
                // The next check tries again.
                if !file {
                    std::fs::remove_dir_all(temp.path().join("kubeconfig")).unwrap();
                }
                assert_eq!(credentials.renew(SystemTime::now()).len(), fails.len());
                assert!(temp.path().join("kubeconfig").is_file());
            }
        }
    }

    // findings-2 R32
    #[test]
    fn the_newest_list_of_servers_is_written_last() {
        let temp = tempfile::tempdir().unwrap();
        let credentials = credentials(temp.path(), Arc::default(), &[]);
        let rounds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while rounds.load(Ordering::Relaxed) < 40 {
                    assert!(credentials.renew(SystemTime::now()).is_empty());
                }
            });
            for round in 0..40_u8 {
                let other = ([192, 0, 2, round], 6443).into();
                credentials.set_other_servers(vec![other]).unwrap();
                let written = std::fs::read_to_string(temp.path().join("kubeconfig")).unwrap();
                assert!(
                    written.contains(&format!("192.0.2.{round}:6443")),
                    "{written}"
                );
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    // findings R24, A15
    #[test]
    fn what_is_shown_and_written_never_runs_out() {
        cov_mark::check!(findings_r24);
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&temp.path().join("certificates")).unwrap();
        let proxy_authority = Authority::open_or_create(&temp.path().join("front-proxy")).unwrap();
        let served_until = Arc::new(Mutex::new(None));
        let recorder = served_until.clone();
        let credentials = Credentials {
            authority: Arc::new(authority),
            front_proxy: Arc::new(proxy_authority),
            host_name: "host".to_owned(),
            server_addresses: vec![[10, 96, 0, 1].into()],
            further_names: Vec::new(),
            host_addresses: Mutex::default(),
            serving: Mutex::default(),
            address: ([127, 0, 0, 1], 6443).into(),
            other_servers: Mutex::default(),
            kubeconfig: temp.path().join("kubeconfig"),
            show: Box::new(move |identity| {
                *recorder.lock().unwrap() = identity.ends();
                Ok(())
            }),
            dial_nodes: Box::new(|_, _| Ok(())),
            show_front_proxy: Box::new(|_| Ok(())),
        };
        let file = || std::fs::read_to_string(temp.path().join("kubeconfig")).unwrap();
        let start = SystemTime::now();
        let mut files = std::collections::BTreeSet::new();
        // Three years of one process, checked once in ten days.
        for days in (0..1100).step_by(10) {
            let now = start + DAY * days;
            assert!(credentials.renew(now).is_empty());
            let server = served_until.lock().unwrap().unwrap();
            assert!(server > now + WARN_LEFT, "the server's on day {days}");
            let admin = credentials.write_kubeconfig(now).unwrap();
            assert!(
                admin.ends().unwrap() > now + WARN_LEFT,
                "the file's on day {days}"
            );
            files.insert(file());
        }
        assert_eq!(
            files.len(),
            5,
            "renewed when a third of the year is left, and not before"
        );
    }

    // findings R24
    #[test]
    fn a_certificate_follows_the_addresses() {
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(temp.path()).unwrap();
        let proxy_authority = Authority::open_or_create(&temp.path().join("front-proxy")).unwrap();
        let credentials = Credentials {
            authority: Arc::new(authority),
            front_proxy: Arc::new(proxy_authority),
            host_name: "host".to_owned(),
            server_addresses: Vec::new(),
            further_names: vec!["api.example.org".parse().unwrap()],
            host_addresses: Mutex::default(),
            serving: Mutex::default(),
            address: ([127, 0, 0, 1], 6443).into(),
            other_servers: Mutex::default(),
            kubeconfig: temp.path().join("kubeconfig"),
            show: Box::new(|_| Ok(())),
            dial_nodes: Box::new(|_, _| Ok(())),
            show_front_proxy: Box::new(|_| Ok(())),
        };
        let now = SystemTime::now();
        let before = credentials.server(now).unwrap();
        credentials.host_has(&[[192, 0, 2, 7].into()]).unwrap();
        let after = credentials.server(now).unwrap();
        assert_ne!(before.certificate_pem(), after.certificate_pem());
        assert_eq!(after, credentials.server(now).unwrap());
        assert!(credentials.names().dns.contains("api.example.org"));
    }
}
