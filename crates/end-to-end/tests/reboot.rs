//! The machine is rebooted: all former processes, mounts, networks and control groups are lost. Every identity and all
//! data return.

use std::fs;
use std::path::Path;

use end_to_end::applications::busybox;
use end_to_end::{Instance, Kubectl, Network, process, wait_for, with_registry_of};
use host_kernel::mount_table;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: sql, port: 3306}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1
        command:
        - sh
        - -c
        - |
          echo started >> /data/log
          echo started >> /scratch/log
          trap 'exit 0' TERM
          while true; do sleep 0.1; done
        readinessProbe: {exec: {command: [test, -s, /data/log]}, periodSeconds: 1}
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: cow, mountPath: /cow}
        - {name: scratch, mountPath: /scratch}
        - {name: fast, mountPath: /fast}
        - {name: settings, mountPath: /settings}
      volumes:
      - {name: scratch, emptyDir: {}}
      - {name: fast, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
      - {name: settings, configMap: {name: settings}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
  - metadata: {name: cow}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: local-cow
      resources: {requests: {storage: 16Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "busybox:1", command: [sleep, 1d]}
"#;

const PODS: [&str; 2] = ["db-0", "db-1"];

struct Machine {
    instance: Instance,
    /// The control group of all pods, below each controller.
    group: String,
}

impl Machine {
    /// Removes everything except the disk.
    fn lose_all_but_the_disk(&mut self) {
        let data = self.instance.data();
        let mut dead = process::shims(&data);
        let mut parents = dead.clone();
        while !parents.is_empty() {
            parents = children(&parents);
            dead.extend(&parents);
        }
        self.instance.kill();
        for pid in dead {
            // A process may have exited with its parent.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        wait_for("the end of all processes", 30, || {
            let left = process::shims(&data);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        unmount_below(&data);
        for controller in fs::read_dir("/sys/fs/cgroup")
            .expect("the control groups")
            .flatten()
        {
            remove_group(&controller.path().join(&self.group));
        }
    }
}

fn children(parents: &[i32]) -> Vec<i32> {
    let of = |pid: &i32| {
        let tasks = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let tasks = tasks.unwrap_or_default();
        let pids = tasks
            .split_whitespace()
            .map(|word| word.parse().expect("a pid"));
        pids.collect::<Vec<i32>>()
    };
    parents.iter().flat_map(of).collect()
}

fn unmount_below(directory: &Path) {
    let mounts = mount_table::read().expect("the mounts");
    let below = mount_table::at_or_below(&mounts, directory);
    assert!(!below.is_empty(), "pods have mounts");
    for point in below.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH).expect("unmount");
    }
}

/// A group can be removed after its subgroups; the kernel releases the dead processes a moment later.
fn remove_group(group: &Path) {
    let Ok(inner) = fs::read_dir(group) else {
        return;
    };
    for entry in inner.flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    wait_for("the end of a control group", 60, || fs::remove_dir(group));
}

fn read(kubectl: &Kubectl, pod: &str, file: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "cat", file])
}

/// Memory volumes are empty again, and are mounted as memory; the other volumes have their data.
fn volumes_are_mounted(kubectl: &Kubectl, pod: &str) {
    let mounts = read(kubectl, pod, "/proc/mounts");
    for (at, kind) in [("/fast", "tmpfs"), ("/cow", "btrfs")] {
        let line = mounts
            .lines()
            .find(|line| line.contains(&format!(" {at} ")));
        let line = line.unwrap_or_else(|| panic!("{at} is not in {mounts}"));
        assert!(line.contains(&format!(" {kind} ")), "{line}");
    }
    assert_eq!(kubectl.ok(&["exec", pod, "--", "ls", "/fast"]), "");
}

fn address_of(kubectl: &Kubectl, client_pod: &str, name: &str) -> String {
    let output = kubectl.run(&["exec", client_pod, "--", "nslookup", name]);
    output.stdout
}

fn names_of_peers_resolve(kubectl: &Kubectl) {
    for (client_pod, name) in [("db-0", "db-1"), ("db-1", "db-0")] {
        let address = format!("Address: {}\n", kubectl.pod_ip(name));
        let full = format!("{name}.db.default.svc.cluster.local");
        wait_for(&full, 60, || {
            let output = address_of(kubectl, client_pod, &full);
            if output.contains(&address) {
                Ok(())
            } else {
                Err(output)
            }
        });
    }
}

#[test]
fn identities_and_data_come_back() {
    let (_registry, mut machine, uids) = Network::isolated().run(|| {
        loopback();
        let (registry, instance) = with_registry_of(&[("library/busybox", "1", &busybox())]);
        let kubectl = instance.kubectl();
        kubectl.apply(MANIFESTS);
        kubectl.wait_ready("db", 2);
        kubectl.wait_pods_ready(&["pod/once"]);
        for pod in PODS {
            let write = format!("for d in data cow fast; do echo {pod} > /$d/identity; done; sync");
            kubectl.ok(&["exec", pod, "--", "sh", "-c", &write]);
        }
        for pod in PODS {
            let mounts = read(&kubectl, pod, "/proc/mounts");
            assert!(mounts.contains(" /fast tmpfs "), "{mounts}");
        }
        names_of_peers_resolve(&kubectl);
        let uids = PODS.map(|pod| kubectl.pod_uid(pod));
        let group = process::control_group(process::of_pod(&kubectl, "db-0", "sh"));
        (registry, Machine { instance, group }, uids)
    });
    machine.lose_all_but_the_disk();
    Network::isolated().run(|| {
        loopback();
        let mut machine = machine;
        machine.instance.start_again();
        let kubectl = machine.instance.kubectl();
        for pod in PODS {
            wait_for("the second start", 60, || {
                let output = kubectl.run(&["exec", pod, "--", "cat", "/data/log"]);
                let started = output.stdout == "started\nstarted\n";
                if started { Ok(()) } else { Err(output) }
            });
        }
        kubectl.wait_ready("db", 2);
        assert_eq!(PODS.map(|pod| kubectl.pod_uid(pod)), uids);
        for pod in PODS {
            for file in ["/data/identity", "/cow/identity"] {
                assert_eq!(read(&kubectl, pod, file), format!("{pod}\n"), "{file}");
            }
            assert_eq!(read(&kubectl, pod, "/settings/colour"), "blue");
            volumes_are_mounted(&kubectl, pod);
            // The volume belongs to the pod, not to the container.
            assert_eq!(read(&kubectl, pod, "/scratch/log"), "started\nstarted\n");
            assert_eq!(
                kubectl.ok(&["exec", pod, "--", "hostname"]),
                format!("{pod}\n")
            );
        }
        names_of_peers_resolve(&kubectl);
        // A pod that must not be restarted has failed.
        kubectl.wait_phase("once", "Failed");
    });
}

fn loopback() {
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(
        up.is_ok_and(|status| status.success()),
        "set the loopback up"
    );
}
