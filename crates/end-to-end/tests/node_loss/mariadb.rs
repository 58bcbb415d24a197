//! MariaDB with a semi-synchronous replica: the member that replaces the lost primary makes the other member the
//! primary.

use std::collections::BTreeSet;

use end_to_end::image::Image;
use end_to_end::{Kubectl, applications};

use super::{Application, ReadResult, SHORT_LEASE, exec, no_acknowledged_write_is_lost, numbers};

pub(super) struct MariaDb;

#[test]
fn mariadb_keeps_each_acknowledged_row() {
    no_acknowledged_write_is_lost::<MariaDb>(SHORT_LEASE);
}

const PODS: [&str; 2] = ["maria-0", "maria-1"];

impl Application for MariaDb {
    const SET: &str = "maria";
    const REPLICAS: u64 = 2;
    const MANIFEST: &str = "mariadb/failover.yaml";
    const PROGRAMS: &[&str] = &["mariadbd", "mariadb-dump"];
    const IMAGE: (&str, &str) = ("library/mariadb", "10.11");
    const FIRST_START: Option<&str> = Some("maria-new");
    const WRITER_ENVIRONMENT: &str = "[{name: MYSQL_PWD, value: change-me-app}]";
    const WRITER: &str = WRITER;

    fn image() -> Image {
        applications::mariadb()
    }

    fn primary(kubectl: &Kubectl) -> ReadResult<String> {
        let roles = PODS.map(|pod| sql(kubectl, pod, "SELECT @@read_only"));
        let primary = roles.iter().position(|role| role.as_deref() == Ok("0\n"));
        let primary = primary.ok_or_else(|| format!("{roles:?}"))?;
        Ok(PODS[primary].to_owned())
    }

    fn is_whole(kubectl: &Kubectl) -> ReadResult<()> {
        let primary = Self::primary(kubectl)?;
        let state = "SHOW STATUS LIKE 'Rpl_semi_sync_master_%'";
        let state = sql(kubectl, &primary, state)?;
        let has = |row: &str| state.lines().any(|line| line == row);
        match has("Rpl_semi_sync_master_clients\t1") && has("Rpl_semi_sync_master_status\tON") {
            true => Ok(()),
            false => Err(state),
        }
    }

    fn stored(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>> {
        let primary = Self::primary(kubectl)?;
        Ok(numbers(&sql(
            kubectl,
            &primary,
            "SELECT n FROM app.counted",
        )?))
    }
}

pub(super) fn sql(kubectl: &Kubectl, pod: &str, sql: &str) -> ReadResult<String> {
    let client = format!("MYSQL_PWD=$ROOT_PASSWORD mariadb -u root -N -e \"{sql}\"");
    exec(kubectl, pod, &["sh", "-c", &client])
}

/// Writes to the primary member. A write without a response is not repeated.
const WRITER: &str = r#"
sql() {
  for member in 0 1; do
    timeout 10 mariadb -h maria-$member.maria -u app --connect-timeout=3 app -e "$1" && return
  done
  return 1
}
until sql 'CREATE TABLE IF NOT EXISTS counted (n INT PRIMARY KEY)'; do sleep 1; done
n=0
while sleep 0.2; do
  n=$((n + 1))
  sql "INSERT INTO counted VALUES ($n)" 2> /dev/null && echo "acknowledged $n"
done
"#;
