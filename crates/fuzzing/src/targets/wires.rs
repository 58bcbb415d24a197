//! Frames of network protocols.

use bytes::{Buf, Bytes};
use spdy::{Frame, Header, Inflater, parse_head, read_control};

use super::Target;

pub const SPDY: Target = Target {
    name: "spdy",
    seeds: &[
        // A ping, data, a reset, settings.
        b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01\0\0\0\x01\x01\0\0\x03abc\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\x05\x80\x03\0\x04\0\0\0\x04\0\0\0\0",
        // A stream with headers, compressed with the dictionary.
        b"\x80\x03\0\x01\x01\0\0\x2e\0\0\0\x01\0\0\0\0\0\0\x78\xbb\xe3\xc6\xa7\xc2\x62\x60\x60\x60\x62\x60\x60\x60\x01\xe2\x92\xa2\xc4\xbc\xe2\xcc\x92\xcc\xfc\x3c\x06\x06\x00\0\0\xff\xff",
        // The stream without the dictionary.
        b"\x80\x03\0\x01\0\0\0\x1e\0\0\0\x03\0\0\0\0\0\0\x78\x9c\x63\x60\x60\x60\x64\x60\x60\x60\x4c\x04\x52\x8c\x49\x00\0\0\0\xff\xff",
    ],
    words: &["\u{0}\u{0}\u{0}\u{1}", "x\u{bb}", "streamtype", "\u{7f}"],
    run: |bytes| {
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut inflater = Inflater::default();
        while rest.len() >= 8 {
            let mut head = [0; 8];
            rest.copy_to_slice(&mut head);
            let length = match parse_head(head) {
                Err(_) => return,
                Ok(Header::Data { length, .. } | Header::Control { length, .. }) => length,
            };
            let payload = rest.split_to(length.min(rest.len()));
            let Ok(Header::Control { kind, flags, .. }) = parse_head(head) else {
                continue;
            };
            match read_control(kind, flags, &payload) {
                Ok(Frame::Open { block, .. } | Frame::Headers { block, .. } | Frame::Reply { block, .. }) => {
                    if inflater.headers(&block).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    },
};

pub const WEB_SOCKET: Target = Target {
    name: "web-socket",
    seeds: &[
        // Masked with zeros: input, a terminal's size, the end of input, a ping, a close.
        b"\x82\x82\0\0\0\0\0a\x82\x99\0\0\0\0\x04{\"Width\":80,\"Height\":24}\x82\x82\0\0\0\0\xff\0\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8",
        // A message in parts, with a ping between them, and a length in two bytes.
        b"\x02\x82\x01\x02\x03\x04\x01c\x89\x80\0\0\0\0\x80\xfe\0\x03\0\0\0\0abc",
        // A text, and a frame whose length of eight bytes has no contents.
        b"\x81\x83\0\0\0\0\0\xc3\xa9\x82\xff\0\0\0\0\0\x10\0\0\0\0\0\0",
    ],
    words: &["\u{1}", "\u{2}", "\u{7f}", "{\"Width\":"],
    run: |bytes| {
        let bytes_read = node_agent::decoders::web_socket(bytes);
        // A frame has a header and a mask of at least six bytes in total, and all protocols read each frame.
        assert!(bytes_read <= node_agent::decoders::PROTOCOLS * bytes.len() / 6);
    },
};

pub const ETCD_MESSAGES: Target = Target {
    name: "etcd-messages",
    seeds: &[
        // A page of keys: a header with revision 5, one pair, more to come.
        b"\0\0\0\0\x1c\x0a\x02\x18\x05\x12\x12\x0a\x03k/a\x10\x02\x18\x04\x20\x03\x2a\x03s\x01v\x30\x07\x18\x01\x20\x02",
        // A transaction that deleted a key, and a transaction that read another key.
        b"\0\0\0\0\x1b\x0a\x02\x18\x09\x10\x01\x1a\x08\x1a\x06\x1a\x04\x0a\x02k1\x1a\x09\x0a\x07\x12\x05\x2a\x03pab",
        // A watch: a put and a deletion, then its end after a compaction.
        b"\0\0\0\0\x16\x0a\x02\x18\x08\x5a\x08\x12\x06\x0a\x01k\x2a\x01p\x5a\x06\x08\x01\x12\x02\x18\x08\0\0\0\0\x08\x20\x01\x28\x07\x32\x02no",
    ],
    words: &["\u{12}\u{2}", "s\u{5}", "\u{7f}"],
    run: |bytes| {
        let messages = etcd_store::decoders::stream(bytes);
        // Each message has a header of five bytes.
        assert!(messages <= bytes.len() / 5);
        let stored = Bytes::copy_from_slice(bytes);
        if let Some(value) = etcd_store::decoders::stored_value(&stored) {
            assert!(value.len() <= bytes.len());
        }
    },
};

pub const CSI_ANSWERS: Target = Target {
    name: "csi-answers",
    seeds: &[
        // A CSI node with a limit and a topology.
        b"\x0a\x02n1\x10\x05\x1a\x08\x0a\x06\x0a\x01z\x12\x01a",
        // The capability to stage volumes.
        b"\x0a\x04\x0a\x02\x08\x01",
        // The registration of a CSI driver.
        b"\x0a\x09CSIPlugin\x12\x03a.b\x1a\x02/s\x22\x051.0.0",
    ],
    words: &["\u{a}\u{2}", "\u{12}\u{1}", "\u{7f}"],
    run: |bytes| {
        // Each text has at least a tag and a length.
        assert!(csi_client::decoders::answers(bytes) <= bytes.len());
    },
};

pub const SERVICE_ANSWERS: Target = Target {
    name: "service-answers",
    seeds: &[
        // A page of keys of etcd; a list of volumes; the usage of a volume.
        b"\x0a\x02\x18\x05\x12\x12\x0a\x03k/a\x10\x02\x18\x04\x20\x03\x2a\x03s\x01v\x30\x07\x18\x01\x20\x02",
        b"\x0a\x0c\x0a\x06\x08\x05\x12\x02id\x12\x02\x0a\x00\x12\x01t",
        b"\x0a\x08\x08\x01\x10\x03\x18\x02\x20\x01\x12\x02\x08\x01",
        // A service that does not serve, and a field of a later version.
        b"\x08\x02\xc2\x3e\x01a",
        // Nested groups.
        b"\xc3\x3e\xc3\x3e\xc4\x3e\xc4\x3e",
    ],
    words: &["\u{a}\u{2}", "\u{12}\u{1}", "\u{7f}"],
    run: |bytes| {
        for decoder in service_protocols::answers() {
            // A decoded response equals the response that is encoded and decoded again.
            if let Ok(written) = (decoder.recode)(bytes) {
                let again = (decoder.recode)(&written);
                assert_eq!(again, Ok(written), "{}", decoder.path);
            }
        }
    },
};
