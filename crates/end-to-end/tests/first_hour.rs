//! The first hour of a new user: the table of `up`, `status`, completions and pages, and the messages with the next
//! step.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use end_to_end::program::{mainstay, ok, refused, text};
use end_to_end::{Instance, Kubectl, binary, example, screen, wait_for, wait_for_text};
use serde_json::Value;

/// `mainstay up` in a terminal.
struct Terminal {
    directory: tempfile::TempDir,
    size: (usize, usize),
    child: Option<Child>,
}

impl Terminal {
    fn of_size(columns: usize, rows: usize) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            size: (columns, rows),
            child: None,
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn up(&mut self, arguments: &str) {
        // The typescript of the run before.
        fs::remove_file(self.typescript()).ok();
        let up = format!(
            "{} up --data-dir {} --listen 127.0.0.1:0 {arguments}",
            binary().display(),
            self.data().display()
        );
        let mut script = screen::in_terminal(&up, self.size.0, self.size.1, &self.typescript());
        script.env("MAINSTAY_LOG", "info");
        self.child = Some(script.spawn().expect("start script"));
    }

    fn typescript(&self) -> PathBuf {
        self.directory.path().join("typescript")
    }

    /// The visible output, from the first line on.
    fn lines(&self) -> Vec<String> {
        let written = fs::read(self.typescript()).unwrap_or_default();
        let written = String::from_utf8_lossy(&written).into_owned();
        // `script` adds a line before and after the output.
        let body = written.split_once('\n').map_or("", |(_, rest)| rest);
        screen::visible_lines(body, self.size.0, self.size.1)
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.data().join("kubeconfig"))
    }

    /// Stops the program as Ctrl-C does.
    #[track_caller]
    fn interrupt(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let input = child.stdin.as_mut().expect("its input");
        input.write_all(b"\x03").expect("press Ctrl-C");
        let status = wait_for("the end", 120, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(self.lines()),
        });
        assert!(status.success(), "{status}: {:#?}", self.lines());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            eprintln!("--- the terminal:\n{}", self.lines().join("\n"));
            let data = self.data();
            mainstay(&["down", "--data-dir", text(&data)]);
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Findings U4: the table is not damaged by a small terminal and by log lines, continues when all pods are ready, and
/// is printed without `-f`.
#[test]
fn the_table_stays_whole_in_a_small_terminal() {
    let mut terminal = Terminal::of_size(34, 8);
    terminal.up(&format!("-f {}", example("web.yaml").display()));
    wait_for_text("Ctrl-C stops the pods", 60, || terminal.lines().join("\n"));
    let lines = terminal.lines();
    let table = foot(&lines);
    assert_eq!(table[0], "statefulset web: 3/3 ready", "{lines:#?}");
    assert!(table[1].starts_with("  ✓ web-0  1/1 Running"), "{table:?}");
    assert_eq!(table.len(), 4, "{table:?}");
    assert_eq!(tables(&lines), 1, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("INFO")), "{lines:#?}");

    // All pods are ready, and the table continues.
    terminal.kubectl().ok(&["scale", "sts/web", "--replicas=9"]);
    let lines = wait_for("the table of nine", 120, || {
        let lines = terminal.lines();
        match foot(&lines).first() {
            Some(first) if first == "statefulset web: 9/9 ready" => Ok(lines),
            _ => Err(lines),
        }
    });
    // The pods have no line any more, because all are ready.
    assert_eq!(foot(&lines).len(), 1, "{lines:#?}");
    assert_eq!(tables(&lines), 1, "{lines:#?}");
    terminal.interrupt();

    terminal.up("");
    wait_for("the table of the sets from before", 120, || {
        let lines = terminal.lines();
        let is_ready = |line: &String| line == "statefulset web: 9/9 ready";
        match lines.iter().any(is_ready) {
            true => Ok(()),
            false => Err(lines),
        }
    });
    assert_eq!(tables(&terminal.lines()), 1);
    terminal.interrupt();
}

/// The lines of the table, which are the last lines.
fn foot(lines: &[String]) -> Vec<String> {
    let start = lines
        .iter()
        .rposition(|line| line.starts_with("statefulset "));
    let foot = lines[start.unwrap_or(lines.len())..].iter();
    foot.filter(|line| !line.is_empty()).cloned().collect()
}

fn tables(lines: &[String]) -> usize {
    let heads = lines.iter().filter(|line| line.starts_with("statefulset "));
    heads.count()
}

