//! Forwarding between two connections: each peer receives the bytes that the other peer sends.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Size of the buffer of each direction.
const COPY_BYTES: usize = 16 * 1024;

/// Time for a peer that no longer reads to close its connection after the other peer has closed. Afterwards the
/// connection is closed here.
const CLOSING_MAX: Duration = Duration::from_secs(60);

/// Forwards the bytes of two connections until both have ended.
///
/// The end of a direction never overtakes its data. A peer that no longer accepts bytes may still have sent some. So
/// the direction to this peer is read and discarded, while the opposite direction continues to its own end.
pub async fn splice<A, B>(first: A, second: B)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (first_reader, first_writer) = tokio::io::split(first);
    let (second_reader, second_writer) = tokio::io::split(second);
    let (there, back) = (CancellationToken::new(), CancellationToken::new());
    tokio::join!(
        carry(first_reader, second_writer, &there, &back),
        carry(second_reader, first_writer, &back, &there),
    );
}

/// Forwards one direction, and cancels `ended` at its end.
async fn carry<R: AsyncRead, W: AsyncWrite>(
    mut from: ReadHalf<R>,
    mut to: WriteHalf<W>,
    ended: &CancellationToken,
    opposite: &CancellationToken,
) {
    let _ended = ended.clone().drop_guard();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break shut(&mut to).await,
            Ok(count) => count,
        };
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            cov_mark::hit!(findings_2_k1);
            let rest = async { while let Ok(1..) = from.read(&mut buffer).await {} };
            let closing = async {
                opposite.cancelled().await;
                sleep(CLOSING_MAX).await;
            };
            tokio::select! {
                () = rest => {}
                () = closing => {}
            }
            break;
        }
    }
}

/// Ends a direction. Its reader may have closed the connection before.
async fn shut<W: AsyncWrite>(to: &mut WriteHalf<W>) {
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// More data than several buffers hold.
    const MUCH: usize = 10 * COPY_BYTES;

    fn spliced() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<()>) {
        let (client, ours) = duplex(1024);
        let (theirs, backend) = duplex(1024);
        (client, backend, tokio::spawn(splice(ours, theirs)))
    }

    async fn read_all(from: &mut DuplexStream) -> usize {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.expect("read");
        all.len()
    }

    // findings-2 K1
    #[tokio::test]
    async fn a_client_that_leaves_at_once_has_sent_all_whatever_the_other_end_says() {
        cov_mark::check!(findings_2_k1);
        let (mut client, backend, splicing) = spliced();
        let (mut reader, mut writer) = tokio::io::split(backend);
        // The other peer sends data all the time, and nobody reads it.
        let saying =
            tokio::spawn(async move { while writer.write_all(&[1; 512]).await.is_ok() {} });
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.expect("read");
            all.len()
        });
        client.write_all(&[0; MUCH]).await.expect("send");
        drop(client);
        assert_eq!(reading.await.expect("no panic"), MUCH);
        saying.abort();
        drop(saying.await);
        splicing.await.expect("no panic");
    }

    // findings-2 K1
    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other() {
        let (mut client, mut backend, splicing) = spliced();
        client.shutdown().await.expect("end");
        assert_eq!(read_all(&mut backend).await, 0);
        let answering = tokio::spawn(async move { backend.write_all(&[0; MUCH]).await });
        assert_eq!(read_all(&mut client).await, MUCH);
        answering.await.expect("no panic").expect("answered");
        splicing.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_without_a_reader_is_not_kept_for_ever() {
        let (client, mut backend, splicing) = spliced();
        drop(client);
        // The peer sends data that nobody reads, and never ends.
        backend.write_all(b"?").await.expect("written");
        splicing.await.expect("no panic");
    }
}
