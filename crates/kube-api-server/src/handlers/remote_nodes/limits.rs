//! Limits on connections to nodes: a node that does not finish its responses holds only its share of the connections.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use connection_limits::{Share, Shares};
use process_telemetry::refusals::{self, Budget};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::limits::NODE_CONNECTIONS;

/// The connections of all nodes, by node name.
pub(super) struct ConnectionLimits(Shares<String>);

/// The node has as many connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error("this server has too many connections to it")]
pub(super) struct TooManyConnections;

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self(Shares::within(NODE_CONNECTIONS))
    }
}

impl ConnectionLimits {
    /// A permit for a connection to a node.
    ///
    /// *Errors.* The node has as many connections as it may have.
    pub(super) fn acquire(&self, node: &str) -> Result<Share<String>, TooManyConnections> {
        let share = self.0.take(node.to_owned());
        if share.is_none() {
            refusals::count(Budget::NodeConnections);
        }
        share.ok_or(TooManyConnections)
    }
}

/// A connection that holds its permit until it closes.
pub(super) struct LimitedConnection<S> {
    pub(super) stream: S,
    pub(super) _permit: Share<String>,
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 S38
    #[test]
    fn a_node_has_some_places_and_leaves_room_for_others() {
        let permits = ConnectionLimits::default();
        let mut acquired: Vec<Share<String>> = (0..NODE_CONNECTIONS.per_sender_max)
            .map(|_| permits.acquire("n1").unwrap())
            .collect();
        permits.acquire("n1").unwrap_err();
        permits.acquire("n2").unwrap();
        acquired.pop();
        permits.acquire("n1").unwrap();
    }
}
