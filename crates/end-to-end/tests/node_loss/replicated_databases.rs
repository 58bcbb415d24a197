//! A database of one pod loses its node under a write load, with its data in a volume that has a replica on another
//! node (docs/storage.md).
//!
//! Each transaction of the writer inserts its number into two tables. After the promotion, the database recovers by
//! itself: it has each transaction that was acknowledged before the stated recovery point, no incomplete transaction,
//! and no transaction without all earlier ones. The node that returns retains its data.

use std::collections::BTreeSet;

use end_to_end::program::ok;
use end_to_end::{Kubectl, wait_for};
use serde_json::Value;

use super::local_replicated::{
    CLAIM, CLASS, acknowledged, check_retained_state, node_and_uid, wait_for_copy,
    wait_for_more_than_the_copy, wait_for_promotion,
};
use super::mariadb::{MariaDb, sql};
use super::postgres::{Postgres, psql};
use super::{Application, Cluster, Gap, Loss, ReadResult, numbers, runs, wait_for_writes, writer};

#[test]
fn postgres_starts_at_the_recovery_point() {
    the_database_starts_at_the_recovery_point::<Postgres>(Loss::Killed);
}

#[test]
fn mariadb_starts_at_the_recovery_point() {
    the_database_starts_at_the_recovery_point::<MariaDb>(Loss::CutOff);
}

/// An application with one pod: `db-0`.
trait Single: Application {
    /// The container of the pod, in YAML. Its data is in `/data/base`.
    const CONTAINER: &str;
    /// The client of the writer, which executes the statements of its input until the first failure.
    const CLIENT: &str;
    /// The schema of the tables.
    const SCHEMA: &str;

    /// The response of the database.
    fn execute(kubectl: &Kubectl, statement: &str) -> ReadResult<String>;
}

impl Single for Postgres {
    const CONTAINER: &str = "
        image: postgres:15
        command:
        - sh
        - -c
        - |
          set -e
          umask 077
          if ! test -d /data/base; then
            rm -rf /data/new
            initdb -D /data/new -U postgres --locale=C.UTF-8 --auth=trust
            echo 'host all all all trust' >>/data/new/pg_hba.conf
            sync
            mv /data/new /data/base
          fi
          exec postgres -D /data/base -c listen_addresses='*'
        readinessProbe: {exec: {command: [pg_isready, -U, postgres]}, periodSeconds: 1}
";
    const CLIENT: &str = "psql -qX -v ON_ERROR_STOP=1 'host=db-0.db user=postgres'";
    const SCHEMA: &str = "public";

    fn execute(kubectl: &Kubectl, statement: &str) -> ReadResult<String> {
        psql(kubectl, "db-0", statement)
    }
}

impl Single for MariaDb {
    const CONTAINER: &str = "
        image: mariadb:10.11
        command:
        - sh
        - -c
        - |
          set -e
          if ! test -d /data/base; then
            rm -rf /data/new
            mariadb-install-db --no-defaults --datadir=/data/new --skip-test-db \\
              --auth-root-authentication-method=normal
            sync
            mv /data/new /data/base
          fi
          cat >/run/mysqld/start.sql <<END
          CREATE DATABASE IF NOT EXISTS app;
          CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY 'change-me-app';
          GRANT ALL ON app.* TO app@'%';
          END
          exec mariadbd --no-defaults --datadir=/data/base --skip-name-resolve \\
            --init-file=/run/mysqld/start.sql --innodb-buffer-pool-size=64M \\
            --innodb-log-file-size=16M
        readinessProbe: {exec: {command: [mariadb, -u, root, -e, SELECT 1]}, periodSeconds: 1}
";
    const CLIENT: &str = "mariadb -h db-0.db -u app --connect-timeout=3 --skip-reconnect app";
    const SCHEMA: &str = "app";

    fn execute(kubectl: &Kubectl, statement: &str) -> ReadResult<String> {
        sql(kubectl, "db-0", statement)
    }
}

/// The set of one pod.
fn set<A: Single>() -> String {
    let container = A::CONTAINER.trim_end();
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec:
  clusterIP: None
  selector: {{app: db}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: db
  annotations: {{mainstay.dev/node-failure: Failover}}
spec:
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext:
        runAsUser: 999
        runAsGroup: 999
        fsGroup: 999
        fsGroupChangePolicy: OnRootMismatch
      containers:
      - name: database
        volumeMounts: [{{name: data, mountPath: /data}}]{container}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec:
      storageClassName: every-two-seconds
      accessModes: [ReadWriteOnce]
      resources: {{requests: {{storage: 512Mi}}}}
"
    )
}

