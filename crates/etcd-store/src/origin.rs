//! The origin of the data below a prefix: a record next to the data, which every transaction compares.
//!
//! etcd counts revisions from its own creation. Data that was copied from another store continues with the revisions of
//! the other store: **every server adds the offset of the record** to the revisions of etcd, and the copied pairs have
//! their original revisions, which are at most the offset. Without a record, the offset is zero.

use mvcc_store::Revision;
use service_protocols::etcdserverpb::kv;

use crate::{
    connections::Connections,
    keys::Keys,
    messages::{self, RangeResponse},
    options::{ConnectError, unusable},
    revision::EtcdRevision,
};

/// The record, as of a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The revision of the record; zero without a record. A copied pair that was not written since the copy has an
    /// older revision.
    pub(crate) record: EtcdRevision,
    /// The newest revision of the store that the data was copied from.
    pub(crate) offset: u64,
}

impl Origin {
    /// The revision that clients see.
    pub(crate) fn in_store(&self, revision: EtcdRevision) -> Revision {
        Revision(revision.0.saturating_add(self.offset))
    }

    /// The revision in etcd of a revision that clients see; zero for a revision before the copy.
    pub(crate) fn in_etcd(&self, revision: Revision) -> EtcdRevision {
        EtcdRevision(revision.0.saturating_sub(self.offset))
    }

    /// Whether a pair with this revision comes from the copy.
    pub(crate) fn is_copied(&self, revision: Revision) -> bool {
        revision.0 <= self.offset
    }

    /// The origin of the data, for a server that starts with this data.
    ///
    /// *Errors.* The copy is not complete, or the data was copied to another store since.
    pub(crate) async fn read(connections: &Connections, keys: &Keys) -> Result<Self, ConnectError> {
        let (record, existing) = read(connections, keys).await?;
        match existing {
            None => Ok(Self::default()),
            Some(OriginRecord::Complete { offset }) => Ok(Self { record, offset }),
            Some(OriginRecord::Copying { .. }) => Err(ConnectError::Incomplete),
            Some(OriginRecord::Moved { to, .. }) => Err(ConnectError::Moved(to)),
        }
    }
}

/// The contents of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OriginRecord {
    /// A copy into this etcd has started.
    Copying {
        /// The instance that owns the data.
        instance: String,
    },
    /// The copy is complete.
    Complete { offset: u64 },
    /// The data was copied to another store, which continues with it.
    Moved { offset: u64, to: String },
}

impl OriginRecord {
    /// The record as a line of words. The form is in users' clusters.
    pub(crate) fn write(&self) -> Vec<u8> {
        match self {
            Self::Copying { instance } => format!("copying {instance}"),
            Self::Complete { offset } => format!("complete {offset}"),
            Self::Moved { offset, to } => format!("moved {offset} {to}"),
        }
        .into_bytes()
    }

    /// Reads a line; `None` if a newer version of the program wrote the line.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let (kind, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        match kind {
            "copying" => Some(Self::Copying {
                instance: rest.to_owned(),
            }),
            "complete" => Some(Self::Complete {
                offset: rest.parse().ok()?,
            }),
            "moved" => {
                let (offset, to) = rest.split_once(' ')?;
                Some(Self::Moved {
                    offset: offset.parse().ok()?,
                    to: to.to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// The record with its revision; the revision is zero without a record.
pub(crate) async fn read(
    connections: &Connections,
    keys: &Keys,
) -> Result<(EtcdRevision, Option<OriginRecord>), ConnectError> {
    let request = messages::range(keys.origin.clone(), Vec::new());
    let range = connections.read(kv::RANGE, &request).await;
    let range = RangeResponse::from(range.map_err(unusable)?);
    match range.pairs.first() {
        None => Ok((EtcdRevision(0), None)),
        Some(pair) => match OriginRecord::parse(&pair.value) {
            Some(record) => Ok((pair.mod_revision, Some(record))),
            None => Err(ConnectError::NewerRecord),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form is in users' clusters: these lines must not change.
    #[test]
    fn a_record_is_read_as_it_was_written() {
        for (record, line) in [
            (
                OriginRecord::Copying {
                    instance: "1-2".to_owned(),
                },
                "copying 1-2",
            ),
            (OriginRecord::Complete { offset: 7 }, "complete 7"),
            (
                OriginRecord::Moved {
                    offset: 7,
                    to: "host /a b".to_owned(),
                },
                "moved 7 host /a b",
            ),
        ] {
            assert_eq!(record.write(), line.as_bytes());
            assert_eq!(OriginRecord::parse(line.as_bytes()), Some(record));
        }
        for strange in ["", "complete", "complete x", "moved 1", "begun 1"] {
            assert_eq!(OriginRecord::parse(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn revisions_go_on_where_the_copied_ones_ended() {
        let origin = Origin {
            record: EtcdRevision(9),
            offset: 1000,
        };
        assert_eq!(origin.in_store(EtcdRevision(10)), Revision(1010));
        assert_eq!(origin.in_etcd(Revision(1010)), EtcdRevision(10));
        assert_eq!(origin.in_etcd(Revision(400)), EtcdRevision(0));
        assert!(origin.is_copied(Revision(1000)) && !origin.is_copied(Revision(1001)));
        assert!(!Origin::default().is_copied(Revision(1)));
    }
}
