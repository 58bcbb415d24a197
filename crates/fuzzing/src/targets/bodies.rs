//! Bodies of requests.

use json_text::{Cursor, find, find_member, find_string};
use json_tree::Value;
use kube_api_server::decoders;

use super::Target;

#[path = "../../../json-text/tests/tree/mod.rs"]
mod tree;
use tree::tree;

const WORDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "\\u0000",
    "\\ud800",
    "true",
    "null",
    "---\n",
    "...",
    "&a",
    "*a",
    "<<: ",
    "!!binary ",
    "!!map",
    "|-\n",
    ">\n",
    "? ",
    "- ",
    "0o7",
    "0x1F",
    ".nan",
    "~",
    "2001-01-01",
    "\t",
    "#",
    "%YAML 1.2",
    "'",
    "\"",
];

const MAP: &[u8] =
    br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"},
"creationTimestamp":null,"generation":3},"data":{"k":"v","l":"\u00e9\n"}}"#;

pub const JSON: Target = Target {
    name: "json",
    seeds: &[MAP, b"[1,-2.5e3,true,null,\"x\"]", b"{}"],
    words: WORDS,
    run: |bytes| {
        if let Some(value) = decoders::json(bytes) {
            // A decoded value can be encoded, and is then decoded to an equal value.
            assert_eq!(decoders::json(value.to_string().as_bytes()), Some(value));
        }
    },
};

pub const JSON_TEXT: Target = Target {
    name: "json-text",
    seeds: &[
        MAP,
        br#"[1,-2.5e3,true,null,"\ud83d\ude00\\\"",[[]],{"":{}}]"#,
        br#"{"metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"k:{\"name\":\"a\"}":{".":{}}}}}],"name":"a"}}"#,
    ],
    words: WORDS,
    run: |bytes| {
        let paths = [&["metadata", "name"][..], &["data"], &[]];
        for path in paths {
            let found = find(bytes, path);
            let _string = find_string(bytes, path);
            if let Ok(Some(member)) = find_member(bytes, path) {
                assert_eq!(found, Ok(Some(&bytes[member.value])));
            }
        }
        let skipped = Cursor::new(bytes).skip();
        // A text that is JSON is decoded to an equal value.
        if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
            assert_eq!(skipped, Ok(bytes.trim_ascii()));
            assert_eq!(tree(&mut Cursor::new(bytes)), Ok(value));
        }
    },
};

pub const YAML: Target = Target {
    name: "yaml",
    seeds: &[
        b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: |\n    text\n  l: >-\n    x\n",
        b"a: &a [1, 2, {b: c}]\nd: *a\ne: !!str 5\nmode: 0644\n? complex\n: value\n",
        b"--- # one\n- a\n- 'it''s'\n- \"q\\u0041\"\n- ~\n- [x, {y: z}]\n",
        MAP,
    ],
    words: WORDS,
    run: |bytes| drop(decoders::yaml(bytes)),
};

pub const PROTOBUF: Target = Target {
    name: "protobuf",
    seeds: &[
        b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x12\n\x03\n\x01p\x12\x06\n\x01k\x12\x01v",
        b"k8s\0\n\x09\n\x02v1\x12\x03Pod\x12\x1b\n\x0b\n\x01p\"\x00J\x04\x08\x01\x10\x02\x12\x0c\x12\x0a\n\x01c\x12\x01i2\x02\x18P",
        b"k8s\0\n\x17\n\x07apps/v1\x12\x0bStatefulSet\x12\x0d\n\x03\n\x01w\x12\x06\x08\x03*\x02\n\x00\x1a\x00\"\x00",
    ],
    words: &["k8s\0", "\n\x02v1", "\x12\x03Pod", "\x12\x06Secret", "apps/v1", "StatefulSet", "\x7a\x7f"],
    run: |bytes| {
        if let Some(value) = decoders::protobuf(bytes)
            && let Some(encoded) = decoders::to_protobuf(&value)
        {
            // An encoded value can be decoded, and is then encoded to equal bytes.
            let again = decoders::protobuf(&encoded).expect("what was written is read");
            assert_eq!(decoders::to_protobuf(&again).as_ref(), Some(&encoded));
            assert!(decoders::twice_to_protobuf(&value).is_some());
        }
    },
};
