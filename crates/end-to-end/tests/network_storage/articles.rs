//! The data of the articles on a real NFS server: the claims of the web servers with volumes that a user creates, and
//! Redis with a class, whose directories are created by the program or by a provisioner that its own manifests install
//! (seeds.md C20, C25, C26, M3, M11).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use end_to_end::applications::{busybox, nginx, redis};
use end_to_end::image::{Image, Settings};
use end_to_end::{Instance, Kubectl, Shell, example, text, wait_for_text, with_registry_of, words};
use serde_json::json;

use super::nfs::{directories, exported, on_a_server};
use super::{IN_EXAMPLES, event, manifest, wait_until_empty};

#[test]
fn the_articles_keep_their_data_on_a_server() {
    on_a_server(with_server);
}

fn with_server(address: &str) {
    let (_registry, instance) = with_registry_of(&[
        ("library/nginx", "1.9.1", &nginx("1.9.1")),
        ("library/redis", "5-alpine", &redis()),
        (
            "sig-storage/nfs-subdir-external-provisioner",
            "v4.0.2",
            &provisioner(),
        ),
    ]);
    let kubectl = instance.kubectl();
    web_servers(&instance, &kubectl, address);

    // The program creates the directories.
    let others = directories();
    let class = manifest("nfs", "class.yaml", address);
    kubectl.apply(&class);
    kubectl.apply(&manifest("nfs", "redis-pv-sts.yml", address));
    redis_keeps_its_data(&instance, &kubectl, &others);
    kubectl.ok(&["delete", "storageclass", "nfs-client"]);

    // An external provisioner creates the directories; until it runs, the claims wait.
    let installed = include_str!("../../images/nfs-provisioner.yaml").replace(IN_EXAMPLES, address);
    let (deployment, class) = installed.split_at(installed.rfind("---").expect("documents"));
    kubectl.apply(class);
    kubectl.apply(&manifest("nfs", "redis-pv-sts.yml", address));
    let waits = "Waiting for a volume to be created either by the external provisioner \
        'k8s-sigs.io/nfs-subdir-external-provisioner' or manually by the system administrator";
    event(&kubectl, "redis-100m-pvc-redis-pv-sts-0", waits);
    kubectl.apply(deployment);
    redis_keeps_its_data(&instance, &kubectl, &others);
}

/// The second article: two volumes without a class, created by a user, and claims without a class where no class is the
/// default.
fn web_servers(instance: &Instance, kubectl: &Kubectl, address: &str) {
    for name in ["pv000", "pv001"] {
        let directory = exported().join(name);
        fs::create_dir_all(&directory).expect("make a directory");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("open it");
    }
    let no_default = "storageclass.kubernetes.io/is-default-class-";
    kubectl.ok(&["annotate", "storageclass", "local", no_default]);
    kubectl.apply(&manifest("nfs", "web-volumes.yaml", address));
    let shell = Shell::new(instance, example("nginx/with-claims"));
    shell.ok("kubectl create -f svc.yaml");
    kubectl.wait_ready("web", 2);
    let claims = shell.ok("kubectl get pvc");
    let rows = words(&claims);
    for (row, name, volume) in [(1, "www-web-0", "pv000"), (2, "www-web-1", "pv001")] {
        let expected = [name, "Bound", volume, "1Gi", "RWO", "<unset>"];
        assert_eq!(rows[row][..6], expected, "{claims}");
    }
    shell.ok("for i in 0 1; do kubectl exec web-$i -- sh -c \
        'echo hello $(hostname) > /usr/share/nginx/html/index.html'; done");
    let read = "for i in 0 1; do kubectl exec -it web-$i -- curl -s localhost; done";
    assert_eq!(shell.ok(read), "hello web-0\nhello web-1\n");
    let served = fs::read_to_string(exported().join("pv000/index.html"));
    assert_eq!(served.expect("read the export"), "hello web-0\n");
    shell.ok("kubectl delete pod -l app=nginx");
    kubectl.wait_ready("web", 2);
    let from_host = format!("curl -s {}", kubectl.pod_ip("web-0"));
    assert_eq!(shell.ok(&from_host), "hello web-0\n");

    // Volumes of users are retained, and so are the files.
    shell.ok("kubectl delete -f svc.yaml");
    shell.ok("kubectl delete pvc www-web-0 www-web-1 --timeout=300s");
    let phase = "jsonpath={.status.phase}";
    wait_for_text("Released", 120, || {
        kubectl.ok(&["get", "pv", "pv000", "-o", phase])
    });
    kubectl.ok(&["delete", "pv", "pv000", "pv001", "--timeout=300s"]);
    for name in ["pv000", "pv001"] {
        let directory = exported().join(name);
        assert!(directory.join("index.html").exists(), "{name}");
        fs::remove_dir_all(&directory).expect("remove the directory");
    }
}