/// A set that waits for its image, and a set that waits for nothing.
const SETS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: 'mainstay/hello', ports: [{containerPort: 5432}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: stuck, namespace: shop}
spec:
  serviceName: stuck
  selector: {matchLabels: {app: stuck}}
  template:
    metadata: {labels: {app: stuck}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: 'nowhere:1', imagePullPolicy: Never}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: mainstay/hello}]
";

/// Findings U11: `status` prints sets, ordinals, volumes and waiting objects; for a user with rights in one namespace,
/// only this namespace. Findings U4: a pipe gets a line per change, with the reason.
#[test]
fn status_shows_what_there_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let manifest = directory.path().join("sets.yaml");
    fs::write(&manifest, SETS).expect("write");
    let mut instance = Instance::start(&["-f", text(&manifest)]);
    let kubectl = instance.kubectl();
    let data = instance.data();
    let status = |more: &[&str]| ok(&[&["status", "--data-dir", text(&data)], more].concat());
    let status_text = wait_for("all that runs", 90, || {
        let status_text = status(&[]);
        let parts = [
            "statefulset shop/db: 1/1 ready",
            "deployment front: 1/1 ready",
            "Never",
        ];
        match parts.iter().all(|part| status_text.contains(part)) {
            true => Ok(status_text),
            false => Err(status_text),
        }
    });
    for part in [
        "mainstay 0.",
        &format!("data {}", data.display()),
        ": Ready; disk ",
        "  db-0  1/1    Running",
        "  data-db-0  Bound  16Mi",
        "statefulset shop/stuck: 0/1 ready",
        "  stuck-0  0/1    ErrImageNeverPull",
        &format!("why sts/stuck -n shop --data-dir {}", data.display()),
    ] {
        assert!(
            status_text.contains(part),
            "{part:?} is not in\n{status_text}"
        );
    }
    // The cluster's DNS has no endpoints, and does not wait for any.
    assert!(!status_text.contains("kube-dns"), "{status_text}");
    wait_for_text("shop/stuck-0: 0/1 ErrImageNeverPull (image", 30, || {
        instance.output()
    });

    let json: Value = serde_json::from_str(&status(&["-o", "json"])).expect("JSON");
    assert_eq!(json["sets"][0]["pods"][0]["ready"], true, "{json}");
    assert_eq!(json["sets"][0]["claims"][0]["state"], "Bound", "{json}");
    let one = ok(&["ps", "-n", "default", "--data-dir", text(&data)]);
    assert!(
        one.contains("deployment front") && !one.contains("shop/db"),
        "{one}"
    );

    let reader = reader_of_shop(&kubectl, directory.path());
    let status_text = ok(&["status", "--kubeconfig", text(&reader)]);
    assert!(
        status_text.contains("statefulset shop/db: 1/1 ready"),
        "{status_text}"
    );
    assert!(
        status_text.contains("Note: this is about namespace shop alone"),
        "{status_text}"
    );
    assert!(!status_text.contains("deployment front"), "{status_text}");
    let error = refused(&["status", "-A", "--kubeconfig", text(&reader)]);
    assert!(error.contains("forbidden"), "{error}");

    // Without the deleted set, no object is known to speak HTTP.
    kubectl.ok(&["delete", "sts/stuck", "-n", "shop"]);
    instance.interrupt();
    let error = refused(&["status", "--data-dir", text(&data)]);
    let next = "is the server running? `mainstay up` starts one";
    assert!(
        error.contains(next) && error.lines().count() == 1,
        "{error}"
    );
    instance.start_again();
    wait_for_text("mainstay: ready", 30, || instance.output());
    assert!(!instance.output().contains("curl"), "{}", instance.output());
}

/// A kubeconfig of a user who may only read the namespace `shop`.
fn reader_of_shop(kubectl: &Kubectl, directory: &Path) -> PathBuf {
    kubectl.ok(&["create", "serviceaccount", "reader", "-n", "shop"]);
    let role = [
        "--clusterrole=view",
        "--serviceaccount=shop:reader",
        "-n",
        "shop",
    ];
    kubectl.ok(&[&["create", "rolebinding", "reader"], &role[..]].concat());
    let token = kubectl.ok(&["create", "token", "reader", "-n", "shop"]);
    let mut config: Value = kubectl.json(&["config", "view", "--raw"]);
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    config["contexts"][0]["context"]["namespace"] = "shop".into();
    let path = directory.join("reader.yaml");
    fs::write(&path, config.to_string()).expect("write");
    path
}

