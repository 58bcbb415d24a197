//! Backup and restore of a database under load, to another path on another host (findings R10, U10).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use end_to_end::applications::{mariadb, postgres};
use end_to_end::program::{mainstay, ok, refused, text};
use end_to_end::stateful_set::web_with_claims;
use end_to_end::{Instance, Kubectl, binary, example, wait_for, with_images, with_registry_of};
use serde_json::{Value, json};

/// A restored instance, on a host with another name.
struct Restored {
    folder: tempfile::TempDir,
}

impl Restored {
    const HOST: &str = "elsewhere";

    /// Restores a backup and starts the instance.
    #[track_caller]
    fn start(backup: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let restored = Self { folder };
        let data = restored.data();
        ok(&["restore", text(backup), "--data-dir", text(&data)]);
        let again = refused(&["restore", text(backup), "--data-dir", text(&data)]);
        assert!(again.contains("is not empty"), "{again}");
        let script = format!(
            "hostname {} && exec {} up --detach --listen 127.0.0.1:0 --data-dir {}",
            Self::HOST,
            text(&binary()),
            text(&data)
        );
        let started = Command::new("unshare")
            .args(["--uts", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .expect("start it");
        assert!(started.status.success(), "{started:?}");
        restored
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("another/place")
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.data().join("kubeconfig"))
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let data = self.data();
        let down = ["down", "--all", "--yes", "--data-dir", text(&data)];
        let ended = mainstay(&down);
        if !ended.status.success() {
            let log = fs::read_to_string(data.join("log")).unwrap_or_default();
            eprintln!("{ended:?}\n{log}");
        }
    }
}

/// The numbers whose writes were acknowledged.
fn numbers(lines: &str) -> Vec<u64> {
    lines
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// Writes into a database during a backup; then the restored database has all writes that were acknowledged before the
/// backup began. The client itself prints each acknowledged number, and exits at the first error.
fn under_load(instance: &mut Instance, load: &[&str], count: &[&str], pod: &str, set: &str) {
    let kubectl = instance.kubectl();
    let writer = kubectl.start(load);
    let before = wait_for("the writer to get on", 90, || {
        let numbers = numbers(&writer.output());
        if numbers.len() > 20 {
            Ok(numbers)
        } else {
            Err(writer.output())
        }
    });
    let version = |kubectl: &Kubectl| {
        let list = kubectl.ok(&["get", "--raw", "/api/v1/namespaces?limit=1"]);
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .expect("a version");
        version.parse::<u64>().expect("a number")
    };
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("backup.tar.gz");
    let data = instance.data();
    let message = ok(&["backup", text(&file), "--data-dir", text(&data)]);
    assert!(
        message.contains(&format!("of claim default/data-{pod}")),
        "{message}"
    );
    assert!(
        message.contains("NOT in it are the volumes of the class local"),
        "{message}"
    );
    let mode = fs::metadata(&file)
        .expect("the backup")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let snapshots = fs::read_dir(data.join("pool/mount/snapshots")).expect("the snapshots");
    assert_eq!(snapshots.count(), 0, "the backup has deleted its snapshots");
    let (newest, node) = (version(&kubectl), kubectl.node_name());
    let secret = ["get", "secret", set, "-o", "jsonpath={.data}"];
    let secrets = kubectl.ok(&secret);
    drop(writer);
    assert!(instance.interrupt().success(), "{}", instance.output());

    let restored = Restored::start(&file);
    let kubectl = restored.kubectl();
    assert_eq!(kubectl.node_name(), Restored::HOST);
    assert_ne!(node, Restored::HOST);
    assert!(version(&kubectl) > newest);
    assert_eq!(kubectl.ok(&secret), secrets);
    let last = before.last().copied().unwrap_or_default();
    wait_for("the rows", 120, || {
        let output = kubectl.run(count);
        match numbers(&output.stdout).last() {
            Some(count) if *count >= last => Ok(()),
            _ => Err(format!("{output:?}")),
        }
    });
    kubectl.wait_ready(set, 1);
}

#[test]
fn postgres_under_load_is_restored_elsewhere() {
    let (_registry, mut instance) = with_registry_of(&[("library/postgres", "15", &postgres())]);
    let kubectl = instance.kubectl();
    let manifest = fs::read_to_string(example("postgres/postgres.yaml")).expect("the example");
    kubectl.apply(&on_the_pool(&manifest, "replicas: 2"));
    kubectl.apply(&web_with_claims(1).to_string());
    kubectl.wait_ready("postgres", 1);
    kubectl.wait_ready("web", 1);
    let load = "psql -U postgres -qc 'CREATE TABLE numbers (n bigint)' >&2 && n=0 && while sleep 0.05; \
         do n=$((n+1)); printf 'INSERT INTO numbers VALUES (%s);\n\\\\! echo %s\n' $n $n; done \
         | psql -U postgres -q -v ON_ERROR_STOP=1";
    let exec = ["exec", "postgres-0", "-c", "postgres", "--"];
    let load = [&exec[..], &["sh", "-c", load]].concat();
    let count = "SELECT count(*) FROM numbers";
    let count = [&exec[..], &["psql", "-U", "postgres", "-Atc", count]].concat();
    under_load(&mut instance, &load, &count, "postgres-0", "postgres");
}

#[test]
fn mariadb_under_load_is_restored_elsewhere() {
    let (_registry, mut instance) = with_registry_of(&[("library/mariadb", "10.11", &mariadb())]);
    let kubectl = instance.kubectl();
    let manifest = fs::read_to_string(example("mariadb/mariadb.yaml")).expect("the example");
    kubectl.apply(&on_the_pool(&manifest, "replicas: 3"));
    kubectl.apply(&web_with_claims(1).to_string());
    kubectl.wait_ready("mariadb", 1);
    let sql = "MYSQL_PWD=$ROOT_PASSWORD mariadb -u root -N -e";
    let load = format!(
        "{sql} 'CREATE DATABASE load_; CREATE TABLE load_.numbers (n bigint)' && n=0 && while sleep 0.05; \
         do n=$((n+1)); printf 'INSERT INTO numbers VALUES (%s);\n\\\\! echo %s\n' $n $n; done \
         | MYSQL_PWD=$ROOT_PASSWORD mariadb -u root load_"
    );
    let exec = ["exec", "mariadb-0", "-c", "mariadb", "--", "sh", "-c"];
    let load = [&exec[..], &[load.as_str()]].concat();
    let count = format!("{sql} 'SELECT count(*) FROM load_.numbers'");
    let count = [&exec[..], &[count.as_str()]].concat();
    under_load(&mut instance, &load, &count, "mariadb-0", "mariadb");
}

/// The example with one member, on a volume of the pool.
fn on_the_pool(manifest: &str, replicas: &str) -> String {
    let (marks, class) = (
        "accessModes: [ReadWriteOnce]",
        "storageClassName: local-cow",
    );
    assert!(
        manifest.contains(replicas) && manifest.contains(marks),
        "{manifest}"
    );
    let one = manifest.replace(replicas, "replicas: 1");
    one.replacen(marks, &format!("{marks}\n      {class}"), 1)
}

/// A stopped instance is backed up with its directories; a backup with one changed file is refused before any write.
#[test]
fn directories_are_copied_and_a_damaged_file_is_refused() {
    let mut instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(&web_with_claims(1).to_string());
    kubectl.wait_ready("web", 1);
    let volume = kubectl.ok(&["get", "pv", "-o", "jsonpath={.items[0].metadata.name}"]);
    let data = instance.data();
    let note = data.join("volumes").join(&volume).join("note");
    fs::write(&note, "kept").expect("write");
    assert!(instance.interrupt().success());
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("backup.tar.gz");
    ok(&[
        "backup",
        text(&file),
        "--volumes",
        "--data-dir",
        text(&data),
    ]);

    let mut bytes = fs::read(&file).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let broken = folder.path().join("broken");
    fs::write(&broken, &bytes).expect("write");
    let target = folder.path().join("target");
    let error = refused(&["restore", text(&broken), "--data-dir", text(&target)]);
    assert!(error.contains("is not a complete backup"), "{error}");
    assert!(!target.exists());

    let restored = Restored::start(&file);
    let kubectl = restored.kubectl();
    kubectl.wait_ready("web", 1);
    let path = kubectl.ok(&["get", "pv", "-o", "jsonpath={.items[0].spec.local.path}"]);
    assert!(path.starts_with(text(&restored.data())), "{path}");
    let retained = fs::read_to_string(Path::new(&path).join("note"));
    assert_eq!(retained.expect("the note"), "kept");
}

/// findings U10: volumes of the class local are copied while pods run if an option requests it, and volume snapshots on
/// request; data that is not in the backup is named.
#[test]
fn directories_are_copied_while_pods_run_and_snapshots_with_them() {
    let (_registry, mut instance) = with_images();
    let kubectl = instance.kubectl();
    let data = instance.data();
    for (name, class) in [("plain", "local"), ("kept", "local-cow")] {
        kubectl.apply(&claim(name, class, &Value::Null).to_string());
        kubectl.apply(&pod(name).to_string());
    }
    kubectl.wait_pods_ready(&["pod/plain", "pod/kept"]);
    say(&kubectl, "plain", "live");
    say(&kubectl, "kept", "before");
    let snapshot = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": "monday"}, "spec": {"source": {"persistentVolumeClaimName": "kept"}}});
    kubectl.apply(&snapshot.to_string());
    kubectl.ok(&[
        "wait",
        "volumesnapshot/monday",
        "--for=jsonpath={.status.readyToUse}=true",
        "--timeout=300s",
    ]);
    say(&kubectl, "kept", "after");

    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("backup.tar.gz");
    let backup = ["backup", text(&file), "--data-dir", text(&data)];
    let output = ok(&backup);
    assert!(
        output.contains("NOT in it are these volume snapshots"),
        "{output}"
    );
    assert!(
        output.contains("of VolumeSnapshot default/monday"),
        "{output}"
    );
    assert!(output.contains("of claim default/plain"), "{output}");
    let error = refused(&[&backup[..], &["--volumes"]].concat());
    assert!(error.contains("say --live"), "{error}");
    let output = ok(&[&backup[..], &["--volumes", "--live", "--snapshots"]].concat());
    let live = "of claim default/plain (copied while pods could write it)";
    assert!(output.contains(live), "{output}");
    assert!(output.contains("volume snapshots in it:"), "{output}");
    assert!(!output.contains("NOT in it"), "{output}");
    assert!(instance.interrupt().success(), "{}", instance.output());

    let restored = Restored::start(&file);
    let kubectl = restored.kubectl();
    kubectl.wait_pods_ready(&["pod/plain", "pod/kept"]);
    assert_eq!(word(&kubectl, "plain"), "live");
    assert_eq!(word(&kubectl, "kept"), "after");
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
        "name": "monday"});
    kubectl.apply(&claim("again", "local-cow", &source).to_string());
    kubectl.apply(&pod("again").to_string());
    kubectl.wait_pods_ready(&["pod/again"]);
    assert_eq!(word(&kubectl, "again"), "before");
}

fn claim(name: &str, class: &str, source: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "dataSource": source,
            "resources": {"requests": {"storage": "64Mi"}}}})
}

/// A pod with the claim of its name.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]}})
}

fn say(kubectl: &Kubectl, pod: &str, word: &str) {
    let command = format!("printf {word} > /data/word; sync");
    kubectl.ok(&["exec", pod, "--", "sh", "-c", &command]);
}

fn word(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "cat", "/data/word"])
}
