//! A registry whose responses to pulls try to exhaust the memory of the client.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use end_to_end::applications::busybox;
use end_to_end::{Instance, Kubectl, Registry, wait_for};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Scene;

/// Names of the hostile registry: the number of concurrent pulls of each name is limited.
const NAMES: [&str; 2] = ["one.example", "two.example"];

/// The number of pods for each response and name.
const PODS: usize = 2;

/// The maximum length of a manifest, and of a configuration, in bytes.
const MANIFEST_BYTES: usize = (4 << 20) - 4096;
const CONFIG_BYTES: usize = (8 << 20) - 4096;

/// A response of the registry, by the name of the repository, with a part of the reason in the status of its pods.
struct Hostile {
    repository: &'static str,
    respond: fn(&Request, &mut TcpStream) -> std::io::Result<()>,
    reason: &'static str,
}

struct Request {
    /// The path after the repository, or the path for a token.
    path: String,
    address: SocketAddr,
}

const HOSTILE: &[Hostile] = &[
    Hostile {
        repository: "endless-manifest",
        respond: |_, stream| endless(stream, "HTTP/1.1 200 OK\r\n\r\n"),
        reason: "its manifest is longer than the limit",
    },
    Hostile {
        repository: "endless-head",
        respond: |_, stream| endless(stream, "HTTP/1.1 200 OK\r\nx: "),
        reason: "cannot be reached",
    },
    Hostile {
        repository: "endless-token",
        respond: |request, stream| match request.path.starts_with("/token") {
            true => endless(stream, "HTTP/1.1 200 OK\r\n\r\n"),
            false => require_token(request, stream),
        },
        reason: "its token is longer than the limit",
    },
    Hostile {
        repository: "lists-for-a-token",
        respond: |request, stream| match request.path.starts_with("/token") {
            true => send(stream, &of_values(r#"{"token":"#, "[]", "}", 256 << 10)),
            false => require_token(request, stream),
        },
        reason: "malformed token",
    },
    Hostile {
        repository: "index-of-nothing",
        respond: |_, stream| send_manifest(stream, r#""manifests":"#, "{}"),
        reason: "more than",
    },
    Hostile {
        repository: "layers-of-nothing",
        respond: |_, stream| send_manifest(stream, r#""config":{},"layers":"#, "{}"),
        reason: "more than",
    },
    Hostile {
        repository: "annotations",
        respond: |_, stream| {
            let mut text = r#"{"schemaVersion":2,"manifests":[{"annotations":{"#.to_owned();
            for number in 0..MANIFEST_BYTES / 12 {
                text += &format!(r#""{number}":"","#);
            }
            send(stream, &(text + r#""x":""}}]}"#))
        },
        reason: "malformed",
    },
    Hostile {
        repository: "platforms",
        respond: |_, stream| {
            let name = "x".repeat(MANIFEST_BYTES / 4);
            let one = json!({"platform": {"os": "linux", "architecture": name}});
            let index = json!({"schemaVersion": 2, "manifests": [one, one, one]});
            send(stream, &index.to_string())
        },
        reason: "no image for linux/",
    },
    Hostile {
        repository: "endless-configuration",
        respond: |request, stream| match request.path.starts_with("/manifests") {
            true => send(stream, &manifest_of(&"0".repeat(64), CONFIG_BYTES)),
            false => endless(stream, "HTTP/1.1 200 OK\r\n\r\n"),
        },
        reason: "digest",
    },
    Hostile {
        repository: "variables",
        respond: |request, stream| send_configuration(request, stream, r#""Env":"#, r#""""#, ""),
        reason: "more than",
    },
    Hostile {
        repository: "volumes",
        respond: |request, stream| {
            send_configuration(request, stream, r#""Volumes":{"a":"#, "[]", "}")
        },
        reason: "disagree on the layers",
    },
];

/// The header of a response, and bytes without end.
fn endless(stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
    stream.write_all(head.as_bytes())?;
    let more = "x".repeat(64 << 10);
    loop {
        stream.write_all(more.as_bytes())?;
    }
}

fn send(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

fn require_token(request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let address = request.address;
    let challenge = format!(r#"Bearer realm="http://{address}/token",service="x""#);
    let head = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n");
    let rest = "Connection: close\r\nContent-Length: 0\r\n\r\n";
    stream.write_all((head + rest).as_bytes())
}

/// A list of as many values as fit.
fn of_values(begin: &str, value: &str, end: &str, bytes: usize) -> String {
    let count = bytes.saturating_sub(begin.len() + end.len() + 2) / (value.len() + 1);
    format!("{begin}[{}]{end}", vec![value; count].join(","))
}

fn send_manifest(stream: &mut TcpStream, field: &str, value: &str) -> std::io::Result<()> {
    let begin = format!(r#"{{"schemaVersion":2,{field}"#);
    send(stream, &of_values(&begin, value, "}", MANIFEST_BYTES))
}

fn manifest_of(configuration: &str, bytes: usize) -> String {
    let configuration = json!({"digest": format!("sha256:{configuration}"), "size": bytes});
    json!({"schemaVersion": 2, "config": configuration, "layers": []}).to_string()
}

/// An image without layers whose configuration has as many values in one field as fit.
fn send_configuration(
    request: &Request,
    stream: &mut TcpStream,
    field: &str,
    value: &str,
    end: &str,
) -> std::io::Result<()> {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let begin = format!(r#"{{"os":"linux","architecture":"{architecture}","config":{{{field}"#);
    let end = format!(r#"{end}}},"rootfs":{{"diff_ids":["x"]}}}}"#);
    let text = of_values(&begin, value, &end, CONFIG_BYTES);
    if request.path.starts_with("/blobs") {
        return send(stream, &text);
    }
    let digest = Sha256::digest(text.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    send(stream, &manifest_of(&digest, text.len()))
}

/// Responds to the request of a connection by the repository that it is for.
fn serve(mut stream: TcpStream, address: SocketAddr) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let requests = first.split(' ').nth(1).unwrap_or_default();
    // A request for a token contains the name of the repository, too.
    let hostile = HOSTILE
        .iter()
        .find(|hostile| requests.contains(hostile.repository));
    let Some(hostile) = hostile else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let parts = ["/token", "/manifests/", "/blobs/"];
    let begin = parts.iter().find_map(|part| requests.find(part));
    let path = requests[begin.unwrap_or_default()..].to_owned();
    (hostile.respond)(&Request { path, address }, &mut stream)
}

/// A registry with good images as docker.io, and a hostile registry for each of the names.
fn start() -> (Registry, Instance) {
    let registry = Registry::start();
    registry.push("library/busybox", "1", &busybox());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that reaches its limit closes the connection.
            thread::spawn(move || serve(stream, address).is_ok());
        }
    });
    let mut mirrors = registry.registries_yaml();
    for name in NAMES {
        mirrors += &format!("  \"{name}\":\n    endpoint: [\"http://{address}\"]\n");
    }
    let instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), mirrors).unwrap();
    });
    (registry, instance)
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: \"{image}\", command: [sleep, \"1000\"]}}]\n"
    )
}

/// Waits until the status of the pod has the reason for the missing image.
fn wait_for_reason(kubectl: &Kubectl, pod: &str, reason: &str) {
    wait_for(&format!("the reason of {pod}"), 120, || {
        let events = kubectl.run(&["describe", "pod", pod]).stdout;
        match events.contains("ErrImagePull") && events.contains(reason) {
            true => Ok(()),
            false => Err(events),
        }
    });
}

/// Pods with hostile images of each kind at once, and then a pod with a good image.
// findings-2 S38
#[test]
fn hostile_answers_of_a_registry() {
    let (_registry, instance) = start();
    let mut scene = Scene::on(instance, 0);
    let kubectl = scene.instance.kubectl();
    let mut all = String::new();
    let mut pods = Vec::new();
    for hostile in HOSTILE {
        for (index, registry) in NAMES.iter().enumerate() {
            for number in 0..PODS {
                let repository = hostile.repository;
                let name = format!("{repository}-{index}-{number}");
                all += &pod(&name, &format!("{registry}/{repository}-{number}:1"));
                pods.push((name, hostile.reason));
            }
        }
    }
    kubectl.apply(&all);
    kubectl.apply(&pod("good", "busybox:1"));
    kubectl.wait_pods_ready(&["pod/good"]);
    for (pod, reason) in &pods {
        wait_for_reason(&kubectl, pod, reason);
    }
    // Pulls that are retried are retried within this time.
    thread::sleep(Duration::from_secs(5));
    scene.assert_withstood("answers of a registry");
}
