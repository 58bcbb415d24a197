//! Bytes over one connection, for benchmarks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Reads all bytes of each connection, one connection after the other.
pub fn read_all(listener: &TcpListener) {
    let mut buffer = vec![0; 1 << 18];
    for mut stream in listener.incoming().flatten() {
        while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }
}

/// MiB per second to a listener that reads all bytes, from the connection until the listener has read everything.
///
/// # Panics
///
/// The connection fails.
pub fn throughput(address: SocketAddr, span: Duration) -> f64 {
    let chunk = vec![0; 1 << 18];
    let mut stream = TcpStream::connect(address).expect("connect");
    let started = Instant::now();
    let mut mib = 0.0;
    while started.elapsed() < span {
        stream.write_all(&chunk).expect("send");
        mib += 0.25;
    }
    stream
        .shutdown(Shutdown::Write)
        .expect("say that it is all");
    let more = stream.read(&mut [0]).expect("the server's end");
    assert_eq!(more, 0, "the server says nothing");
    mib / started.elapsed().as_secs_f64()
}
