//! Malicious or broken clients, over real sockets. Each gets its `Status`, the server stays available, and its memory
//! stays within limits.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::embedded::{EmbeddedStore, Limits as StoreLimits};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{CONFIG_MAPS, config_map};
use crate::network::{Served, get};

const JSON: &str = "application/json";

/// The memory of this process in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The status code of a response, whose body must be a `Status` with this code.
fn code_of(response: &str) -> u16 {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{response}"));
    let code: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let status: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {response}"));
    assert_eq!(
        (&status["kind"], &status["code"]),
        (&json!("Status"), &json!(code)),
        "{response}"
    );
    code
}

/// Ten aliases of ten aliases of …: ten thousand million values in some hundred bytes.
fn yaml_bomb() -> String {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let before = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    bomb
}

/// 512 MiB of spaces in half a mebibyte.
fn gzip_bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..512 {
        encoder.write_all(&chunk).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_and_leave_nothing_behind() {
    let served = Served::new(Limits::default()).await;
    let kind = |kind: &str| format!("Content-Type: {kind}\r\n");
    let packed = format!("{}Content-Encoding: gzip\r\n", kind(JSON));
    let protobuf = "application/vnd.kubernetes.protobuf";
    let mut endless = b"k8s\0".to_vec();
    // A field with a stated length of four thousand million bytes.
    endless.extend([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let deep = "[".repeat(1_000_000);
    let deep_yaml = "[".repeat(100_000);
    let deep_protobuf: Vec<u8> = b"k8s\0"
        .iter()
        .copied()
        .chain([0x12, 0x7f].repeat(100_000))
        .collect();
    let wide = format!("{{{}\"z\":0}}", "\"k\":[{}],".repeat(200_000));
    let (aliases, packed_spaces) = (yaml_bomb(), gzip_bomb());
    let huge = vec![b' '; 4 << 20];
    let cases: [(&str, String, &[u8], u16); 14] = [
        ("too large", kind(JSON), &huge, 413),
        ("packed", packed, &packed_spaces, 400),
        ("deep", kind(JSON), deep.as_bytes(), 400),
        (
            "deep YAML",
            kind("application/yaml"),
            deep_yaml.as_bytes(),
            400,
        ),
        ("deep protobuf", kind(protobuf), &deep_protobuf, 400),
        ("wide", kind(JSON), wide.as_bytes(), 400),
        ("aliases", kind("application/yaml"), aliases.as_bytes(), 400),
        ("a length that lies", kind(protobuf), &endless, 400),
        ("no UTF-8", kind(JSON), b"{\"a\":\"\xff\xfe\"}", 400),
        (
            "no UTF-8 in YAML",
            kind("application/yaml"),
            b"a: \xff\xfe\n",
            400,
        ),
        (
            "half a surrogate",
            kind(JSON),
            br#"{"metadata":{"name":"\ud800"}}"#,
            400,
        ),
        ("another type", kind("text/html"), b"<html>", 415),
        (
            "a number too large",
            kind(JSON),
            b"{\"metadata\":{\"generation\":1e999}}",
            400,
        ),
        ("no type at all", kind("??"), b"{}", 415),
    ];
    let before = resident();
    for (what, headers, body, code) in cases {
        let stream = served.connect(Some(&served.admin())).await;
        let response = Served::talk_over(stream, &post(CONFIG_MAPS, &headers, body)).await;
        assert_eq!(code_of(&response), code, "{what}: {response}");
        let alive = served.talk(None, &get("/livez", "")).await;
        assert!(alive.starts_with("HTTP/1.1 200"), "{what}: {alive}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn bodies_without_a_length_are_bounded_too() {
    let limits = Limits {
        body_bytes_max: 64 * 1024,
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let mut stream = served.connect(Some(&served.admin())).await;
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    // The server may close the connection during these writes.
    for _ in 0..8 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let response = Served::talk_over(stream, b"0\r\n\r\n").await;
    assert_eq!(code_of(&response), 413);
}

#[tokio::test]
async fn paths_do_not_lead_out_of_their_place() {
    let served = Served::new(Limits::default()).await;
    served.api.create(CONFIG_MAPS, config_map("a")).await;
    let admin = served.admin();
    for path in [
        "/api/v1/namespaces/default/configmaps/..",
        "/api/v1/namespaces/default/configmaps/../secrets",
        "/api/v1/namespaces/default/configmaps/%2e%2e%2f%2e%2e%2fregistry",
        "/api/v1/namespaces/default%2fconfigmaps%2fa/configmaps",
        "/api/v1/namespaces/default/configmaps/a%00",
        "/api/v1/namespaces/default/configmaps/%c0%ae%c0%ae",
        "/api/v1/namespaces/..%2f..%2fdata/configmaps/a",
        "/../../../../etc/passwd",
        "/openapi/v3/../../etc/passwd",
    ] {
        let response = served.talk(Some(&admin), &get(path, "")).await;
        let code = code_of(&response);
        assert!(matches!(code, 400 | 404), "{path}: {response}");
        assert!(!response.contains("root:"), "{path}: {response}");
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

#[tokio::test]
async fn tokens_that_are_forged_expired_or_revoked_are_nobodys() {
    let served = Served::new(Limits::default()).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = served
        .api
        .create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let uid = account["metadata"]["uid"].as_str().unwrap().to_owned();
    let created = served
        .api
        .create(&format!("{accounts}/robot/token"), json!({}))
        .await;
    let good = created["status"]["token"].as_str().unwrap().to_owned();
    let code = async |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        code_of(&served.talk(None, &get("/api/v1/pods", &header)).await)
    };
    // The client is authenticated, but may not list pods.
    assert_eq!(code(&good).await, 403);

    let issuer = "https://kubernetes.default.svc.cluster.local";
    let claims = |change: Value| {
        let mut claims = json!({
            "iss": issuer, "aud": [issuer], "exp": now() + 600, "nbf": now() - 5,
            "sub": "system:serviceaccount:default:robot",
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid}},
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let signer = &served.api.signer;
    assert_eq!(
        code(&signer.sign(&claims(json!({})))).await,
        403,
        "as good as the real one"
    );
    let another = json!({"kubernetes.io": {"namespace": "default",
        "serviceaccount": {"name": "robot", "uid": "of-before"}}});
    for (what, change) in [
        ("expired", json!({"exp": now() - 3600})),
        ("not yet", json!({"nbf": now() + 3600})),
        ("without an end", json!({"exp": null})),
        ("of another issuer", json!({"iss": "https://example.com"})),
        ("for others", json!({"aud": ["https://example.com"]})),
        ("of an account that was", another),
        ("of nobody", json!({"kubernetes.io": null})),
    ] {
        assert_eq!(code(&signer.sign(&claims(change))).await, 401, "{what}");
    }
    let stranger = certificates::TokenSigner::ephemeral().unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let unsigned = "eyJhbGciOiJub25lIn0";
    let forged = [
        stranger.sign(&claims(json!({}))),
        format!("{unsigned}.{}.", parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
        format!("{}.{}x.{}", parts[0], parts[1], parts[2]),
        format!("{good}.{good}"),
        "a".repeat(30_000),
        "..".to_owned(),
        "%".to_owned(),
    ];
    for token in &forged {
        assert_eq!(code(token).await, 401, "{token:.60}");
    }
    // The token is revoked, because its account was deleted.
    served
        .api
        .send("DELETE", &format!("{accounts}/robot"), json!({}))
        .await;
    assert_eq!(code(&good).await, 401);
}

/// A certificate with its key, from the authority whose keys are in the directory.
fn issued(served: &Served, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let ca_key = std::fs::read_to_string(served.dir.path().join("ca.key")).unwrap();
    let ca = CertificateDer::from_pem_slice(served.authority.ca_pem().as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca, KeyPair::from_pem(&ca_key).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "mainstay-admin");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn certificates_that_are_expired_or_for_something_else_are_nobodys() {
    let served = Served::new(Limits::default()).await;
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    let good = issued(&served, |_| {});
    let bad = [
        issued(&served, |params| {
            (params.not_before, params.not_after) = (year(2001), year(2002))
        }),
        issued(&served, |params| {
            (params.not_before, params.not_after) = (year(2901), year(2902))
        }),
        issued(&served, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ];
    let status_of = async |(certificate, key): &(String, String)| {
        let stream = served.connect_with(Some((certificate, key)), &[]).await;
        Served::talk_over(stream, get("/api/v1/pods", "").as_bytes()).await
    };
    let response = status_of(&good).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    for (index, identity) in bad.iter().enumerate() {
        assert_eq!(
            code_of(&status_of(identity).await),
            401,
            "certificate {index}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_watches_cost_little_and_all_of_them_work() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 100;
    let served = Served::new(Limits::default()).await;
    let admin = served.admin();
    let pems = Some((admin.certificate_pem(), admin.key_pem()));
    let before = resident();
    let mut watches = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TokioIo::new(served.connect_with(pems, &["h2"]).await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        for _ in 0..EACH {
            let request = Request::get(format!("https://localhost{CONFIG_MAPS}?watch=1"));
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            watches.push((sender.clone(), response.into_body()));
        }
    }
    let each = resident().saturating_sub(before) / watches.len();
    assert!(
        each < 64 * 1024,
        "{each} bytes for each watch, at both ends"
    );
    served.api.create(CONFIG_MAPS, config_map("a")).await;
    for (_, body) in &mut watches {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!("ADDED"), &json!("a"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_is_cut_off_and_holds_up_nobody() {
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        history_bytes_max: 1 << 20,
        watcher_bytes_max: 1 << 20,
        ..StoreLimits::default()
    });
    let served = Served::over(store, Limits::default()).await;
    let admin = served.admin();
    let mut slow = served.connect(Some(&admin)).await;
    slow.write_all(get(&format!("{CONFIG_MAPS}?watch=1"), "").as_bytes())
        .await
        .unwrap();
    // One byte, and then no byte for a long time.
    slow.read_u8().await.unwrap();
    let before = resident();
    // 32 MiB in total: more than the socket, the buffers and the history can hold.
    change_a_large_map(&served, 64).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more than before");
    let quick = get(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1"), "");
    let quick = served.talk(Some(&admin), &quick).await;
    assert!(quick.contains("\"type\":\"ADDED\""), "{quick:.300}");
    // When the client reads again, it gets the sent events, and then the error that ended the watch.
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(240), slow.read_to_end(&mut rest));
    let _result = reading.await.unwrap();
    let text = String::from_utf8_lossy(&rest);
    let last = text.rfind("{\"type\":").map(|at| &text[at..]).unwrap();
    assert!(
        last.contains("\"ERROR\"") && last.contains("\"code\":410"),
        "{last:.300}"
    );
}

/// Creates 24 MiB of objects: more than sockets and buffers hold. A watch sends all of them before it ends, however
/// slow the machine is.
async fn create_large_maps(served: &Served) {
    for number in 0..48 {
        let mut map = config_map(&format!("large-{number}"));
        map["data"]["a"] = json!("x".repeat(512 * 1024));
        served.api.create(CONFIG_MAPS, map).await;
    }
}

/// Writes half a mebibyte this many times.
async fn change_a_large_map(served: &Served, times: usize) {
    let mut map = config_map("large");
    for round in 0..times {
        map["data"]["a"] = json!(format!("{round}{}", "x".repeat(512 * 1024)));
        let (method, path) = match round {
            0 => ("POST", CONFIG_MAPS.to_owned()),
            _ => ("PUT", format!("{CONFIG_MAPS}/large")),
        };
        let (code, response) = served.api.send(method, &path, map.clone()).await;
        assert!(code < 300, "{response}");
    }
}

/// Waits for a slow machine, but not forever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(240), what).await;
    done.expect("within four minutes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_over_and_not_read_gives_its_connection_back() {
    let limits = Limits {
        // The next client is accepted when the connection of the first client is closed.
        connections_max: 1,
        watch_end_grace: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let admin = served.admin();
    create_large_maps(&served).await;
    let mut slow = served.connect(Some(&admin)).await;
    let watch = get(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=2"), "");
    slow.write_all(watch.as_bytes()).await.unwrap();
    slow.read_u8().await.unwrap();
    let next = soon(served.talk(Some(&admin), &get("/version", ""))).await;
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_room_does_not_keep_its_watch_for_ever() {
    let limits = Limits {
        watch_end_grace: Duration::from_millis(200),
        ..Limits::default()
    };
    let served = Served::new(limits).await;
    let admin = served.admin();
    create_large_maps(&served).await;
    let pems = Some((admin.certificate_pem(), admin.key_pem()));
    let stream = TokioIo::new(served.connect_with(pems, &["h2"]).await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.unwrap();
    // This task responds to pings for as long as the connection is open.
    let connection = tokio::spawn(connection);
    let path = format!("https://localhost{CONFIG_MAPS}?watch=1&timeoutSeconds=2");
    let request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
    let unread = sender.send_request(request).await.unwrap();
    assert_eq!(unread.status(), 200);
    let _closed = soon(connection).await.unwrap();
}
