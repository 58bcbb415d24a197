//! PostgreSQL with a synchronous replica: the member that replaces the lost primary promotes the other member.

use std::collections::BTreeSet;

use end_to_end::image::Image;
use end_to_end::{Kubectl, applications};

use super::{Application, ReadResult, SHORT_LEASE, exec, no_acknowledged_write_is_lost, numbers};

pub(super) struct Postgres;

#[test]
fn postgres_keeps_each_acknowledged_row() {
    no_acknowledged_write_is_lost::<Postgres>(SHORT_LEASE);
}

const PODS: [&str; 2] = ["pg-0", "pg-1"];

impl Application for Postgres {
    const SET: &str = "pg";
    const REPLICAS: u64 = 2;
    const MANIFEST: &str = "postgres/failover.yaml";
    const PROGRAMS: &[&str] = &["postgres", "pg_basebackup"];
    const IMAGE: (&str, &str) = ("library/postgres", "15");
    const FIRST_START: Option<&str> = Some("pg-new");
    const WRITER_ENVIRONMENT: &str = "[{name: PGPASSWORD, value: change-me}]";
    const WRITER: &str = WRITER;

    fn image() -> Image {
        applications::postgres()
    }

    fn primary(kubectl: &Kubectl) -> ReadResult<String> {
        let roles = PODS.map(|pod| psql(kubectl, pod, "SELECT pg_is_in_recovery()"));
        let primary = roles.iter().position(|role| role.as_deref() == Ok("f\n"));
        let primary = primary.ok_or_else(|| format!("{roles:?}"))?;
        Ok(PODS[primary].to_owned())
    }

    fn is_whole(kubectl: &Kubectl) -> ReadResult<()> {
        let primary = Self::primary(kubectl)?;
        let replicas = "SELECT application_name, state, sync_state FROM pg_stat_replication";
        let replicas = psql(kubectl, &primary, replicas)?;
        let mut rows = replicas.lines();
        let is_replica = |pod: &&str| *pod != primary;
        let replica = PODS.into_iter().find(is_replica).unwrap_or_default();
        match rows.any(|row| row == format!("{replica}|streaming|sync")) {
            true => Ok(()),
            false => Err(replicas),
        }
    }

    fn stored(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>> {
        let primary = Self::primary(kubectl)?;
        Ok(numbers(&psql(kubectl, &primary, "SELECT n FROM log")?))
    }
}

pub(super) fn psql(kubectl: &Kubectl, pod: &str, sql: &str) -> ReadResult<String> {
    exec(kubectl, pod, &["psql", "-U", "postgres", "-Atc", sql])
}

/// Writes to the primary member. A write without a response is not repeated.
const WRITER: &str = r#"
sql() {
  timeout 10 psql -c "$1" "host=pg-0.pg,pg-1.pg user=postgres connect_timeout=3 \
    target_session_attrs=read-write"
}
until sql 'CREATE TABLE IF NOT EXISTS log (n bigint)'; do sleep 1; done
n=0
while sleep 0.2; do
  n=$((n + 1))
  sql "INSERT INTO log VALUES ($n)" > /dev/null 2>&1 && echo "acknowledged $n"
done
"#;