/// Transactions one after the other over one connection. The client itself prints the acknowledgement of a transaction;
/// when the connection breaks, the writer exits.
const WRITER: &str = r"
tables='CREATE TABLE IF NOT EXISTS one (n INT PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS two (n INT PRIMARY KEY);'
until echo $tables | CLIENT; do sleep 1; done
n=0
while sleep 0.05; do
  for _ in 1 2 3 4 5; do
    n=$((n + 1))
    printf 'BEGIN; INSERT INTO one VALUES (%s); INSERT INTO two VALUES (%s); COMMIT;\n' $n $n
    printf '\\! echo acknowledged %s\n' $n
  done
done | CLIENT
sleep 1000000
";

fn the_database_starts_at_the_recovery_point<A: Single>(loss: Loss) {
    let (repository, tag) = A::IMAGE;
    let lease = ["--node-lease-duration", "20s"];
    let push = |registry: &end_to_end::Registry| registry.push(repository, tag, &A::image());
    let mut cluster = Cluster::of(2, &lease, push);
    let kubectl = cluster.server.kubectl();
    let ((node, uid), foretold) = cluster.server.network.run(|| {
        cluster.reserve_server_node(&kubectl);
        kubectl.apply(CLASS);
        kubectl.apply(&set::<A>());
        kubectl.wait_ready("db", 1);
        kubectl.apply(&writer::<A>(&WRITER.replace("CLIENT", A::CLIENT)));
        wait_for_writes(&kubectl, 500, &mut Gap::default());
        wait_for_copy(&kubectl);
        wait_for_more_than_the_copy(&kubectl, "writer");
        (node_and_uid(&kubectl), last_copy(&kubectl))
    });
    let number: usize = node[1..].parse().expect("a number");
    cluster.lose(number - 1, loss);
    let present = cluster.server.network.run(|| {
        let point = wait_for_promotion(&kubectl, (&node, &uid), 2);
        assert!(!runs::<A>(&uid), "db-0 has two running containers");
        assert!(foretold <= point, "the metric said {foretold}, and {point} was reached");
        let acknowledged = wait_for("the writer's log", 300, || acknowledged(&kubectl, "writer"));
        let [present, other] = ["one", "two"].map(|table| rows::<A>(&kubectl, table));
        assert_eq!(present, other, "a transaction is there by half");
        let last = present.last().copied().unwrap_or_default();
        let whole: BTreeSet<u64> = (1..=last).collect();
        assert_eq!(present, whole, "a transaction is there without one before it");
        let early = acknowledged.iter().filter(|(_, time)| **time < point);
        let early = early.filter_map(|(line, _)| line.parse().ok());
        let early: BTreeSet<u64> = early.collect();
        assert!(!early.is_empty(), "{acknowledged:?} {point}");
        let lost: Vec<&u64> = early.difference(&present).collect();
        assert!(lost.is_empty(), "{lost:?} of before {point} are lost");
        eprintln!(
            "{}, {loss:?}: {} transactions were acknowledged, {} before the recovery point, {} are there",
            A::SET,
            acknowledged.len(),
            early.len(),
            present.len()
        );
        wait_for("the database to take writes", 300, || {
            let table = format!("CREATE TABLE IF NOT EXISTS {}.more (n INT)", A::SCHEMA);
            A::execute(&kubectl, &table)
        });
        present
    });
    cluster.bring_back(number - 1, loss);
    let (server, lost) = (cluster.server.data(), cluster.nodes[number - 1].data());
    cluster.server.network.run(|| {
        let state_dir = check_retained_state(&kubectl, &lost, 1);
        assert!(state_dir.join("base").is_dir(), "{}", state_dir.display());
        let listed = ok(&["volume", "ls", "--data-dir", &server, "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let claims = listed["claims"].as_array().into_iter().flatten();
        let claim = claims.clone().find(|claim| claim["name"] == CLAIM);
        let claim = claim.unwrap_or_else(|| panic!("{listed}"));
        let snapshot = state_dir.file_name().expect("a name").to_string_lossy();
        let expected = format!("{node}/{snapshot}");
        assert_eq!(claim["replication"]["diverged"][0], *expected, "{claim}");
        wait_for_copy(&kubectl);
        assert!(!runs::<A>(&uid), "the old container of db-0 runs");
        assert_eq!(rows::<A>(&kubectl, "one"), present);
    });
    cluster.shut_down();
}

/// The recovery point in the metric before a loss, in milliseconds: whole seconds, rounded down.
fn last_copy(kubectl: &Kubectl) -> i64 {
    let page = kubectl.ok(&["get", "--raw", "/metrics"]);
    let name = "mainstay_volume_replica_last_copy_timestamp_seconds{";
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    value
        .unwrap_or_else(|| panic!("no {name} in {page}"))
        .floor() as i64
        * 1000
}

/// The numbers in a table.
fn rows<A: Single>(kubectl: &Kubectl, table: &str) -> BTreeSet<u64> {
    let select = format!("SELECT n FROM {}.{table}", A::SCHEMA);
    let reply = wait_for("the rows", 300, || A::execute(kubectl, &select));
    numbers(&reply)
}
