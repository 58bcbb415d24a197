//! The decoders of the answers of all services, with bytes that no service should send.

use prost::{DecodeError, Message};
use service_protocols::{
    answers, csi_v1, etcdserverpb, grpc_health_v1::HealthCheckResponse, mvccpb,
    pluginregistration::PluginInfo,
};

/// The tag of a field that no message has: 1000, with the wire type.
fn unknown(wire_type: u8) -> [u8; 2] {
    [0xc0 | wire_type, 0x3e]
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED_32: u8 = 5;

fn field(wire_type: u8, content: &[u8]) -> Vec<u8> {
    [&unknown(wire_type)[..], content].concat()
}

/// The results of all decoders, with the path of their methods.
fn decoded(bytes: &[u8]) -> Vec<(&'static str, Result<Vec<u8>, DecodeError>)> {
    let all = answers().map(|decoder| (decoder.path, (decoder.recode)(bytes)));
    all.collect()
}

fn all_refuse(bytes: &[u8]) {
    for (path, result) in decoded(bytes) {
        assert!(result.is_err(), "{path} accepts {bytes:x?}");
    }
}

#[test]
fn each_protocol_has_decoders() {
    for (service, methods) in [
        ("/csi.v1.Identity/", 3),
        ("/csi.v1.Controller/", 14),
        ("/csi.v1.Node/", 8),
        ("/etcdserverpb.KV/", 6),
        ("/etcdserverpb.Lease/", 5),
        ("/etcdserverpb.Watch/", 1),
        ("/etcdserverpb.Maintenance/", 8),
        ("/grpc.health.v1.Health/", 2),
        ("/pluginregistration.Registration/", 2),
        ("/v1beta1.DevicePlugin/", 5),
        // The response, and the request that the program serves.
        ("/v1beta1.Registration/", 2),
        ("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/", 2),
    ] {
        let of_service = answers().filter(|decoder| decoder.path.starts_with(service));
        assert_eq!(of_service.count(), methods, "{service}");
    }
}

#[test]
fn fields_of_later_versions_are_skipped() {
    let group = [field(VARINT, &[1]), unknown(GROUP_END).to_vec()].concat();
    for bytes in [
        Vec::new(),
        field(VARINT, &[0x96, 1]),
        field(FIXED_64, &[0xff; 8]),
        field(BYTES, b"\x03abc"),
        field(GROUP, &group),
        field(FIXED_32, &[0xff; 4]),
    ] {
        for (path, result) in decoded(&bytes) {
            assert_eq!(result, Ok(Vec::new()), "{path}: {bytes:x?}");
        }
    }
}

#[test]
fn truncated_messages_are_refused() {
    for bytes in [
        vec![0xc0],
        unknown(VARINT).to_vec(),
        field(VARINT, &[0x96]),
        field(FIXED_64, &[0; 7]),
        field(BYTES, b"\x04abc"),
        unknown(GROUP).to_vec(),
        field(FIXED_32, &[0; 3]),
    ] {
        all_refuse(&bytes);
    }
    let page = range();
    let is_whole = |length: &usize| etcdserverpb::RangeResponse::decode(&page[..*length]).is_ok();
    let whole: Vec<usize> = (0..=page.len()).filter(is_whole).collect();
    // The ends of its fields: the header, the pair, `more` and `count`.
    assert_eq!(whole, [0, 4, 24, 26, 28]);
}

/// A page of keys, by the numbers of etcd's documentation.
fn range() -> Vec<u8> {
    b"\x0a\x02\x18\x05\x12\x12\x0a\x03k/a\x10\x02\x18\x04\x20\x03\x2a\x03s\x01v\x30\x07\x18\x01\x20\x02"
        .to_vec()
}

#[test]
fn lengths_beyond_the_message_are_refused_without_their_memory() {
    for length in [
        &[0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        all_refuse(&field(BYTES, &[length, b"abc"].concat()));
        // A text, a message, and bytes.
        assert!(PluginInfo::decode(&*[&b"\x0a"[..], length].concat()).is_err());
        assert!(etcdserverpb::RangeResponse::decode(&*[&b"\x12"[..], length].concat()).is_err());
        assert!(mvccpb::KeyValue::decode(&*[&b"\x2a"[..], length].concat()).is_err());
    }
}

#[test]
fn numbers_that_are_not_of_the_format_are_refused() {
    // A number of eleven bytes, a field with the number zero, and the wire types that do not exist.
    all_refuse(&field(VARINT, &[0x80; 11]));
    all_refuse(&[0, 1]);
    all_refuse(&field(6, &[1]));
    all_refuse(&field(7, &[1]));
    all_refuse(&unknown(GROUP_END));
}

#[test]
fn fields_of_another_wire_type_are_refused() {
    // Field 1 in each wire type but the right one.
    let contents: [(u8, &[u8]); 4] = [
        (VARINT, &[1]),
        (FIXED_64, &[0; 8]),
        (BYTES, &[0]),
        (FIXED_32, &[0; 4]),
    ];
    let refused = |decode: fn(&[u8]) -> bool| {
        let all = contents.map(|(wire_type, content)| {
            let bytes = [&[1 << 3 | wire_type][..], content].concat();
            (!decode(&bytes)).then_some(wire_type)
        });
        all.into_iter().flatten().collect::<Vec<_>>()
    };
    let all_but_bytes = [VARINT, FIXED_64, FIXED_32];
    assert_eq!(
        refused(|bytes| etcdserverpb::RangeResponse::decode(bytes).is_ok()),
        all_but_bytes
    );
    assert_eq!(
        refused(|bytes| csi_v1::NodeGetInfoResponse::decode(bytes).is_ok()),
        all_but_bytes
    );
    assert_eq!(
        refused(|bytes| PluginInfo::decode(bytes).is_ok()),
        all_but_bytes
    );
    assert_eq!(
        refused(|bytes| HealthCheckResponse::decode(bytes).is_ok()),
        [FIXED_64, BYTES, FIXED_32]
    );
}

#[test]
fn deep_messages_are_refused() {
    // Groups that no message has, each in the next.
    let deep = |depth: usize| {
        [
            unknown(GROUP).repeat(depth),
            unknown(GROUP_END).repeat(depth),
        ]
    };
    all_refuse(&deep(1000).concat());
    all_refuse(&deep(1_000_000).concat());
    // Transactions in transactions.
    let mut txn = etcdserverpb::TxnResponse::default().encode_to_vec();
    for _ in 0..1000 {
        let operation = nested(&[0x22], &txn);
        txn = nested(&[0x1a], &operation);
    }
    assert!(etcdserverpb::TxnResponse::decode(&*txn).is_err());
}

fn nested(tag: &[u8], message: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    prost::encode_length_delimiter(message.len(), &mut bytes).expect("a buffer grows");
    bytes.extend_from_slice(message);
    bytes
}

#[test]
fn texts_of_other_bytes_than_utf_8_are_refused() {
    assert!(PluginInfo::decode(&b"\x0a\x02\xff\xfe"[..]).is_err());
    assert!(csi_v1::NodeGetInfoResponse::decode(&b"\x0a\x02\xff\xfe"[..]).is_err());
}

/// Bytes written apart from the generated code.
#[test]
fn answers_are_read_by_the_published_numbers() {
    let page = etcdserverpb::RangeResponse::decode(&*range()).unwrap();
    assert_eq!((page.header.unwrap().revision, page.count), (5, 2));
    let pair = mvccpb::KeyValue {
        key: b"k/a".to_vec(),
        create_revision: 2,
        mod_revision: 4,
        version: 3,
        value: b"s\x01v".to_vec(),
        lease: 7,
    };
    assert_eq!((page.kvs, page.more), (vec![pair], true));
    let node = b"\x0a\x02n1\x10\x05\x1a\x08\x0a\x06\x0a\x01z\x12\x01a";
    let node = csi_v1::NodeGetInfoResponse::decode(&node[..]).unwrap();
    assert_eq!(
        (node.node_id.as_str(), node.max_volumes_per_node),
        ("n1", 5)
    );
    let topology = node.accessible_topology.unwrap().segments;
    assert_eq!(topology, [("z".to_owned(), "a".to_owned())].into());
    let plugin = b"\x0a\x09CSIPlugin\x12\x03a.b\x1a\x02/s\x22\x051.0.0";
    let plugin = PluginInfo::decode(&plugin[..]).unwrap();
    let texts = (plugin.r#type, plugin.name, plugin.endpoint);
    assert_eq!(texts, ("CSIPlugin".into(), "a.b".into(), "/s".into()));
    assert_eq!(plugin.supported_versions, ["1.0.0"]);
}
