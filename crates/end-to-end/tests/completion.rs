//! Completions of shells with names of objects on the server, in the shells themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::{Instance, binary};

const SETS: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: 'busybox:1'}]}
";

/// A shell's completions, in a file next to the data directory.
fn completions(instance: &Instance, shell: &str) -> PathBuf {
    let output = Command::new(binary()).args(["completion", shell]).output();
    let output = output.expect("run mainstay");
    assert!(output.status.success(), "{output:?}");
    let file = instance.data().join(format!("completions.{shell}"));
    fs::write(&file, output.stdout).expect("write the completions");
    file
}

/// The shell's completion of the last word of the line.
fn completed(instance: &Instance, shell: &str, line: &str) -> Vec<String> {
    let file = completions(instance, shell);
    let file = file.display();
    let words: Vec<&str> = line.split(' ').collect();
    let last = words.last().copied().unwrap_or_default();
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (list, count) = (quoted.join(" "), words.len());
    let (program, script): (&[&str], String) = match shell {
        "bash" => (
            &["bash", "--norc", "-c"],
            format!(
                "source {file}; COMP_WORDS=({list}); COMP_CWORD=$(({count} - 1)); \
                 _mainstay_or_names mainstay '{last}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ),
        ),
        // Outside of the line editor the completion function has no caller for its words.
        "zsh" => (
            &["zsh", "-f", "-c"],
            format!(
                "compdef() {{ }}; compadd() {{ print -l -- ${{(P)@[-1]}} }}; source {file}; \
                 words=({list}); CURRENT={count}; _mainstay"
            ),
        ),
        _ => (
            &["fish", "--no-config", "-c"],
            format!("source {file}; complete -C '{line}'"),
        ),
    };
    let directory = binary().parent().map(Path::to_owned).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program[0])
        .args(&program[1..])
        .arg(script)
        .env("PATH", format!("{}:{path}", directory.display()))
        .env_remove("KUBECONFIG")
        .output();
    let output = output.expect("run the shell");
    assert!(output.stderr.is_empty(), "{shell}: {line}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// findings U11: names of objects and namespaces; an empty result without an error for a stopped server.
#[test]
fn names_on_the_server_are_completed() {
    let mut instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(SETS);
    kubectl.ok(&["create", "namespace", "shop"]);
    let data = instance.data();
    let data = data.display();
    for shell in ["bash", "zsh", "fish"] {
        let completed = |line: &str| completed(&instance, shell, line);
        let sets = completed(&format!("mainstay why --data-dir {data} sts/"));
        assert_eq!(sets, ["sts/web"], "{shell}");
        let sets = completed(&format!("mainstay logs --data-dir {data} statefulset/w"));
        assert_eq!(sets, ["statefulset/web"], "{shell}");
        let spaces = completed(&format!("mainstay why --data-dir {data} -n sh"));
        assert!(spaces.contains(&"shop".to_owned()), "{shell}: {spaces:?}");
        let kinds = completed("mainstay why ");
        assert!(kinds.contains(&"sts/".to_owned()), "{shell}: {kinds:?}");
    }
    instance.interrupt();
    let data = instance.data();
    let output = Command::new(binary())
        .args(["complete", "--", "why", "--data-dir"])
        .arg(&data)
        .arg("sts/")
        .output();
    let output = output.expect("run mainstay");
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}
