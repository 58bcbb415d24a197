//! The list as a table, as kubectl prints tables.

use command_output::columns;
use jiff::Timestamp;
use object_model::duration::age;

use super::model::ClaimRow;
use crate::amount::{bytes, size};

/// The text for an unknown fact.
const UNKNOWN: &str = "-";

/// The number of columns of the wide table alone.
const WIDE: usize = 7;

/// The columns that the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    Usual,
    Wide,
}

/// The table, with its head.
pub fn table(
    claims: &[ClaimRow],
    columns: Columns,
    with_namespaces: bool,
    now: Timestamp,
) -> String {
    let mut rows = vec![head()];
    rows.extend(claims.iter().map(|claim| row(claim, now)));
    for row in &mut rows {
        if columns == Columns::Usual {
            row.truncate(row.len() - WIDE);
        }
        if !with_namespaces {
            row.remove(0);
        }
    }
    columns::table(&rows, 3)
}

fn head() -> Vec<String> {
    let names = [
        "NAMESPACE",
        "NAME",
        "STATUS",
        "CLASS",
        "VOLUME",
        "NODE",
        "REQUEST",
        "USED",
        "ENFORCED",
        "SNAPSHOTS",
        "NEWEST",
        "PODS",
        "CAPACITY",
        "MODE",
        "ACCESS",
        "RECLAIM",
        "REPLICA",
        "LAG",
        "DIVERGED",
    ];
    names.map(str::to_owned).to_vec()
}

fn row(claim: &ClaimRow, now: Timestamp) -> Vec<String> {
    let or_dash = |text: Option<String>| match text {
        Some(text) if !text.is_empty() => text.replace(char::is_control, " "),
        _ => UNKNOWN.to_owned(),
    };
    let newest = claim.newest_snapshot.as_deref();
    let replication = claim.replication.as_ref();
    let copied = replication.and_then(|record| record.last_copy.as_deref());
    vec![
        claim.namespace.clone(),
        claim.name.clone(),
        claim.status.clone(),
        or_dash(claim.class.clone()),
        or_dash(claim.volume.clone()),
        or_dash(claim.nodes.as_ref().map(|nodes| match nodes.is_empty() {
            true => "<any>".to_owned(),
            false => nodes.join(","),
        })),
        or_dash(Some(size(&claim.requested))),
        or_dash(claim.used_bytes.map(bytes)),
        or_dash(claim.size_enforced.map(|enforced| match enforced {
            true => "yes".to_owned(),
            false => "no".to_owned(),
        })),
        or_dash(claim.snapshots.map(|count| count.to_string())),
        or_dash(newest.map(|newest| age(Some(newest), now))),
        or_dash(claim.pods.as_ref().map(|pods| match pods.is_empty() {
            true => "<none>".to_owned(),
            false => pods.join(","),
        })),
        or_dash(claim.capacity.as_deref().map(size)),
        claim.volume_mode.clone(),
        or_dash(Some(
            claim
                .access_modes
                .iter()
                .map(|mode| short(mode))
                .collect::<Vec<_>>()
                .join(","),
        )),
        or_dash(claim.reclaim_policy.clone()),
        or_dash(replication.and_then(|record| record.replica.clone())),
        or_dash(copied.map(|time| age(Some(time), now))),
        or_dash(replication.map(|record| record.diverged.join(","))),
    ]
}

/// An access mode as kubectl abbreviates it.
fn short(mode: &str) -> &str {
    match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    }
}
