//! Leaders that are suspended (SIGSTOP) and continue later (docs/high-availability.md): the server that holds the Lease
//! of the controllers, and the leader of etcd. kubectl continues at other servers, a StatefulSet reaches its size, and
//! a former leader writes nothing as a leader. No write is lost, and no pod exists twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use end_to_end::background::BackgroundProgram;
use end_to_end::lan::Role;
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Kubectl, text, wait_for, wait_for_text};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;

const SET: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: mainstay/hello
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

/// All writes of controllers and scheduler, before their execution and after their responses.
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  users: [system:kube-controller-manager, system:kube-scheduler]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
";

/// The index of the server that leads at first, and of two other servers.
const FIRST: usize = 0;
const OTHERS: [usize; 2] = [1, 2];

/// Servers with a node, whose agent is connected to the first server.
struct Cluster {
    machines: ServersOnEtcd,
    node: Role,
    /// The name of the first server in the Lease of the controllers.
    holder: String,
    /// All ConfigMaps whose writes were acknowledged.
    written: Vec<String>,
    /// The ConfigMaps, the pods with their UIDs, and the leaders with the begin of each lead, as kubectl prints them
    /// from another server.
    config_maps: BackgroundProgram,
    pods: BackgroundProgram,
    leads: BackgroundProgram,
}

/// The Lease of the controllers as `HOLDER BEGIN`.
const LEASE: [&str; 5] = [
    "get",
    "lease",
    "mainstay",
    "--namespace=kube-system",
    "--output=custom-columns=HOLDER:.spec.holderIdentity,BEGIN:.spec.acquireTime",
];

