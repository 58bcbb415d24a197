//! Frames and connections from the outside, with a client of a few lines.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use bytes::Bytes;
use proptest::prelude::*;
use spdy::{Frame, Header, Inflater, block, encode, parse_head, read_control, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Reads a frame back from its bytes, as the other side would.
fn decode(bytes: &[u8]) -> Frame {
    let (head, payload) = bytes.split_first_chunk::<8>().unwrap();
    match parse_head(*head).unwrap() {
        Header::Data {
            stream,
            fin,
            length,
        } => {
            assert_eq!(length, payload.len());
            let data = Bytes::copy_from_slice(payload);
            Frame::Data { stream, fin, data }
        }
        Header::Control {
            kind,
            flags,
            length,
        } => {
            assert_eq!(length, payload.len());
            read_control(kind, flags, &Bytes::copy_from_slice(payload)).unwrap()
        }
    }
}

fn frames() -> impl Strategy<Value = Frame> {
    let id = 0u32..0x8000_0000;
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        (id.clone(), any::<bool>(), bytes()).prop_map(|(stream, fin, block)| Frame::Open {
            stream,
            fin,
            block
        }),
        (id.clone(), bytes()).prop_map(|(stream, block)| Frame::Reply { stream, block }),
        (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
        any::<u32>().prop_map(Frame::Ping),
        id.clone().prop_map(|last| Frame::GoAway { last }),
        (id.clone(), any::<bool>(), bytes()).prop_map(|(stream, fin, block)| Frame::Headers {
            stream,
            fin,
            block
        }),
        (id, any::<bool>(), bytes()).prop_map(|(stream, fin, data)| Frame::Data {
            stream,
            fin,
            data
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frame in frames()) {
        prop_assert_eq!(decode(&encode(&frame)), frame);
    }

    #[test]
    fn headers_come_as_they_were_sent(
        blocks in prop::collection::vec(
            prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,200}"), 0..6), 1..5)
    ) {
        let mut inflater = Inflater::default();
        for (index, headers) in blocks.iter().enumerate() {
            let pairs: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            let sent = block(&pairs, index == 0);
            prop_assert_eq!(&inflater.headers(&sent).unwrap(), headers);
        }
    }

    #[test]
    fn no_bytes_do_harm(head in any::<[u8; 8]>(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let payload = Bytes::from(payload);
        if let Ok(Header::Control { kind, flags, .. }) = parse_head(head) {
            let _frame_or_error = read_control(kind, flags, &payload);
        }
        let _headers_or_error = Inflater::default().headers(&payload);
    }
}

async fn next(client: &mut DuplexStream) -> Option<Frame> {
    let mut bytes = vec![0; 8];
    client.read_exact(&mut bytes).await.ok()?;
    let length = match parse_head(bytes[..].try_into().unwrap()).unwrap() {
        Header::Data { length, .. } | Header::Control { length, .. } => length,
    };
    bytes.resize(8 + length, 0);
    client.read_exact(&mut bytes[8..]).await.unwrap();
    Some(decode(&bytes))
}

fn open(stream: u32, kind: &str) -> Vec<u8> {
    encode(&Frame::Open {
        stream,
        fin: false,
        block: block(&[("StreamType", kind)], stream == 1).into(),
    })
}

fn data(stream: u32, fin: bool, data: &'static [u8]) -> Frame {
    let data = Bytes::from_static(data);
    Frame::Data { stream, fin, data }
}

#[tokio::test]
async fn streams_are_opened_read_written_and_ended() {
    // kubectl.md 5.6
    let (mut client, server) = tokio::io::duplex(256);
    let (mut streams, work) = serve(server);
    let work = tokio::spawn(work);
    client.write_all(&open(1, "error")).await.unwrap();
    client.write_all(&open(3, "data")).await.unwrap();
    let (error, both) = (streams.recv().await.unwrap(), streams.recv().await.unwrap());
    assert_eq!(
        (
            error.id(),
            error.header("streamtype"),
            both.header("streamtype")
        ),
        (1, Some("error"), Some("data"))
    );
    let (mut reader, writer) = both.split();
    let (mut errors, error) = error.split();
    for stream in [1, 3] {
        match next(&mut client).await.unwrap() {
            Frame::Reply { stream: of, .. } => assert_eq!(of, stream),
            other => panic!("{other:?}"),
        }
    }
    client.write_all(&encode(&Frame::Ping(7))).await.unwrap();
    assert_eq!(next(&mut client).await, Some(Frame::Ping(7)));
    let sent = [
        data(3, false, b"in"),
        data(1, true, b""),
        data(3, true, b"put"),
    ];
    for frame in &sent {
        client.write_all(&encode(frame)).await.unwrap();
    }
    assert_eq!(reader.read().await.as_deref(), Some(&b"in"[..]));
    assert_eq!(reader.read().await.as_deref(), Some(&b"put"[..]));
    assert_eq!((reader.read().await, errors.read().await), (None, None));
    assert!(writer.write(Bytes::from_static(b"out")).await);
    assert!(writer.finish().await);
    assert!(error.reset().await);
    assert_eq!(next(&mut client).await, Some(data(3, false, b"out")));
    assert_eq!(next(&mut client).await, Some(data(3, true, b"")));
    assert!(matches!(
        next(&mut client).await,
        Some(Frame::Reset { stream: 1, .. })
    ));
    drop((reader, writer, error, errors, streams));
    client.shutdown().await.unwrap();
    work.await.unwrap().unwrap();
    assert_eq!(next(&mut client).await, None);
}

#[tokio::test]
async fn who_speaks_otherwise_is_left() {
    let ping = encode(&Frame::Ping(1));
    let mut version = ping.clone();
    version[1] = 2;
    let mut long = ping.clone();
    long[5] = 0xff;
    let cut = encode(&Frame::Data {
        stream: 1,
        fin: false,
        data: Bytes::from_static(b"data"),
    });
    let nonsense = encode(&Frame::Open {
        stream: 1,
        fin: false,
        block: Bytes::from_static(b"nonsense"),
    });
    for bytes in [version, long, cut[..9].to_vec(), nonsense, open(2, "x")] {
        let (mut client, server) = tokio::io::duplex(1024);
        let (_streams, work) = serve(server);
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(work.await.is_err(), "{bytes:x?}");
    }
}

#[tokio::test]
async fn a_reader_that_waits_holds_up_the_client() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (mut streams, work) = serve(server);
    let work = tokio::spawn(work);
    client.write_all(&open(1, "data")).await.unwrap();
    let (mut reader, _writer) = streams.recv().await.unwrap().split();
    next(&mut client).await.unwrap();
    let writing = tokio::spawn(async move {
        let mut count = 0u32;
        let frame = encode(&data(1, false, &[0; 512]));
        while count < 10_000 && client.write_all(&frame).await.is_ok() {
            count += 1;
        }
        count
    });
    tokio::task::yield_now().await;
    let mut bytes = 0;
    while bytes < 10_000 * 512 {
        bytes += reader.read().await.unwrap().len();
    }
    assert_eq!(writing.await.unwrap(), 10_000);
    work.abort();
}

/// findings-2 K1: whatever the other end says to a client that has left, what the client has sent comes first.
#[tokio::test]
async fn a_client_that_has_left_has_sent_all() {
    const CHUNKS: usize = 50;
    let (mut client, ours) = tokio::io::duplex(64);
    let (mut opened, work) = serve(ours);
    let work = tokio::spawn(work);
    let sending = tokio::spawn(async move {
        let block = block(&[("streamtype", "stdin")], true).into();
        let (stream, fin) = (1, false);
        let open = Frame::Open { stream, fin, block };
        client.write_all(&encode(&open)).await.unwrap();
        // The answer to the opened stream.
        client.read_exact(&mut [0; 8]).await.unwrap();
        for _ in 0..CHUNKS {
            let data = Bytes::from_static(&[b'x'; 100]);
            let frame = Frame::Data { stream, fin, data };
            client.write_all(&encode(&frame)).await.unwrap();
        }
    });
    let (mut reader, writer) = opened.recv().await.unwrap().split();
    // More than the connection and its queue have room for.
    let saying = tokio::spawn(async move {
        for _ in 0..CHUNKS {
            writer.write(Bytes::from_static(&[b'y'; 100])).await;
        }
    });
    sending.await.unwrap();
    let mut got = 0;
    while let Some(bytes) = reader.read().await {
        got += bytes.len();
    }
    assert_eq!(got, CHUNKS * 100);
    saying.await.unwrap();
    assert!(opened.recv().await.is_none());
    drop(reader);
    work.await.unwrap().unwrap_err();
}
