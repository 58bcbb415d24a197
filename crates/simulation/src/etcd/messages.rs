//! The messages of etcd's v3 API on the side of a member: requests are decoded, responses are encoded.
//!
//! Field numbers: `api/etcdserverpb/rpc.proto` and `api/mvccpb/kv.proto` of etcd. Only the fields that the engine over
//! etcd sends are decoded.

use bytes::Bytes;
use object_model::protobuf::{WireError, Writer, bytes, fields, number};

use super::keys::{Change, Pair, Span};

/// A `RangeRequest`.
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub span: Span,
    /// Zero without a limit.
    pub limit: u64,
    /// Zero for the newest revision.
    pub revision: u64,
    pub count_only: bool,
}

impl Range {
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut range = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => range.span.key = wire.bytes()?.to_vec(),
                2 => range.span.end = wire.bytes()?.to_vec(),
                3 => range.limit = wire.varint()?,
                4 => range.revision = wire.varint()?,
                9 => range.count_only = wire.varint()? != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(range)
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    Get(Span),
    Put {
        key: Vec<u8>,
        value: Bytes,
        /// Zero without a lease.
        lease: u64,
    },
    Delete(Span),
}

impl Operation {
    /// Decodes a `PutRequest`.
    pub fn read_put(message: &[u8]) -> Result<Self, WireError> {
        let (mut key, mut value, mut lease) = (Vec::new(), Bytes::new(), 0);
        fields(message, |field, wire| {
            match field {
                1 => key = wire.bytes()?.to_vec(),
                2 => value = Bytes::copy_from_slice(wire.bytes()?),
                3 => lease = wire.varint()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self::Put { key, value, lease })
    }

    /// Decodes a `RequestOp`.
    fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut operation = Self::Get(Span::default());
        fields(message, |field, wire| {
            operation = match field {
                1 => Self::Get(Range::read(wire.bytes()?)?.span),
                2 => Self::read_put(wire.bytes()?)?,
                // The first fields of a `DeleteRangeRequest` are those of a `RangeRequest`.
                _ => Self::Delete(read_span(wire.bytes()?)?),
            };
            Ok(())
        })?;
        Ok(operation)
    }
}

fn read_span(message: &[u8]) -> Result<Span, WireError> {
    let mut span = Span::default();
    fields(message, |field, wire| {
        match field {
            1 => span.key = wire.bytes()?.to_vec(),
            2 => span.end = wire.bytes()?.to_vec(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(span)
}

/// A `Compare`: a number of the pair is compared with another number.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    pub span: Span,
    /// Equal, greater, less, or not equal.
    pub relation: u64,
    /// The version, the revision of the creation, or the revision of the last write.
    pub target: u64,
    pub value: u64,
}

impl Compare {
    fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut compare = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => compare.relation = wire.varint()?,
                2 => compare.target = wire.varint()?,
                3 => compare.span.key = wire.bytes()?.to_vec(),
                4..=6 => compare.value = wire.varint()?,
                64 => compare.span.end = wire.bytes()?.to_vec(),
                _ => {}
            }
            Ok(())
        })?;
        Ok(compare)
    }
}

/// A `TxnRequest`.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

impl Txn {
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut txn = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => txn.compares.push(Compare::read(wire.bytes()?)?),
                2 => txn.success.push(Operation::read(wire.bytes()?)?),
                3 => txn.failure.push(Operation::read(wire.bytes()?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(txn)
    }
}

/// The first number of a message: a revision to compact to, the seconds of a lease, or a lease.
pub fn read_number(message: &[u8]) -> Result<u64, WireError> {
    let mut number = 0;
    fields(message, |field, wire| {
        if field == 1 {
            number = wire.varint()?;
        }
        Ok(())
    })?;
    Ok(number)
}

/// A `WatchRequest`.
#[derive(Clone, Debug)]
pub enum WatchRequest {
    Create { span: Span, from: u64 },
    Progress,
}

impl WatchRequest {
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut request = Self::Progress;
        fields(message, |field, wire| {
            if field == 1 {
                let create = wire.bytes()?;
                let (span, mut from) = (read_span(create)?, 0);
                fields(create, |field, wire| {
                    if field == 3 {
                        from = wire.varint()?;
                    }
                    Ok(())
                })?;
                request = Self::Create { span, from };
            }
            Ok(())
        })?;
        Ok(request)
    }
}