/// The holder of the Lease and the begin of its lead.
fn lead(kubectl: &Kubectl) -> String {
    let holder_text = kubectl.ok(&LEASE);
    let row = holder_text.lines().last().expect("the Lease");
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Cluster {
    fn start() -> Self {
        let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
        machines.etcd.wait_until_ready();
        let policy = machines.directory.path().join("audit.yaml");
        fs::write(&policy, POLICY).expect("write a file");
        let log = audit_log(&machines);
        let audit = [
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
        ];
        machines.start(FIRST, FIRST, &audit);
        wait_for(
            "writes of the controllers",
            60,
            || match sent_by_deciders(&machines).is_empty() {
                true => Err(machines.servers[FIRST].output()),
                false => Ok(()),
            },
        );
        let holder = machines.at(FIRST, lead);
        let holder = holder.split_once(' ').expect("a leader").0.to_owned();
        for server in OTHERS {
            machines.start_as_member(server);
        }
        let token = machines.servers[FIRST].token(&[]);
        let urls: Vec<String> = machines.servers.iter().map(Role::url).collect();
        let mut node = Role::new(&mut machines.lan, "node", machines.directory.path());
        let join = [
            "--server",
            &urls.join(","),
            "--token",
            &token,
            "--node-name",
            "n0",
        ];
        node.start(&[&["node"], &join[..]].concat());
        let (config_maps, pods, leads) = machines.at(OTHERS[1], |kubectl| {
            kubectl.apply(SET);
            kubectl.wait_ready("web", 1);
            let columns = "--output=custom-columns=NAME:.metadata.name,UID:.metadata.uid";
            (
                kubectl.watch(&["get", "configmaps", "--watch", "--output=name"]),
                kubectl.watch(&["get", "pods", "--watch", columns]),
                kubectl.watch(&[&LEASE[..], &["--watch"]].concat()),
            )
        });
        Self {
            machines,
            node,
            holder,
            written: Vec::new(),
            config_maps,
            pods,
            leads,
        }
    }

    /// Controllers and scheduler of the first server have sent nothing since its pause, unless the server leads again,
    /// which may happen on a busy machine.
    fn first_has_sent_nothing_since(&self, pause: Timestamp) {
        let mut sent = sent_by_deciders(&self.machines);
        let newest = self.machines.at(OTHERS[1], lead);
        let leads = wait_for("the newest leader in the watch", 60, || {
            match self.leads.rows(2) {
                leads if leads.last() == Some(&newest) => Ok(leads),
                leads => Err(leads),
            }
        });
        let begins = leads.iter().filter_map(|row| {
            let (holder, begin) = row.split_once(' ')?;
            (holder == self.holder).then(|| begin.parse::<Timestamp>().expect("a time"))
        });
        let again = begins.filter(|begin| *begin > pause).min();
        sent.retain(|time| *time > pause && again.is_none_or(|again| *time < again));
        assert!(sent.is_empty(), "{sent:?} without the lead: {leads:?}");
    }

    /// Creates a ConfigMap through a server; the other servers return it at once.
    fn write(&mut self, server: usize, name: &str, readers: &[usize]) {
        let create = ["create", "configmap", name, "--from-literal=a=1"];
        self.machines.at(server, |kubectl| {
            wait_for(name, 60, || match kubectl.run(&create) {
                done if done.code == 0 || done.stderr.contains("already exists") => Ok(()),
                other => Err(other),
            });
        });
        self.written.push(name.to_owned());
        for reader in readers {
            let listed = self.machines.at(*reader, |kubectl| {
                wait_for("a list", 60, || {
                    kubectl
                        .run(&["get", "configmaps", "--output=name"])
                        .success()
                })
            });
            assert!(listed.contains(&format!("configmap/{name}\n")), "{listed}");
        }
    }

    /// Scales the set through a server, and waits until it has this size.
    fn scale(&self, server: usize, replicas: u64) {
        let begun = std::time::Instant::now();
        self.machines.at(server, |kubectl| {
            let replicas_flag = format!("--replicas={replicas}");
            wait_for("the scale to be accepted", 60, || {
                let scale = ["scale", "statefulset", "web", &replicas_flag];
                kubectl.run(&scale).success()
            });
            kubectl.wait_ready("web", replicas);
        });
        eprintln!("{replicas} replicas after {:.1?}", begun.elapsed());
    }

    /// The size of the set, and its pods, are equal at all servers and on the node: one pod for each name, never
    /// started twice.
    fn each_pod_exists_once(&self, replicas: usize) {
        let names = (0..replicas).map(|number| format!("web-{number}"));
        let names: Vec<String> = names.collect();
        let mut uids = Vec::new();
        for server in [FIRST].into_iter().chain(OTHERS) {
            let pods = self.machines.at(server, |kubectl| {
                kubectl.wait_ready("web", replicas as u64);
                names
                    .iter()
                    .map(|name| kubectl.pod(name))
                    .collect::<Vec<_>>()
            });
            let restarts =
                |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
            assert!(pods.iter().all(|pod| restarts(pod) == 0), "{pods:?}");
            let of_server = pods.iter().map(|pod| pod["metadata"]["uid"].clone());
            uids.push(of_server.collect::<Vec<_>>());
        }
        assert!(
            uids.iter().all(|other_uids| *other_uids == uids[0]),
            "{uids:?}"
        );
        let printed: BTreeSet<String> = self.pods.rows(2).into_iter().skip(1).collect();
        assert_eq!(printed.len(), replicas, "{printed:?}");
        let directory = PathBuf::from(self.node.data()).join("sandboxes");
        let sandboxes = fs::read_dir(directory).expect("the node's sandboxes");
        let sandboxes = sandboxes.map(|entry| entry.expect("an entry").path());
        let sandboxes: Vec<PathBuf> = sandboxes.filter(|path| path.is_dir()).collect();
        assert_eq!(sandboxes.len(), replicas, "{sandboxes:?}");
    }

    /// Every server has all acknowledged ConfigMaps, and the watch has printed them in order, each once.
    fn nothing_is_lost(&self) {
        for server in [FIRST].into_iter().chain(OTHERS) {
            let all = self.machines.at(server, |kubectl| {
                kubectl.ok(&["get", "configmaps", "--output=name"])
            });
            for name in &self.written {
                assert!(
                    all.contains(&format!("configmap/{name}\n")),
                    "{name}: {all}"
                );
            }
        }
        let printed = wait_for("the last ConfigMap in the watch", 60, || {
            let printed = self.config_maps.rows(1);
            let printed = printed.into_iter().filter_map(|row| {
                let name = row.strip_prefix("configmap/")?;
                self.written
                    .iter()
                    .any(|written| written == name)
                    .then(|| name.to_owned())
            });
            match printed.collect::<Vec<_>>() {
                printed if printed.last() == self.written.last() => Ok(printed),
                printed => Err(printed),
            }
        });
        assert_eq!(printed, self.written);
    }
}

fn audit_log(machines: &ServersOnEtcd) -> PathBuf {
    machines.directory.path().join("audit-first.log")
}

/// The times at which the first server has received writes of its controllers and its scheduler.
fn sent_by_deciders(machines: &ServersOnEtcd) -> Vec<Timestamp> {
    let log = fs::read_to_string(audit_log(machines)).unwrap_or_default();
    let complete = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let events = complete.lines().map(|line| {
        let event: Value = serde_json::from_str(line).expect("a line of JSON");
        let time = text(&event, "/requestReceivedTimestamp").parse();
        time.expect("a time")
    });
    events.collect()
}

/// Whether the kernel has stopped a process (`T` in proc_pid_stat(5)).
fn wait_until_stopped(role: &Role) {
    let path = format!("/proc/{}/stat", role.pid());
    wait_for("the process to stop", 60, || {
        let stat = fs::read_to_string(&path).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        if state == Some('T') {
            Ok(())
        } else {
            Err(stat)
        }
    });
}

#[test]
fn paused_leaders_are_replaced_and_write_nothing_when_they_go_on() {
    let mut cluster = Cluster::start();
    let [one, other] = OTHERS;
    cluster.machines.servers[FIRST].signal(Signal::SIGSTOP);
    wait_until_stopped(&cluster.machines.servers[FIRST]);
    let pause = Timestamp::now();
    cluster.write(one, "server-is-paused", &OTHERS);
    cluster.scale(one, 3);
    cluster.write(other, "another-one-leads", &OTHERS);
    cluster.machines.servers[FIRST].signal(Signal::SIGCONT);
    // The first response of the continued server is up to date.
    cluster.write(other, "it-goes-on", &[FIRST]);
    wait_for_text("this server leads no more", 60, || {
        cluster.machines.servers[FIRST].output()
    });
    cluster.write(FIRST, "it-serves", &OTHERS);
    cluster.scale(FIRST, 4);
    cluster.each_pod_exists_once(4);
    cluster.first_has_sent_nothing_since(pause);

    let member = cluster.machines.etcd.leader();
    cluster.machines.etcd.pause(member);
    for server in [FIRST, one, other] {
        cluster.write(
            server,
            &format!("member-is-paused-{server}"),
            &[FIRST, one, other],
        );
    }
    cluster.scale(one, 5);
    cluster.machines.etcd.resume(member);
    cluster.write(FIRST, "member-goes-on", &OTHERS);
    // The old leader of etcd detects that another leader was elected.
    wait_for("one leader of etcd", 60, || {
        let leads = |number: usize| cluster.machines.etcd.leads(number);
        match (0..3).map(leads).collect::<Vec<_>>() {
            leaders if leaders.iter().filter(|leads| **leads).count() == 1 => Ok(()),
            leaders => Err(leaders),
        }
    });
    cluster.scale(other, 6);
    cluster.each_pod_exists_once(6);
    cluster.nothing_is_lost();
    cluster.node.interrupt();
}