/// The last article: written data outlives its pod, each pod has a separate directory, and the replica finds its
/// primary by name. Directories are removed with their claims.
fn redis_keeps_its_data(instance: &Instance, kubectl: &Kubectl, others: &[String]) {
    let shell = Shell::new(instance, example("redis/by-hand"));
    shell.ok("kubectl apply -f redis-svc.yml");
    kubectl.wait_ready("redis-pv-sts", 2);
    for ordinal in 0..2 {
        let claim = format!("redis-100m-pvc-redis-pv-sts-{ordinal}");
        let claim = kubectl.json(&["get", "pvc", &claim]);
        assert_eq!(claim["status"]["accessModes"], json!(["ReadWriteMany"]));
        let volume = kubectl.json(&["get", "pv", text(&claim, "/spec/volumeName")]);
        let directory = text(&volume, "/spec/nfs/path").rsplit('/').next();
        let name = format!(
            "default-redis-100m-pvc-redis-pv-sts-{ordinal}-pvc-{}",
            text(&claim, "/metadata/uid")
        );
        assert_eq!(directory, Some(&*name));
        assert!(directories().contains(&name), "{:?}", directories());
    }
    let redis_cli = |pod: &str, command: &str| {
        let output = shell.ok(&format!("kubectl exec {pod} -- redis-cli --raw {command}"));
        output.trim().to_owned()
    };
    assert_eq!(redis_cli("redis-pv-sts-0", "set a 111"), "OK");
    assert_eq!(
        redis_cli("redis-pv-sts-1", "get a"),
        "",
        "each has its own data"
    );
    assert_eq!(redis_cli("redis-pv-sts-0", "save"), "OK");
    shell.ok("kubectl delete pod redis-pv-sts-0");
    kubectl.wait_ready("redis-pv-sts", 2);
    assert_eq!(redis_cli("redis-pv-sts-0", "get a"), "111");
    let replicaof = "kubectl exec -it redis-pv-sts-1 -- \
        redis-cli replicaof redis-pv-sts-0.redis-svc 6379";
    assert_eq!(shell.ok(replicaof).trim(), "OK");
    wait_for_text("111", 300, || redis_cli("redis-pv-sts-1", "get a"));

    shell.ok("kubectl delete statefulset redis-pv-sts");
    shell.ok("kubectl delete -f redis-svc.yml");
    shell.ok("kubectl wait --for=delete pod -l app=redis-pv-sts --timeout=300s");
    assert_eq!(directories().len(), others.len() + 2, "claims stay");
    shell.ok("kubectl delete pvc --all --timeout=300s");
    wait_until_empty("the directories of the claims to be removed", || {
        let left = directories().into_iter();
        left.filter(|name| !others.contains(name)).collect()
    });
}

/// An image with the name of the provisioner, which creates and removes directories with kubectl.
fn provisioner() -> Image {
    let root = tempfile::tempdir().expect("a directory");
    busybox().unpack(root.path());
    let script = include_str!("../../images/nfs-provisioner.sh");
    let program = root.path().join("nfs-subdir-external-provisioner");
    fs::write(&program, script).expect("write the script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it a program");
    fs::copy(end_to_end::tool("kubectl"), root.path().join("bin/kubectl")).expect("copy kubectl");
    let settings = Settings {
        entrypoint: &["/nfs-subdir-external-provisioner"],
        ..Settings::default()
    };
    Image::of_directory(Path::new(root.path()), &settings)
}
