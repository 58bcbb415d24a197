//! The authority from outside: files on disk, and handshakes by rustls.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use certificates::{Authority, CertificateError, ClientSubject, Identity, SubjectAltNames};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

fn names() -> SubjectAltNames {
    SubjectAltNames::api_server(
        "Node-A",
        ["10.96.0.1", "fd00::7"].map(|a| a.parse().unwrap()),
    )
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap())
        .unwrap();
    Arc::new(roots)
}

/// One handshake in memory in which the server requires a client certificate; returns the client's certificate.
fn handshake(
    trusted_by_client: &Authority,
    trusted_by_server: &Authority,
    server: &Identity,
    client: &Identity,
    name: &str,
) -> Result<CertificateDer<'static>, rustls::Error> {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        roots(trusted_by_server),
        Arc::clone(&provider),
    );
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.certificate_der()], server.key_der())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(trusted_by_client))
        .with_client_auth_cert(vec![client.certificate_der()], client.key_der())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    client.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        wire.clear();
        server.process_new_packets()?;
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        if !wire.is_empty() {
            client.read_tls(&mut &wire[..]).unwrap();
            wire.clear();
        }
        client.process_new_packets()?;
    }
    let mut hello = [0; 5];
    server.reader().read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    Ok(server.peer_certificates().unwrap()[0].clone().into_owned())
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn server_and_client_know_each_other_by_any_of_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let server = authority.server(&names()).unwrap();
    let client = authority
        .client("mainstay-admin", &["system:masters", "others"])
        .unwrap();
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "10.96.0.1",
        "fd00::7",
        "node-a",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        let presented = handshake(&authority, &authority, &server, &client, name).unwrap();
        let expected = ClientSubject {
            common_name: "mainstay-admin".to_owned(),
            organizations: vec!["system:masters".to_owned(), "others".to_owned()],
        };
        assert_eq!(ClientSubject::of(&presented), Ok(expected), "{name}");
    }
    assert!(handshake(&authority, &authority, &server, &client, "example.org").is_err());
    assert!(matches!(
        authority.client("x", &["a", "b", "c"]),
        Err(CertificateError::TooManyGroups(3))
    ));
}

#[test]
fn strangers_and_certificates_for_another_use_are_refused() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let other = Authority::open_or_create(other_dir.path()).unwrap();
    let server = authority.server(&names()).unwrap();
    let client = authority.client("a", &[]).unwrap();
    let stranger = other.client("a", &[]).unwrap();
    assert!(handshake(&authority, &authority, &server, &client, "localhost").is_ok());
    assert!(handshake(&authority, &authority, &server, &stranger, "localhost").is_err());
    assert!(handshake(&other, &authority, &server, &client, "localhost").is_err());
    assert!(handshake(&authority, &authority, &server, &server, "localhost").is_err());
    assert!(handshake(&authority, &authority, &client, &client, "localhost").is_err());
}

/// If the authority and the leaf had one name, OpenSSL would treat the leaf as self-signed.
#[test]
fn every_certificate_has_a_name_of_its_own() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::open_or_create(dir.path()).unwrap();
    let other = Authority::open_or_create(other_dir.path()).unwrap();
    let ca = |authority: &Authority| {
        let der = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
        ClientSubject::of(&der).unwrap().common_name
    };
    let server = authority.server(&names()).unwrap().certificate_der();
    let subjects = [
        ca(&authority),
        ca(&other),
        ClientSubject::of(&server).unwrap().common_name,
        "mainstay-admin".to_owned(),
    ];
    for (index, subject) in subjects.iter().enumerate() {
        assert!(!subjects[..index].contains(subject), "{subject}");
    }
}

#[test]
fn everything_is_kept_until_it_must_change() {
    let dir = tempfile::tempdir().unwrap();
    let all = || {
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let token = authority
            .token_signer()
            .unwrap()
            .sign(&json_tree::json!({}));
        let server = authority.server(&names()).unwrap();
        (authority, server, token)
    };
    let (authority, server, token) = all();
    let admin = authority
        .client("mainstay-admin", &["system:masters"])
        .unwrap();
    let node = authority
        .client("system:node:a/../b", &["system:nodes"])
        .unwrap();

    let (again, server_again, _) = all();
    assert_eq!(again.ca_pem(), authority.ca_pem());
    assert_eq!(server_again, server);
    assert_eq!(
        again.client("mainstay-admin", &["system:masters"]).unwrap(),
        admin
    );
    assert_eq!(
        again
            .client("system:node:a/../b", &["system:nodes"])
            .unwrap(),
        node
    );
    again.token_signer().unwrap().verify(&token).unwrap();

    let mut more = names();
    more.addresses.insert(IpAddr::from([192, 0, 2, 1]));
    let renewed = again.server(&more).unwrap();
    assert_ne!(renewed, server);
    assert_eq!(again.server(&more).unwrap(), renewed);
    // A name is added, and removed again.
    let mut named = more.clone();
    named.add(&"api.example.org".parse().unwrap());
    let with_name = again.server(&named).unwrap();
    assert_ne!(with_name, renewed);
    assert_eq!(again.server(&named).unwrap(), with_name);
    assert_ne!(again.server(&more).unwrap(), with_name);
    assert_ne!(again.client("mainstay-admin", &["others"]).unwrap(), admin);
}

#[test]
fn only_the_owner_may_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let authority = Authority::open_or_create(&dir).unwrap();
    authority.server(&names()).unwrap();
    authority
        .client("mainstay-admin", &["system:masters"])
        .unwrap();
    authority.token_signer().unwrap();
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        files.push(entry.file_name().into_string().unwrap());
    }
    files.sort();
    assert_eq!(
        files,
        [
            "ca.crt",
            "ca.key",
            "client-mainstay-admin.crt",
            "client-mainstay-admin.key",
            "server.crt",
            "server.key",
            "service-accounts.key",
        ]
    );
}

#[test]
fn what_cannot_be_replaced_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let other_dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir).unwrap();
    let client = authority.client("a", &[]).unwrap();
    authority.token_signer().unwrap();
    Authority::open_or_create(other_dir.path()).unwrap();
    let (key, certificate) = (read(dir, "ca.key"), read(dir, "ca.crt"));
    let refused = |what: &str| {
        let error = Authority::open_or_create(dir).expect_err(what);
        assert!(
            matches!(error, CertificateError::Damaged { .. }),
            "{what}: {error}"
        );
    };
    fs::write(dir.join("ca.key"), "garbage").unwrap();
    refused("a key that is garbage");
    fs::write(dir.join("ca.key"), read(other_dir.path(), "ca.key")).unwrap();
    refused("a key of another certificate");
    fs::remove_file(dir.join("ca.key")).unwrap();
    refused("no key");
    fs::write(dir.join("ca.key"), &key).unwrap();
    fs::write(dir.join("ca.crt"), &certificate[..certificate.len() / 2]).unwrap();
    refused("half a certificate");
    fs::write(dir.join("ca.crt"), &certificate).unwrap();
    fs::write(dir.join("service-accounts.key"), "").unwrap();
    let authority = Authority::open_or_create(dir).unwrap();
    assert!(matches!(
        authority.token_signer(),
        Err(CertificateError::Damaged { .. })
    ));

    // A damaged client certificate must not stop the start.
    fs::write(dir.join("client-a.crt"), "garbage").unwrap();
    assert_ne!(authority.client("a", &[]).unwrap(), client);
}