/// Findings U4: without `-f`, and without a terminal, existing sets are named.
#[test]
fn a_start_without_manifests_names_what_there_is() {
    let manifest = example("web.yaml");
    let mut instance = Instance::start(&[]);
    let output = wait_for_text("kubectl apply -f FILE", 60, || instance.output());
    assert!(output.contains("No workload exists yet"), "{output}");
    instance.kubectl().ok(&["apply", "-f", text(&manifest)]);
    instance.kubectl().wait_ready("web", 3);
    instance.interrupt();
    instance.start_again();
    let named = "Existing workloads: statefulset web (3 replicas)";
    let output = wait_for_text(named, 60, || instance.output());
    assert!(output.contains(" status"), "{output}");
}

/// Findings U11: completions and manual pages, installed and removed.
#[test]
fn install_and_uninstall() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    let output = ok(&["install", "--root", text(root), "--data-dir", "/srv/state"]);
    assert!(output.contains("bin/mainstay written"), "{output}");
    assert!(
        output.contains("systemctl enable --now mainstay"),
        "{output}"
    );
    let program = root.join("usr/local/bin/mainstay");
    let version = Command::new(&program).arg("version").output();
    let version = version.expect("run the installed program");
    assert!(version.status.success(), "{version:?}");
    let unit = root.join("etc/systemd/system/mainstay.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    assert!(
        unit.contains("mainstay up --data-dir=/srv/state "),
        "{unit}"
    );
    verify_unit(root);
    let bash = root.join("usr/local/share/bash-completion/completions/mainstay");
    let complete = format!(
        "source {}; COMP_WORDS=(mainstay stat); COMP_CWORD=1; _mainstay mainstay stat mainstay; \
         echo ${{COMPREPLY[@]}}",
        bash.display()
    );
    let completed = Command::new("bash").args(["-c", &complete]).output();
    let completed = completed.expect("run bash");
    let words = String::from_utf8_lossy(&completed.stdout);
    assert_eq!(words.trim(), "status", "{completed:?}");

    let again = ok(&["install", "--root", text(root), "--data-dir", "/srv/state"]);
    assert!(!again.contains("written"), "{again}");
    let output = ok(&["uninstall", "--root", text(root)]);
    assert!(
        output.contains("mainstay down --all --data-dir /srv/state"),
        "{output}"
    );
    assert!(!root.join("usr").exists() && !root.join("etc").exists());
}

/// systemd itself reads the installed unit, together with its own units and the programs of the unit, and reports no
/// problem.
fn verify_unit(root: &Path) {
    let units = root.join("lib/systemd");
    fs::create_dir_all(&units).expect("make a directory");
    let copied = Command::new("cp")
        .args(["-r", "/lib/systemd/system", text(&units)])
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "copy units");
    fs::create_dir_all(root.join("bin")).expect("make a directory");
    fs::copy("/bin/sh", root.join("bin/sh")).expect("copy the shell");
    let verify = || {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]);
        verify.arg(format!("--root={}", root.display()));
        let output = verify.arg("mainstay.service").output();
        let output = output.expect("run systemd-analyze");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(verify(), "");
    let unit = root.join("etc/systemd/system/mainstay.service");
    let written = fs::read_to_string(&unit).expect("the unit");
    fs::write(&unit, written.replace("KillMode", "KillMood")).expect("write the unit");
    assert!(verify().contains("KillMood"));
    fs::write(&unit, written).expect("write the unit");
    for directory in ["lib", "bin"] {
        fs::remove_dir_all(root.join(directory)).expect("remove a directory");
    }
}

/// Each mistake gets a message with the next step.
#[test]
fn mistakes_are_answered_with_the_next_step() {
    let typo = mainstay(&["stauts"]);
    assert_eq!(typo.status.code(), Some(2));
    let error = String::from_utf8_lossy(&typo.stderr);
    assert!(
        error.contains("a similar subcommand exists: 'status'"),
        "{error}"
    );
    let typo = mainstay(&["up", "--data-dri", "/x"]);
    let error = String::from_utf8_lossy(&typo.stderr);
    assert!(error.contains("'--data-dir'"), "{error}");

    let error = refused(&["status", "--data-dir", "/nonexistent"]);
    let next = "which `mainstay up` writes when it starts";
    assert!(
        error.contains("/nonexistent/kubeconfig") && error.contains(next),
        "{error}"
    );

    // A pipe whose reader has exited.
    for command in ["--help", "help", "man", "version"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = Command::new(binary());
        child.arg(command).stdout(writer).stderr(Stdio::piped());
        let output = child.output().expect("run mainstay");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!error.contains("panicked"), "{command}: {error}");
    }
}