/// A response that begins with its header.
fn answer(revision: u64, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::default();
    header(&mut out, revision);
    write(&mut out);
    out.0
}

fn header(out: &mut Writer, revision: u64) {
    out.message(bytes(1), |out| out.varint(number(3), revision));
}

fn pair(out: &mut Writer, field: u32, pair: &Pair) {
    out.message(bytes(field), |out| {
        out.bytes(bytes(1), &pair.key);
        out.varint(number(2), pair.created);
        out.varint(number(3), pair.modified);
        out.varint(number(4), pair.version);
        out.bytes(bytes(5), &pair.value);
        out.varint(number(6), pair.lease);
    });
}

/// A `RangeResponse`.
pub fn range_answer(revision: u64, pairs: &[&Pair], count: usize, more: bool) -> Vec<u8> {
    answer(revision, |out| {
        pairs.iter().for_each(|one| pair(out, 2, one));
        out.varint(number(3), more.into());
        out.varint(number(4), count as u64);
    })
}

/// The result of an operation.
#[derive(Clone, Debug)]
pub enum Done {
    Got(Vec<Pair>),
    Put,
    Deleted(Vec<Pair>),
}

/// A `TxnResponse`.
pub fn txn_answer(revision: u64, succeeded: bool, done: &[Done]) -> Vec<u8> {
    answer(revision, |out| {
        out.varint(number(2), succeeded.into());
        for one in done {
            out.message(bytes(3), |out| match one {
                Done::Got(pairs) => out.message(bytes(1), |out| {
                    pairs.iter().for_each(|one| pair(out, 2, one));
                }),
                Done::Put => out.message(bytes(2), |out| header(out, revision)),
                Done::Deleted(pairs) => out.message(bytes(3), |out| {
                    out.varint(number(2), pairs.len() as u64);
                    pairs.iter().for_each(|one| pair(out, 3, one));
                }),
            });
        }
    })
}

/// A response with only a header.
pub fn plain_answer(revision: u64) -> Vec<u8> {
    answer(revision, |_| {})
}

/// A `LeaseGrantResponse` or a `LeaseKeepAliveResponse`.
pub fn lease_answer(revision: u64, lease: u64, seconds: u64) -> Vec<u8> {
    answer(revision, |out| {
        out.varint(number(2), lease);
        out.varint(number(3), seconds);
    })
}

/// A `StatusResponse`.
pub fn status_answer(revision: u64) -> Vec<u8> {
    answer(revision, |out| {
        out.bytes(bytes(2), b"3.6.0");
        out.varint(number(3), 1 << 20);
    })
}

/// A `WatchResponse`: that the watch was created, or progress.
pub fn watch_state(revision: u64, is_created: bool) -> Vec<u8> {
    answer(revision, |out| out.varint(number(3), is_created.into()))
}

/// A `WatchResponse`: the watch has ended, because events that it needs are compacted.
pub fn watch_compacted(revision: u64, compacted: u64) -> Vec<u8> {
    answer(revision, |out| {
        out.varint(number(4), 1);
        out.varint(number(5), compacted);
        out.bytes(
            bytes(6),
            b"etcdserver: mvcc: required revision has been compacted",
        );
    })
}

/// A `WatchResponse` with events.
pub fn watch_events(revision: u64, changes: &[&Change]) -> Vec<u8> {
    answer(revision, |out| {
        for change in changes {
            out.message(bytes(11), |out| match &change.pair {
                Some(put) => pair(out, 2, put),
                None => {
                    out.varint(number(1), 1);
                    out.message(bytes(2), |out| {
                        out.bytes(bytes(1), &change.key);
                        out.varint(number(3), change.revision);
                    });
                }
            });
        }
    })
}
